"""Parts for pictures that came without: train, val and test, or folds; a person's pictures stay together.

**Way** A hash of the person, or where none is known of the picture's place in the folder, draws the part: a picture keeps
its split when others are added. Folds are dealt so that each has its share of every label.

**Limits** Where nobody said whose pictures they are, two of one person may stand in two parts, and figures are then better
than the truth. Shares hold roughly; a label of few persons may miss a split.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

#: Upper ends of the shares of train, val and test.
_SHARES = (("train", 0.70), ("val", 0.85), ("test", 1.0))
_SALT = "dicomnode split 1"


def _drawn(what: str) -> float:
    """A number in 0..1 that belongs to this text."""
    return int.from_bytes(hashlib.sha256(f"{_SALT}:{what}".encode()).digest()[:6]) / 2**48


def draw_split(group: str) -> str:
    """The split of a person, or of a picture of nobody known: 70 % train, 15 % val, 15 % test."""
    return next(split for split, end in _SHARES if _drawn(group) < end)


def deal_folds(groups: Sequence[str], labels: Sequence[str], folds: int) -> list[int]:
    """The fold of each picture; those of one group share it, and each label is spread evenly."""
    members, held = defaultdict[str, list[int]](list), Counter[tuple[str, int]]()
    for number, group in enumerate(groups):
        members[group].append(number)
    fold_of = [0] * len(groups)
    for group in sorted(members, key=_drawn):
        counted = Counter(labels[number] for number in members[group])
        fold = min(range(folds), key=lambda one: (sum(held[label, one] for label in counted), one))
        for number in members[group]:
            fold_of[number] = fold
        for label, count in counted.items():
            held[label, fold] += count
    return fold_of
