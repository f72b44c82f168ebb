"""Decide what is to be done with an instance: which body part it shows, and which rule of routes.toml that fits.

**Way** For modalities that the settings name, a classifier looks at the picture (`stages/sight.py`); for all others, and for
objects that are no images, the header decides (`body_part`). The first rule whose every condition holds wins and gives models,
outputs and destinations. Two policies of the rule, else of all rules, bend this line, in this order:

- ``trust``, where the picture is certain: with ``tag`` the rule sees the body part that Body Part Examined names (`tag`) in
  place of the picture's. Where the two disagree, ``both`` makes the body part uncertain and asks the rules anew, ``hold`` holds
  the outputs.
- ``uncertain``, where nothing is certain: ``tag`` asks the rules anew with what Body Part Examined names, ``hold`` holds the
  outputs, ``all`` asks the models of every rule for this modality and sender.

**Fails** `BadRule` at start when the last rule has a condition; `StageFailed` when the classifier answers something else than
probabilities.

**Standard** PS3.3 C.7.3.1 (Modality, Body Part Examined).

**Limits** An uncertain body part has the probability of the best guess, 0 where there is none. Rules are asked anew at most
twice, and what the tag has decided is not compared again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from pydicom import config

from dicomnode.contexts import is_image
from dicomnode.errors import BadRule, BodyPartUncertain, TagDisagrees
from dicomnode.image import Image
from dicomnode.records import BODY_PARTS, CHEST, UNCERTAIN, Agreement, Doubt, Handling, Instance, Route
from dicomnode.rules import Routes, Rule
from dicomnode.stages.body_part import from_header
from dicomnode.stages.sight import Classify, Look, see
from dicomnode.stages.tag import compare, decides, device_of, meant, tag_of

#: An answer below this probability is uncertain where neither routes.toml nor the router's card says.
CERTAIN_FROM = 0.5


@dataclass(frozen=True, slots=True)
class _Said:
    """A body part with what told it."""

    part: str
    probability: float
    by_model: bool
    doubt: Doubt = ""


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The rule, and what it makes of the body part."""

    rule: Rule
    said: _Said
    hold: str = ""
    handling: Handling | Literal[""] = ""


