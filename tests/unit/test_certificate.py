"""Certificates of redacted images: what they say, what proves them, and that no tampering passes."""

from __future__ import annotations

import copy
import json
import re
import runpy
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from dicomnode import cli
from dicomnode.certificate import certify, frames
from dicomnode.certificate.proof import certificates, chosen, prove
from dicomnode.certificate.record import digest, outside, read, seal, sealed
from dicomnode.errors import StageFailed
from dicomnode.image import Coded, Image, Redacted
from dicomnode.outputs import part10
from dicomnode.records import Means, Region
from dicomnode.stages.encode import Encode
from dicomnode.stages.redact.blank import black
from tests.unit import materials, pictures
from tests.unit.spooled import configured

KEY = b"k" * 32
MEANS = Means("strict", "detector@1", "reader 1", "ab" * 32, second_look="clean")
REGIONS = (Region(0, 4, 2, 20, 10, "date"), Region(1, 4, 2, 20, 10, "date"), Region(2, 30, 20, 6, 4, "number"))
ROOT = Path(__file__).parents[2]


def values(frames: int = 3, rows: int = 32, cols: int = 48, *, colour: bool = False, kind: str = "<u2") -> NDArray[Any]:
    """Frames that differ from each other in every pixel."""
    shape = (frames, rows, cols, 3) if colour else (frames, rows, cols)
    return np.random.default_rng(3).integers(1, 250, shape).astype(kind)


def made(source: bytes, regions: tuple[Region, ...] = REGIONS, **more: Any) -> tuple[Image, bytes, Coded]:
    """The original, the file that redaction makes of it, and what that was made of."""
    image = Image.open(BytesIO(source))
    redacted = Redacted(image, regions, "test", black(image), strict=True, means=MEANS, **more)
    coded, out = Encode()(redacted), BytesIO()
    part10.write(out, redacted.clean_dataset(), coded)
    return image, out.getvalue(), coded


@pytest.fixture(scope="module")
def source() -> bytes:
    """An original of three frames."""
    return pictures.native(values(), frames=3)


@pytest.fixture(scope="module")
def done(source: bytes) -> tuple[bytes, dict[str, Any]]:
    """What was made of it, and its certificate."""
    _, result, coded = made(source)
    return result, certify(BytesIO(result), coded, "1.2.3", KEY)


def checks(source: bytes, result: bytes, plain: dict[str, Any], key: bytes = b"") -> set[str]:
    """The kinds of faults that a proof finds."""
    return {fault.check for fault in prove(Image.open(BytesIO(source)), Image.open(BytesIO(result)), plain, key=key)}


def changed(data: bytes, change: Callable[[NDArray[Any]], None]) -> bytes:
    """The same file with other pixels."""
    ds = pydicom.dcmread(BytesIO(data))
    cells = ds.pixel_array.copy()
    change(cells)
    ds.PixelData, out = cells.tobytes(), BytesIO()
    ds.save_as(out)
    return out.getvalue()


def test_it_says_what_was_done(source: bytes, done: tuple[bytes, dict[str, Any]]) -> None:
    """Sizes, rectangles joined over frames, means, and digests that anybody can compute."""
    _, plain = done
    assert plain["regions"] == [
        {"first": 0, "last": 1, "x": 4, "y": 2, "w": 20, "h": 10, "reason": "date"},
        {"first": 2, "last": 2, "x": 30, "y": 20, "w": 6, "h": 4, "reason": "number"},
    ]
    assert [plain[name] for name in ("certificate", "version", "coding", "frames", "rows", "columns", "samples", "values")] == [
        1, "1.2.3", "native", 3, 32, 48, 1, "uint16",
    ]
    assert (plain["means"]["second_look"], plain["means"]["mode"]) == ("clean", "strict")
    assert plain["source"]["pixels"] == Image.open(BytesIO(source)).pixel_digest()
    assert plain["pixels"] == Image.open(BytesIO(done[0])).pixel_digest()
    assert read(json.loads(json.dumps(plain))).regions[1].reason == "number"


