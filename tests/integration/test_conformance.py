"""Every report and capture, judged by tools that others wrote."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import UID

from dicomnode.image import Redacted
from dicomnode.outputs import deidentified, sc, sc_map, seg, shell, sr
from dicomnode.outputs.table import OUTPUTS
from dicomnode.records import Identity, Means, Region
from dicomnode.stages.encode import Encode
from tests.integration.conformance_tools import (
    DCIODVFY,
    DSRDUMP,
    ORTHANC,
    PIXELMED,
    SLF4J,
    dciodvfy_errors,
    dsrdump,
    element_of,
    needs,
    orthanc,
    sr_verdicts,
)
from tests.unit.materials import (
    CHARSETS,
    FINDINGS,
    SPINE,
    UNSURE,
    clean,
    mapped,
    marked_dx,
    material,
    pydicom_file,
    written,
)

#: Files of pydicom: plain, compressed, colour, several frames, big endian, implicit, without a study, without pixels.
FILES = (
    "CT_small.dcm", "MR_small.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm",
    "JPEG2000.dcm", "SC_rgb_rle_2frame.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_ybr_full_422_uncompressed.dcm",
    "examples_overlay.dcm",
    "examples_palette.dcm", "examples_ybr_color.dcm", "JPGExtended.dcm", "JPEGLSNearLossless_16.dcm", "rtdose.dcm",
    "liver_1frame.dcm", "waveform_ecg.dcm", "test-SR.dcm", "rtplan.dcm",
)
SOURCES = (*FILES, *(f"dx-{charset}" for charset in CHARSETS), "dx-multiframe")
IDENTITIES: tuple[Identity, ...] = ("kept", "removed")
#: What is copied into results inside: an error of the source may stand in the result only if it is about one of these.
COPIED = {"SpecificCharacterSet", "TimezoneOffsetFromUTC", *shell.PATIENT, *shell.STUDY}


@dataclass(frozen=True)
class Made:
    """One result on disk."""

    source: str
    identity: Identity
    kind: str
    path: Path
    study_instance_uid: str


def source_bytes(name: str) -> bytes:
    """The bytes of a source by its name in `SOURCES`."""
    if name == "dx-multiframe":
        return marked_dx(frames=4)
    return marked_dx(name.removeprefix("dx-")) if name.startswith("dx-") else pydicom_file(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the sources and results of this module lie."""
    return tmp_path_factory.mktemp("conformance")


@pytest.fixture(scope="module")
def made(folder):
    """Every result of every source, made on demand and once."""
    done: dict[tuple[str, Identity], list[Made]] = {}

    def make(name: str, identity: Identity) -> list[Made]:
        if (name, identity) not in done:
            done[name, identity] = list(_make(folder, name, identity))
        return done[name, identity]

    return make


def _make(folder, name, identity):
    source = source_bytes(name)
    (folder / name).write_bytes(source)
    stuff = [
        (sr_class, sr.build, {"sr_class": sr_class, "predecessors": ((sr.CLASSES[sr_class], "1.2.826.0.1.3680043.9.98.1"),)})
        for sr_class in sr.CLASSES
    ]
    stuff += [("unsure", sr.build, {"route": UNSURE, "findings": (), "settings_digest": "01" * 32})]
    stuff += [("header", sr.build, {"route": SPINE, "sr_class": "enhanced", "settings_digest": "02" * 32})]
    stuff += [("sc", sc.build, {}), ("sc-map", sc_map.build, {}), ("seg", seg.build, {})]
    for kind, build, changes in stuff:
        changed = material(source, identity, **changes)
        if kind in OUTPUTS:
            image = changed.image
            if not image.has_pixels:
                continue
            found = FINDINGS if kind == "sc" else mapped(image.rows, image.columns)
            changed = dataclasses.replace(changed, coded=clean(image), findings=found)
        path = folder / f"{name}.{identity}.{kind}.dcm"
        path.write_bytes(written(build(changed)))
        yield Made(name, identity, kind, path, changed.instance.study_instance_uid)


@needs(DCIODVFY)
@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize("name", SOURCES)
def test_dciodvfy(folder, made, name, identity):
    """Dciodvfy reports no error that the source's copied modules did not have; outside nothing is copied, so none at all."""
    results = made(name, identity)
    inherited = {line for line in dciodvfy_errors(folder / name) if element_of(line) in COPIED}
    allowed = inherited if identity == "kept" else set()
    found = {result.kind: [line for line in dciodvfy_errors(result.path) if line not in allowed] for result in results}
    assert found == {result.kind: [] for result in results}


#: Of rtdose.dcm dciodvfy dies, the source too; the others have no pixels.
IMAGES = [name for name in SOURCES if name not in ("rtdose.dcm", "waveform_ecg.dcm", "test-SR.dcm", "rtplan.dcm")]
#: What a de-identified image says of itself.
OURS = {
    "BurnedInAnnotation", "DeidentificationMethod", "DeidentificationMethodCodeSequence", "DerivationCodeSequence",
    "PatientIdentityRemoved", "LongitudinalTemporalInformationModified", "PatientName", "PatientID", *deidentified._EMPTY,
    *deidentified._UNKNOWN, "Laterality", "PositionReferenceIndicator", "KVP",
}


