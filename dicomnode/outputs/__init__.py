"""What is made of an instance: one module for each kind of output, and the table that names their builders."""

from __future__ import annotations

from dicomnode.outputs.material import (
    MAKER,
    Builder,
    Material,
    NodeFacts,
    Reference,
    outside_uid,
    pseudonym,
    reference,
    result_uid,
    series_uid,
    study_uid,
)

__all__ = [
    "MAKER",
    "Builder",
    "Material",
    "NodeFacts",
    "Reference",
    "outside_uid",
    "pseudonym",
    "reference",
    "result_uid",
    "series_uid",
    "study_uid",
]
