"""The file that is sent: what its file meta says, and its data set in blocks.

**Way** `Content.opened` reads the file meta; `Content.blocks` gives the data set as views of one buffer, each good until the
next is asked for. A data set is never decoded; only for a peer that takes Implicit VR Little Endian alone `Content.anew`
encodes an Explicit one again, its values untouched.

**Fails** `Undecodable` where there is no usable file meta, or the data set does not decode where it must be encoded anew; other
faults of reading are `OSError`.

**Standard** PS3.10 section 7.1.

**Limits** What is encoded anew is whole in memory; the caller refuses files above `ANEW_MAX_BYTES`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom.dsutils import encode

from dicomnode import contexts
from dicomnode.errors import Undecodable
from dicomnode.header import stored_as

#: Largest file that is encoded anew in Implicit VR.
ANEW_MAX_BYTES = 256 << 20


class Content:
    """One SOP Instance as it is to be sent; closes its file at the end of a with block."""

    def __init__(
        self, stream: io.FileIO | io.BytesIO, sop_class_uid: str, sop_instance_uid: str, syntax: str, size: int,
    ) -> None:
        self._stream = stream
        self.sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid
        self.transfer_syntax_uid = syntax
        #: Bytes of the data set.
        self.size = size

    @classmethod
    def opened(cls, path: Path) -> Content:
        """Open a Part 10 file and stand at its data set."""
        stream = io.FileIO(path)
        try:
            start, sop_class, sop_instance, syntax = stored_as(stream)
            size = os.fstat(stream.fileno()).st_size - start
            stream.seek(start)
        except BaseException:
            stream.close()
            raise
        return cls(stream, sop_class, sop_instance, syntax, size)

    @classmethod
    def anew(cls, path: Path) -> Content:
        """The same instance, encoded in Implicit VR Little Endian."""
        with cls.opened(path) as stored:
            try:
                encoded = encode(dcmread(path), is_implicit_vr=True, is_little_endian=True)
            except (AttributeError, InvalidDicomError):
                encoded = None
            if encoded is None:
                raise Undecodable("the data set does not decode")
            named = stored.sop_class_uid, stored.sop_instance_uid
        return cls(io.BytesIO(encoded), *named, contexts.IMPLICIT, len(encoded))

    def blocks(self, buffer: memoryview, longest: Callable[[], int]) -> Iterator[tuple[memoryview, bool]]:
        """Give the data set in blocks of at most ``longest()`` bytes that fit the buffer, each with: it is the last one."""
        left = self.size
        while True:
            want = min(left, longest(), len(buffer))
            have = 0
            while have < want:
                count = self._stream.readinto(buffer[have:want])
                if not count:
                    raise OSError("the file has become shorter")
                have += count
            left -= have
            yield buffer[:have], not left
            if not left:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.close()
