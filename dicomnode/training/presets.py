"""Recipes of teaching: every number of a run, by preset.

**Way** A `Plan` is all that a run is repeated with. `PLANS` is the one place of the numbers; options of the command replace
single ones.

**The paper** ``paper`` follows "DICOM Imaging Router" (Pham et al. 2021): 512 x 512 pixels, networks of full width, cross
entropy, Adam at 1e-4, cosine annealing with warm restarts, 100 epochs. What it leaves open is ours, and plain: batches of 32;
restarts after 10, 20 and 40 epochs (10, doubled each time), down to zero; no weight decay, no dropout, no stochastic depth
beyond that of the architecture; mirrored, turned by up to 15 degrees and cropped; each picture once an epoch; the weights
that are best on val are kept, not an average; random start; seed 7. The preparation of pictures is that of all our models.

**Limits** The defaults were tuned on the data of `docs/router.md`; another site's may want others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from dicomnode.training import augment
from dicomnode.training.augment import Recipe


@dataclass(frozen=True, slots=True)
class Plan:
    """How to teach; the numbers that a run is repeated with."""

    arch: str
    #: Multiplier of the channels.
    width: float
    epochs: int
    #: Pictures per step.
    batch: int
    #: Highest learning rate.
    rate: float
    #: Rows and columns of the network's input, pixels.
    size: int = 192
    #: "none", "imagenet" or the folder of a model.
    start: str = "none"
    optimiser: Literal["adamw", "adam"] = "adamw"
    decay: float = 0.02
    #: cosine: two epochs of warm-up and half a cosine; restarts: cosines of 10, 20, 40 ... epochs.
    schedule: Literal["cosine", "restarts"] = "cosine"
    smoothing: float = 0.1
    dropout: float = 0.2
    #: Share of the old average of the weights kept at each step; 0 for no average.
    ema: float = 0.995
    #: Key of `RECIPES`.
    augmentation: str = "router"
    #: Exponents of `feed.sampling_weights`.
    class_power: float = 0.3
    source_power: float = 0.35
    #: Leading layers of the features that keep the weights they came with: half the time, and less to forget.
    frozen: int = 0
    #: Whether grey values are replaced by their ranks, which undoes windows; else percentiles 1 and 99 become 0 and 1.
    ranks: bool = False
    #: auto: bfloat16 where it is faster; weights and sums are float32 always.
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = 7

    @property
    def keeps_last(self) -> bool:
        """Whether the weights of the last epoch are kept, not those that were best on val.

        An average under a rate that falls to zero is meant to end well, and where val has nine pictures of a class, the epoch
        with the best figure is chosen by luck.
        """
        return self.ema > 0 and self.schedule == "cosine"


#: How pictures are changed while learning, by name.
RECIPES: Mapping[str, Recipe] = {
    "router": augment.ROUTER,
    "findings": augment.FINDINGS,
    "plain": Recipe(((0.5, augment.mirror), (0.5, augment.rotate), (0.5, augment.crop))),
    "none": Recipe(),
}

_ROUTER = Plan(
    arch="efficientnet_lite0", width=1.0, size=192, start="imagenet", epochs=12, batch=32, rate=1e-3, frozen=5, ranks=True
)
_PAPER = Plan(
    arch="mobilenet_v1", width=1.0, size=512, epochs=100, batch=32, rate=1e-4, optimiser="adam", decay=0.0,
    schedule="restarts", smoothing=0.0, dropout=0.0, ema=0.0, augmentation="plain", class_power=1.0, source_power=1.0,
)  # fmt: skip
#: Few pictures, so few steps an epoch: the average must follow faster than the router's.
_FINDINGS = replace(_ROUTER, ema=0.98, augmentation="findings", ranks=False)

#: Task and preset to the numbers.
PLANS: Mapping[str, Mapping[str, Plan]] = {
    "router": {"default": _ROUTER, "paper": _PAPER},
    "findings": {"default": _FINDINGS, "paper": _PAPER},
}
#: Architectures that there are ImageNet weights for.
IMAGENET_ARCHS = ("efficientnet_lite0", "efficientnet_b0")


#: What a model to go on from decides.
_OPEN: Mapping[str, Any] = {"arch": "", "width": 0.0, "size": 0}


def plan_for(task: str, preset: str = "default", **wanted: Any) -> Plan:
    """The plan of a preset with what is wanted otherwise; None is not wanted.

    Where nothing is said of the start, an architecture or width without ImageNet weights begins at random, and what begins at
    random keeps no layer as it is. Where the start is a model, what is not said of architecture, width and size is left open
    (empty, 0): it is that of the model.
    """
    said = {key: value for key, value in wanted.items() if value is not None}
    plan = replace(PLANS[task][preset], **said)
    if plan.start not in {"none", "imagenet"}:
        return replace(plan, **{key: blank for key, blank in _OPEN.items() if key not in said})
    fits = plan.arch in IMAGENET_ARCHS and plan.width == 1
    if "start" not in said and not fits:
        plan = replace(plan, start="none")
    return replace(plan, frozen=0) if plan.start == "none" and "frozen" not in said else plan