@needs(DCIODVFY)
@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("look", ["clean", "waived"])
def test_dciodvfy_of_deidentified_images(folder, name, look):
    """Of what the node says of a de-identified image nothing is wrong; ultrasound, NM, CT and captures are right as a whole."""
    given = material(source_bytes(name), "removed")
    means = Means("strict", "d@1", "r 1", "ab" * 32, second_look=look)
    black = (0,) * given.image.samples
    regions = (Region(0, *given.image.fit(0, (0, 0, 8, 8)), "date"),)
    redacted = Redacted(given.image, regions, "text blanked", black, strict=True, released=True, means=means)
    path = folder / f"{name}.{look}.deidentified.dcm"
    path.write_bytes(written(deidentified.build(dataclasses.replace(given, coded=Encode()(redacted)))))
    inherited = {element_of(line) for line in dciodvfy_errors(folder_of(folder, name))}
    found = {element_of(line) for line in dciodvfy_errors(path)} - inherited
    assert found & OURS == set()
    if name in WHOLE:
        assert found == set()


def folder_of(folder, name):
    """The source itself on disk."""
    path = folder / name
    path.write_bytes(source_bytes(name))
    return path


#: Sources whose de-identified images dciodvfy takes without a complaint that it has not of the source.
WHOLE = ("CT_small.dcm", "JPEG2000.dcm", "SC_rgb_rle_2frame.dcm", "SC_rgb_jpeg_dcmtk.dcm", "examples_palette.dcm",
         "JPGExtended.dcm", "JPEGLSNearLossless_16.dcm")


@needs(DCIODVFY)
def test_dciodvfy_can_fail(folder, made):
    """The judge is awake: a report without its Completion Flag is an error."""
    path = made("CT_small.dcm", "kept")[0].path
    ds = pydicom.dcmread(path)
    del ds.CompletionFlag
    broken = folder / "broken.dcm"
    ds.save_as(broken)
    assert [element_of(line) for line in dciodvfy_errors(broken)] == ["CompletionFlag"]


@needs(DSRDUMP)
@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize("name", SOURCES)
def test_dsrdump(made, name, identity):
    """DCMTK reads every report without a complaint and shows what it says."""
    for result in made(name, identity):
        if result.kind in OUTPUTS:
            continue
        dump = dsrdump(result.path)
        # DCMTK 3.6.7 cannot check values in these sets and says so; it reads them all the same.
        complaints = [line for line in dump.stderr.splitlines() if "haracter Set" not in line and "CharacterSet" not in line]
        assert (dump.returncode, complaints) == (0, [])
        assert "Not for diagnostic use" in dump.stdout


@needs(PIXELMED, SLF4J)
def test_sr_validator(made, tmp_path):
    """DicomSRValidator finds TID 1500 in every report of a class that can hold it, and no error."""
    all_kinds = ("comprehensive-3d", "comprehensive", "enhanced", "unsure", "header")
    chosen = [m for m in made("dx-iso-2022-japanese", "kept") if m.kind in all_kinds]
    chosen += [m for m in made("dx-multiframe", "removed") if m.kind in all_kinds[2:]]
    chosen += [m for m in made("waveform_ecg.dcm", "removed") if m.kind in all_kinds[:1]]
    assert len(chosen) == 9
    verdicts = sr_verdicts([m.path for m in chosen], tmp_path)
    assert sorted(verdicts) == sorted(m.path for m in chosen)
    for verdict in verdicts.values():
        assert "Found Root Template TID_1500 (MeasurementReport)" in verdict
        assert "Root Template Validation Complete" in verdict
        assert "IOD validation complete" in verdict
        assert [line for line in verdict.splitlines() if line.startswith("Error")] == []


@needs(ORTHANC)
def test_orthanc(folder, made, tmp_path):
    """Orthanc stores every result, and shows those for inside in the patient's study beside their source."""
    names = ["dx-iso-2022-japanese", "CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm"]
    with orthanc(tmp_path) as archive:
        for name in names:
            for identity in IDENTITIES:
                for result in made(name, identity):
                    assert archive.call("/instances", result.path.read_bytes())["Status"] == "Success"
            assert archive.call("/instances", (folder / name).read_bytes())["Status"] == "Success"
        for name in names:
            results = made(name, "kept")
            shown = {tags["SOPInstanceUID"] for tags in archive.instances_of(results[0].study_instance_uid)}
            expected = {str(pydicom.dcmread(result.path).SOPInstanceUID) for result in results}
            expected.add(str(pydicom.dcmread(folder / name).SOPInstanceUID))
            assert shown == expected
        patients = len(archive.call("/patients"))
    # Inside results add no patient; outside each patient is one pseudonym.
    assert patients == 2 * len({pydicom.dcmread(folder / name).get("PatientID") for name in names})


def test_sources_are_what_they_are_for():
    """The list of sources covers compression, several frames, colour, byte orders and character sets."""
    sets = [pydicom.dcmread(BytesIO(source_bytes(name)), stop_before_pixels=True) for name in SOURCES]
    syntaxes = {UID(ds.file_meta.TransferSyntaxUID) for ds in sets}
    assert {True, False} == {syntax.is_little_endian for syntax in syntaxes} == {syntax.is_compressed for syntax in syntaxes}
    assert max(int(ds.get("NumberOfFrames") or 1) for ds in sets) > 1
    assert len({str(ds.get("SpecificCharacterSet")) for ds in sets}) >= len(CHARSETS)
    assert all(get_testdata_file(name, download=False) for name in FILES)
