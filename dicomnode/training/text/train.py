"""Train the networks of redaction and put them into the model repository: what ``dicomnode train text`` calls.

**Way** Pictures and typefaces are parted into those to learn from and those of val; `learn.teach` teaches gate and detector,
`read.teach_reader` the reader; `write_models` and `write_reader` export what was best on val. Cards name every source.

**Fails** `BadSetting` for data or settings that cannot be used, before anything is learned; `BadCard` when an exported network
does not hold.

**Limits** How many strings of whole images are found and removed is for `dicomnode evaluate redaction` to say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dicomnode.errors import BadSetting
from dicomnode.repository import DETECTOR, GATE, READER
from dicomnode.training import describe
from dicomnode.training.datasets import Example
from dicomnode.training.learn import Machine
from dicomnode.training.text.course import Plan, best_step, load_best
from dicomnode.training.text.curves import FINDING, READING, Panels, draw_curves
from dicomnode.training.text.export import export_reader, export_text
from dicomnode.training.text.fonts import FOLDERS, Face, find_faces, split_faces
from dicomnode.training.text.grounds import Grounds, choose, find_pictures
from dicomnode.training.text.learn import Pieces, TextPlan, teach
from dicomnode.training.text.network import Detector, Gate, Reader
from dicomnode.training.text.read import CLASSES, Slips, teach_reader

#: Pictures that are held at most, of train and of val.
TRAIN_MOST, VAL_MOST = 2200, 200
#: Pieces or lines of val that graph and network are compared on.
_COMPARED = 8
_USE = {
    DETECTOR: "Draws the cores of lines of text in the frames of medical images, so that what identifies a person can be read"
    " and blanked. Not for reading text, nor proof that an image has none.",
    GATE: "Says quickly in which cells of a frame text may be, so that only those are looked at closely. Not proof that an"
    " image has no text.",
    READER: "Reads one line of Latin text that was cut out of the frame of a medical image, so that what identifies a person"
    " can be recognised and blanked. Not for reading findings or values.",
}
_READER_LIMITS = """\
- Learned from text drawn by program over real pictures, in the typefaces of one machine. Latin letters, digits and marks in one
  row; handwriting and other scripts were not drawn.
- Figures are of lines drawn as it has learned them, in other typefaces on other pictures. Many of these are letters in no
  order, faint, or a few pixels high.
- It sees a few letters at a time and knows no words, so it completes none: O and 0, l and I are told apart by shape alone.
- Redaction asks it beside Tesseract, and never alone."""
_LIMITS = """\
- Learned from text drawn by program over real pictures: what no typeface of that machine looks like may be missed.
- Latin letters and digits, 7 to 84 px, in lines that run along the rows or columns: handwriting, other scripts and slanted text
  were not drawn.
- Text of its own in the pictures that were drawn upon is unlabelled; places where a half-taught detector was sure of it were
  left out of the loss, what it did not see there was learned as ground.
