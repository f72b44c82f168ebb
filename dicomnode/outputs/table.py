"""The one table of outputs: each kind with the builder that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dicomnode.outputs import deidentified, original, sc, sr
from dicomnode.outputs.material import Builder
from dicomnode.records import OutputKind

OUTPUTS: Mapping[OutputKind, Builder] = MappingProxyType(
    {
        "sr": sr.build,
        "sc": sc.build,
        "deidentified": deidentified.build,
        "original": original.build,
    }
)
