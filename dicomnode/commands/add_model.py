"""``dicomnode models add``: an ONNX file of somebody else becomes a model of the node, by one command and a few answers.

**Way** What the file says of itself is read from it. What it cannot know is asked, each question with what the file
suggests; each is an option too, so that the command runs without a terminal. A card of an earlier version (``--from-card``)
answers everything.

**Fails** Ends with 2 when an answer is missing and nobody can be asked, with 78 when the model cannot be used as it is; then
nothing is written.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dicomnode.adding import (
    PRIVATE_SCHEME,
    Fit,
    Graph,
    Range,
    activation_of,
    concept_for,
    copy,
    examine,
    known_concepts,
    next_version,
    put,
    range_of,
    steps_for,
)
from dicomnode.cards import Card, ModelFolder, load_card
from dicomnode.commands.options import Json, MaybeConfig, print_json
from dicomnode.errors import BadCard
from dicomnode.repository import resolve, versions
from dicomnode.settings import load
from dicomnode.share import share
from dicomnode.text_cards import ReaderFolder, TextFolder

_WORD = re.compile(r"[a-z][a-z0-9_]{0,31}")
_CONCEPT = re.compile(r"(?P<value>[^^]{1,16})\^(?P<scheme>[^^]{1,16})\^(?P<meaning>[^^]{1,64})")
_SIDE = 224
_USE = "Research only. Not a medical device; not for diagnostic use."
_HEALTHY = re.compile(r"normal|negative|healthy|none|benign|no_.*|other")


@dataclass(frozen=True, slots=True)
class _Asker:
    """Gives what was said by option, else asks, else takes what is suggested."""

    asks: bool

    def text(self, option: str, question: str, given: str | None, suggested: str | None = None, pattern: str = ".+") -> str:
        """One line of text."""
        answer = given
        if answer is None and self.asks:
            answer = typer.prompt(question, default=suggested)
        answer = suggested if answer is None else answer
        if answer is None:
            raise typer.BadParameter(f"needed where nobody can be asked: {question}", param_hint=option)
        if re.fullmatch(pattern, answer.strip()) is None:
            raise typer.BadParameter(f"{answer!r} is no answer to: {question}", param_hint=option)
        return answer.strip()

    def choice(self, option: str, question: str, given: str | None, suggested: str, known: tuple[str, ...]) -> str:
        """One of some words."""
        return self.text(option, f"{question} ({', '.join(known)})", given, suggested, "|".join(known))

    def words(self, option: str, question: str, given: list[str] | None, suggested: str | None = None) -> list[str]:
        """Some words, commas between them."""
        line = self.text(option, question, ",".join(given) if given else None, suggested, ".*")
        return [word.strip() for word in line.split(",") if word.strip()]


def _name(path: Path) -> str:
    stem = path.stem if path.stem not in {"model", "best", "network"} else path.absolute().parent.name
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:64] or "model"


def add(  # noqa: PLR0917 - each answer is an option
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="ONNX file, or the folder NAME/VERSION of a model that has a card."),
    ],
    config: MaybeConfig = None,
    root: Annotated[Path | None, typer.Option("--models", help="Folder to add it to; default: as configured.")] = None,
    name: Annotated[str | None, typer.Option(help="Name that routes will use: a-z, 0-9 and -.")] = None,
    model_version: Annotated[str | None, typer.Option(help="MAJOR.MINOR.PATCH; default: one after the newest.")] = None,
    task: Annotated[
        Literal["findings", "router"] | None, typer.Option(help="findings: says what is seen; router: the body part."),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="WORD[=MEANING]", help="Label, in the order of the output; repeat."),
    ] = None,
    concept: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD=VALUE^SCHEME^MEANING", help="Coded concept of a label, as 233604007^SCT^Pneumonia; repeat."),
    ] = None,
    abnormal: Annotated[
        list[str] | None, typer.Option(metavar="WORD[=THRESHOLD]", help="Label that a person should look at, from 0.5 on."),
    ] = None,
    body_part: Annotated[list[str] | None, typer.Option(help="Body part that it is for; repeat.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="ROWSxCOLUMNS", help="Size of the input, where the file takes any."),
    ] = None,
    fit: Annotated[
        Fit | None, typer.Option(help="letterbox: ratio kept, dark margins; stretch: not kept; crop: Resize and CenterCrop."),
    ] = None,
    values: Annotated[
        Range | None, typer.Option(help="Range of its input: unit 0..1, symmetric -1..1, bytes 0..255, imagenet, standardise."),
    ] = None,
    activation: Annotated[
        Literal["softmax", "sigmoid", "none"] | None, typer.Option(help="What makes its output probabilities; none: they are."),
    ] = None,
    output: Annotated[str | None, typer.Option(help="Output with one number for each label, where there are several.")] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="OUTPUT=heat|mask[:WORD,WORD]", help="Output that says where, with its labels; repeat."),
    ] = None,
    certain_from: Annotated[
        float | None, typer.Option(min=0, max=1, help="Router: below this probability the body part is uncertain."),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Terms of the weights, as an SPDX identifier: CC-BY-4.0.")] = None,
    licence_reason: Annotated[str | None, typer.Option(help="Where these terms stand.")] = None,
    trained_on: Annotated[str | None, typer.Option(help="What it learned from.")] = None,
    intended_use: Annotated[str | None, typer.Option(help="What it may be used for, and what not.")] = None,
    from_card: Annotated[
        str | None, typer.Option(help="NAME, NAME@VERSION or folder of a model whose card answers everything."),
    ] = None,
    ask: Annotated[bool | None, typer.Option("--ask/--no-ask", help="Ask what is not given; default: on a terminal.")] = None,
    json: Json = False,
) -> None:
    """Add an ONNX file to the models: reads what it takes and gives, asks the rest, writes card and sample.

    Without a terminal --label, --body-part and --licence are needed; range, fit and activation are then what the file
    suggests. No file says whether they are right: hold what `dicomnode models test NAME --pictures` answers against the
    maker's program.

    dicomnode models add chexnet.onnx --models DIR --label normal,pneumonia --body-part adult_chest --licence MIT --no-ask
    """
    folder = _target(config, root)
    if source.is_dir():
        copied = copy(folder, source)
        if isinstance(copied, ModelFolder):
            _say(copied, as_json=json)
        else:
            _say_text(copied, as_json=json)
        return
    asker = _Asker(asks=sys.stdin.isatty() if ask is None else ask)
    graph = examine(source)
    if from_card is not None:
        old = _old_card(folder, from_card)
        version = model_version or next_version(versions(folder).get(name or old.name, ()))
        _say(put(folder, graph, _renewed(old, graph, name or old.name, version), _renewed_notes(old)), as_json=json)
        return
    if not json:
        _introduce(graph)
    given = tuple(port.name for port in graph.scores or graph.maps)
    scores = asker.choice("--output", "Output with the answers", output, given[0], given)
    called = asker.text("--name", "Name", name, _name(source), r"[a-z0-9][a-z0-9-]{0,63}")
    does = asker.choice("--task", "What it says: findings, or the body part", task, "findings", ("findings", "router"))
    labels = _labels(asker, graph.labels(scores), label, concept, known_concepts((share("models"), folder)))
    if does == "findings":
        _mark_abnormal(asker, labels, abnormal)
    keys = [one["key"] for one in labels]
    parts = asker.words("--body-part", "Body parts that it is for", body_part, ",".join(keys) if does == "router" else None)
    rows, cols = _sides(asker, graph, size)
    chosen = asker.choice("--fit", "How a picture is fitted", fit, "stretch", ("letterbox", "stretch", "crop"))
    known = ("unit", "symmetric", "bytes", "standardise", *(["imagenet"] if graph.channels == 3 else []))
    ranged = asker.choice("--values", "Range of its input", values, range_of(graph), known)
    steps = steps_for(graph, rows, cols, chosen, ranged)  # type: ignore[arg-type]  # one of the words, by the pattern
    looks = activation_of(graph, scores, steps)
    known = ("softmax", "sigmoid", "none") if graph.scores else ("sigmoid", "none")
    read = asker.choice("--activation", "What makes its output probabilities", activation, looks, known)
    maps = [_map(text, graph, keys) for text in map_ or ()]
    answer: dict[str, Any] = {"name": scores, "activation": read, "certain_from": certain_from}
    if not graph.scores:
        answer |= {"activation": "none", "pool": "max"}
        maps = [{"output": scores, "kind": "mask", "labels": keys, "threshold": 0.5, "activation": read}]
    card = {
        "name": called, "version": model_version or next_version(versions(folder).get(called, ())), "task": does,
        "body_parts": parts,
        "licence": {
            "identifier": asker.text("--licence", "Licence of the weights (SPDX)", licence),
            "reason": asker.text("--licence-reason", "Where that stands", licence_reason, "As told by who added the model."),
        },
        "training_data": [{
            "source": asker.text("--trained-on", "What it learned from", trained_on, "Not stated by the maker."),
            "licence": "not stated",
        }],
        "intended_use": asker.text("--intended-use", "Intended use", intended_use, _USE),
        "algorithm": {"value": "123110", "scheme": "DCM", "meaning": "Artificial Intelligence"},
        "input": {"name": graph.port.name, "shape": graph.shape(rows, cols), "dtype": graph.port.dtype, "preprocess": steps},
        "output": answer,
        "labels": labels,
        "maps": maps,
    }
    made_by = f"written by {graph.file.producer}, " if graph.file.producer else ""
    notes = (
        f"Added by `dicomnode models add` from {source.name} ({made_by}opset {graph.file.opset}). Preprocessing, activation "
        "and thresholds are as told by who added it; whether the answers are those of the maker's program is to be tried with "
        "pictures of his: `dicomnode models test --pictures`."
    )
    _say(put(folder, graph, card, notes), as_json=json)


def _target(config: Path | None, root: Path | None) -> Path:
    if root is None and config is not None:
        root = load(config).work.models_dir
        if root is None:
            raise typer.BadParameter(
                "this configuration uses the models that come with the node; set work.models_dir to a folder of your own, and "
                "add those of `dicomnode models list` that routes name to it too", param_hint="--config",
            )
    if root is None:
        raise typer.BadParameter("needed without --config: the folder to add to", param_hint="--models")
    return root


def _introduce(graph: Graph) -> None:
    typer.echo(f"{graph.path.name}: {graph.file.producer or 'unknown exporter'}, opset {graph.file.opset}; takes {graph.port}")
    for port in graph.scores:
        typer.echo(f"  gives {port}")
    for port in graph.maps:
        use = f"--map {port.name}=heat or --map {port.name}=mask uses it" if graph.scores else "its largest pixel counts"
        typer.echo(f"  gives {port}, which says where: {use}")


def _labels(
    asker: _Asker, count: int | None, given: list[str] | None, concepts: list[str] | None, known: dict[str, dict[str, str]],
) -> list[dict[str, Any]]:
    """The labels with meanings and concepts, as many as the output has."""
    told = f"{count} labels" if count else "Labels"
    words = asker.words("--label", f"{told} in the order of the output, commas between (as normal,pneumonia)", given)
    if count is not None and len(words) != count:
        raise typer.BadParameter(f"the output has {count} numbers, and {len(words)} labels were given", param_hint="--label")
    codes = dict(text.partition("=")[::2] for text in concepts or ())
    if strange := set(codes) - {word.partition("=")[0] for word in words}:
        raise typer.BadParameter(f"no label: {', '.join(sorted(strange))}", param_hint="--concept")
    labels = []
    for word in words:
        key, _, meaning = word.partition("=")
        if _WORD.fullmatch(key) is None:
            raise typer.BadParameter(f"{key!r}: a label is a word of a-z, 0-9 and _", param_hint="--label")
        found = known.get(key) or concept_for(key)
        suggested = "^".join((found["value"], found["scheme"], found["meaning"]))
        text = asker.text("--concept", f"Coded concept of {key}", codes.get(key), suggested, _CONCEPT.pattern)
        parts = _CONCEPT.fullmatch(text)
        labels.append({
            "key": key, "meaning": meaning or key.replace("_", " ").capitalize(),
            "concept": parts.groupdict() if parts else found,
        })
    return labels


def _mark_abnormal(asker: _Asker, labels: list[dict[str, Any]], given: list[str] | None) -> None:
    """Note which labels a person should look at, and from which probability."""
    known = {one["key"]: one for one in labels}
    suggested = ",".join(key for key in known if _HEALTHY.fullmatch(key) is None)
    for word in asker.words("--abnormal", "Labels that a person should look at (WORD or WORD=THRESHOLD)", given, suggested):
        key, _, threshold = word.partition("=")
        if key not in known:
            raise typer.BadParameter(f"no label: {key}", param_hint="--abnormal")
        try:
            known[key] |= {"abnormal": True, "threshold": float(threshold or 0.5)}
        except ValueError:
            raise typer.BadParameter(f"{threshold!r} is no probability", param_hint="--abnormal") from None


def _sides(asker: _Asker, graph: Graph, given: str | None) -> tuple[int, int]:
    """Rows and columns: what the file says, else what is asked for."""
    rows, cols = graph.size
    if rows is not None and cols is not None:
        return rows, cols
    suggested = f"{rows or _SIDE}x{cols or _SIDE}"
    text = asker.text("--size", "Size of the input, ROWSxCOLUMNS", given, suggested, r"\d{1,4}x\d{1,4}")
    told = [int(part) for part in text.split("x")]
    if any(fixed is not None and fixed != said for fixed, said in zip(graph.size, told, strict=True)) or 0 in told:
        raise typer.BadParameter(f"the file takes {graph.port}", param_hint="--size")
    return told[0], told[1]


def _map(text: str, graph: Graph, keys: list[str]) -> dict[str, Any]:
    """``OUTPUT=heat|mask[:WORD,WORD]`` as a part of the card."""
    found = re.fullmatch(r"(?P<output>.+)=(?P<kind>heat|mask)(:(?P<labels>[a-z0-9_,]+))?", text)
    if found is None or found["output"] not in {port.name for port in graph.maps}:
        there = ", ".join(port.name for port in graph.maps) or "none"
        raise typer.BadParameter(f"{text!r} is not OUTPUT=heat or OUTPUT=mask; such outputs: {there}", param_hint="--map")
    labels = found["labels"].split(",") if found["labels"] else keys
    count = graph.labels(found["output"])
    if count is not None and len(labels) != count:
        raise typer.BadParameter(
            f"{found['output']} has {count} channels: name as many labels, {found['output']}={found['kind']}:WORD,...",
            param_hint="--map",
        )
    return {
        "output": found["output"], "kind": found["kind"], "labels": labels,
        "threshold": 0.5 if found["kind"] == "mask" else None,
    }


def _old_card(folder: Path, text: str) -> Card:
    path = Path(text)
    return load_card(path / "card.toml") if (path / "card.toml").is_file() else resolve(folder, text).card


def _renewed(old: Card, graph: Graph, name: str, version: str) -> dict[str, Any]:
    """The card of another version for other weights: what was measured of the old ones does not pass over."""
    rows_cols = old.input.shape[:2] if graph.channels_last else old.input.shape[1:]
    fits = all(fixed in {None, said} for fixed, said in zip(graph.size, rows_cols, strict=True))
    if old.input.shape != graph.shape(*rows_cols) or not fits or old.input.dtype != graph.port.dtype:
        said = f"{old.input.shape} {old.input.dtype}"
        raise BadCard(f"{graph.path}: takes {graph.port}, and the card of {old.reference} says {said}")
    outputs = {port.name for port in graph.scores}
    if not outputs and not old.output.pool:
        raise BadCard(f"{graph.path}: gives masks alone; {old.reference} gives a number for each label")
    scores = old.output.name if old.output.name in outputs or old.output.pool else graph.scores[0].name
    if graph.labels(scores) not in {None, len(old.labels)}:
        count = graph.labels(scores)
        raise BadCard(f"{graph.path}: its output {scores} is for {count} labels, {old.reference} has {len(old.labels)}")
    plain = old.model_dump(mode="json", exclude={"figures", "network", "sample", "sha256", "file", "data"})
    plain["output"] |= {"name": scores, "temperature": 1.0, "certain_from": None}
    plain["input"]["name"] = graph.port.name
    return {**plain, "name": name, "version": version}


def _renewed_notes(old: Card) -> str:
    return (
        f"Other weights with the card of {old.reference}: labels, preprocessing and thresholds are from there. Temperature, "
        "certain_from and figures were of the old weights and are left out: measure it with `dicomnode evaluate`."
    )


def _say_text(made: TextFolder | ReaderFolder, *, as_json: bool) -> None:
    """Tell what was copied; redaction finds it by its name."""
    if as_json:
        print_json({"name": made.card.name, "version": made.card.version, "path": str(made.path)})
    else:
        typer.echo(f"written: {made.path}\nit answers its sample; redaction uses it from the next start or reload on")


def _say(made: ModelFolder, *, as_json: bool) -> None:
    """Tell what was made and what is next."""
    card = made.card
    private = [label.key for label in card.labels if label.concept.scheme == PRIVATE_SCHEME]
    if as_json:
        print_json({
            "name": card.name, "version": card.version, "path": str(made.path), "private_codes": private,
            "sample": card.sample.probabilities, "activation": card.output.activation,
        })
        return
    answers = ", ".join(f"{key} {value:.3f}" for key, value in card.sample.probabilities.items())
    lines = [f"written: {made.path}", f"its answer to the sample: {answers} (activation {card.output.activation})"]
    if private:
        lines.append(f"private codes, which other systems do not know: {', '.join(private)}; --concept names public ones")
    wanted = f'router = "{card.name}"' if card.task == "router" else f'models = ["{card.name}"] in a rule'
    lines.append(f"to use it: {wanted} of routes.toml, then reload the node (SIGHUP)")
    typer.echo("\n".join(lines))
