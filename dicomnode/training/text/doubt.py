"""Find what the pictures hold of text of their own: nobody has labelled it, so nothing is learned where it stands.

**Way** A detector that has learned for a while looks at every ground, at its own size and enlarged; what it is sure of, and
what lies around, is doubtful (`Ground.doubt`).

**Fails** It does not; a file of doubts that is no such file raises what numpy raises.

**Limits** What such a detector takes for text with great confidence and is none will not be unlearned; `SURE` is high for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dicomnode.stages.redact.views import stack
from dicomnode.training.text.grounds import Ground, Grounds
from dicomnode.training.text.targets import CORE_STEP

#: Mean probability of a core from which it is doubtful, and its least pixels.
SURE, LEAST = 0.6, 6
_SCALES = (1.0, 2.0)
_STEP = 32


def doubts(detector: nn.Module, grounds: Sequence[Ground], device: torch.device) -> list[Ground]:
    """Give the same grounds with their doubts."""
    detector.eval()
    return [Ground(ground.picture, _doubt(detector, ground.picture, device)) for ground in grounds]


def save_doubts(path: Path, grounds: Sequence[Ground]) -> None:
    """Write the doubts of all grounds, by their number, so that a run that is resumed has the same ones."""
    packed = {str(n): np.packbits(ground.doubt) for n, ground in enumerate(grounds) if ground.doubt is not None}
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, **packed)  # type: ignore[arg-type]  # its stubs take the names for options
    part.replace(path)


def load_doubts(path: Path, grounds: Iterable[Ground]) -> Grounds:
    """Give the grounds with the doubts that were written."""
    with np.load(path) as packed:
        def of(number: int, ground: Ground) -> Ground:
            if str(number) not in packed:
                return Ground(ground.picture)
            rows, cols = ground.picture.shape
            return Ground(ground.picture, np.unpackbits(packed[str(number)], count=rows * cols).reshape(rows, cols) > 0)

        return Grounds([of(number, ground) for number, ground in enumerate(grounds)])


def _doubt(detector: nn.Module, picture: NDArray[np.uint8], device: torch.device) -> NDArray[np.bool_] | None:
    found = np.zeros(picture.shape, np.uint8)
    for scale in _SCALES:
        sized = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR) if scale != 1 else picture
        said = probabilities(detector, np.asarray(sized, np.uint8), device)
        _, labels, stats, _ = cv2.connectedComponentsWithStats((said > 0.3).astype(np.uint8), connectivity=8)
        for label in range(1, len(stats)):
            x, y, w, h, area = (int(v) for v in stats[label])
            if area < LEAST or float(said[labels == label].mean()) < SURE:
                continue
            pad = min(w, h) + 4
            box = [round(v * CORE_STEP / scale) for v in (x - pad, y - pad, x + w + pad, y + h + pad)]
            found[max(0, box[1]) : box[3], max(0, box[0]) : box[2]] = 1
    return found > 0 if found.any() else None


def probabilities(detector: nn.Module, picture: NDArray[np.uint8], device: torch.device) -> NDArray[np.float32]:
    """Ask for the cores of a grey picture; (rows/2, cols/2)."""
    rows, cols = picture.shape
    down, across = -rows % _STEP, -cols % _STEP
    padded = np.pad(picture, ((0, down), (0, across)), mode="edge")
    views = stack(padded, padded, falls=False)
    tensor = torch.from_numpy(np.ascontiguousarray(views.transpose(2, 0, 1)))[None].to(device, dtype=torch.float32) / 255
    with torch.inference_mode():
        said = torch.sigmoid(detector(tensor)[0, 0]).float().cpu().numpy()
    return np.asarray(said[: -(-rows // CORE_STEP), : -(-cols // CORE_STEP)], np.float32)
