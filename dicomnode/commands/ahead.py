"""Opens files some at a time, so that the router is asked about their pictures in one batch.

**Way** Before the first of `BATCH` files is worked all of them are opened and routed as far as the question to the classifier;
what each is worked with then is the image that was opened, its picture included, so nothing is read or decoded twice.

**Fails** A file that cannot be opened or routed is left for its own turn, which tells.

**Limits** `BATCH` files are open at a time, with one picture of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from dicomnode.image import Image
from dicomnode.records import Instance
from dicomnode.stages.infer import BATCH
from dicomnode.stages.together import Together

#: A file that is open: its bytes, record and image.
Open = tuple[BinaryIO, Instance, Image]


class Ahead:
    """Files in the order in which they will be worked."""

    def __init__(
        self, files: Sequence[Path], together: Together, read: Callable[[BinaryIO], Instance],
        route: Callable[[Instance, Image], object],
    ) -> None:
        self._files, self._together, self._read, self._route = list(files), together, read, route
        self._opened: dict[Path, Open] = {}
        self._tried: set[Path] = set()
        self._stack = ExitStack()

    @contextmanager
    def opened(self, file: Path) -> Iterator[Open]:
        """Give a file for the length of a with block."""
        if file not in self._tried:
            self._open_from(file)
        found = self._opened.pop(file, None)
        if found is not None:
            with found[0]:
                yield found
            return
        with file.open("rb") as stream:
            instance = self._read(stream)
            yield stream, instance, Image.open(stream, instance)

    def _open_from(self, file: Path) -> None:
        """Open this and the files after it."""
        self.close()
        place = self._files.index(file)
        with self._together.collecting():
            self._tried = set(self._files[place : place + BATCH])
            for one in self._files[place : place + BATCH]:
                self._try(one)

    def _try(self, file: Path) -> None:
        stream = None
        try:
            stream = file.open("rb")
            instance = self._read(stream)
            image = Image.open(stream, instance)
            self._opened[file] = self._stack.enter_context(stream), instance, image
            self._route(instance, image)
        except Exception:  # noqa: BLE001 - Later, or a fault that tells in the file's own turn
            if stream is not None and file not in self._opened:
                stream.close()

    def close(self) -> None:
        """Close what is open still."""
        self._stack.close()
        self._opened.clear()
