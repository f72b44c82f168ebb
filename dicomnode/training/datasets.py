"""Read which pictures there are to learn from, and hold them decoded in memory.

**Way** A manifest (CSV with the columns path, class, split and, where known, source_repo, source_path and licence; paths
relative to the manifest) or a folder `<split>/<label>/<picture>` becomes a tuple of `Example`. The splits are sacred:
learn on train, choose on val, look at test once for the report. Pixels pass through `to_unit`, the function that the
running node uses.

**Fails** `BadSetting` for a manifest or folder that cannot be used, naming the line or the picture.

**Limits** PNG and JPEG (8 or 16 bit); a folder says nothing of sources, persons or licences.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import BadSetting
from dicomnode.stages.preprocess import Array, to_unit

SPLITS = ("train", "val", "test")
_PICTURES = frozenset({".png", ".jpg", ".jpeg"})
_COLUMNS = frozenset({"path", "class", "split"})
_PERSON = re.compile(r"\bpatient=([^\s;]+)")


@dataclass(frozen=True, slots=True)
class Example:
    """One picture with its label."""

    path: Path
    label: str
    #: "train", "val" or "test".
    split: str
    #: Who made the picture, as far as known; sampling and reports are by source.
    source: str = ""
    #: Terms of the picture as the manifest states them.
    licence: str = ""
    #: Whose picture it is, a pseudonym, as far as known (``patient=...`` in the column note): intervals are by person.
    person: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a manifest a task learns from or is measured on."""

    #: A row counts when its path starts with one of these.
    prefixes: tuple[str, ...] = ("",)
    #: Nor does a row whose path starts with one of these.
    without: tuple[str, ...] = ()
    #: Label to regular expression on the column source_path, where the label is not the column class;
    #: a row that none matches is left out.
    label_patterns: Mapping[str, str] | None = None


#: Our own manifest: open and CC BY-NC-SA pictures for the router; what may only be looked at lies under nc/. The hands of
#: MedNIST stay out: their share-alike licence cannot be kept together with that of the CC BY-NC-SA pictures.
ROUTER = Selection(("radiographs/", "nc_sa/radiographs/"), without=("radiographs/other/mednist_",))
#: Only pictures under open licences.
OPEN = Selection(("radiographs/",))
OUTSIDE = Selection(("nc/radiographs/",))
PNEUMONIA = Selection(("radiographs/pediatric_chest/",), label_patterns={"normal": r"/NORMAL/", "pneumonia": r"/PNEUMONIA/"})
#: A site's own manifest: every row.
EVERYTHING = Selection()


def read_manifest(manifest: Path, selection: Selection = EVERYTHING) -> tuple[Example, ...]:
    """Read the selected rows of a manifest; none is no error.

    Raises
    ------
    BadSetting
        No such file, a column is missing, or a selected row has an unknown split.
    """
    try:
        with manifest.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"{manifest}: cannot be read: {error}") from error
    if not rows or not rows[0].keys() >= _COLUMNS:
        raise BadSetting(
            f"{manifest}: needs a header with the columns {', '.join(sorted(_COLUMNS))} and at least one row"
        )
    found = []
    for line, row in enumerate(rows, start=2):
        if not row["path"].startswith(selection.prefixes) or row["path"].startswith(selection.without):
            continue
        if row["split"] not in SPLITS:
            raise BadSetting(f"{manifest}:{line}: split {row['split']!r} is not one of {', '.join(SPLITS)}")
        label = row["class"]
        if selection.label_patterns is not None:
            source_path, patterns = row.get("source_path") or "", selection.label_patterns.items()
            label = next((name for name, pattern in patterns if re.search(pattern, source_path)), "")
        if label:
            source, licence = row.get("source_repo") or "", row.get("licence") or ""
            person = _PERSON.search(row.get("note") or "")
            named = f"{source}:{person[1]}" if person else ""
            found.append(Example(manifest.parent / row["path"], label, row["split"], source, licence, named))
    return tuple(found)


def read_folder(root: Path) -> tuple[Example, ...]:
    """Read the pictures of ``<root>/<split>/<label>/``."""
    return tuple(
        Example(path, path.parent.name, split)
        for split in SPLITS
        for path in sorted((root / split).glob("*/*"))
        if path.suffix.lower() in _PICTURES
    )


def read_examples(data: Path, selection: Selection) -> tuple[Example, ...]:
    """Read a folder or a manifest, whichever ``data`` is.

    A manifest in which ``selection`` finds nothing is a site's own and is taken whole.

    Raises
    ------
    BadSetting
        Nothing is there, or as in `read_manifest`.
    """
    found = read_folder(data) if data.is_dir() else read_manifest(data, selection) or read_manifest(data)
    if not found:
        raise BadSetting(
            f"{data}: no pictures; a folder holds <split>/<label>/<picture> with a split of {', '.join(SPLITS)}"
        )
    return found


def read_picture(path: Path) -> Array:
    """Decode one PNG or JPEG to a (rows, cols) float32 picture in 0..1; raises `BadSetting` when that fails."""
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if stored is None:
        raise BadSetting(f"{path}: cannot be decoded")
    if stored.ndim == 3:  # OpenCV gives BGR or BGRA
        stored = np.ascontiguousarray(stored[:, :, 2::-1])
    return to_unit(stored, "RGB" if stored.ndim == 3 else "MONOCHROME2")


def load_small(examples: Iterable[Example], longest: int) -> list[NDArray[np.uint8]]:
    """Hold pictures for training: 8-bit, longest side at most `longest` pixels; 4,000 at 256 take 200 MB."""
    held = []
    for example in examples:
        picture = read_picture(example.path)
        scale = longest / max(picture.shape)
        if scale < 1:
            size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.float32)
        held.append(np.round(picture * 255).astype(np.uint8))
    return held


def sampling_weights(examples: Sequence[Example], class_power: float, source_power: float) -> NDArray[np.float64]:
    """Probability of drawing each example: classes by their size to `class_power`, sources inside a class by theirs
    to `source_power`.

    0 makes all equal, 1 keeps the sizes as they are.
    """
    classes = Counter(example.label for example in examples)
    groups = Counter((example.label, example.source) for example in examples)
    inside = {label: sum(n**source_power for (other, _), n in groups.items() if other == label) for label in classes}
    weights = np.array(
        [
            classes[e.label] ** class_power * groups[e.label, e.source] ** (source_power - 1) / inside[e.label]
            for e in examples
        ]
    )
    return np.asarray(weights / weights.sum(), dtype=np.float64)
