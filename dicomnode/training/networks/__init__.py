"""Networks by name.

**Way** `build` gives a network from (n, 1, rows, cols) float32 to (n, classes) logits; another architecture is one more line
in `families.BUILDERS`. `start` fills it with weights from elsewhere.
"""

from dicomnode.errors import BadSetting
from dicomnode.training.networks.blocks import Classifier
from dicomnode.training.networks.families import BUILDERS

__all__ = ["BUILDERS", "Classifier", "build"]


def build(arch: str, classes: int, width: float = 1.0, dropout: float = 0.2) -> Classifier:
    """Build a network with random weights; raises `BadSetting` for a name that is not in `BUILDERS`."""
    if arch not in BUILDERS:
        raise BadSetting(f"architecture {arch!r} does not exist; there are: {', '.join(BUILDERS)}")
    return BUILDERS[arch](classes, width, dropout)
