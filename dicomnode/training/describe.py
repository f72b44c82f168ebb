"""What the cards of a trained model say before it is measured: terms, data, use, and what the data cannot support.

**Way** Everything is counted from the examples learned from and taken from the start weights; the stricter terms hold.

**Limits** Licences are told apart by the words that manifests use; what is stated wrongly there is wrong here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict

from dicomnode import cards
from dicomnode.training.datasets import Example
from dicomnode.training.learn import Steps
from dicomnode.training.presets import Plan
from dicomnode.training.start import Start

NOT_A_DEVICE = "Not a medical device; not for diagnostic use."
_ARTIFICIAL_INTELLIGENCE = cards.Concept(value="123110", scheme="DCM", meaning="Artificial Intelligence")
#: Terms of start weights that ask for no more than naming them.
_FREE = frozenset({"Apache-2.0", "CC-BY-4.0"})
#: How manifests begin the terms of pictures that ask for no more than naming their makers, or for that and the same terms.
_OPEN = ("CC BY 4.0", "CC0", "BSD-2-Clause", "NIH ChestX-ray14 (no restriction", "BUSI: CC0")
_SHARE_ALIKE = "CC BY-SA 4.0"
_FEW = 100  # pictures of a class; below, a card says so


def terms(examples: Sequence[Example], start: Start | None) -> cards.Licence:
    """The terms of weights that learned from these pictures, and from what they began with."""
    stated = {example.licence for example in examples}
    began = "" if start is None else f" Began with the weights {start.name} ({start.licence.identifier}; see training data)."
    bound = sorted(text for text in stated if "BY-NC-SA" in text)
    if bound:
        reason = f"Learned from pictures under {'; '.join(bound)}, among others; the weights carry that licence.{began}"
        return cards.Licence(identifier="CC-BY-NC-SA-4.0", reason=reason)
    is_open = all(text.startswith((*_OPEN, _SHARE_ALIKE)) for text in stated)
    if start is not None and start.licence.identifier not in _FREE:
        reason = f"Began with the weights of {start.name}, whose terms hold on: {start.licence.reason}"
        if is_open or "NC" in start.licence.identifier:
            return cards.Licence(identifier=start.licence.identifier, reason=reason)
        return cards.Licence(identifier="LicenseRef-training-data", reason=f"{reason} And those of the training data.")
    alike = sorted(text for text in stated if text.startswith(_SHARE_ALIKE))
    if is_open and alike:
        reason = f"Learned from pictures under open licences; {'; '.join(alike)} asks for the same terms.{began}"
        return cards.Licence(identifier="CC-BY-SA-4.0", reason=reason)
    if is_open:
        reason = f"Learned only from pictures under CC BY 4.0 or freer terms, named below.{began}"
        return cards.Licence(identifier="CC-BY-4.0", reason=reason)
    return cards.Licence(
        identifier="LicenseRef-training-data", reason=f"No one licence covers the pictures; see training data.{began}"
    )


def sources(examples: Sequence[Example], start: Start | None) -> tuple[cards.TrainingData, ...]:
    """The rows of ``[[training_data]]``."""
    counted = Counter((example.source or "not stated", example.licence or "not stated") for example in examples)
    learned = (cards.TrainingData(source=s, licence=t, pictures=n) for (s, t), n in sorted(counted.items()))
    return (*learned, *(() if start is None else start.data))


def shared_persons(examples: Sequence[Example]) -> int:
    """How many persons, as far as known, have pictures in more than one split."""
    splits = defaultdict[str, set[str]](set)
    for example in examples:
        if example.person:
            splits[example.person].add(example.split)
    return sum(len(found) > 1 for found in splits.values())


def about_splits(examples: Sequence[Example]) -> str | None:
    """What a person has to know of how the splits came about; None where they were stated and keep persons apart."""
    unknown, shared = sum(not example.person for example in examples), shared_persons(examples)
    if any(example.drawn for example in examples):
        text = "no splits were stated: 70 % train, 15 % val, 15 % test were drawn by a hash, so that a picture keeps its split"
        if unknown:
            text += (
                f"; of {unknown} of {len(examples)} pictures nobody said whose they are, so those of one person may stand in"
                " two splits: a manifest with the columns split or patient mends that"
            )
        return text
    return f"pictures of {shared} person(s) stand in more than one split; figures are better than the truth" if shared else None


def shortcomings(learned: Sequence[Example], examples: Sequence[Example]) -> str:
    """Say what the train pictures cannot support, class by class, as a Markdown list."""
    origins, pictures = defaultdict[str, set[str]](set), Counter(example.label for example in learned)
    for example in learned:
        origins[example.label].add(example.source)
    lines = []
    for label, count in sorted(pictures.items()):
        line = f"- {label}: {count} training pictures from {len(origins[label])} source(s)"
        if count < _FEW:
            line += "; few: expect errors on films of other hospitals"
        if len(origins[label]) == 1:
            line += "; what the pictures of this one source share besides the anatomy may have been learned"
        lines.append(line + ".")
    if note := about_splits(examples):
        lines.append(f"- Splits: {note}.")
    lines.append("- A picture that belongs to no class still gets one of them.")
    return "\n".join(lines)


def taught_with(plan: Plan) -> str:
    """The numbers of the run, as one Markdown line."""
    numbers = asdict(plan).items()
    return ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in numbers)


def basis(
    name: str, version: str, plan: Plan, steps: Steps, labels: Sequence[cards.Label], learned: Sequence[Example],
    start: Start | None,
) -> dict[str, object]:  # fmt: skip
    """What every card of ours says before the network is known."""
    return {
        "name": name,
        "version": version,
        "file": "model.onnx",
        "sha256": "0" * 64,
        "licence": terms(learned, start),
        "training_data": sources(learned, start),
        "algorithm": _ARTIFICIAL_INTELLIGENCE,
        "network": {"arch": plan.arch, "width": plan.width},
        "input": {
            "name": "image", "shape": (1, plan.size, plan.size), "dtype": "float32",
            "preprocess": [{"step": step, "parameters": dict(parameters)} for step, parameters in steps],
        },
        "labels": labels,
        "sample": {"file": "sample.png", "probabilities": {label.key: 0.0 for label in labels}, "tolerance": 0.01},
    }  # fmt: skip