def test_it_holds_nothing_of_the_patient(source: bytes, done: tuple[bytes, dict[str, Any]]) -> None:
    """No value of the header but the SOP Class; the source's UID is a keyed token alone."""
    told = json.dumps(done[1])
    ds = pydicom.dcmread(BytesIO(source))
    said = [element for element in ds if element.VR in ("PN", "LO", "DA", "UI") and str(element.value) in told]
    assert [element.keyword for element in said] == ["SOPClassUID"]
    assert done[1]["source"]["token"].startswith("uid-")
    _, result, coded = made(source)
    assert certify(BytesIO(result), coded, "1")["source"]["token"] == ""
    assert "seal" not in certify(BytesIO(result), coded, "1")


def test_the_same_work_has_the_same_certificate(source: bytes, done: tuple[bytes, dict[str, Any]]) -> None:
    """No clock and no chance in it; the source's digest is taken where it is known."""
    _, result, coded = made(source)
    assert certify(BytesIO(result), coded, "1.2.3", KEY, done[1]["source"]["pixels"]) == done[1]


@pytest.mark.parametrize("name", [
    "CT_small.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "JPEG2000.dcm",
    "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle_2frame.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_ybr_full_422_uncompressed.dcm",
    "examples_palette.dcm", "examples_ybr_color.dcm", "JPGExtended.dcm", "JPEGLSNearLossless_16.dcm", "liver_1frame.dcm",
])
@pytest.mark.parametrize("blanked", [True, False])
def test_what_the_node_makes_is_proven(name: str, blanked: bool) -> None:
    """In every syntax, photometric interpretation and layout, written in the same syntax or another."""
    given = materials.pydicom_file(name)
    image = Image.open(BytesIO(given))
    places = [(number, image.fit(number, (0, 2, 9, 6))) for number in range(0, image.frames, 2)] if blanked else []
    regions = tuple(Region(number, *place, "date") for number, place in places)
    _, result, coded = made(given, regions)
    plain = certify(BytesIO(result), coded, "1", KEY)
    assert prove(image, Image.open(BytesIO(result)), plain, key=KEY) == []
    assert len(plain["regions"]) == len(regions)
    assert plain["transfer_syntax_uid"] == coded.transfer_syntax_uid
    assert (plain["coding"] == "native") is not coded.is_encapsulated
    assert (plain["coding"] == "coefficients") <= blanked


