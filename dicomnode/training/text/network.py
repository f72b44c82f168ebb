"""The networks of redaction: a gate that looks quickly, a detector that draws the cores of lines, a reader of lines.

**Way** The first two begin with a convolution that takes each 4 x 4 pixels once, so that no layer runs at full size. `Gate`
answers for cells of 16 pixels. `Detector` goes down to 1/32 and comes up again to 1/4, and answers for 2 x 2 pixels: the
probability of a core and, while it learns, a threshold, by which differentiable binarisation makes the edge of a core steep
(Liao et al., AAAI 2020). `Reader` goes down to one row, and to a quarter of the columns, and says of each what letter stands
there.

**Limits** Sides are multiples of 32; what the reader takes is 32 rows high, and its columns are a multiple of 4.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

#: How steep the binarisation is.
STEEP = 50.0


def _conv(entering: int, leaving: int, side: int = 3, step: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(entering, leaving, side, step, side // 2, bias=False), nn.BatchNorm2d(leaving), nn.ReLU(inplace=True),
    )


def _fold(leaving: int) -> nn.Sequential:
    """Fold each 4 x 4 pixels of three views into channels."""
    return nn.Sequential(nn.Conv2d(3, leaving, 4, 4, bias=False), nn.BatchNorm2d(leaving), nn.ReLU(inplace=True))


class _Again(nn.Module):
    """Two convolutions beside a straight way."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Add what two convolutions make of it."""
        return functional.relu(x + self.second(self.first(x)))


class Gate(nn.Module):
    """(n, 3, rows, cols) views in 0..1 to (n, 1, rows/16, cols/16): logits of cells with text."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _fold(24), _conv(24, 32, 3, 2), _conv(32, 48, 3, 2), _Again(48), nn.Conv2d(48, 1, 1),
        )

    def forward(self, views: Tensor) -> Tensor:
        """Give the logits of cells."""
        made: Tensor = self.features(views)
        return made


class Detector(nn.Module):
    """(n, 3, rows, cols) views in 0..1 to (n, 2, rows/2, cols/2): logits of cores and of thresholds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_fold(32), _conv(32, 32))
        self.down8 = nn.Sequential(_conv(32, 48, 3, 2), _Again(48))
        self.down16 = nn.Sequential(_conv(48, 64, 3, 2), _Again(64), _Again(64))
        self.down32 = nn.Sequential(_conv(64, 96, 3, 2), _Again(96), _Again(96))
        self.side32, self.side16 = nn.Conv2d(96, 48, 1), nn.Conv2d(64, 48, 1)
        self.side8, self.side4 = nn.Conv2d(48, 48, 1), nn.Conv2d(32, 32, 1)
        self.meet16, self.meet8 = _conv(48, 48), _conv(48, 48)
        self.narrow = nn.Conv2d(48, 32, 1)
        self.meet4 = _conv(32, 32)
        self.head = nn.Conv2d(32, 8, 1)
        self.unfold = nn.PixelShuffle(2)

    def forward(self, views: Tensor) -> Tensor:
        """Give the logits of cores and thresholds."""
        four = self.stem(views)
        eight = self.down8(four)
        sixteen = self.down16(eight)
        deep = self.side32(self.down32(sixteen))
        up = self.meet16(self.side16(sixteen) + _twice(deep))
        up = self.meet8(self.side8(eight) + _twice(up))
        up = self.meet4(self.side4(four) + _twice(self.narrow(up)))
        made: Tensor = self.unfold(self.head(up))
        return made


class Reader(nn.Module):
    """(n, 3, 32, cols) lines in 0..1 to (n, classes, cols/4): logits of letters along the line, class 0 for none."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _conv(3, 32, 3, 2), _Again(32), _conv(32, 64, 3, 2), _Again(64), _flat(64, 112), _Again(112), _flat(112, 160),
        )
        self.along = nn.Sequential(
            nn.Conv2d(160, 224, (2, 5), padding=(0, 2), bias=False), nn.BatchNorm2d(224), nn.ReLU(inplace=True),
            nn.Conv2d(224, 224, (1, 5), padding=(0, 2), bias=False), nn.BatchNorm2d(224), nn.ReLU(inplace=True),
            nn.Dropout(0.1), nn.Conv2d(224, classes, 1),
        )

    def forward(self, slips: Tensor) -> Tensor:
        """Give the logits along the lines."""
        made: Tensor = self.along(self.features(slips)).squeeze(2)
        return made


def _flat(entering: int, leaving: int) -> nn.Sequential:
    """Halve the height alone."""
    return nn.Sequential(
        nn.Conv2d(entering, leaving, 3, (2, 1), 1, bias=False), nn.BatchNorm2d(leaving), nn.ReLU(inplace=True),
    )


class Said(nn.Module):
    """A reader with the probabilities that it is exported with."""

    def __init__(self, network: Reader) -> None:
        super().__init__()
        self.network = network

    def forward(self, slips: Tensor) -> Tensor:
        """Give the probabilities along the lines."""
        return torch.softmax(self.network(slips), 1)


def _twice(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")


class Answer(nn.Module):
    """A network with the probabilities that it is exported with; the threshold is for learning alone and is cut off."""

    def __init__(self, network: Gate | Detector) -> None:
        super().__init__()
        self.network = deepcopy(network)
        if isinstance(self.network, Detector):
            whole = self.network.head
            self.network.head = nn.Conv2d(whole.in_channels, whole.out_channels // 2, 1)
            own = {key: value[: whole.out_channels // 2] for key, value in whole.state_dict().items()}
            self.network.head.load_state_dict(own)

    def forward(self, views: Tensor) -> Tensor:
        """Give the probabilities."""
        made: Tensor = torch.sigmoid(self.network(views))
        return made