- Figures are of pieces of 320 x 320 pixels with other pictures and other typefaces than learned from; `dicomnode evaluate
  redaction` judges whole images."""


@dataclass(frozen=True, slots=True)
class TextOrder:
    """One training: what to draw with and upon, and where things go."""

    #: Manifest or folder.
    data: Path
    #: The model repository.
    models: Path
    #: Folder for checkpoints, history and curves.
    runs: Path
    version: str = "1.0.0"
    #: Folders of typefaces; none for those of the machine.
    fonts: tuple[Path, ...] = ()
    resume: bool = False
    #: Write over models of this version.
    replace: bool = False


@dataclass(frozen=True, slots=True)
class Material:
    """What pieces are drawn with and upon."""

    learned: Sequence[Example]
    train: tuple[Grounds, list[Face]]
    val: tuple[Grounds, list[Face]]


def train_text(
    order: TextOrder, plan: TextPlan, machine: Machine, workers: int = 1, tell: Callable[[str], object] = lambda _: None,
) -> tuple[Path, Path]:
    """Train both and write ``<models>/text-detector/<version>/`` and ``text-gate``; gives these folders.

    `tell` gets what a person has to know.

    Raises
    ------
    BadSetting
        As the module says.
    """
    if plan.side % 32 or plan.side < 64:
        raise BadSetting(f"pieces of {plan.side} pixels: a side is a multiple of 32, and at least 64")
    device, material = _ready(order, machine, (DETECTOR, GATE), tell)
    teach(material.train, material.val, plan, order.runs, resume=order.resume, device=device, workers=workers)
    return write_models(order, plan, material)


def train_reader(
    order: TextOrder, plan: Plan, machine: Machine, workers: int = 1, tell: Callable[[str], object] = lambda _: None,
) -> Path:
    """Train the one that reads and write ``<models>/text-reader/<version>/``; gives this folder; else as `train_text`."""
    device, material = _ready(order, machine, (READER,), tell)
    teach_reader(material.train, material.val, plan, order.runs, resume=order.resume, device=device, workers=workers)
    return write_reader(order, plan, material)


def _ready(
    order: TextOrder, machine: Machine, names: Sequence[str], tell: Callable[[str], object],
) -> tuple[torch.device, Material]:
    for name in names:
        if (order.models / name / order.version / "card.toml").exists() and not order.replace:
            raise BadSetting(f"{order.models / name / order.version}: is there already; --model-version, or --replace")
    device = machine.torch_device()
    torch.set_num_threads(machine.threads)
    material = gather(order)
    families = len({face.family for face in material.train[1]})
    tell(f"{len(material.train[0])} pictures, {families} families of typefaces; val has {len(material.val[0])} pictures")
    return device, material


def gather(order: TextOrder) -> Material:
    """Read pictures and list typefaces, each parted into train and val."""
    examples = find_pictures(order.data)
    learned, tried = (choose(examples, split, most) for split, most in (("train", TRAIN_MOST), ("val", VAL_MOST)))
    if not learned or not tried:
        raise BadSetting(f"{order.data}: needs pictures of train and of val; it has {len(learned)} and {len(tried)}")
    own, held = split_faces(find_faces(order.fonts or FOLDERS))
    return Material(learned, (Grounds.read(learned), own), (Grounds.read(tried), held))


def write_models(order: TextOrder, plan: TextPlan, material: Material, remark: str = "") -> tuple[Path, Path]:
    """Export what was best on val under ``order.runs``; gives the folders of detector and gate.

    `remark` is one more item of what falls short, ``- ...``; it stands in both MODEL_CARD.md.
    """
    row = _drawn(order.runs, FINDING)
    drawn = Pieces(*material.val, plan.side, plan.seed + 1, 0, _COMPARED)
    views = torch.stack([drawn[number][0] for number in range(_COMPARED)])
    detector, gate = Detector(), Gate()
    load_best(order.runs, torch.device("cpu"), detector=detector, gate=gate)
    limits = "\n".join(filter(None, (_LIMITS, remark)))
    notes = f"{limits}\n\n{_taught(plan, row, material)}"
    folders = (order.models / DETECTOR / order.version, order.models / GATE / order.version)
    export_text(detector, _about(DETECTOR, material.learned, _figures(row, "found", "wrong")), folders[0], views, notes)
    export_text(gate, _about(GATE, material.learned, _figures(row, "gate_found", "gate_open")), folders[1], views, notes)
    return folders


def write_reader(order: TextOrder, plan: Plan, material: Material) -> Path:
    """Export the reader that was best on val under ``order.runs``; gives its folder."""
    row = _drawn(order.runs, READING)
    drawn = Slips(*material.val, plan.seed + 1, 0, _COMPARED)
    reader = Reader(CLASSES)
    load_best(order.runs, torch.device("cpu"), reader=reader)
    figures = {"val": {
        "lines": int(row["lines"]), "read_to_the_letter": round(row["exact"], 4),
        "read_but_for_case_and_blanks": round(row["loose"], 4),
    }}  # fmt: skip
    folder = order.models / READER / order.version
    notes = f"{_READER_LIMITS}\n\n{_taught(plan, row, material)}"
    lines = [drawn[number][0] for number in range(_COMPARED)]
    export_reader(reader, _about(READER, material.learned, figures), folder, lines, notes)
    return folder


def _drawn(runs: Path, panels: Panels) -> Mapping[str, float]:
    """Draw the curves of a run; gives the row of its history whose weights were kept."""
    history: list[dict[str, float]] = json.loads((runs / "history.json").read_text(encoding="utf-8"))
    kept = best_step(runs)
    draw_curves(history, kept, runs / "curves.png", panels)
    return next(row for row in history if row["step"] == kept)


def _figures(row: Mapping[str, float], found: str, wrong: str) -> dict[str, dict[str, int | float | str]]:
    return {"val": {
        "lines": int(row["lines"]), "lines_found": round(row[found], 4), "ground_taken_for_text": round(row[wrong], 5),
    }}


def _about(name: str, learned: Sequence[Example], figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "intended_use": f"{_USE[name]} {describe.NOT_A_DEVICE}", "licence": describe.terms(learned, None),
        "training_data": describe.sources(learned, None), "figures": figures,
    }


def _taught(plan: Plan, row: Mapping[str, float], material: Material) -> str:
    """Say with what, in a few lines."""
    own, held = (sorted({face.family for face in faces}) for _, faces in (material.train, material.val))
    numbers = ", ".join(f"{key} {value}" for key, value in asdict(plan).items())
    return (
        f"Taught with: {numbers}; weights of step {row['step']:g}.\n\n"
        f"Drawn with {len(own)} families of typefaces ({', '.join(own)}); val with {len(held)} others ({', '.join(held)})."
    )
