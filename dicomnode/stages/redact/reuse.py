"""Remembers what is there more than once: in the frames of a cine, text stands where it stood.

**Way** `Recent` is a memory of the last few things by key; `digest` is a key that is the same for what is bit for bit the same.

**Fails** Nothing.

**Limits** Only arrays that are equal in shape, type and every value are taken for the same.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

#: How many pages or frames are remembered of one instance.
MOST = 64
Key = TypeVar("Key")
Value = TypeVar("Value")


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


def digest(*arrays: NDArray[Any]) -> bytes:
    """SHA-256 over shapes, types and values: the same only for what is the same."""
    made = hashlib.sha256()
    for array in arrays:
        made.update(f"{array.shape} {array.dtype.str};".encode())
        made.update(np.ascontiguousarray(array).data)
    return made.digest()
