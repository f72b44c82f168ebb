"""Read which pictures there are to learn from, and their pixels.

**Way** A manifest (CSV with the columns path and class and, where known, split, patient, source_repo, source_path, licence
and note; paths relative to the manifest) or a folder, `<split>/<label>/` or `<label>/` with pictures at any depth, becomes a
tuple of `Example`. Where no splits are stated, `splits` draws them. The splits are sacred: learn on train, choose on val,
look at test once for the report. Pixels pass through the functions that the running node uses.

**Fails** `BadSetting` for a manifest, folder or picture that cannot be used. It names the line, or the number of the picture
in its folder, for names of a site's files may hold names of people.

**Limits** PNG and JPEG (8 or 16 bit) and DICOM, of which the middle frame is taken. A folder says nothing of sources and
licences; whose pictures they are is known where a column or note says it, or the files are DICOM.
"""

from __future__ import annotations

import csv
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dicomnode.errors import BadSetting, DicomNodeError
from dicomnode.image import Image
from dicomnode.stages.look import look
from dicomnode.stages.preprocess import Array, to_unit
from dicomnode.training.splits import draw_split

SPLITS = ("train", "val", "test")
_PICTURES = frozenset({".png", ".jpg", ".jpeg"})
_COLUMNS = frozenset({"path", "class"})
_PERSON = re.compile(r"\bpatient=([^\s;]+)")
_NEEDS = "a class that begins with a letter, of at most 32 letters and digits"
_MEND = "whoever made the manifest or folder mends or removes it"


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
    #: Whose picture it is, a pseudonym, as far as known: splits and intervals are by person.
    person: str = ""
    #: What an error may call it: a line of the manifest, a number in a folder.
    where: str = "a picture"
    #: Whether the split was drawn because none was stated.
    drawn: bool = False


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
    #: Class to label, where they are called otherwise; a row of another class is left out.
    classes: Mapping[str, str] | None = None
    #: Only rows of this source, and none of that one; empty: whatever the source.
    source: str = ""
    not_source: str = ""


#: Our own manifest: open and CC BY-NC-SA pictures for the router; what may only be looked at lies under nc/. The hands of
#: MedNIST stay out: their share-alike licence cannot be kept together with that of the CC BY-NC-SA pictures.
ROUTER = Selection(("radiographs/", "nc_sa/radiographs/"), without=("radiographs/other/mednist_",))
#: Only pictures under open licences.
OPEN = Selection(("radiographs/",))
OUTSIDE = Selection(("nc/radiographs/",))
PNEUMONIA = Selection(("radiographs/pediatric_chest/",), label_patterns={"normal": r"/NORMAL/", "pneumonia": r"/PNEUMONIA/"})
BREAST = Selection(("ultrasound_breast/",), classes={"us_benign": "benign", "us_malignant": "malignant"})
#: A site's own manifest: every row.
EVERYTHING = Selection()