class RouteStage:
    """The stage, built once per process; keeps nothing of an instance."""

    name = "route"

    def __init__(
        self, routes: Routes, classify: Classify, look: Look, version: str = "",
        parts: Mapping[str, Collection[str]] | None = None, *, labels: Collection[str] = BODY_PARTS,
        certain_from: float | None = None, key: bytes = b"",
    ) -> None:
        """Check the rules.

        Parameters
        ----------
        version
            Of the model behind ``classify``, which routes.toml names.
        parts
            Body parts that each findings model is for; one that is not among them is for all.
        labels, certain_from
            What the router can answer, and the probability from which its card calls an answer certain.
        key
            Of the node, for the tokens of devices; without one there are none.

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
        self._labels = frozenset(labels)
        asked = (routes.min_probability, certain_from, CERTAIN_FROM)
        self._certain_from = next(one for one in asked if one is not None)
        self._key = key
        self._modalities = frozenset(routes.picture_modalities)

    def __call__(self, instance: Instance, image: Image) -> Route:
        """Give the route of an instance."""
        is_picture = image.has_pixels or is_image(instance.sop_class_uid)
        asked = instance.modality in self._modalities and is_picture
        sight = see(image, self._classify, self._look, self._certain_from) if asked else None
        # A value that breaks its VR must not be quoted in a warning.
        with config.disable_value_validation():
            tag = tag_of(image.dataset, self._labels)
            device = device_of(image.dataset, self._key)
            told = from_header(image.dataset) if sight is None else ""
        agreement: Agreement = ""
        if sight is None:
            unclear = told == UNCERTAIN
            said = _Said(told, 0.0 if unclear else 1.0, by_model=False, doubt="header_unclear" if unclear else "")
        else:
            said = _Said(sight.part, sight.probability, bool(sight.probabilities), sight.doubt)
            agreement = "" if sight.doubt else compare(sight.part, tag, self._labels)
        chosen = self._choose(instance, said, tag, agreement, has_picture=sight is not None)
        rule, said = chosen.rule, chosen.said
        by_model = said.by_model
        return Route(
            body_part=said.part,
            probability=said.probability,
            probabilities=sight.probabilities if sight else {},
            source="model" if by_model else "header",
            rule=rule.name,
            models=self._models(instance, chosen),
            outputs=rule.outputs,
            destinations=rule.destinations,
            urgent=rule.urgent,
            router=self._routes.router if by_model else "",
            router_version=self._version if by_model else "",
            picture=sight.part if sight else "",
            tag=tag,
            agreement=agreement,
            doubt=said.doubt,
            trust=rule.trust or self._routes.trust,
            handling=chosen.handling,
            hold=chosen.hold,
            device=device,
        )

    def _choose(self, instance: Instance, said: _Said, tag: str, agreement: Agreement, *, has_picture: bool) -> _Chosen:
        """Ask the rules, and once more each time that a policy changes the body part."""
        # A picture that tells nothing is no matter of trust: `uncertain` says what is done with it, and may hold it.
        by_tag = self._by_tag(said, tag) if has_picture and not said.doubt else said
        rule, view = next(
            (rule, view) for rule in self._routes.rule
            for view in [by_tag if (rule.trust or self._routes.trust) == "tag" else said]
            if matches(rule, instance, view.part)
        )
        trust, hold = rule.trust or self._routes.trust, ""
        if agreement == "disagrees" and trust == "both":
            view = _Said(UNCERTAIN, said.probability, said.by_model, "tag_disagrees")
            rule = self._first(instance, UNCERTAIN)
        elif agreement == "disagrees" and trust == "hold":
            hold = TagDisagrees.code
        if view.part != UNCERTAIN:
            return _Chosen(rule, view, hold)
        handling = rule.uncertain or self._routes.uncertain
        if handling == "tag" and has_picture and decides(tag, self._labels):
            return _Chosen(self._first(instance, tag), _Said(tag, 1.0, by_model=False, doubt=view.doubt), handling=handling)
        if handling == "hold":
            hold = BodyPartUncertain.code
        return _Chosen(rule, view, hold, handling)

    def _by_tag(self, said: _Said, tag: str) -> _Said:
        """What a rule sees that trusts the tag: what this names, and the certain picture where it names no single part."""
        if decides(tag, self._labels):
            return _Said(tag, 1.0, by_model=False)
        if tag == CHEST and said.part not in meant(tag):
            return _Said(UNCERTAIN, 0.0, by_model=False, doubt="header_unclear")
        return said

    def _first(self, instance: Instance, part: str) -> Rule:
        return next(rule for rule in self._routes.rule if matches(rule, instance, part))

    def _models(self, instance: Instance, chosen: _Chosen) -> tuple[str, ...]:
        """The rule's models that are for this body part; all of them where nobody knows it, or those of every rule."""
        part, names = chosen.said.part, chosen.rule.models
        if chosen.handling == "all":
            names = (*names, *(name for rule in self._routes.rule if _takes(rule, instance) for name in rule.models))
        wanted = (name for name in names if part == UNCERTAIN or part in self._parts.get(name, (part,)))
        return tuple(dict.fromkeys(wanted))


def matches(rule: Rule, instance: Instance, body_part: str) -> bool:
    """Say whether every condition that the rule has holds."""
    return _takes(rule, instance) and (not rule.body_part or body_part in rule.body_part)


def _takes(rule: Rule, instance: Instance) -> bool:
    """Say whether the conditions hold that do not depend on the body part."""
    return (not rule.modality or instance.modality in rule.modality) and (
        not rule.calling_ae or instance.calling_ae in rule.calling_ae
    )
