"""Decide what is to be done with an instance: which body part it shows, and which rule of routes.toml that fits.

**Way** For modalities that the settings name, and when the pixels decode, a classifier looks at the picture (of a multi-frame
object at the middle frame); images FOR PROCESSING are raw detector data that no classifier was taught, so for them and for
all others the header decides (`body_part`). The first rule whose every condition holds wins and gives models, outputs and
destinations; of its models those are asked whose card names the body part, all where it is uncertain.

**Fails** `BadRule` at start when the last rule has a condition; `StageFailed` when the classifier answers something else than
probabilities of `BODY_PARTS`. Pixels of which no picture can be made fail nothing here: the header decides, redaction will
hold them.

**Standard** PS3.3 C.8.11.1.1 (Presentation Intent Type), C.7.3.1 (Modality).

**Limits** Below ``min_probability`` the body part is uncertain, with the probability of the best guess. When the header does
not tell either, it is uncertain with probability 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from pydicom import config
from pydicom.dataset import Dataset

from dicomnode.errors import BadRule, Permanent, StageFailed
from dicomnode.image import Image
from dicomnode.records import BODY_PARTS, UNCERTAIN, Instance, Route
from dicomnode.settings import Routes, Rule
from dicomnode.stages.body_part import from_header

#: Takes one frame, (rows, cols) float32 in 0..1 with low values dark; gives a probability per body part.
Classify = Callable[[NDArray[np.float32]], Mapping[str, float]]
#: Gives that frame of an image.
Look = Callable[[Image], NDArray[np.float32]]


class RouteStage:
    """The stage, built once per process; keeps nothing of an instance."""

    name = "route"

    def __init__(
        self, routes: Routes, classify: Classify, look: Look, version: str = "",
        parts: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """Check the rules.

        Parameters
        ----------
        version
            Of the model behind ``classify``, which routes.toml names.
        parts
            Body parts that each findings model is for; one that is not among them is for all.

        Raises
        ------
        BadRule
            The last rule has a condition, so that an instance could be without a rule.
        """
        if not routes.rule[-1].matches_all:
            raise BadRule(f"routes.toml: the last rule, {routes.rule[-1].name!r}, must have no condition")
        self._routes = routes
        self._classify = classify
        self._look = look
        self._version = version
        self._parts = parts or {}
        self._modalities = frozenset(routes.picture_modalities)

    def __call__(self, instance: Instance, image: Image) -> Route:
        """Give the route of an instance."""
        probabilities = self._from_picture(instance, image)
        if probabilities:
            part, probability = self._best(probabilities)
        else:
            # A value that breaks its VR must not be quoted in a warning.
            with config.disable_value_validation():
                part = from_header(image.dataset)
            probability = 0.0 if part == UNCERTAIN else 1.0
        rule = next(rule for rule in self._routes.rule if matches(rule, instance, part))
        return Route(
            body_part=part,
            probability=probability,
            probabilities=probabilities,
            source="model" if probabilities else "header",
            rule=rule.name,
            models=self._models(rule, part),
            outputs=rule.outputs,
            destinations=rule.destinations,
            urgent=rule.urgent,
            router=self._routes.router if probabilities else "",
            router_version=self._version if probabilities else "",
        )

    def _models(self, rule: Rule, part: str) -> tuple[str, ...]:
        """The rule's models that are for this body part; all of them where nobody knows it."""
        return tuple(name for name in rule.models if part == UNCERTAIN or part in self._parts.get(name, (part,)))

    def _from_picture(self, instance: Instance, image: Image) -> Mapping[str, float]:
        """Ask the classifier; empty when it must not or cannot be asked."""
        if instance.modality not in self._modalities or not image.has_pixels or _for_processing(image.dataset):
            return {}
        try:
            frame = self._look(image)
        except Permanent:
            # Not decodable, or no picture: values that are not finite.
            return {}
        answer = {str(part): float(probability) for part, probability in self._classify(frame).items()}
        if set(answer) - set(BODY_PARTS) or not answer:
            raise StageFailed("route: the classifier knows other body parts than the node")
        if not all(math.isfinite(p) and 0 <= p <= 1 for p in answer.values()):
            raise StageFailed("route: the classifier answers no probabilities")
        return answer

    def _best(self, probabilities: Mapping[str, float]) -> tuple[str, float]:
        part = max(probabilities, key=lambda one: probabilities[one])
        probability = probabilities[part]
        return (part if probability >= self._routes.min_probability else UNCERTAIN), probability


def matches(rule: Rule, instance: Instance, body_part: str) -> bool:
    """Say whether every condition that the rule has holds."""
    return (
        (not rule.modality or instance.modality in rule.modality)
        and (not rule.body_part or body_part in rule.body_part)
        and (not rule.calling_ae or instance.calling_ae in rule.calling_ae)
    )


def _for_processing(ds: Dataset) -> bool:
    return str(ds.get("PresentationIntentType") or "").strip().upper() == "FOR PROCESSING"
