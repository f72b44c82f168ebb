"""Builds the `Kit` of a process from the settings: opens the models, checks the OCR program, binds the node's identity.

**Fails** Every fault is a `ConfigError` leaf: a stage that cannot be built stops the start, it is never left out.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from dicomnode import __version__
from dicomnode.errors import BadRule, MissingModel
from dicomnode.image import Image
from dicomnode.outputs import NodeFacts
from dicomnode.outputs.table import OUTPUTS
from dicomnode.pipeline import Kit, digest_of
from dicomnode.records import UNCERTAIN, Findings, Route
from dicomnode.settings import Routes, Rule, Settings, WorkSettings
from dicomnode.share import share
from dicomnode.stages.encode import Encode
from dicomnode.stages.infer import Infer, Model, open_models
from dicomnode.stages.look import look
from dicomnode.stages.redact import Redact
from dicomnode.stages.route import RouteStage

#: Time for reading the text of one frame, at most, seconds.
_FRAME_S = 120.0


#: What outputs say of the same facts, counted: in another form they are other objects, with other UIDs.
_FORM = "2"


def models_dir(work: WorkSettings) -> Path:
    """The folder of models: the site's own, or the one that comes with the node."""
    return work.models_dir or share("models")


def build_router(routes: Routes, models: dict[str, Model]) -> RouteStage:
    """The route stage with the classifier that routes.toml names.

    Raises
    ------
    MissingModel
        The router, or a findings model of a rule, is not among the models.
    BadRule
        A findings model of a rule would never be asked.
    """
    for name in (routes.router, *(name for rule in routes.rule for name in rule.models)):
        if name not in models:
            raise MissingModel(f"routes.toml names the model {name!r}; there are: {', '.join(sorted(models)) or 'none'}")
    parts = {name: model.card.body_parts for name, model in models.items()}
    for rule, name in [(one, name) for one in routes.rule for name in one.models]:
        if never_asked(rule, parts[name]):
            raise BadRule(f"routes.toml: {misfit(rule, name, parts[name])}")
    router = models[routes.router]
    return RouteStage(routes, router.probabilities, look, router.card.version, parts)


def never_asked(rule: Rule, parts: Collection[str]) -> bool:
    """Say whether a model for these body parts can be asked about no picture that the rule takes."""
    return bool(rule.body_part) and {*rule.body_part}.isdisjoint({*parts, UNCERTAIN})


def misfit(rule: Rule, name: str, parts: Collection[str]) -> str:
    """Say what is wrong with a model that is never asked."""
    return (
        f"rule {rule.name!r} takes {', '.join(rule.body_part)}, but its model {name!r} is for {', '.join(parts)}: "
        "it would never be asked"
    )


def load_models(work: WorkSettings) -> dict[str, Model]:
    """Open every model, checked against its card."""
    return dict(open_models(models_dir(work), provider=work.provider, threads=work.threads))


def build_kit(settings: Settings, node_id: str, key: bytes) -> Kit:
    """Build the stages of one process.

    Parameters
    ----------
    node_id, key
        Identity of the node, from its spool.

    Raises
    ------
    ConfigError
        A model, card or program is missing or wrong.
    """
    work = settings.work
    models = load_models(work)
    cards = {name: digest_of(model.card.model_dump_json()) for name, model in models.items()}
    infer = Infer(models)
    # Redaction gives a frame up well before the worker's deadline: its outputs are held then, and the report leaves.
    frame_s = min(_FRAME_S, work.deadline_s / 2)
    redact = Redact(mode=work.redaction, lang=work.ocr_language, frame_s=frame_s, budget_s=work.redact_max_s)

    def find(image: Image, route: Route) -> tuple[Findings, ...]:
        return tuple(infer(look(image), name) for name in route.models) if image.has_pixels else ()

    return Kit(
        route=build_router(settings.routes, models),
        infer=find,
        redact=redact,
        waive=redact.waive,
        encode=Encode(),
        outputs=OUTPUTS,
        node=NodeFacts(node_id, settings.node.ae_title, key, __version__),
        peers=settings.peers,
        digest=digest_of(
            __version__,
            _FORM,
            cards[settings.routes.router],
            settings.routes.model_dump_json(include={"picture_modalities", "min_probability"}),
            work.redaction,
            work.ocr_language,
        ),
        model_digests=cards,
    )
