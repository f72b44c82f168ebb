"""Networks by name.

**Way** `build(arch, ...)` gives a torch module from (n, 1, rows, cols) float32 to (n, classes) logits; another
architecture is one more line in `BUILDERS`.

**Limits** No weights from elsewhere; every network starts from random ones.

**References** MobileNet-V1 is Howard et al. 2017, arXiv:1704.04861, table 1.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from dicomnode.errors import BadSetting

# Output channels and stride of the thirteen depthwise separable blocks, for width 1.
_MOBILENET_V1 = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class MobileNetV1(nn.Module):
    """MobileNet-V1 with one input channel; `width` multiplies every channel count."""

    def __init__(self, classes: int, width: float, dropout: float) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(8, int(channels * width))

        channels = scaled(32)
        layers: list[nn.Module] = [_convolution(1, channels, 3, stride=2)]
        for full, stride in _MOBILENET_V1:
            layers += [
                _convolution(channels, channels, 3, stride, groups=channels),
                _convolution(channels, scaled(full), 1),
            ]
            channels = scaled(full)
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """(n, 1, rows, cols) to logits (n, classes)."""
        logits: Tensor = self.classifier(self.dropout(self.pool(self.features(pictures)).flatten(1)))
        return logits


#: Name to builder (classes, width, dropout) → module.
BUILDERS: Mapping[str, Callable[[int, float, float], nn.Module]] = {"mobilenet_v1": MobileNetV1}


def build(arch: str, classes: int, width: float = 1.0, dropout: float = 0.2) -> nn.Module:
    """Build a network with random weights; raises `BadSetting` for a name that is not in `BUILDERS`."""
    if arch not in BUILDERS:
        raise BadSetting(f"architecture {arch!r} does not exist; there are: {', '.join(BUILDERS)}")
    return BUILDERS[arch](classes, width, dropout)
