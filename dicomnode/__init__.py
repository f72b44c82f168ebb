"""dicomnode: a DICOM network node that receives, routes, infers, redacts and forwards, with nothing lost."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("dicomnode")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"
