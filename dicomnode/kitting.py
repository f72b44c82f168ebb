"""Builds the `Kit` of a process from the settings: opens the models, checks the OCR program, binds the node's identity.

**Way** Models that the routes name are opened, each version once, and answer their samples: what is wrong with one is known
before the first instance, and the slow first run is behind. Others are not read.

**Fails** Every fault is a `ConfigError` leaf: a stage that cannot be built stops the start, it is never left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict

from dicomnode import __version__
from dicomnode.errors import BadRule, MissingModel
from dicomnode.image import Image
from dicomnode.outputs import NodeFacts
from dicomnode.outputs.table import OUTPUTS
from dicomnode.pipeline import Kit, digest_of
from dicomnode.records import BODY_PARTS, UNCERTAIN, Findings, Route
from dicomnode.repository import models_dir, named, resolve
from dicomnode.rules import Routes, Rule
from dicomnode.settings import Settings, WorkSettings
from dicomnode.stages.encode import Encode
from dicomnode.stages.infer import Infer, Model
from dicomnode.stages.look import look
from dicomnode.stages.redact import Redact
from dicomnode.stages.redact.appeal import Appeal
from dicomnode.stages.redact.places import Places
from dicomnode.stages.route import RouteStage
from dicomnode.stages.sight import Classify
from dicomnode.stages.unit import shown

#: Time for reading the text of one frame, at most, seconds.
_FRAME_S = 120.0


#: What outputs say of the same facts, counted: in another form they are other objects, with other UIDs.
_FORM = "2"


def build_router(
    routes: Routes, models: dict[str, Model], key: bytes = b"", classifier: Callable[[Model], Classify] | None = None,
) -> RouteStage:
    """The route stage with the classifier that routes.toml names.

    Parameters
    ----------
    classifier
        Makes something of the router's model that is asked about one picture; absent: the model itself is.
    key
        Of the node, for the tokens of devices; without one there are none.

    Raises
    ------
    MissingModel
        The router, or a findings model of a rule, is not among the models.
    BadRule
        A findings model of a rule would never be asked, or a rule asks for a body part that nothing answers.
    """
    for name in named(routes):
        if name not in models:
            raise MissingModel(f"routes.toml names the model {name!r}; there are: {', '.join(sorted(models)) or 'none'}")
    for _, fault in misfits(routes, models):
        raise BadRule(f"routes.toml: {fault}")
    parts = {name: model.card.body_parts for name, model in models.items()}
    router = models[routes.router]
    classify = classifier(router) if classifier else router.probabilities
    return RouteStage(
        routes, classify, look, router.card.version, parts, labels=[label.key for label in router.card.labels],
        certain_from=router.card.output.certain_from, key=key,
    )


def map_kinds(model: Model) -> frozenset[str]:
    """Kinds of maps that a model answers."""
    return frozenset(spec.kind for spec in model.card.maps)


def never_asked(rule: Rule, parts: Collection[str]) -> bool:
    """Say whether a model for these body parts can be asked about no picture that the rule takes."""
    return bool(rule.body_part) and {*rule.body_part}.isdisjoint({*parts, UNCERTAIN})


def misfits(routes: Routes, models: Mapping[str, Model]) -> Iterator[tuple[str, str]]:
    """Say what does not go together of routes and models, each with the model's name; what is missing is passed over."""
    router = models.get(routes.router)
    if router is not None and router.card.task != "router":
        yield routes.router, f"router: {routes.router!r} says what is seen, not the body part (task = {router.card.task})"
    elif router is not None:
        yield from ((routes.router, fault) for fault in _unknown_parts(routes, [label.key for label in router.card.labels]))
    for rule, name in [(one, name) for one in routes.rule for name in one.models if name in models]:
        card = models[name].card
        if card.task != "findings":
            yield name, f"rule {rule.name!r}: its model {name!r} says the body part, not what is seen (task = {card.task})"
        elif never_asked(rule, card.body_parts):
            yield name, (
                f"rule {rule.name!r} takes {', '.join(rule.body_part)}, but its model {name!r} is for "
                f"{', '.join(card.body_parts)}: it would never be asked"
            )


def _unknown_parts(routes: Routes, labels: Collection[str]) -> Iterator[str]:
    """Say of each body part of a rule that neither the router nor the header reader ever answers, what is wrong with it."""
    known = {*labels, *BODY_PARTS, UNCERTAIN}
    for rule, part in [(one, word) for one in routes.rule for word in one.body_part if word not in known]:
        yield (
            f"rule {rule.name!r}: there is no body part {part!r}: the router {routes.router!r} answers "
            f"{', '.join(sorted(labels))}, the header {', '.join(sorted(BODY_PARTS))}, either of them {UNCERTAIN}"
        )


def load_models(work: WorkSettings, names: Iterable[str], approved: Mapping[str, str] | None = None) -> dict[str, Model]:
    """Open these models, as routes name them; each is checked against its card and answers its sample.

    Raises
    ------
    ConfigError
        One of them is missing, or does not hold.
    """
    opened: dict[tuple[str, str], Model] = {}
    models: dict[str, Model] = {}
    for name in names:
        folder = resolve(models_dir(work), name, approved)
        key = folder.card.name, folder.card.version
        if key not in opened:
            opened[key] = Model(folder, provider=work.provider, threads=work.threads)
            opened[key].check_sample()
        models[name] = opened[key]
    return models


def build_kit(
    settings: Settings, node_id: str, key: bytes, classifier: Callable[[Model], Classify] | None = None,
    appeal: Appeal | None = None,
) -> Kit:
    """Build the stages of one process.

    Parameters
    ----------
    node_id, key
        Identity of the node, from its spool.
    classifier
        As in `build_router`.
    appeal
        The further judge of redaction, where the settings name one.

    Raises
    ------
    ConfigError
        A model, card or program is missing or wrong.
    """
    work = settings.work
    models = load_models(work, named(settings.routes), settings.approved)
    cards = {model.card.reference: digest_of(model.card.model_dump_json()) for model in models.values()}
    infer = Infer(models)
    # Redaction gives a frame up well before the worker's deadline: its outputs are held then, and the report leaves.
    frame_s = min(_FRAME_S, work.deadline_s / 2)
    places = Places(settings.places)
    redact = Redact(
        mode=work.redaction, lang=work.ocr_language, models=work.models_dir, appeal=appeal, places=places, frame_s=frame_s,
        budget_s=work.redact_max_s,
    )

    def find(image: Image, route: Route) -> tuple[Findings, ...]:
        frame = shown(image.rows, image.columns)
        return tuple(infer(look(image), name, frame) for name in route.models) if image.has_pixels else ()

    return Kit(
        route=build_router(settings.routes, models, key, classifier),
        infer=find,
        redact=redact,
        waive=redact.waive,
        encode=Encode(),
        documents=work.documents,
        outputs=OUTPUTS,
        node=NodeFacts(node_id, settings.node.ae_title, key, __version__),
        peers=settings.peers,
        digest=digest_of(
            __version__,
            _FORM,
            cards[models[settings.routes.router].card.reference],
            settings.routes.model_dump_json(include={
                "picture_modalities": True, "min_probability": True, "uncertain": True, "trust": True,
                "rule": {"__all__": {"uncertain", "trust"}},
            }),
            work.ocr_language,
            # Mode, networks, readers, allow-list, rectangles and judge: by other means other pixels stay.
            json.dumps(asdict(redact.means), sort_keys=True),
        ),
        model_digests=cards,
        maps={name: map_kinds(model) for name, model in models.items()},
    )
