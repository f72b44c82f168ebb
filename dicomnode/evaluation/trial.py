"""Sends one file with known text through redaction and coder, and judges what was written, string by string.

**Way** `try_file` redacts, encodes and writes the file as `dicomnode redact --pixels-only` does, reads it again and compares
the stored values of every frame. An identifying string is removed when `REMOVED` of its ink is gone in every frame that it
stands in; a harmless one is kept while less than `LOST` of its ink is gone in any.

**Fails** `BadSetting` for a manifest that does not fit the file (`check`). What redaction itself refuses is no error: the file
is held, and its strings are neither removed nor kept.

**Limits** Text in overlays, reports and header is not looked at. Where the result is in another colour space than the source,
frames are compared as they are displayed.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeAlias, cast

from numpy.typing import NDArray

from dicomnode.errors import BadSetting, DicomNodeError
from dicomnode.evaluation.compare import Compared, compare
from dicomnode.evaluation.ink import ink, plainness
from dicomnode.evaluation.manifest import Case, Text
from dicomnode.image import Image, Redacted
from dicomnode.outputs import part10
from dicomnode.stages.encode import Encode

#: Shares of ink: gone for a string to be removed; from which a harmless one is lost.
REMOVED, LOST = 0.98, 0.10
#: Room in memory for what is written, before it goes to a file without a name.
_SPOOLED_BYTES = 64 << 20

Redactor: TypeAlias = Callable[[Image], Redacted]


@dataclass(slots=True)
class Judged:
    """What became of one string."""

    text: Text
    #: Share of its ink that is gone: the least over its frames of an identifying one, the most of a harmless one.
    share: float
    #: The frame of which that is said.
    frame: int
    #: Grey levels on display by which it is brighter than its ground, in its first frame.
    contrast: int

    @property
    def good(self) -> bool:
        """Removed when it identifies, kept when it does not."""
        return self.share >= REMOVED if self.text.identifying else self.share < LOST


@dataclass(slots=True)
class Tried:
    """What became of one file."""

    name: str
    device: str
    syntax: str
    photometric: str
    rows: int
    columns: int
    frames: int
    bits: int
    #: Code of the error that holds it; empty when it was written.
    held: str = ""
    judged: list[Judged] = field(default_factory=list)
    regions: int = 0
    #: Pixels of all frames: changed; changed, and in regions, further than the margin from any text; changed outside regions.
    changed: int = 0
    far_changed: int = 0
    far_reported: int = 0
    outside: int = 0
    redact_s: float = 0.0
    #: What it took of processors, those of its children among them.
    redact_cpu_s: float = 0.0
    write_s: float = 0.0
    bytes_before: int = 0
    bytes_after: int = 0
    #: Whether frames could be compared only as they are displayed.
    as_displayed: bool = False

    @property
    def pixels(self) -> int:
        """Pixels of all frames."""
        return self.rows * self.columns * self.frames


#: Told of every miss with the file before and after.
Show: TypeAlias = Callable[[Tried, Judged, Image, Image], None]


def check(case: Case) -> None:
    """Hold the manifest against the file; one that cannot be read will be held.

    Raises
    ------
    BadSetting
        The box of a visible string, or its frame, does not lie in the file.
    """
    with case.path.open("rb") as stream:
        try:
            image = Image.open(stream)
        except DicomNodeError:
            return
        for text in case.texts:
            inside = text.x0 < image.columns and text.y0 < image.rows and (text.frame or 0) < image.frames
            if image.frames and text.visible and not inside:
                raise BadSetting(f"{case.name}: the box of line {text.line} of the manifest does not lie in the file")


def try_file(case: Case, redact: Redactor, show: Show | None = None) -> Tried:
    """Try one file.

    Parameters
    ----------
    show
        Called for each string that is not as it should be.
    """
    with case.path.open("rb") as stream:
        try:
            image = Image.open(stream)
            tried = _tried(case, image)
        except DicomNodeError as error:
            return Tried(case.name, "unknown", "unknown", "unknown", 0, 0, 0, 0, held=error.code)
        with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as spooled:
            out = cast("BinaryIO", spooled)
            redacted = _written(tried, image, redact, out)
            if redacted is not None:
                _judge(case, tried, image, Image.open(out), redacted, show)
    return tried


def _written(tried: Tried, image: Image, redact: Redactor, out: BinaryIO) -> Redacted | None:
    """Redact and write an image; None, and the code in ``held``, where that is refused."""
    started, before = time.perf_counter(), _processor_s()
    try:
        redacted = redact(image)
        tried.redact_s, tried.redact_cpu_s = time.perf_counter() - started, _processor_s() - before
        part10.write(out, redacted.clean_dataset(), Encode()(redacted))
    except DicomNodeError as error:
        tried.redact_s = tried.redact_s or time.perf_counter() - started
        tried.held = error.code
        return None
    tried.write_s = time.perf_counter() - started - tried.redact_s
    tried.bytes_after = out.tell()
    out.seek(0)
    return redacted


def _processor_s() -> float:
    """Seconds of processors that this process and its children, which have ended, have used."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _tried(case: Case, image: Image) -> Tried:
    header, spec = image.dataset, image.spec
    names = (str(header.get(keyword) or "").strip() for keyword in ("Manufacturer", "ManufacturerModelName"))
    return Tried(
        case.name,
        " ".join(name for name in names if name) or "unknown",
        image.transfer_syntax_uid,
        image.photometric,
        image.rows,
        image.columns,
        image.frames,
        spec.bits_stored,
        bytes_before=case.path.stat().st_size,
    )


def _judge(case: Case, tried: Tried, image: Image, after: Image, redacted: Redacted, show: Show | None) -> None:
    """Compare frame by frame, then say what became of each string."""
    worst: dict[int, Judged] = {}
    tried.regions = len(redacted.regions)
    visible = [text for text in case.texts if text.visible]
    for number in range(image.frames):
        regions = redacted.regions_of(number)
        before, later = _comparable(tried, image, after, number)
        found = compare(before, later, regions)
        far = found.far(case.texts, number)
        tried.changed += int(found.changed.sum())
        tried.far_changed += int((found.changed & far).sum())
        tried.far_reported += int((found.reported & far).sum())
        tried.outside += int((found.changed & ~found.reported).sum())
        for text in visible:
            if text.stands_in(number):
                _look(worst, text, number, before, found, image)
    tried.judged = list(worst.values())
    if show is not None:
        for one in tried.judged:
            if not one.good:
                show(tried, one, image, after)


def _look(
    worst: dict[int, Judged],
    text: Text,
    number: int,
    before: NDArray[Any],
    found: Compared,
    image: Image,
) -> None:
    strokes = ink(text, number, before)
    gone = found.gone[text.y0 : text.y1 + 1, text.x0 : text.x1 + 1]
    share = float(gone[strokes].mean()) if strokes.any() else 0.0
    known = worst.get(text.line)
    if known is None:
        worst[text.line] = Judged(text, share, number, plainness(text, strokes, image.picture(number)))
    elif share < known.share if text.identifying else share > known.share:
        known.share, known.frame = share, number


def _comparable(tried: Tried, image: Image, after: Image, number: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The stored values of a frame before and after; as displayed where the two are not in one space."""
    before, later = image.frame(number), after.frame(number)
    if before.shape == later.shape and image.decoded_photometric(number) == after.decoded_photometric(number):
        return before, later
    tried.as_displayed = True
    return image.picture(number), after.picture(number)
