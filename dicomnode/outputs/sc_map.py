"""A Secondary Capture of where the models saw what they report: heat maps and masks in colour over the redacted picture.

**Way** One panel for each label whose heat is shown, one for all masks of a model, side by side. A panel is the picture of `sc`
with the map laid over: heat in a perceptually even map of colours, the stronger the less transparent; a mask as a contour with
a thin fill, a colour for each label. Below stand label, probability, model and what the colours mean. Of a heat map those
labels are shown that the report reports: the most probable one, and each abnormal one. Where nothing is laid over, the pixels
are those of `sc`; where redaction has blanked, nothing is.

**Fails** As `capture`.

**Standard** PS3.3 A.8.1.

**Limits** Heat is evidence, not probability: it is shown in shares of its strongest place in this very picture, so two pictures
cannot be compared by it. At most `PANELS` panels; the caption says how many were left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.image import Redacted
from dicomnode.outputs import caption, capture, sc, words
from dicomnode.outputs.lay import Grid, belongs
from dicomnode.outputs.material import Material
from dicomnode.records import Findings, Map, Output, Region

#: Panels that stand side by side, at most.
PANELS = 4
#: Share of the colour where heat is strongest, and inside of a mask.
_HEAT, _FILL = 0.6, 0.2
#: Of Okabe and Ito, told apart with any colour vision; a mask's contour is as wide as this many pixels.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178))
_NAMES = ("orange", "light blue", "green", "yellow", "red", "pink", "blue")
_CONTOUR = 2
_BETWEEN = 8


@dataclass(frozen=True, slots=True)
class _Panel:
    findings: Findings
    maps: tuple[Map, ...]


def build(material: Material) -> Output:
    """Make the capture, as `capture.make` does."""
    described = "Redacted, windowed and scaled, maps of models laid over in colour; not for diagnostic use"
    return capture.make(material, "sc-map", draw, description=described)


def draw(material: Material, redacted: Redacted) -> caption.Picture:
    """Give the pixels of the capture, (rows, cols, 3) of uint8."""
    picture = sc.scaled(material, redacted)
    grey = picture if picture.ndim == 3 else np.repeat(picture[..., np.newaxis], 3, axis=2)
    frame = material.image.rows, material.image.columns
    grid = Grid(picture.shape[0], picture.shape[1], frame)
    cut = redacted.regions_of(material.image.shown)
    every = [panel for findings in material.findings for panel in _panels(findings)]
    left_out = len(every) - PANELS
    drawn = []
    for panel in every[:PANELS]:
        canvas, lines = _laid(grey.copy(), panel, grid, cut)
        lines = [words.body_part(material.route), *lines, words.model(panel.findings)]
        lines += [f"{left_out} more maps are not shown"] if left_out > 0 else []
        drawn.append((canvas, [*lines, words.maker(material.node.version)]))
    return _side_by_side(drawn)


def _panels(findings: Findings) -> Iterator[_Panel]:
    """Heat of what is reported, the abnormal first; then the masks, all in one."""
    heat = {one.label: one for one in findings.maps if one.kind == "heat"}
    for item in sorted(words.reported(findings), key=lambda item: not item.abnormal):
        if item.label in heat:
            yield _Panel(findings, (heat[item.label],))
    masks = tuple(one for one in findings.maps if one.kind == "mask")
    if masks:
        yield _Panel(findings, masks)
    elif heat and not any(item.label in heat for item in words.reported(findings)):
        yield _Panel(findings, ())


def _laid(canvas: caption.Picture, panel: _Panel, grid: Grid, cut: Sequence[Region]) -> tuple[caption.Picture, list[str]]:
    """Lay the maps of a panel over the picture; gives it with the lines that explain it."""
    said = {item.label: words.finding(item) for item in panel.findings.items}
    if not panel.maps:
        return canvas, ["Heat: none for what is reported"]
    if panel.maps[0].kind == "heat":
        (one,) = panel.maps
        evidence = grid.values(one, cut)
        strongest = float(evidence.max())
        if strongest <= 0:
            return canvas, [f"Heat: {said[one.label]}: no evidence anywhere"]
        _heat(canvas, np.clip(evidence / strongest, 0, 1))
        return canvas, [f"Heat: {said[one.label]}", "black, violet, orange, yellow: share of this picture's strongest evidence"]
    lines = []
    for number, one in enumerate(panel.maps):
        inside = belongs(grid.values(one, cut), one)
        colour = number % len(_COLOURS)
        _mask(canvas, inside, _COLOURS[colour])
        lines.append(f"Mask, {_NAMES[colour]}: {said[one.label]}" + ("" if inside.any() else ": nowhere"))
    return canvas, lines


def _heat(canvas: caption.Picture, share: NDArray[np.float32]) -> None:
    """Mix in the colours of inferno, which are dark where there is little and grow evenly brighter."""
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, np.newaxis], cv2.COLORMAP_INFERNO)[:, 0, ::-1]
    colours = table[np.rint(share * 255).astype(np.uint8)]
    alpha = (share * _HEAT)[..., np.newaxis]
    mixed = canvas * (1 - alpha) + colours * alpha
    np.copyto(canvas, np.rint(mixed).astype(np.uint8), where=share[..., np.newaxis] > 0)


def _mask(canvas: caption.Picture, inside: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    """Fill thinly, and draw the edge within the mask, so that no pixel beyond it changes."""
    ones = inside.astype(np.uint8)
    # What is beyond the picture counts as inside: its border is no edge of the mask.
    core = cv2.erode(ones, np.ones((3, 3), np.uint8), iterations=_CONTOUR) > 0
    canvas[inside] = np.rint(canvas[inside] * (1 - _FILL) + np.array(colour) * _FILL).astype(np.uint8)
    canvas[inside & ~core] = colour


def _side_by_side(drawn: Sequence[tuple[caption.Picture, list[str]]]) -> caption.Picture:
    """Set captions below and the panels beside each other, each as high as the highest."""
    made = [caption.below(canvas, lines) for canvas, lines in drawn]
    rows = max(panel.shape[0] for panel in made)
    canvas: caption.Picture = np.zeros(
        (rows, sum(panel.shape[1] for panel in made) + _BETWEEN * (len(made) - 1), 3), dtype=np.uint8,
    )
    left = 0
    for panel in made:
        canvas[: panel.shape[0], left : left + panel.shape[1]] = panel
        left += panel.shape[1] + _BETWEEN
    return canvas