TAMPERED: dict[str, tuple[Callable[[NDArray[Any]], None], set[str]]] = {
    "a pixel outside": (lambda a: a.__setitem__((1, 31, 47), a[1, 31, 47] ^ 1), {"outside", "result"}),
    "a pixel beside a region": (lambda a: a.__setitem__((0, 2, 24), 0), {"outside", "result"}),
    "a pixel inside": (lambda a: a.__setitem__((2, 21, 31), 5), {"inside", "result"}),
    "a frame swapped": (lambda a: a.__setitem__([1, 2], a[[2, 1]]), {"outside", "inside", "result"}),
    "a frame repeated": (lambda a: a.__setitem__(1, a[0]), {"outside", "result"}),
    "a blank undone": (lambda a: a.__setitem__((slice(0, 2), slice(2, 12), slice(4, 24)), 9), {"inside", "result"}),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_changed_pixels_are_found(source: bytes, done: tuple[bytes, dict[str, Any]], what: str) -> None:
    """One pixel is enough, outside or inside; frames cannot be exchanged."""
    change, found = TAMPERED[what]
    assert checks(source, changed(done[0], change), done[1]) == found


def test_the_first_difference_is_named_by_its_place(source: bytes, done: tuple[bytes, dict[str, Any]]) -> None:
    """Frame, row and column, counted from 0, and no value."""
    faults = prove(
        Image.open(BytesIO(source)), Image.open(BytesIO(changed(done[0], TAMPERED["a pixel outside"][0]))), done[1],
    )
    assert [(one.frame, one.row, one.column) for one in faults if one.check == "outside"] == [(1, 31, 47)]


EDITED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "mode": ({"means": {"mode": "header", "detector": "d", "reader": "r", "allow_list": ""}}, {"digest"}),
    "method": ({"method": "by hand"}, {"digest"}),
    "released": ({"released": True}, {"digest"}),
    "version of the node": ({"version": "9"}, {"digest"}),
    "untouched": ({"untouched": "0" * 64}, {"digest", "untouched"}),
    "result": ({"pixels": "0" * 64}, {"digest", "result"}),
    "sizes": ({"rows": 31}, {"digest", "size"}),
    "syntax": ({"transfer_syntax_uid": "1.2.840.10008.1.2.5"}, {"digest", "syntax"}),
    "class": ({"sop_class_uid": "1.2.3"}, {"digest", "class"}),
    "instance": ({"sop_instance_uid": "1.2.3"}, {"digest", "instance"}),
    "photometric": ({"photometric": "MONOCHROME1"}, {"digest", "photometric"}),
    "blank": ({"blank": [7]}, {"digest", "inside"}),
    "samples of blank": ({"blank": [0, 0, 0]}, {"digest", "size"}),
    "more": ({"more": 1}, {"digest"}),
    "version": ({"certificate": 2}, {"certificate"}),
    "no version": ({"certificate": "one"}, {"certificate"}),
    "form": ({"regions": "all"}, {"certificate"}),
    "another original": (
        {"source": {"token": "", "transfer_syntax_uid": "1.2.840.10008.1.2.1", "pixels": "0" * 64}}, {"original"},
    ),
    "syntax of the original": (
        {"source": {"token": "", "transfer_syntax_uid": "1.2.840.10008.1.2", "pixels": "0" * 64}}, {"original", "syntax"},
    ),
}


@pytest.mark.parametrize("what", EDITED)
def test_an_edited_certificate_is_found(source: bytes, done: tuple[bytes, dict[str, Any]], what: str) -> None:
    """Whatever is changed in it, the digest of the certificate tells, and mostly the pixels too."""
    change, found = EDITED[what]
    assert checks(source, done[0], {**done[1], **change}) == found


def edited_regions(plain: dict[str, Any], change: Callable[[list[dict[str, Any]]], object]) -> dict[str, Any]:
    """A certificate with other regions and a digest that fits them, as a forger would make it."""
    forged = copy.deepcopy(plain)
    change(forged["regions"])
    forged["digest"] = digest(forged)
    return forged


@pytest.mark.parametrize(("change", "found"), [
    (lambda regions: regions.pop(), {"outside", "untouched"}),
    (lambda regions: regions[0].update(last=0), {"outside", "untouched"}),
    (lambda regions: regions[0].update(w=19), {"outside", "untouched"}),
    (lambda regions: regions[0].update(w=21), {"inside", "untouched"}),
    (lambda regions: regions.append({**regions[0], "first": 2, "last": 2}), {"inside", "untouched"}),
    (lambda regions: regions[0].update(x=-4, w=28), {"regions"}),
    (lambda regions: regions[0].update(h=0), {"regions"}),
    (lambda regions: regions[1].update(last=3), {"regions"}),
])
def test_other_regions_are_found(
    source: bytes, done: tuple[bytes, dict[str, Any]], change: Callable[[list[dict[str, Any]]], object], found: set[str],
) -> None:
    """A region that is missing, smaller, larger, of other frames or senseless fits no longer, though the digest was mended."""
    assert checks(source, done[0], edited_regions(done[1], change)) == found


