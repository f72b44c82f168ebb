"""The architectures, by name: the seven that "DICOM Imaging Router" compared, and EfficientNet-Lite0.

**Way** Each builder takes (classes, width, dropout) and gives a `Classifier` for pictures (n, 1, rows, cols).

**References** MobileNet-V1: Howard et al. 2017, arXiv:1704.04861, table 1. MobileNet-V2: Sandler et al. 2018,
arXiv:1801.04381, table 2. ResNet: He et al. 2016, arXiv:1512.03385, table 1. EfficientNet: Tan and Le 2019,
arXiv:1905.11946, table 1. EfficientNet-Lite leaves out squeeze and excitation and has ReLU6 for swish, so that it can be
quantised and runs fast on processors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from dicomnode.training.networks.blocks import (
    Activation,
    BasicBlock,
    Classifier,
    InvertedResidual,
    chained,
    convolution,
    rising,
)

# Output channels and stride of the thirteen depthwise separable blocks.
_MOBILENET_V1 = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
# Expansion, output channels, blocks, stride of the first, kernel.
_MOBILENET_V2 = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3), (6, 96, 3, 1, 3), (6, 160, 3, 2, 3),
                 (6, 320, 1, 1, 3))  # fmt: skip
_EFFICIENTNET = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
                 (6, 320, 1, 1, 3))  # fmt: skip
_EFFICIENTNET_EPS = 1e-3
_STOCHASTIC_DEPTH = 0.2


def _divisible(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth smaller, as the MobileNet papers round."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def mobilenet_v1(classes: int, width: float, dropout: float) -> Classifier:
    """MobileNet-V1, every channel count times `width`."""
    channels = [max(8, int(full * width)) for full in (32, *(outputs for outputs, _ in _MOBILENET_V1))]
    layers: list[nn.Module] = [convolution(1, channels[0], 3, stride=2)]
    for (inputs, outputs), (_, stride) in zip(chained(channels), _MOBILENET_V1, strict=True):
        layers += [convolution(inputs, inputs, 3, stride, groups=inputs), convolution(inputs, outputs, 1)]
    return Classifier(layers, channels[-1], classes, dropout)


def _inverted(
    rows: tuple[tuple[int, int, int, int, int], ...], *, inputs: int, width: float, depth: float, act: Activation, eps: float,
    excite: float, drop: float, lite: bool,
) -> tuple[list[nn.Module], int]:  # fmt: skip
    """The inverted residuals of a table, and the channels of the last. `lite` keeps the depth of first and last row."""
    fixed = {0, len(rows) - 1} if lite else set[int]()
    repeats = [row[2] if number in fixed else math.ceil(row[2] * depth) for number, row in enumerate(rows)]
    drops = iter(rising(drop, sum(repeats)))
    layers: list[nn.Module] = []
    for (expand, full, _, first, kernel), repeat in zip(rows, repeats, strict=True):
        for number in range(repeat):
            outputs, stride = _divisible(full * width), first if number == 0 else 1
            layers.append(
                InvertedResidual(
                    inputs, outputs, kernel=kernel, stride=stride, expand=expand, act=act, eps=eps, excite=excite,
                    drop=next(drops),
                )
            )
            inputs = outputs
    return layers, inputs


def mobilenet_v2(classes: int, width: float, dropout: float) -> Classifier:
    """MobileNet-V2, every channel count times `width`; the last layer grows with it and never shrinks."""
    stem, last = _divisible(32 * width), _divisible(1280 * max(1.0, width))
    blocks, channels = _inverted(
        _MOBILENET_V2, inputs=stem, width=width, depth=1, act=nn.ReLU6, eps=1e-5, excite=0, drop=0, lite=False
    )
    layers = [convolution(1, stem, 3, stride=2, act=nn.ReLU6), *blocks, convolution(channels, last, 1, act=nn.ReLU6)]
    return Classifier(layers, last, classes, dropout)


def _resnet(blocks: tuple[int, ...], classes: int, width: float, dropout: float) -> Classifier:
    channels = [max(8, int(full * width)) for full in (64, 64, 128, 256, 512)]
    layers: list[nn.Module] = [convolution(1, channels[0], 7, stride=2), nn.MaxPool2d(3, 2, 1)]
    for stage, ((inputs, outputs), repeat) in enumerate(zip(chained(channels), blocks, strict=True)):
        layers.append(BasicBlock(inputs, outputs, 1 if stage == 0 else 2))
        layers += [BasicBlock(outputs, outputs, 1) for _ in range(repeat - 1)]
    return Classifier(layers, channels[-1], classes, dropout)


def _efficientnet(grow: float, depth: float, lite: bool, classes: int, width: float, dropout: float) -> Classifier:
    act, factor = nn.ReLU6 if lite else nn.SiLU, grow * width
    # The Lite variant keeps stem and head whatever the size.
    stem, last = (32, 1280) if lite else (_divisible(32 * factor), _divisible(1280 * factor))
    blocks, channels = _inverted(
        _EFFICIENTNET, inputs=stem, width=factor, depth=depth, act=act, eps=_EFFICIENTNET_EPS,
        excite=0 if lite else 0.25, drop=_STOCHASTIC_DEPTH, lite=lite,
    )  # fmt: skip
    layers = [
        convolution(1, stem, 3, stride=2, act=act, eps=_EFFICIENTNET_EPS),
        *blocks,
        convolution(channels, last, 1, act=act, eps=_EFFICIENTNET_EPS),
    ]
    return Classifier(layers, last, classes, dropout)


#: Name to builder (classes, width, dropout) → network.
BUILDERS: Mapping[str, Callable[[int, float, float], Classifier]] = {
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "resnet18": partial(_resnet, (2, 2, 2, 2)),
    "resnet34": partial(_resnet, (3, 4, 6, 3)),
    "efficientnet_b0": partial(_efficientnet, 1.0, 1.0, False),
    "efficientnet_b1": partial(_efficientnet, 1.0, 1.1, False),
    "efficientnet_b2": partial(_efficientnet, 1.1, 1.2, False),
    "efficientnet_lite0": partial(_efficientnet, 1.0, 1.0, True),
}
