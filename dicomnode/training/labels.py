"""What a card says of each answer of a model: labels that are known, and labels of a site.

**Way** A label takes its meaning and concept from the command line, else from the model that training goes on from, else from
the tables here, else by its word (`adding.concept_for`: SNOMED CT, or a private code that says so). The order is that of the
tables, then of the alphabet.

**Fails** `BadSetting` for a concept that is not ``LABEL=CODE^SCHEME^MEANING`` or is for no label of the data.

**Standard** Coded concepts (PS3.3 8.8); scheme designators beginning with 99 are private (PS3.16 8.2). Benign and malignant as
in CID 6063.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from pydantic import ValidationError

from dicomnode import cards
from dicomnode.adding import concept_for
from dicomnode.errors import BadSetting
from dicomnode.training.datasets import word


def _label(key: str, meaning: str, code: tuple[str, str], threshold: float | None = None) -> cards.Label:
    concept = cards.Concept(value=code[0], scheme="SCT", meaning=code[1])
    return cards.Label(key=key, meaning=meaning, concept=concept, abnormal=threshold is not None, threshold=threshold)


#: The body parts; adult and paediatric chest share the concept, the key tells them apart.
ROUTER_LABELS = (
    _label("abdomen", "Radiograph of the abdomen", ("818981001", "Abdomen")),
    _label("adult_chest", "Radiograph of an adult's chest", ("816094009", "Chest")),
    _label("pediatric_chest", "Radiograph of a child's chest", ("816094009", "Chest")),
    _label("spine", "Radiograph of the spine or a part of it", ("421060004", "Spine")),
    _label("other", "Any other radiograph", ("74964007", "Other")),
)
#: Thresholds are replaced by those chosen on val.
PNEUMONIA_LABELS = (
    _label("normal", "No signs of pneumonia", ("17621005", "Normal")),
    _label("pneumonia", "Signs of pneumonia", ("233604007", "Pneumonia"), 0.5),
)
BREAST_LABELS = (
    _label("benign", "Lesion that looks benign", ("30807003", "Benign")),
    _label("malignant", "Lesion that looks malignant", ("21594007", "Malignant"), 0.5),
)


def parse_concepts(texts: Iterable[str]) -> dict[str, cards.Concept]:
    """Read ``LABEL=CODE^SCHEME^MEANING`` as the command line has it; a colon does for the ^."""
    concepts = {}
    for text in texts:
        name, _, coded = text.partition("=")
        key, parts = word(name), re.split(r"[\^:]", coded, maxsplit=2)
        try:
            concept = cards.Concept.model_validate(dict(zip(("value", "scheme", "meaning"), parts, strict=False)))
        except ValidationError:
            key = None
        if key is None:
            raise BadSetting(f"--concept {text}: is not LABEL=CODE^SCHEME^MEANING of at most 16, 16 and 64 characters")
        concepts[key] = concept
    return concepts


def make_labels(
    found: Collection[str], known: Sequence[cards.Label], concepts: Iterable[str] = (), abnormal: Collection[str] = ()
) -> tuple[cards.Label, ...]:
    """The labels of a card for the labels that the data have.

    Parameters
    ----------
    known
        In order of preference; the first of a key holds.
    concepts
        ``LABEL=CODE^SCHEME^MEANING``.
    abnormal
        Labels to be reported abnormal; empty: as they are known.

    Raises
    ------
    BadSetting
        A concept cannot be read, or a concept or an abnormal label is none of the data.
    """
    coded, marked = parse_concepts(concepts), {word(text) or text for text in abnormal}
    if strange := sorted((coded.keys() | marked) - set(found)):
        raise BadSetting(f"no label of the data: {', '.join(strange)}; there are: {', '.join(sorted(found))}")
    first: dict[str, cards.Label] = {}
    for label in known:
        first.setdefault(label.key, label)
    made = []
    for key in [*(key for key in first if key in found), *sorted(set(found) - first.keys())]:
        label = first.get(key) or cards.Label(
            key=key, meaning=key.replace("_", " "), concept=cards.Concept(**concept_for(key)), abnormal=False, threshold=None
        )
        if key in coded:
            label = label.model_copy(update={"concept": coded[key], "meaning": coded[key].meaning})
        if marked:
            label = label.model_copy(update={"abnormal": key in marked, "threshold": 0.5 if key in marked else None})
        made.append(label)
    return tuple(made)