def test_a_forged_certificate_lacks_the_seal(source: bytes, done: tuple[bytes, dict[str, Any]]) -> None:
    """Who mends the digest cannot mend the seal; it is asked for with the node's key only."""
    assert checks(source, done[0], done[1], KEY) == set()
    assert checks(source, done[0], done[1], b"another key") == {"seal"}
    forged = {**done[1], "method": "by hand"}
    forged["digest"] = digest(forged)
    assert checks(source, done[0], forged) == set()
    assert checks(source, done[0], forged, KEY) == {"seal"}
    assert checks(source, done[0], {n: v for n, v in done[1].items() if n != "seal"}, KEY) == {"seal"}
    assert seal(done[1]["digest"], KEY) == done[1]["seal"]


def test_without_the_source_it_holds_all_the_same(source: bytes, done: tuple[bytes, dict[str, Any]]) -> None:
    """What may be shown outside has no digest of the original's pixels, by which names could be tried; digest and seal hold."""
    shown = outside(done[1])
    assert checks(source, done[0], shown, KEY) == set()
    assert done[1]["source"]["pixels"] not in json.dumps(shown)


def test_another_original_is_found(source: bytes, done: tuple[bytes, dict[str, Any]]) -> None:
    """Also one that differs under a blanked region only."""
    other = changed(source, lambda a: a.__setitem__((0, 5, 5), a[0, 5, 5] ^ 1))
    assert checks(other, done[0], done[1]) == {"original"}
    assert checks(pictures.native(values(2), frames=2), done[0], done[1]) == {"original", "size"} - {"original"}


@pytest.mark.parametrize(("keyword", "value"), [("PixelSpacing", [1, 2]), ("RescaleSlope", 2), ("BitsStored", 15)])
def test_another_meaning_of_the_same_values_is_found(keyword: str, value: Any) -> None:
    """Spacing, rescaling and bits stored are of the pixels too."""
    given = pictures.native(values(1)[0], PixelSpacing=[1, 1], RescaleSlope=1, RescaleIntercept=0)
    _, result, coded = made(given, REGIONS[:1])
    plain = certify(BytesIO(result), coded, "1")
    assert checks(given, result, plain) == set()
    ds, out = pydicom.dcmread(BytesIO(result)), BytesIO()
    setattr(ds, keyword, value)
    ds.HighBit = ds.BitsStored - 1
    ds.save_as(out)
    assert checks(given, out.getvalue(), plain) == {"meaning"}


def test_another_palette_is_found() -> None:
    """Equal indices in other colours are another picture."""
    given = materials.pydicom_file("examples_palette.dcm")
    _, result, coded = made(given, REGIONS[:1])
    plain = certify(BytesIO(result), coded, "1")
    for change in ("other", "missing"):
        ds, out = pydicom.dcmread(BytesIO(result)), BytesIO()
        if change == "other":
            ds.RedPaletteColorLookupTableData = bytes(len(ds.RedPaletteColorLookupTableData))
        else:
            del ds.RedPaletteColorLookupTableData
        ds.save_as(out)
        assert checks(given, out.getvalue(), plain) == {"meaning"}


def test_values_that_are_no_numbers_are_compared_by_their_bits() -> None:
    """NaN is equal to itself, 0 is not equal to -0."""
    cells = np.zeros((8, 8), np.float32)
    cells[0, 0] = np.nan
    ds = pictures.dataset(cells)
    for keyword in ("BitsStored", "HighBit", "PixelRepresentation"):
        delattr(ds, keyword)
    ds.FloatPixelData = cells.tobytes()
    out = BytesIO()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    one = Image.open(BytesIO(out.getvalue()))
    assert frames.Frames(one, Image.open(BytesIO(out.getvalue())), (), (0.0,)).look().faults == []
    cells[1, 1] = -0.0
    ds.FloatPixelData, other = cells.tobytes(), BytesIO()
    pydicom.dcmwrite(other, ds, enforce_file_format=True)
    (fault,) = frames.Frames(one, Image.open(other), (), (0.0,)).look().faults
    assert (fault.check, fault.row, fault.column) == ("outside", 1, 1)


