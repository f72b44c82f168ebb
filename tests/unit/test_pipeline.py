"""The straight line of the work: what is made for whom, what a failing stage holds, and that a repeat gives the same bytes."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from io import BytesIO, StringIO
from typing import Literal

import pydicom
import pytest
from pydicom import uid

from dicomnode import log
from dicomnode.errors import (
    Permanent,
    RedactionUncertain,
    SpoolFull,
    StageFailed,
    Undecodable,
    UnsupportedTransferSyntax,
)
from dicomnode.header import header
from dicomnode.image import Coded, Image, Redacted
from dicomnode.outputs import Material
from dicomnode.outputs.table import OUTPUTS
from dicomnode.pipeline import NAMELESS_KINDS, Kit, Order, _groups, digest_of, process
from dicomnode.records import Findings, Held, Instance, Output, OutputKind, Result, Route, Urgency
from dicomnode.settings import LogSettings, Peer
from dicomnode.stages.encode import Encode
from tests.unit.fakes import MARK, PEERS, Unwanted, kit, raising, redacted, route
from tests.unit.materials import FINDINGS, marked_dx, pydicom_file, spooled, written


def work(kit_: Kit, source: bytes | None = None, order: Order | None = None) -> Result:
    """Take one spooled instance through `process`."""
    data = spooled(marked_dx() if source is None else source)
    instance = header(BytesIO(data), instance_id="20310709T101112131415-0badcafe", location="incoming/x.dcm", node_id="n")
    # The outputs need the stream to be open as long as they live; memory is.
    return process(instance, BytesIO(data), kit_, order)


def made(result: Result) -> list[str]:
    """Kinds of the outputs."""
    return sorted(output.kind for output in result.outputs)


def held(result: Result) -> dict[str, str]:
    """Why each kind is held."""
    return {one.kind: one.reason for one in result.held}


@pytest.fixture
def lines() -> StringIO:
    """What the log writes, as JSON lines."""
    stream = StringIO()
    log.configure(LogSettings(format="json", level="debug"), "work", b"k" * 32, stream=stream)
    return stream


# -- who gets what
def test_destinations_that_get_the_same_object_share_it() -> None:
    """One SR a trust and class, one SC a trust, one de-identified image for all; nothing is made twice."""
    groups = _groups(route(("sr", "sc", "deidentified"), tuple(PEERS)), PEERS, Order(), has_pixels=True)
    assert groups == [
        ("sr", "kept", "comprehensive-3d", ("pacs", "viewer")),
        ("sr", "kept", "basic-text", ("ris",)),
        ("sr", "removed", "comprehensive-3d", ("partner",)),
        ("sr", "removed", "basic-text", ("study",)),
        ("sc", "kept", "", ("pacs", "ris", "viewer")),
        ("sc", "removed", "", ("partner", "study")),
        ("deidentified", "removed", "", ("pacs", "ris", "viewer", "partner", "study")),
    ]


@pytest.mark.parametrize("trust", ["inside", "outside"])
def test_identity_follows_trust_and_kind(trust: str) -> None:
    """Identity is kept for inside peers alone, and by a de-identified image for nobody."""
    peers = {"one": Peer.model_validate({"ae_title": "ONE", "host": "127.0.0.1", "port": 104, "trust": trust})}
    kinds: tuple[OutputKind, ...] = ("sr", "sc", "deidentified", "original")
    found = {kind: identity for kind, identity, *_ in _groups(route(kinds, ("one",)), peers, Order(), has_pixels=True)}
    assert found == {
        kind: "kept" if trust == "inside" and kind not in NAMELESS_KINDS else "removed" for kind in kinds
    }
    assert "deidentified" in NAMELESS_KINDS


def test_a_peer_is_outside_unless_it_says_otherwise() -> None:
    """A peer file without ``trust`` must not get an identity."""
    peers = {"one": Peer(ae_title="ONE", host="127.0.0.1", port=104)}
    groups = _groups(route(("sr", "sc"), ("one",)), peers, Order(), has_pixels=True)
    assert [identity for _, identity, *_ in groups] == ["removed", "removed"]


def test_a_route_without_outputs_asks_no_model_and_no_redaction() -> None:
    """Where nothing leaves nothing costly is done, but the pixels are digested: a resend is told by that."""
    refuse = raising(Unwanted)
    result = work(kit(route(()), infer=refuse, redact=refuse, waive=refuse, encode=refuse))
    assert result.outputs == ()
    assert result.held == ()
    assert len(result.pixel_digest) == 64


def test_an_instance_without_pixels_gives_the_original_alone() -> None:
    """A report or picture of an object that shows nothing would be about nothing."""
    refuse = raising(Unwanted)
    source = pydicom_file("rtplan.dcm")
    result = work(kit(route(("sr", "sc", "original")), redact=refuse, encode=refuse), source)
    assert made(result) == ["original"]
    assert result.held == ()
    assert result.pixel_digest == ""
    assert written(result.outputs[0]) == spooled(source)


def document(sop_class: str) -> bytes:
    """An object of a class without pictures, whose text names somebody."""
    ds = pydicom.dcmread(BytesIO(pydicom_file("rtplan.dcm")))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.EncapsulatedDocument, ds.TextValue = b"%PDF QUISTGAARD", "Quistgaard"
    stream = BytesIO()
    ds.save_as(stream)
    return stream.getvalue()


@pytest.mark.parametrize("documents", ["hold", "drop"])
@pytest.mark.parametrize("sop_class", [
    uid.ComprehensiveSRStorage, uid.TwelveLeadECGWaveformStorage, uid.EncapsulatedPDFStorage, uid.EncapsulatedCDAStorage,
    uid.EncapsulatedSTLStorage, uid.GrayscaleSoftcopyPresentationStateStorage, uid.RawDataStorage,
    uid.BasicStructuredDisplayStorage, uid.GeneralECGWaveformStorage, uid.KeyObjectSelectionDocumentStorage,
])  # fmt: skip
def test_documents_never_leave_without_identity(sop_class: str, documents: Literal["hold", "drop"]) -> None:
    """Reports, waveforms, documents: where a rule wants them de-identified they are held or given up, the original leaves."""
    chosen = kit(
        route(("sr", "sc", "deidentified", "original"), ("pacs", "lab")), redact=raising(Unwanted), documents=documents,
        peers=dict.fromkeys(("pacs", "lab"), PEERS["pacs"]),
    )
    result = work(chosen, document(sop_class))
    assert made(result) == ["original"]
    assert result.held == (Held("deidentified", ("pacs", "lab"), "no_picture", dropped=documents == "drop"),)


def test_an_image_without_pixels_is_held() -> None:
    """An image that was cut off before its pixels is no object without pixels: a person must see it; the original leaves."""
    ds = pydicom.dcmread(BytesIO(pydicom_file("CT_small.dcm")))
    del ds.PixelData
    cut = BytesIO()
    ds.save_as(cut)
    result = work(kit(route(("sr", "sc", "deidentified", "original"))), cut.getvalue())
    assert made(result) == ["original"]
    assert held(result) == {"sr": "undecodable", "sc": "undecodable", "deidentified": "undecodable"}


def test_originals_alone_are_not_redacted() -> None:
    """The node does not read text in pixels that it passes on unchanged."""
    result = work(kit(route(("original",)), redact=raising(Unwanted)))
    assert made(result) == ["original"]


# -- what fails holds what it must, and no more
PIXEL_ERRORS = [Undecodable("x"), UnsupportedTransferSyntax("x"), RedactionUncertain("x"), StageFailed("x")]


@pytest.mark.parametrize("error", PIXEL_ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("stage", ["redact", "encode"])
def test_failing_pixels_hold_pixels_and_the_report_leaves(stage: str, error: Permanent) -> None:
    """The SR for an inside peer leaves although its picture waits; every pixel output of every destination is held."""
    everything = route(("sr", "sc", "deidentified"), ("pacs", "partner"))
    result = work(kit(everything, **{stage: raising(error)}))
    assert made(result) == ["sr", "sr"]
    assert {(one.kind, one.destinations, one.reason) for one in result.held} == {
        ("sc", ("pacs",), error.code), ("sc", ("partner",), error.code), ("deidentified", ("pacs", "partner"), error.code),
    }


@pytest.mark.parametrize("error", [StageFailed("x"), ValueError("x")], ids=["ours", "strange"])
def test_a_failing_model_holds_everything_but_the_original(error: Exception) -> None:
    """A report without the finding that its route wants must not pass as complete."""
    result = work(kit(route(("sr", "sc", "deidentified", "original")), infer=raising(error)))
    assert made(result) == ["original"]
    assert held(result) == {"sr": "stage_failed", "sc": "stage_failed", "deidentified": "stage_failed"}
    assert result.findings == ()


@pytest.mark.parametrize("stage", ["route", "redact", "encode", "infer", "sr"])
def test_a_strange_error_becomes_stage_failed_without_its_text(stage: str, lines: StringIO) -> None:
    """A library may quote the patient in its error: the text is in no log line and no message."""
    strange = raising(KeyError(f"no such name: {MARK}"))
    wanted = route(("sr", "sc", "deidentified"))
    broken = kit(wanted, outputs={**OUTPUTS, "sr": strange}) if stage == "sr" else kit(wanted, **{stage: strange})
    if stage == "route":
        with pytest.raises(StageFailed) as caught:
            work(broken)
        error: BaseException | None = caught.value
        assert "route" in str(error)
        assert "KeyError" in str(error)
        while error is not None:
            assert MARK not in repr(error)
            error = error.__cause__  # the context stays, but `from None` keeps a traceback from printing it
        assert caught.value.__suppress_context__
    else:
        assert set(held(work(broken)).values()) == {"stage_failed"}
    defects = [json.loads(line) for line in lines.getvalue().splitlines()]
    named = "report" if stage == "sr" else stage
    assert [(one["event"], one["stage"], one["error_type"]) for one in defects] == [("defect", named, "KeyError")]
    assert "Zzmarker" not in lines.getvalue()


def test_a_header_that_cannot_be_read_leaves_as_undecodable() -> None:
    """The instance as a whole cannot be worked, so the caller must hear of it."""
    data = spooled(marked_dx())
    instance = header(BytesIO(data), instance_id="i", location="", node_id="")
    with pytest.raises(Undecodable):
        process(instance, BytesIO(data[:-12290]), kit(route(("sr",))))


def test_what_will_pass_by_itself_is_not_held() -> None:
    """A transient error of any stage leaves `process`, so that the instance is deferred and nothing is shown as held."""
    for stage in ("route", "infer", "redact", "encode"):
        with pytest.raises(SpoolFull):
            work(kit(route(("sr", "sc")), **{stage: raising(SpoolFull("x"))}))


@pytest.mark.parametrize("broken", ["sr", "sc", "deidentified", "original"])
def test_a_failing_builder_holds_its_output_alone(broken: OutputKind) -> None:
    """One output that cannot be made keeps no other from leaving."""
    kinds: tuple[OutputKind, ...] = ("sr", "sc", "deidentified", "original")
    result = work(kit(route(kinds), outputs={**OUTPUTS, broken: raising(StageFailed("x"))}))
    assert held(result) == {broken: "stage_failed"}
    assert made(result) == sorted(set(kinds) - {broken})


def test_redaction_in_header_mode_holds_what_leaves_for_outside_alone() -> None:
    """The same capture is made for the inside peer; the builder for outside refuses it."""

    def loose(image: Image, _frames: object) -> Redacted:
        return dataclasses.replace(redacted(image), strict=False)

    result = work(kit(route(("sc", "deidentified"), ("pacs", "partner")), redact=loose))
    assert [(one.kind, one.identity) for one in result.outputs] == [("sc", "kept")]
    assert {(one.kind, one.destinations) for one in result.held} == {
        ("sc", ("partner",)), ("deidentified", ("pacs", "partner")),
    }
    assert set(held(result).values()) == {"redaction_uncertain"}


# -- a person's release
def test_a_release_takes_the_place_of_redaction() -> None:
    """What a person vouched for is not judged again, and the object says so."""
    order = Order(generation=1, waived=True)
    result = work(kit(route(("deidentified",), ("partner",)), redact=raising(RedactionUncertain("x"))), order=order)
    assert made(result) == ["deidentified"]
    assert result.held == ()
    ds = pydicom.dcmread(BytesIO(written(result.outputs[0])))
    assert "released by a person" in ds.DeidentificationMethod


def test_nothing_is_waived_unasked() -> None:
    """Without the release redaction runs, whatever the generation."""
    result = work(kit(route(("sc",)), waive=raising(Unwanted)), order=Order(generation=3))
    assert made(result) == ["sc"]


# -- what a rule holds
@pytest.mark.parametrize("reason", ["body_part_uncertain", "tag_disagrees"])
def test_what_a_rule_holds_waits_and_the_original_leaves(reason: str) -> None:
    """No model is asked and nothing is redacted for what a person must look at first; an original claims nothing."""
    held_route = dataclasses.replace(route(("sr", "sc", "deidentified", "original")), hold=reason)
    result = work(kit(held_route, infer=raising(Unwanted), redact=raising(Unwanted)))
    assert made(result) == ["original"]
    assert held(result) == {"sr": reason, "sc": reason, "deidentified": reason}
    assert result.findings == ()
    assert len(result.pixel_digest) == 64


def test_what_a_person_has_settled_is_made() -> None:
    """By the same route, and redaction is not waived by it."""
    held_route = dataclasses.replace(route(("sr", "sc")), hold="body_part_uncertain")
    order = Order(generation=1, settled=True)
    result = work(kit(held_route), order=order)
    assert (made(result), result.held) == (["sc", "sr"], ())
    result = work(kit(held_route, redact=raising(RedactionUncertain("x"))), order=order)
    assert (made(result), held(result)) == (["sr"], {"sc": "redaction_uncertain"})


def test_a_cut_off_image_is_held_for_what_the_rule_says_first() -> None:
    """The person who releases it learns then that it has no pixels."""
    ds = pydicom.dcmread(BytesIO(pydicom_file("CT_small.dcm")))
    del ds.PixelData
    cut = BytesIO()
    ds.save_as(cut)
    held_route = dataclasses.replace(route(("sr", "original")), hold="body_part_uncertain")
    assert held(work(kit(held_route), cut.getvalue())) == {"sr": "body_part_uncertain"}
    assert held(work(kit(held_route), cut.getvalue(), Order(1, settled=True))) == {"sr": "undecodable"}


# -- identity of results
def test_a_repeat_makes_the_same_objects() -> None:
    """A crash and repeat gives the same UIDs and the same bytes, so an archive that has them keeps one of each."""
    wanted = kit(route(("sr", "sc", "deidentified"), ("pacs", "partner")))
    one, two = work(wanted), work(wanted)
    assert [(o.sop_instance_uid, written(o)) for o in one.outputs] == [(o.sop_instance_uid, written(o)) for o in two.outputs]
    assert len({o.sop_instance_uid for o in one.outputs}) == len(one.outputs) == 5


def test_a_rework_on_purpose_makes_new_objects() -> None:
    """The next generation has other UIDs, except for originals, which keep theirs."""
    wanted = kit(route(("sr", "sc", "deidentified", "original")))
    one, two = (
        {o.kind: o.sop_instance_uid for o in work(wanted, order=Order(generation=number)).outputs} for number in (0, 1)
    )
    assert {kind for kind in one if one[kind] == two[kind]} == {"original"}


@pytest.mark.parametrize("what", ["digest", "model_digests"])
def test_another_model_makes_other_objects(what: str) -> None:
    """A result of another router, setting or findings model is another object, never the same UID with other content."""
    plain = kit(route(("sr", "sc", "deidentified")))
    values = {"digest": "ef" * 32, "model_digests": {FINDINGS[0].reference: "ef" * 32, "of another": "ab" * 32}}
    changed = dataclasses.replace(plain, **{what: values[what]})
    one, two = ({o.kind: o.sop_instance_uid for o in work(each).outputs} for each in (plain, changed))
    assert len(one) == 3
    assert all(one[kind] != two[kind] for kind in one)


def test_a_model_that_did_not_speak_does_not_count() -> None:
    """A new version of a model that this route does not name makes no new objects."""
    plain = kit(route(("sr",)))
    changed = dataclasses.replace(plain, model_digests={**plain.model_digests, "of another": "ef" * 32})
    one, two = (work(each).outputs[0].sop_instance_uid for each in (plain, changed))
    assert one == two


def test_every_model_that_spoke_counts() -> None:
    """Findings of two models: a new version of either makes new objects, and one abnormal finding makes them urgent."""
    calm = dataclasses.replace(FINDINGS[0], items=(FINDINGS[0].items[1],), model="second")
    plain = kit(dataclasses.replace(route(("sr",)), urgent="abnormal"), infer=lambda *_: (calm, *FINDINGS))
    changed = dataclasses.replace(plain, model_digests={**plain.model_digests, calm.reference: "ef" * 32})
    one, two = work(plain), work(changed)
    assert one.findings == (calm, *FINDINGS)
    assert (one.urgent, two.urgent) == (True, True)
    assert one.outputs[0].sop_instance_uid != two.outputs[0].sop_instance_uid


def test_the_digest_tells_its_parts_apart() -> None:
    """Moving a character from one part to the next gives another digest."""
    assert digest_of("ab", "c") != digest_of("a", "bc") != digest_of("abc")


SR, SC = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.7"


def test_a_report_names_the_report_before_it_alone() -> None:
    """Predecessors are filtered by kind and side: an SR claims to replace no picture, and tells no UID of the other side."""
    seen: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {}

    def watched(kind: OutputKind) -> Callable[[Material], Output]:
        def build(material: Material) -> Output:
            seen[kind, material.identity] = material.predecessors
            return OUTPUTS[kind](material)

        return build

    order = Order(1, predecessors=(
        ("sr", "kept", SR, "2.25.11"), ("sr", "removed", SR, "2.25.12"), ("sc", "kept", SC, "2.25.13"),
    ))
    kinds: tuple[OutputKind, ...] = ("sr", "sc", "deidentified")
    wanted = kit(route(kinds, ("pacs", "partner")), outputs={kind: watched(kind) for kind in kinds})
    result = work(wanted, order=order)
    assert seen == {
        ("sr", "kept"): ((SR, "2.25.11"),), ("sr", "removed"): ((SR, "2.25.12"),), ("sc", "kept"): ((SC, "2.25.13"),),
        ("sc", "removed"): (), ("deidentified", "removed"): (),
    }
    for report in (one for one in result.outputs if one.kind == "sr"):
        ds = pydicom.dcmread(BytesIO(written(report)))
        (study,) = ds.PredecessorDocumentsSequence
        (item,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
        assert item.ReferencedSOPClassUID == SR
        assert item.ReferencedSOPInstanceUID == ("2.25.11" if report.identity == "kept" else "2.25.12")


# -- a part of the work
@pytest.mark.parametrize(
    ("only", "made_for"),
    [
        ({("sc", "pacs")}, {("sc", ("pacs",))}),
        ({("sc", "*")}, {("sc", ("pacs",)), ("sc", ("partner",))}),
        ({("sr", "partner"), ("deidentified", "*")}, {("sr", ("partner",)), ("deidentified", ("pacs", "partner"))}),
        ({("sc", "study")}, set()),
        (set(), set()),
    ],
)
def test_only_what_is_asked_for_is_made(only: set[tuple[OutputKind, str]], made_for: set[tuple[str, tuple[str, ...]]]) -> None:
    """A rework makes what was held, for whom it was held, and nothing that was delivered already or that no route wants."""
    everything = kit(route(("sr", "sc", "deidentified"), ("pacs", "partner")))
    result = work(everything, order=Order(1, only=frozenset(only)))
    assert {(one.kind, one.destinations) for one in result.outputs} == made_for
    assert result.held == ()


@pytest.mark.parametrize("error", [Undecodable("x"), StageFailed("x")])
def test_only_what_is_asked_for_is_held(error: Permanent) -> None:
    """What was delivered already is not held when the rework fails again."""
    broken = kit(route(("sr", "sc", "deidentified"), ("pacs", "partner")), redact=raising(error))
    result = work(broken, order=Order(1, only=frozenset({("sc", "pacs")})))
    assert result.outputs == ()
    assert [(one.kind, one.destinations, one.reason) for one in result.held] == [("sc", ("pacs",), error.code)]


@pytest.mark.parametrize(("urgent", "found", "first"), [
    ("never", True, False), ("abnormal", True, True), ("abnormal", False, False), ("always", False, True),
])
def test_what_is_urgent_is_said_by_the_rule_or_by_rule_and_finding(urgent: Urgency, found: bool, first: bool) -> None:
    """A finding alone makes nothing urgent, nor does a rule that asks for one that is not there."""
    chosen = dataclasses.replace(route(("sr",)), urgent=urgent)
    assert work(kit(chosen, infer=lambda *_: FINDINGS if found else ())).urgent is first


@pytest.mark.parametrize(("kinds", "asked"), [(("sc",), [1]), (("sr", "sc"), [1]), (("sc", "deidentified"), None)])
def test_only_the_frames_that_are_shown_are_judged(kinds: tuple[OutputKind, ...], asked: list[int] | None) -> None:
    """A capture shows the middle one of four frames; a whole image shows them all, so all of them are judged."""
    seen: list[object] = []

    def redact(image: Image, frames: object) -> Redacted:
        seen.append(frames)
        return redacted(image)

    work(kit(route(kinds), redact=redact), marked_dx(frames=4))
    assert seen == [asked]


# -- what is said of the work
@pytest.mark.parametrize("frames", [1, 5])
def test_progress_is_told_at_each_stage_and_each_frame(frames: int) -> None:
    """A long instance must not look like a stuck one, neither while it is worked nor while it is written."""
    steps: list[int] = []
    data = spooled(marked_dx(frames=frames))
    instance = header(BytesIO(data), instance_id="20310709T101112131415-0badcafe", location="incoming/x.dcm", node_id="n")
    result = process(instance, BytesIO(data), kit(route(("sr", "deidentified"))), None, lambda: steps.append(1))
    stages = len(result.stage_ms) + 1  # report, for each of two outputs
    assert len(steps) == stages + frames, "the digest reads every frame"
    for output in result.outputs:
        output.write(BytesIO())
    assert len(steps) >= stages + 2 * frames - 1, "writing reads them again, but for the one that is in hand"


def test_a_digest_that_is_known_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixels of a resend were decoded once to compare them."""
    monkeypatch.setattr(Image, "pixel_digest", raising(Unwanted()))
    assert work(kit(route(("original",))), order=Order(pixel_digest="ab" * 32)).pixel_digest == "ab" * 32


