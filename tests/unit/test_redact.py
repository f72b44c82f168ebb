from __future__ import annotations

import dataclasses
import logging
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicomnode.errors import BadSetting, ProgramMissing, RedactionUncertain, StageFailed, Undecodable
from dicomnode.image import Redacted
from dicomnode.records import Region
from dicomnode.stages.redact import Redact
from dicomnode.stages.redact.inspection import Inspection
from dicomnode.stages.redact.ocr import Word
from dicomnode.stages.redact.reading import Reader
from dicomnode.stages.redact.reuse import Recent
from tests.unit import pictures

pytestmark = pytest.mark.skipif(shutil.which("tesseract") is None, reason="the program tesseract is not installed")
LINES = (("MARLENE QUISTGAARD", 20, 40), ("ZX4481907", 20, 75), ("17.04.1961", 20, 110), ("PORTABLE AP", 20, 200))
#: The closed set of `records.Region`.
REASONS = {
    "header-match", "date", "number", "phone", "address", "institution", "person", "unknown-text", "unreadable", "rule",
    "model", "overlay", "graphic",
}


@pytest.fixture(scope="module")
def strict() -> Redact:
    """The stage in strict mode."""
    return Redact("strict")


@pytest.fixture(scope="module")
def header() -> Redact:
    """The stage in header mode."""
    return Redact("header")


def blanked(redacted: Redacted, frame: int = 0) -> Any:
    """Pixels of a frame that are blanked."""
    mask = np.zeros((redacted.image.rows, redacted.image.columns), bool)
    for r in redacted.regions_of(frame):
        mask[r.y : r.y + r.h, r.x : r.x + r.w] = True
    return mask


def ink_of(text: tuple[str, int, int]) -> Any:
    """Pixels that a line of text has drawn."""
    page = np.zeros((256, 384))
    pictures.draw(page, *text, 1)
    return page > 0


@pytest.mark.parametrize("kind", ["u8", "u12", "u16", "i16", "m1", "rgb", "ybr"])
def test_identifying_text_goes_technical_text_stays(strict: Redact, kind: str) -> None:
    """Name, number and birth date are gone in every layout, the technical words stay, all other values are as they were."""
    values, described = pictures.burned(kind, LINES)
    redacted = strict(pictures.image(pictures.native(values, **described)))
    mask = blanked(redacted)
    for line in LINES[:3]:
        assert mask[ink_of(line)].mean() > 0.98
    assert mask[ink_of(LINES[3])].mean() < 0.05
    np.testing.assert_array_equal(values[~mask], redacted.frame(0)[~mask])
    assert (redacted.picture(0)[mask] == 0).all()
    assert {region.reason for region in redacted.regions} <= REASONS


def test_modes_differ_in_unknown_text_alone(strict: Redact, header: Redact) -> None:
    """Text that nobody knows goes in strict mode and stays in header mode; what the header says goes in both."""
    lines = (("MARLENE QUISTGAARD", 20, 40), ("HOLGERSSON WILMA", 20, 120))
    values, described = pictures.burned("u8", lines)
    data = pictures.native(values, **described)
    for redact, unknown in ((strict, True), (header, False)):
        mask = blanked(redact(pictures.image(data)))
        assert mask[ink_of(lines[0])].mean() > 0.98
        assert (mask[ink_of(lines[1])].mean() > 0.9) == unknown


def test_dark_text_goes_too(strict: Redact) -> None:
    """Black text on a light ground is found as white text is."""
    grey = 255 - pictures.anatomy()
    pictures.draw(grey, LINES[0][0], 20, 40, 0)
    redacted = strict(pictures.image(pictures.native(grey.astype(np.uint8))))
    assert blanked(redacted)[ink_of(LINES[0])].mean() > 0.98


def test_every_frame_is_looked_at(strict: Redact) -> None:
    """Text in the last frame alone is blanked there and nowhere else."""
    clean, _ = pictures.burned("u8")
    marked, _ = pictures.burned("u8", LINES[:1])
    redacted = strict(pictures.image(pictures.native(np.stack([clean, clean, marked]), frames=3)))
    assert blanked(redacted, 2)[ink_of(LINES[0])].mean() > 0.98
    assert [int(blanked(redacted, i)[ink_of(LINES[0])].sum()) for i in (0, 1)] == [0, 0]