def word(text: str) -> str | None:
    """A class of a site as the word that cards, routes and logs use: ``Left Knee`` is left_knee; None where it makes none.

    A long one makes none: cut off, two classes could become one.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    made = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
    return made if re.fullmatch(r"[a-z][a-z0-9_]{0,31}", made) else None


def _label(row: Mapping[str, str], selection: Selection) -> str | None:
    """The label of a row; empty where the selection leaves it out, None where it cannot be a word."""
    if selection.label_patterns is not None:
        patterns, source_path = selection.label_patterns.items(), row.get("source_path") or ""
        return next((name for name, pattern in patterns if re.search(pattern, source_path)), "")
    if selection.classes is not None:
        return selection.classes.get(row["class"], "")
    return word(row["class"] or "")


def _fault(row: Mapping[Any, str], label: str | None, *, again: bool) -> str:
    """Why a row cannot be used; empty where it can. No value of it is said, for a name may stand in any column."""
    if label is None or not row["path"]:
        return f"needs a path, and {_NEEDS}"
    if None in row:  # a comma in a name shifts it into another column
        return "has more fields than the header; a field with a comma stands in quotes"
    if "split" in row and row["split"] not in SPLITS:
        return f"the split is not one of {', '.join(SPLITS)}"
    return "the path stands twice" if again else ""


def read_manifest(manifest: Path, selection: Selection = EVERYTHING) -> tuple[Example, ...]:
    """Read the selected rows of a manifest; none is no error.

    Raises
    ------
    BadSetting
        No such file, a column is missing, a selected row has an unknown split, no class or more fields than columns, or a
        path stands twice.
    """
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadSetting(f"{manifest}: cannot be read: {error}") from error
    if not rows or not rows[0].keys() >= _COLUMNS:
        raise BadSetting(f"{manifest}: needs a header with the columns path and class (and split) and at least one row")
    found, seen = [], set[str]()
    for line, row in enumerate(rows, start=2):
        path = row["path"] or ""
        source = row.get("source_repo") or ""
        if not path.startswith(selection.prefixes) or path.startswith(selection.without):
            continue
        if (selection.source and source != selection.source) or (selection.not_source and source == selection.not_source):
            continue
        label, where = _label(row, selection), f"{manifest}:{line}"
        if fault := _fault(row, label, again=path in seen):
            raise BadSetting(f"{where}: {fault}; {_MEND}")
        if label:
            seen.add(path)
            licence, file = row.get("licence") or "", manifest.parent / path
            noted = _PERSON.search(row.get("note") or "")
            # A pseudonym of a site holds for all its devices; what a note says holds inside the set that it is of.
            named = row.get("patient") or (f"{source}:{noted[1]}" if noted else _dicom_person(file))
            split = row.get("split") or draw_split(named or path)
            found.append(Example(file, label, split, source, licence, named, where, "split" not in row))
    return tuple(found)


def read_folder(root: Path) -> tuple[Example, ...]:
    """Read the pictures of ``<root>/<split>/<label>/`` or, where no folder is called after a split, ``<root>/<label>/``.

    Raises
    ------
    BadSetting
        The name of a folder makes no label, or a label has no picture.
    """
    stated = [root / split for split in SPLITS if (root / split).is_dir()]
    found, folders = [], dict[str | None, Path]()
    for top in stated or [root]:
        for folder in sorted(entry for entry in top.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
            label = word(folder.name)
            folders[label] = folder
            for number, path in enumerate(pictures_in(folder), start=1):
                if label is None:
                    raise BadSetting(f"{folder}: is to be named after {_NEEDS}; {_MEND}")
                person = _dicom_person(path)
                split = top.name if stated else draw_split(person or path.relative_to(root).as_posix())
                where = f"{folder}, picture {number} in the order of names"
                found.append(Example(path, label, split, person=person, where=where, drawn=not stated))
    for label in sorted(folders.keys() - {None} - {example.label for example in found}, key=str):
        raise BadSetting(f"{folders[label]}: no PNG, JPEG or DICOM file is in it, so nothing can be known of it; {_MEND}")
    return tuple(found)


def pictures_in(folder: Path) -> Iterator[Path]:
    """Give every PNG, JPEG and DICOM file below a folder, in the order of names."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (path.suffix.lower() in _PICTURES or _is_dicom(path)):
            yield path


def _is_dicom(path: Path) -> bool:
    """Whether it is a Part 10 file (PS3.10 7.1)."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _dicom_person(path: Path) -> str:
    """A pseudonym of the Patient ID of a DICOM file; empty for any other picture, and where there is none."""
    if path.suffix.lower() in _PICTURES or not _is_dicom(path):
        return ""
    try:
        with path.open("rb") as stream:
            ds = Image.open(stream).dataset
    except (DicomNodeError, OSError):
        return ""  # says so when its pixels are wanted
    person = str(ds.get("PatientID") or "")
    return hashlib.sha256(f"{ds.get('IssuerOfPatientID')}:{person}".encode()).hexdigest()[:16] if person else ""


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
            f"{data}: no pictures; a folder holds <label>/<picture>, or <split>/<label>/<picture> with a split of"
            f" {', '.join(SPLITS)}"
        )
    return found


def read_picture(path: Path, where: str = "a picture") -> Array:
    """Decode one PNG, JPEG or DICOM file to a (rows, cols) float32 picture in 0..1.

    Raises
    ------
    BadSetting
        That fails; the message says `where`.
    """
    if path.suffix.lower() not in _PICTURES and _is_dicom(path):
        try:
            with path.open("rb") as stream:
                return look(Image.open(stream))
        except DicomNodeError as error:
            raise BadSetting(f"{where}: the pixels cannot be read ({error.code}); {_MEND}") from None
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise BadSetting(f"{where}: the picture cannot be opened ({error.strerror}); {_MEND}") from None
    stored = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if stored is None:
        raise BadSetting(f"{where}: cannot be decoded as PNG or JPEG and is no DICOM file; {_MEND}")
    if stored.ndim == 3:  # OpenCV gives BGR or BGRA
        stored = np.ascontiguousarray(stored[:, :, 2::-1])
    return to_unit(stored, "RGB" if stored.ndim == 3 else "MONOCHROME2")