def test_every_stage_is_timed_also_when_it_fails() -> None:
    """`queue show` and the benchmarks rest on these figures."""
    names = {"read", "route", "infer", "digest", "redact", "encode", "report"}
    assert set(work(kit(route(("sr", "sc")))).stage_ms) == names
    failed = work(kit(route(("sr", "sc")), redact=raising(RedactionUncertain("x")))).stage_ms
    assert set(failed) == names - {"encode"}
    assert min(failed.values()) >= 0


def test_pixels_that_do_not_decode_have_no_digest_and_hold() -> None:
    """Undecodable is never clean, and never the same as something else."""
    source = marked_dx()
    dataset = pydicom.dcmread(BytesIO(source))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f no such stream"])
    dataset["PixelData"].VR = "OB"
    broken = io.BytesIO()
    pydicom.dcmwrite(broken, dataset, enforce_file_format=True)

    def look(image: Image, _frames: object) -> Redacted:
        image.frame(0)
        return redacted(image)

    result = work(kit(route(("sr", "sc")), redact=look), broken.getvalue())
    assert result.pixel_digest == ""
    assert made(result) == ["sr"]
    assert held(result) == {"sc": "undecodable"}


def test_the_stages_get_what_the_one_before_made() -> None:
    """Order is code: redaction sees the opened image, the coder what redaction gave, the builders what was coded."""
    seen: list[object] = []

    def encode(what: Redacted) -> Coded:
        seen.append(what.method)
        return Encode()(what)

    def infer(image: Image, chosen: Route) -> tuple[Findings, ...]:
        seen.append((image.rows, chosen.rule))
        return FINDINGS

    def choose(instance: Instance, image: Image) -> Route:
        seen.append((instance.modality, image.columns))
        return route(("sc",))

    result = work(kit(route(()), route=choose, infer=infer, encode=encode))
    assert seen == [("DX", 64), (96, "chest"), "found nothing"]
    assert made(result) == ["sc"]
