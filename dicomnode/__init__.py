"""dicomnode: a DICOM network node that receives, routes, infers, redacts and forwards, with nothing lost."""

import os
from importlib.metadata import PackageNotFoundError, version

# onnxruntime reports each session to its maker and keeps a file of that in the home directory unless this is set before it
# is loaded. A node tells nobody what it works on.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

try:
    __version__ = version("dicomnode")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"