def test_what_differs_gets_no_certificate(source: bytes) -> None:
    """A file in which more was changed than redaction says must not leave; the message holds no value."""
    _, result, coded = made(source)
    for name in TAMPERED:
        with pytest.raises(StageFailed, match=r"^certificate: [a-z ]+$"):
            certify(BytesIO(changed(result, TAMPERED[name][0])), coded, "1")
    with pytest.raises(StageFailed, match="another size"):
        certify(BytesIO(pictures.native(values(1)[0])), coded, "1")


def test_a_region_beyond_the_edge_is_clipped(source: bytes) -> None:
    """The certificate names pixels that are there."""
    image, result, coded = made(source, (Region(0, 44, 30, 20, 20, "date"), Region(1, 60, 0, 5, 5, "date")))
    plain = certify(BytesIO(result), coded, "1")
    assert plain["regions"] == [{"first": 0, "last": 0, "x": 44, "y": 30, "w": 4, "h": 2, "reason": "date"}]
    assert prove(image, Image.open(BytesIO(result)), plain) == []


def test_overlays_and_icons_are_counted() -> None:
    """What was taken away beside pixels is told; a region of an overlay plane is none of the pixels."""
    ds = pydicom.dcmread(BytesIO(pictures.native(values(1)[0])))
    icon = pydicom.Dataset()
    icon.Rows = 1
    ds.IconImageSequence = [icon]
    nested = pydicom.Dataset()
    nested.IconImageSequence = [icon]
    ds.ReferencedImageSequence = [nested]
    out = BytesIO()
    ds.save_as(out)
    regions = (Region(0, 0, 0, 5, 5, "overlay"),)
    _, result, coded = made(out.getvalue(), regions, overlays=(0x6002,))
    plain = certify(BytesIO(result), coded, "1")
    assert (plain["regions"], plain["overlays"], plain["icons"]) == ([], ["6002"], 2)


# -- which of several
def test_the_certificate_is_found_among_several(source: bytes, done: tuple[bytes, dict[str, Any]]) -> None:
    """By the result's pixels, by the original's where results are equal, else by the path; one alone is taken as it is."""
    result, plain = done
    images = Image.open(BytesIO(source)), Image.open(BytesIO(result))
    alien = {**plain, "pixels": "1" * 64, "source": {**plain["source"], "pixels": "2" * 64}}
    twin = {**plain, "source": {**plain["source"], "pixels": "2" * 64}}
    lines = [
        {"path": "a", "regions": [], "certificate": alien}, {"path": "b", "held": "x"}, {"path": "c", "certificate": plain},
    ]
    found = [one for line in lines for one in certificates(line)]
    assert [name for name, _ in found] == ["a", "c"]
    assert chosen(found, *images, "a") == plain
    assert chosen([("a", plain), ("b", twin)], *images, "b") == plain
    assert chosen([("a", alien), ("b", alien)], *images, "b") == alien
    assert chosen([("a", alien), ("b", alien)], *images, "c") is None
    assert chosen([("a", alien)], *images, "c") == alien
    assert chosen([], *images, "c") is None
    assert [one for _, one in certificates({"instance_id": "x", "certificates": [plain, alien]})] == [plain, alien]


# -- the command
@pytest.fixture
def files(tmp_path: Path, source: bytes, done: tuple[bytes, dict[str, Any]]) -> tuple[Path, Path, Path]:
    """Original, result and a report of several lines."""
    paths = tmp_path / "original.dcm", tmp_path / "redacted.dcm", tmp_path / "report.jsonl"
    paths[0].write_bytes(source)
    paths[1].write_bytes(done[0])
    alien = {**done[1], "pixels": "1" * 64, "source": None}
    lines = [{"path": "x", "regions": [], "certificate": alien}, {"path": str(paths[0]), "regions": [], "certificate": done[1]}]
    paths[2].write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths


def run(*line: object) -> Any:
    """Run ``redact verify``."""
    return CliRunner().invoke(cli.application(["redact"]), ["redact", "verify", *map(str, line)])


