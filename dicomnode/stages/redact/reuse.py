"""Reads once what is there more than once: in the frames of a cine, text stands where it stood.

**Way** `Recent` is a memory of the last few things by key. `Reader` reads pages through such a memory: a page that is bit for
bit one that was read in this instance gives the words that were read then, all others go to tesseract together.

**Fails** As `ocr.Tesseract.read`; nothing is remembered of a reading that failed.

**Limits** Only pages that are equal in every value are taken for the same. A page is the whole frame in one rendering: what
moves behind the text makes it another one.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dicomnode.stages.redact.ocr import Grey, Word

#: How many pages or frames are remembered of one instance.
MOST = 64
Key = TypeVar("Key")
Value = TypeVar("Value")
#: As `ocr.Tesseract.read`.
Read = Callable[[Sequence[Grey], float], list[Word]]


class Recent(Generic[Key, Value]):
    """A memory of the things that were last asked for."""

    def __init__(self, most: int = MOST) -> None:
        self._kept: OrderedDict[Key, Value] = OrderedDict()
        self._most = most

    def get(self, key: Key) -> Value | None:
        """Give what is remembered, None when nothing is."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Key, value: Value) -> Value:
        """Remember, and let go of what was not asked for longest."""
        self._kept[key] = value
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return value


class Reader:
    """Reads the pages of one instance."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._known: Recent[bytes, tuple[Word, ...]] = Recent()

    def __call__(self, pages: Sequence[Grey], timeout_s: float) -> list[Word]:
        """Read, as `ocr.Tesseract.read`, what was not read before."""
        keys = [digest(page) for page in pages]
        known = {key: words for key in keys if (words := self._known.get(key)) is not None}
        fresh = {key: page for key, page in zip(keys, pages, strict=True) if key not in known}
        found = self._read(list(fresh.values()), timeout_s)
        for number, key in enumerate(fresh):
            known[key] = self._known.put(key, tuple(word for word in found if word.page == number))
        return [replace(word, page=number) for number, key in enumerate(keys) for word in known[key]]


def digest(*arrays: NDArray[Any]) -> bytes:
    """SHA-256 over shapes, types and values: the same only for what is the same."""
    made = hashlib.sha256()
    for array in arrays:
        made.update(f"{array.shape} {array.dtype.str};".encode())
        made.update(np.ascontiguousarray(array).data)
    return made.digest()
