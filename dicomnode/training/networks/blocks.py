"""What the networks are built of.

**References** Depthwise separable convolution: Howard et al. 2017, arXiv:1704.04861. Inverted residual: Sandler et al.
2018, arXiv:1801.04381. Squeeze and excitation: Hu et al. 2018, arXiv:1709.01507. Stochastic depth: Huang et al. 2016,
arXiv:1603.09382.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, act: Activation | None = nn.ReLU,
    eps: float = 1e-5,
) -> nn.Sequential:  # fmt: skip
    """Convolution, batch normalisation and, unless `act` is None, an activation; the size falls by `stride`."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=eps),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


class Excitation(nn.Module):
    """Squeeze and excitation: weigh each channel by what the whole picture shows."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, channels, rows, cols) to the same shape."""
        pooled = maps.mean((2, 3), keepdim=True)
        return maps * torch.sigmoid(self.expand(nn.functional.silu(self.reduce(pooled))))


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, project; the input is added where the shape allows.

    `excite` is the share of the inputs that squeeze and excitation keeps, 0 for none; `drop` the probability of
    leaving a sample's block out while learning.
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int, expand: int, act: Activation, eps: float = 1e-5,
        excite: float = 0.0, drop: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        middle = inputs * expand
        layers: list[nn.Module] = [convolution(inputs, middle, 1, act=act, eps=eps)] if expand > 1 else []
        layers.append(convolution(middle, middle, kernel, stride, groups=middle, act=act, eps=eps))
        if excite:
            layers.append(Excitation(middle, max(1, int(inputs * excite))))
        layers.append(convolution(middle, outputs, 1, act=None, eps=eps))
        self.body = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs
        self.drop = drop

    def forward(self, maps: Tensor) -> Tensor:
        """(n, inputs, rows, cols) to (n, outputs, rows / stride, cols / stride)."""
        found: Tensor = self.body(maps)
        if not self.adds:
            return found
        if self.training and self.drop:
            kept = torch.rand((found.shape[0], 1, 1, 1), device=found.device) >= self.drop
            found = found * kept / (1 - self.drop)
        return maps + found


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a short cut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(inputs, outputs, 3, stride), convolution(outputs, outputs, 3, act=None))
        same = stride == 1 and inputs == outputs
        self.short_cut = nn.Identity() if same else convolution(inputs, outputs, 1, stride, act=None)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, inputs, rows, cols) to (n, outputs, rows / stride, cols / stride)."""
        return nn.functional.relu(self.body(maps) + self.short_cut(maps))


class Classifier(nn.Module):
    """Feature maps, their mean over the picture, and one linear layer: what class activation maps are made from."""

    def __init__(self, features: Sequence[nn.Module], channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """(n, 1, rows, cols) to logits (n, classes)."""
        logits: Tensor = self.classifier(self.dropout(self.features(pictures).mean((2, 3))))
        return logits


def rising(drop: float, blocks: int) -> list[float]:
    """Stochastic depth: from 0 at the first block to nearly `drop` at the last."""
    return [drop * number / blocks for number in range(blocks)]


def chained(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Inputs and outputs of layers that follow each other."""
    return list(pairwise(widths))
