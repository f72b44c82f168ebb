"""Draws a set of files with text of known place: an evaluation of redaction without patients.

**Way** `draw_set` makes for each file a scene (`scenes`), an invented person (`words`), a layout of a console
(`layouts`) in some face (`fonts`) and an object in some form (`objects`), and writes the manifest beside them: TEXT_BOXES.csv,
with a mask of the strokes for each file. The same seed draws the same files with the same versions of Pillow and OpenCV.

**Fails** `BadSetting` when the folder holds other files, or there are no backgrounds.

**Limits** Drawn text is not a console's own; side marks that a background already has are in no manifest. Faces and layouts are
kept out of training.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dicomnode.errors import BadSetting
from dicomnode.evaluation.manifest import GROUPS, NAME
from dicomnode.evaluation.synthetic.fonts import Face, faces
from dicomnode.evaluation.synthetic.layouts import Placed, Sheet, lay
from dicomnode.evaluation.synthetic.objects import FORMS, write
from dicomnode.evaluation.synthetic.scenes import Grey, pictures, scene
from dicomnode.evaluation.synthetic.words import identity

__all__ = ["Drawing", "draw_set"]

_COLUMNS = ("path", "kind", "text", "x0", "y0", "x1", "y1", "visible", "origin", "frame", "ink", *GROUPS)
#: Share of files with several frames, and how many these have.
_LOOPS, _FRAMES = 0.17, (3, 7)
#: Grey levels that strokes must stand apart to be seen.
_SEEN = 14
#: Share of its strokes that a string must show; with less it cannot be read.
_LEAST_SHOWN = 0.6


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is drawn."""

    files: int
    seed: int = 0
    backgrounds: Path | None = None
    split: str | None = None
    fonts: Path | None = None


def draw_set(folder: Path, drawing: Drawing, tell: Callable[[int, int], None] = lambda *_: None) -> Path:
    """Draw the files into a folder; gives the path of the manifest.

    Raises
    ------
    BadSetting
        The folder is not empty, or there are no backgrounds.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadSetting(f"{folder}: is not an empty folder")
    found, kinds = pictures(drawing.backgrounds, drawing.split), faces(drawing.fonts)
    (folder / "ink").mkdir(parents=True)
    with (folder / NAME).open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, _COLUMNS)
        table.writeheader()
        for number in range(drawing.files):
            table.writerows(_file(folder, number, np.random.default_rng([drawing.seed, number]), found, kinds))
            tell(number + 1, drawing.files)
    return folder / NAME


def _file(
    folder: Path,
    number: int,
    random: np.random.Generator,
    found: list[Path],
    kinds: dict[str, list[Face]],
) -> Iterator[dict[str, Any]]:
    """Draw one file; gives its rows."""
    form = FORMS[number % len(FORMS)]
    ground = scene(random, found)
    count = int(random.integers(*_FRAMES)) if random.random() < _LOOPS else 1
    who = identity(random, in_header=bool(random.integers(0, 2)))
    sheet = Sheet(ground)
    layout = lay(sheet, random, who, kinds, colour=form.colour)
    grounds = [_moved(ground, step) for step in range(count)]
    frames = [sheet.over(one, colour=form.colour) for one in grounds]
    name, mask = f"{number:05}.dcm", f"ink/{number:05}.png"
    # In a loop some strings stand in one frame only: there the others show the ground.
    alone = {index: int(random.integers(0, count)) for index in range(len(sheet.placed)) if count > 1 and random.random() < 0.2}
    for index, frame in alone.items():
        one = sheet.placed[index]
        for other in range(count):
            if other != frame:
                _erase(frames[other], grounds[other], one)
    seen: list[bool] = []
    for index, one in enumerate(sheet.placed):
        frame = alone.get(index, 0)
        left = _left(sheet, one, frames[frame], grounds[frame])
        seen.append(left is not None and _apart(sheet, left, frames[frame]))
        sheet.placed[index] = left or one
    write(folder / name, frames, form, who, f"{layout} console", random)
    cv2.imwrite(str(folder / mask), sheet.strokes.astype(np.uint8) * 255)
    for index, one in enumerate(sheet.placed):
        yield _row(name, mask, layout, one, alone.get(index), seen[index])
    if not sheet.placed:
        yield {"path": name, "kind": ""} | dict.fromkeys(("x0", "y0", "x1", "y1"), 0)


def _moved(ground: Grey, step: int) -> Grey:
    """The ground a little further, as a probe moves."""
    return np.asarray(np.roll(ground, (3 * step, 5 * step), (0, 1)), np.uint8)


def _erase(frame: Any, ground: Grey, one: Placed) -> None:
    box = (slice(max(0, one.y0 - 3), one.y1 + 4), slice(max(0, one.x0 - 3), one.x1 + 4))
    frame[box] = ground[box][..., None] if frame.ndim == 3 else ground[box]


def _left(sheet: Sheet, one: Placed, frame: Any, ground: Grey) -> Placed | None:
    """Take from a string, and its box, strokes that cannot be seen (white on white); None where too few are left to be read.

    Strings with a ground or rim of their own stay as they are.
    """
    if one.style.kind not in {"plain", "faint"}:
        return one
    box = (slice(one.y0, one.y1 + 1), slice(one.x0, one.x1 + 1))
    grey = frame[box] if frame.ndim == 2 else frame[box].max(axis=2)
    seen = sheet.strokes[box] & (cv2.absdiff(grey, ground[box]) >= _SEEN)
    if seen.sum() < _LEAST_SHOWN * sheet.strokes[box].sum():
        return None
    sheet.strokes[box] = seen
    ys, xs = np.nonzero(seen)
    left, top = one.x0 + int(xs.min()), one.y0 + int(ys.min())
    return replace(one, x0=left, y0=top, x1=one.x0 + int(xs.max()), y1=one.y0 + int(ys.max()))


def _apart(sheet: Sheet, one: Placed, frame: Any) -> bool:
    """Say whether strokes stand apart from what is around them."""
    box = (slice(max(0, one.y0 - 2), one.y1 + 3), slice(max(0, one.x0 - 2), one.x1 + 3))
    strokes = sheet.strokes[box]
    values = frame[box].astype(np.int64)
    grey = values if values.ndim == 2 else values.max(axis=2)
    around = ~strokes & (cv2.dilate(strokes.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0)
    return bool(abs(np.median(grey[strokes]) - np.median(grey[around])) >= _SEEN) if around.any() else False


def _row(name: str, mask: str, layout: str, one: Placed, frame: int | None, seen: bool) -> dict[str, Any]:
    style = one.style
    return {
        "path": name, "kind": "value" if one.part.identifying else "key", "text": one.part.text,
        "x0": one.x0, "y0": one.y0, "x1": one.x1, "y1": one.y1, "visible": int(seen), "origin": "drawn",
        "frame": "" if frame is None else frame, "ink": mask, "font": style.face.name, "layout": f"{layout}, {style.kind}",
        "what": one.part.what, "in_header": "yes" if one.part.in_header else "no" if one.part.identifying else "",
        "size": style.size, "polarity": one.polarity, "rotation": f"{90 * style.turns}",
    }  # fmt: skip
