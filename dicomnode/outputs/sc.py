"""A Secondary Capture picture of the result, for people whose viewer shows no reports.

**Way** The redacted picture of the frame that was looked at, brought to a longest side of 1024 pixels, with a band below it
that tells body part, the findings of each model and "not for diagnostic use". The caption is made of words of ours; nothing
of the header is drawn. `capture` makes the object.

**Fails** As `capture`.

**Standard** PS3.3 A.8.1.

**Limits** As `capture`.
"""

from __future__ import annotations

from dicomnode.image import Redacted
from dicomnode.outputs import caption, capture, words
from dicomnode.outputs.material import Material
from dicomnode.records import Output


def build(material: Material) -> Output:
    """Make the capture, as `capture.make` does."""
    described = "Redacted, windowed and scaled, result set below; not for diagnostic use"
    return capture.make(material, "sc", draw, description=described)


def draw(material: Material, redacted: Redacted) -> caption.Picture:
    """Give the pixels of the capture: (rows, cols) or (rows, cols, 3) of uint8."""
    lines = [words.body_part(material.route)]
    for findings in material.findings:
        lines += [words.finding(item) for item in words.reported(findings)]
        lines.append(words.model(findings))
    lines.append(words.maker(material.node.version))
    return caption.below(scaled(material, redacted), lines)


def scaled(material: Material, redacted: Redacted) -> caption.Picture:
    """Give the redacted picture of the frame that is shown, in the size of a capture."""
    return caption.scale(redacted.picture(material.image.shown), capture.aspect(material.image.dataset))