def test_verify_proves_by_report_and_by_certificate(files: tuple[Path, Path, Path], done: tuple[bytes, dict[str, Any]]) -> None:
    """Both forms of the third file; nothing but the verdict is said."""
    assert (run(*files).exit_code, run(*files).stdout) == (0, "proven: nothing outside of the regions was changed\n")
    files[2].write_text(json.dumps(done[1], indent=1))
    told = json.loads(run(*files, "--json").stdout)
    assert told == {
        "proven": True, "original": str(files[0]), "redacted": str(files[1]), "frames": 3, "sealed": False, "faults": [],
    }


def test_verify_says_what_differs(files: tuple[Path, Path, Path], done: tuple[bytes, dict[str, Any]]) -> None:
    """The first place of each kind, on a line or as JSON, and 1."""
    files[1].write_bytes(changed(done[0], TAMPERED["a pixel outside"][0]))
    said = run(*files)
    assert said.exit_code == 1
    assert "outside: a pixel outside of the regions has another value (frame 1, row 31, column 47)\n" in said.stdout
    assert said.stdout.endswith("not proven\n")
    told = json.loads(run(*files, "--json").stdout)
    assert told["proven"] is False
    assert {"frame": 1, "row": 31, "column": 47}.items() <= {one["check"]: one for one in told["faults"]}["outside"].items()


def test_verify_of_what_does_not_decode_proves_nothing(
    files: tuple[Path, Path, Path], done: tuple[bytes, dict[str, Any]],
) -> None:
    """A redacted file that ends too early is told by the code of the error."""
    files[2].write_text(json.dumps(done[1]))
    files[1].write_bytes(done[0][:-2000])
    said = run(*files)
    assert (said.exit_code, said.stdout.startswith("undecodable: ")) == (1, True)


@pytest.mark.parametrize("text", ["", "[]", "no JSON", '{"path": "x", "regions": []}'])
def test_verify_without_a_certificate_fails(files: tuple[Path, Path, Path], text: str) -> None:
    """A file that holds none is an error of its own, not a proof."""
    files[2].write_text(text)
    assert run(*files).exit_code == 1


def test_verify_asks_for_the_seal(tmp_path: Path, files: tuple[Path, Path, Path]) -> None:
    """With the node's configuration its key is asked."""
    state = configured(tmp_path / "node").node.state_dir
    state.mkdir(parents=True, exist_ok=True)
    for key, code in ((KEY, 0), (b"x" * 32, 1)):
        (state / "node.json").write_text(json.dumps({"node_id": "n", "key": key.hex()}))
        assert run(*files, "-c", tmp_path / "node" / "ae_config").exit_code == code


# -- by others
def test_the_twenty_lines_of_the_documentation(
    tmp_path: Path, files: tuple[Path, Path, Path], done: tuple[bytes, dict[str, Any]], monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What docs/certificate.md tells others to run proves what holds, and fails on what does not."""
    text = (ROOT / "docs" / "certificate.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n# verify\.py\n(.*?)```", text, re.DOTALL)
    path, certificate = tmp_path / "verify.py", tmp_path / "certificate.json"
    path.write_text(script)
    certificate.write_text(json.dumps(outside(done[1])))
    monkeypatch.setattr(sys, "argv", [str(path), str(files[0]), str(files[1]), str(certificate)])
    runpy.run_path(str(path))
    for change, _ in TAMPERED.values():
        files[1].write_bytes(changed(done[0], change))
        with pytest.raises(AssertionError):
            runpy.run_path(str(path))
    assert len([line for line in script.splitlines() if line.strip()]) <= 28


def test_the_digest_is_of_canonical_json(done: tuple[bytes, dict[str, Any]]) -> None:
    """As documented: without digest, seal and source, keys sorted, no blanks."""
    assert digest(dict(reversed(done[1].items()))) == done[1]["digest"]
    assert sealed(read(done[1]), KEY)["regions"] == done[1]["regions"]
