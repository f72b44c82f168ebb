"""The one table of outputs: each kind with the builder that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dicomnode.outputs import deidentified, original, sc, sc_map, seg, sr
from dicomnode.outputs.material import Builder
from dicomnode.records import OutputKind

OUTPUTS: Mapping[OutputKind, Builder] = MappingProxyType(
    {
        "sr": sr.build,
        "sc": sc.build,
        "sc-map": sc_map.build,
        "seg": seg.build,
        "deidentified": deidentified.build,
        "original": original.build,
    }
)