def test_equal_frames_are_read_once(strict: Redact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames with the same values share one reading and have the same regions."""
    marked, _ = pictures.burned("u8", LINES[:1])
    calls: list[int] = []
    read = strict._tesseract.read
    counted: Any = lambda pages, *given, **more: calls.append(len(pages)) or read(pages, *given, **more)  # noqa: E731
    monkeypatch.setattr(strict._tesseract, "read", counted)
    strict(pictures.image(pictures.native(marked)))
    alone, calls[:] = list(calls), []
    redacted = strict(pictures.image(pictures.native(np.stack([marked] * 4), frames=4)))
    assert sum(alone)
    assert calls == alone
    frames = [[(r.x, r.y, r.w, r.h) for r in redacted.regions_of(i)] for i in range(4)]
    assert frames[0]
    assert frames == [frames[0]] * 4


def test_text_reaches_neither_regions_nor_logs(strict: Redact, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that stands in the picture or header is in the representation of the result or in a log line."""
    values, described = pictures.burned("u8", LINES)
    with caplog.at_level(logging.DEBUG):
        redacted = strict(pictures.image(pictures.native(values, **described)))
    told = (repr(redacted) + caplog.text).upper()
    assert redacted.regions
    for secret in ("QUISTGAARD", "MARLENE", "4481907", "1961"):
        assert secret not in told


def test_pixels_that_cannot_be_seen_are_not_clean(strict: Redact) -> None:
    """Undecodable pixels and objects without pixels raise; neither gives a `Redacted`."""
    array = np.zeros((10, 10), np.uint8)
    with pytest.raises(Undecodable):
        strict(pictures.image(pictures.part10(pictures.dataset(array), b"\0" * 50)))
    data = pictures.part10(pictures.dataset(array), array.tobytes())
    without = pictures.image(data[: data.rindex(b"\xe0\x7f\x10\x00")])
    assert not without.has_pixels
    with pytest.raises(RedactionUncertain):
        strict(without)


def test_tesseract_that_fails_is_uncertain(strict: Redact, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the program fails, hangs or leaves pages out, the picture is not called clean."""
    values, described = pictures.burned("u8", LINES[:1])
    image = pictures.image(pictures.native(values, **described))

    def ends(**more: Any) -> Any:
        return lambda *_a, **_k: subprocess.CompletedProcess([], more.pop("status", 0), more.pop("out", b""), b"")

    def hangs(*_a: Any, **_k: Any) -> None:
        raise subprocess.TimeoutExpired("tesseract", 1)

    for run in (ends(status=1), ends(out=b"level\tpage_num\n"), hangs):
        monkeypatch.setattr(subprocess, "run", run)
        with pytest.raises(RedactionUncertain):
            strict(image)


def test_without_the_program_the_stage_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing program or language names the package to install; a mode that does not exist is refused."""
    with pytest.raises(ProgramMissing, match="tesseract-ocr-xyz"):
        Redact(lang="xyz")
    with pytest.raises(BadSetting):
        Redact("lenient")
    with pytest.raises(BadSetting, match="line 2"):
        Redact(words="word a\nnoun b")
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(ProgramMissing, match="apt-get install tesseract-ocr"):
        Redact()


def test_a_persons_release_keeps_what_was_found(strict: Redact, header: Redact) -> None:
    """`waive` blanks what redaction finds, and its overlays; the person vouches for the rest."""
    values, _ = pictures.burned("u8", LINES)
    data = pictures.part10(with_overlay("PORTABLE AP"), values.tobytes())
    for redact in (strict, header):
        found, waived = redact(pictures.image(data)), redact.waive(pictures.image(data))
        assert found.regions
        assert (waived.regions, waived.overlays) == (found.regions, found.overlays)
        assert (waived.released, found.released) == (True, False)
        assert len(waived.method) <= 64
        assert blanked(waived)[ink_of(LINES[0])].mean() > 0.98


def test_a_persons_release_of_what_is_uncertain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where redaction cannot judge nothing is found, and the frames leave as they are; undecodable stays undecodable."""
    values, described = pictures.burned("u8", LINES)
    late = Redact(budget_s=0.0)
    redacted = late.waive(pictures.image(pictures.native(values, **described)))
    np.testing.assert_array_equal(values, redacted.frame(0))
    assert (redacted.regions, redacted.released, redacted.strict) == ((), True, False)
    with pytest.raises(Undecodable):
        late.waive(pictures.image(pictures.part10(pictures.dataset(values), b"\0" * 50)))


def test_a_persons_release_of_what_took_too_long(strict: Redact, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found before the time was spent stays blanked, and overlays go: only what was not read leaves as it is."""
    named, _ = pictures.burned("u8", LINES)
    frames = np.stack([named, named[::-1], named])
    data = with_overlay("PORTABLE AP")
    data.Rows, data.Columns = named.shape
    data.NumberOfFrames = len(frames)
    read, calls = strict._tesseract.read, []

    def reads_once(pages: Any, seconds: float, **more: Any) -> list[Word]:
        calls.append(seconds)
        if len(calls) > 1:
            raise RedactionUncertain("tesseract took too long")
        return read(pages, seconds, **more)

    monkeypatch.setattr(strict._tesseract, "read", reads_once)
    redacted = strict.waive(pictures.image(pictures.part10(data, frames.tobytes())))
    assert blanked(redacted, 0)[ink_of(LINES[0])].mean() > 0.98
    np.testing.assert_array_equal(redacted.frame(1), frames[1])
    assert blanked(redacted, 2)[ink_of(LINES[0])].mean() > 0.98  # it is the first one again
    assert redacted.overlays
    assert (redacted.released, redacted.strict) == (True, False)
    assert len(redacted.method) <= 64


@pytest.mark.parametrize(("frame_s", "given"), [(120.0, 100.0), (30.0, 60.0)])
def test_time_for_one_instance_is_bounded(
    strict: Redact, monkeypatch: pytest.MonkeyPatch, frame_s: float, given: float,
) -> None:
    """When the time is spent the rest is uncertain: an object of many frames is held, and does not occupy a worker for ever."""
    now, looked, read = [0.0], [], []
    see = Inspection._seen

    def slowly(looks: Inspection, number: int) -> Any:
        looked.append(number)
        now[0] += 100
        return see(looks, number)

    monkeypatch.setattr(Inspection, "_seen", slowly)
    monkeypatch.setattr(Reader, "read", lambda _reader, seconds: read.append(seconds))
    monkeypatch.setattr("dicomnode.stages.redact.time.monotonic", lambda: now[0])
    monkeypatch.setattr(strict, "_frame_s", frame_s)
    monkeypatch.setattr(strict, "_budget_s", 300.0)
    frames = np.stack([pictures.anatomy(seed=i).astype(np.uint8) for i in range(5)])
    strict(pictures.image(pictures.native(frames[:2], frames=2)))
    assert read[0] == given
    now[0], looked[:] = 0.0, []
    with pytest.raises(RedactionUncertain):
        strict(pictures.image(pictures.native(frames, frames=5)))
    assert looked == [0, 1, 2]


@pytest.mark.parametrize("released", [False, True])
def test_frames_that_are_not_asked_for_are_not_shown(strict: Redact, released: bool) -> None:
    """Only the frames that are asked for are read, and no other can be had from the result."""
    marked, _ = pictures.burned("u8", LINES[:1])
    image = pictures.image(pictures.native(np.stack([marked, marked[::-1], marked]), frames=3))
    redacted = strict.waive(image, [2]) if released else strict(image, [2])
    assert blanked(redacted, 2)[ink_of(LINES[0])].mean() > 0.98
    assert redacted.picture(2).shape == marked.shape
    for number in (0, 1):
        with pytest.raises(StageFailed):
            redacted.frame(number)
        with pytest.raises(StageFailed):
            redacted.picture(number)


def with_overlay(text: str) -> Dataset:
    """An image with a text in an overlay plane, and icons at two levels."""
    values, _ = pictures.burned("u8")
    plane = np.zeros((256, 384), np.uint8)
    pictures.draw(plane, text, 30, 60, 1)
    ds = pictures.dataset(values)
    ds.add_new(0x60020010, "US", 256)
    ds.add_new(0x60020011, "US", 384)
    ds.add_new(0x60020040, "CS", "G")
    ds.add_new(0x60020050, "SS", [1, 1])
    ds.add_new(0x60020100, "US", 1)
    ds.add_new(0x60020102, "US", 0)
    ds.add_new(0x60023000, "OW", np.packbits(plane.reshape(-1), bitorder="little").tobytes())
    icon = Dataset()
    icon.Rows = 1
    ds.IconImageSequence = [icon]
    nested = Dataset()
    nested.IconImageSequence = [icon]
    ds.ReferencedImageSequence = [nested]
    return ds


@pytest.mark.parametrize(
    ("mode", "text", "goes"),
    [("strict", "MARLENE QUISTGAARD", True), ("strict", "PORTABLE AP", True), ("header", "MARLENE QUISTGAARD", True),
     ("header", "PORTABLE AP", False)],
)
def test_overlays_with_text_and_icons_leave_the_header(
    strict: Redact, header: Redact, mode: str, text: str, goes: bool
) -> None:
    """A plane with ink goes in strict mode, with identifying text in header mode; icons always go, the source keeps its own."""
    values, _ = pictures.burned("u8")
    image = pictures.image(pictures.part10(with_overlay(text), values.tobytes()))
    redacted = (strict if mode == "strict" else header)(image)
    clean = redacted.clean_dataset()
    assert goes == (0x60023000 not in clean)
    assert goes == any(region.reason == "overlay" for region in redacted.regions)
    assert not redacted.touched
    assert "IconImageSequence" not in clean
    assert "IconImageSequence" not in clean.ReferencedImageSequence[0]
    assert "IconImageSequence" in image.dataset.ReferencedImageSequence[0]
    assert 0x60023000 in image.dataset


def test_nothing_else_makes_redacted() -> None:
    """`Redacted` is born in stages/redact and nowhere else in the package."""
    package = Path(pictures.__file__).parents[2] / "dicomnode"
    sources = [p for p in package.rglob("*.py") if re.search(r"\bRedacted\(", p.read_text("utf-8"))]
    makers = {p.relative_to(package).as_posix() for p in sources}
    assert makers == {"stages/redact/__init__.py"}


def test_redacted_is_frozen() -> None:
    """Nobody changes the regions of a redacted image."""
    values, _ = pictures.burned("u8")
    redacted = Redacted(pictures.image(pictures.native(values)), (Region(0, 1, 1, 2, 2, "date"),), "test", (0,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        redacted.regions = ()  # type: ignore[misc]


# -- what is there more than once
def test_the_memory_of_readings_is_small() -> None:
    """A cine of thousands of frames does not fill it."""
    recent: Recent[int, str] = Recent(2)
    for key in (1, 2, 1, 3):
        if recent.get(key) is None:
            recent.put(key, str(key))
    assert [recent.get(key) for key in (1, 2, 3)] == ["1", None, "3"]


def test_frames_of_the_same_values_that_show_differently_are_both_looked_at(
    strict: Redact, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A window of its own may bring out in one frame what another hides."""
    looked: list[int] = []

    class Eyes:
        def __call__(self, *_: Any) -> list[Any]:
            looked.append(1)
            return []

        def forget(self) -> None:
            pass

    monkeypatch.setattr(strict._detector, "eyes", Eyes)
    values = pictures.burned("u12", ())[0]
    groups = []
    for centre in (2000.0, 2000.0, 300.0):
        voi, group = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, 400.0
        group.FrameVOILUTSequence = [voi]
        groups.append(group)
    strict(pictures.image(pictures.native(np.stack([values] * 3), bits_stored=12, frames=3,
                                          PerFrameFunctionalGroupsSequence=groups)))
    assert len(looked) == 2


# -- what is too large to be looked at
def test_text_that_is_too_large_to_be_read_holds_the_picture(strict: Redact, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the header says of the person is what is looked for: unread, nothing can be vouched for."""
    monkeypatch.setattr("dicomnode.image.file.HEADER_MAX_BYTES", 4096)
    image = pictures.image(pictures.native(pictures.burned("u8", ())[0], ImageComments="x" * 5000))
    assert (image.unread, image.left_out) == (True, {0x00204000})
    assert str(image.dataset.PatientName) == pictures.NAME
    with pytest.raises(RedactionUncertain):
        strict(image)


def test_an_overlay_that_is_too_large_to_be_read_goes(strict: Redact, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is bytes: the picture is judged, the overlay does not leave."""
    monkeypatch.setattr("dicomnode.image.file.BYTES_MAX_BYTES", 4096)
    values = pictures.burned("u8", ())[0]
    described = pictures.dataset(values)
    described.add_new((0x6000, 0x0010), "US", values.shape[0])
    described.add_new((0x6000, 0x0011), "US", values.shape[1])
    described.add_new((0x6000, 0x3000), "OW", bytes(values.size // 8))
    image = pictures.image(pictures.part10(described, values.tobytes()))
    assert (image.unread, image.left_out) == (False, {0x60003000})
    assert strict(image).overlays == (0x6000,)
