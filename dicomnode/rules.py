"""The rules of routes.toml as frozen pydantic models: which instance gets which models and outputs, and goes where.

**Way** `settings.load` reads and checks them with the rest of the configuration; the stage `route` goes by them.

**Limits** Which models and body parts there are is known where models are opened: `kitting.misfits` holds the rules
against them.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dicomnode.records import UNCERTAIN, Handling, OutputKind, TagTrust, Urgency

#: ``name``, the newest version, or ``name@version``.
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}(@\d+\.\d+\.\d+)?$")]
#: A word of the router or of the header reader, or ``uncertain``; which there are is known where the router is opened.
BodyPart = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class Strict(BaseModel):
    """What every part of the configuration is: frozen, and no key is unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(Strict):
    """``[[rule]]`` of routes.toml; the first rule whose every given condition holds wins."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name of the rule, as logs and `route` show it.")
    modality: tuple[str, ...] = Field((), description="Modality (0008,0060) is one of these; empty: any.")
    body_part: tuple[BodyPart, ...] = Field(
        (), description="Body part is one of these, `uncertain` among them; empty: any, uncertain too.",
    )
    calling_ae: tuple[str, ...] = Field((), description="Calling AE title is one of these; empty: any.")
    models: tuple[ModelName, ...] = Field(
        (), description="Findings models, NAME or NAME@VERSION; each is asked about the body parts that its card names.",
    )
    outputs: tuple[OutputKind, ...] = Field((), description="What is made: sr, sc, sc-map, seg, deidentified, original.")
    destinations: tuple[str, ...] = Field((), description="Names of peers that get it.")
    urgent: Urgency = Field(
        "never", description="Whose outputs go first: `abnormal` where the model calls a finding abnormal, or `always`.",
    )
    uncertain: Handling | None = Field(
        None, description="What is done with uncertain body parts that this rule takes; absent: as for all rules.",
    )
    trust: TagTrust | None = Field(
        None, description="Body Part Examined (0018,0015) against the picture, where this rule wins; absent: as for all rules.",
    )

    @model_validator(mode="before")
    @classmethod
    def _not_as_before(cls, data: Any) -> Any:
        if isinstance(data, dict) and "model" in data:
            raise ValueError('model = "NAME" is now models = ["NAME"], for a rule may name several')
        return data

    @model_validator(mode="after")
    def _each_model_once(self) -> Rule:
        if len(set(self.models)) != len(self.models):
            raise ValueError("models: one stands there twice")
        return self

    @model_validator(mode="after")
    def _takes_what_it_speaks_of(self) -> Rule:
        if self.uncertain is not None and self.body_part and UNCERTAIN not in self.body_part:
            raise ValueError(f"uncertain: this rule takes no uncertain body part; add {UNCERTAIN!r} to its body_part")
        return self

    @property
    def matches_all(self) -> bool:
        """True when the rule has no condition."""
        return not (self.modality or self.body_part or self.calling_ae)


class Routes(Strict):
    """routes.toml: which instances are looked at, and what is done with them."""

    picture_modalities: tuple[str, ...] = Field(
        ("CR", "DX", "RG", "OT", "SC"), description="Modalities whose body part the picture decides, not the header.",
    )
    router: ModelName = Field(
        "bodypart-router", description="Model that predicts the body part: NAME, which is its newest version, or NAME@VERSION.",
    )
    min_probability: float | None = Field(
        None, ge=0, le=1, description="Below this the picture's answer is uncertain; absent: the router's card says, else 0.5.",
    )
    uncertain: Handling = Field(
        "default", description="What is done where the body part is uncertain: `default` what the rule that takes it says, "
        "with all of its models; `hold` its outputs wait for a person, originals leave; `all` the models of every rule that "
        "takes this modality and sender are asked; `tag` Body Part Examined decides, where it names a body part.",
    )
    trust: TagTrust = Field(
        "picture", description="Body Part Examined (0018,0015) against a picture that is certain: `picture` decides alone; "
        "`tag` the attribute decides, where it names a body part; `both` where they disagree the body part is uncertain; "
        "`hold` the picture decides, and where they disagree the outputs wait for a person, originals leave.",
    )
    rule: tuple[Rule, ...] = Field(min_length=1, description="The rules, first match wins; the last one matches all.")
