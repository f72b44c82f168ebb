"""The demo's parts: its samples need no network, and it says when something is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from dicomnode.demo import command, drawing, loop, samples
from dicomnode.settings import load

SAMPLE = samples.Sample(Path("x.dcm"), "x", "1.2.3")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[samples.Sample]:
    """The samples."""
    return samples.write(tmp_path_factory.mktemp("demo") / "samples")


def test_samples_are_readable_and_distinct(written: list[samples.Sample]) -> None:
    """Every sample is a Part 10 file with pixels and a SOP Instance UID of its own; several modalities are among them."""
    datasets = [dcmread(sample.path) for sample in written]
    assert [str(ds.SOPInstanceUID) for ds in datasets] == [sample.sop_instance_uid for sample in written]
    assert len({sample.sop_instance_uid for sample in written}) == len(written)
    assert all("PixelData" in ds for ds in datasets)
    assert len({ds.Modality for ds in datasets}) >= 4


def test_name_is_burned_in(written: list[samples.Sample]) -> None:
    """The drawn samples that claim a burned-in name have white text where the others are dark."""
    corner = {sample.title: dcmread(sample.path).pixel_array[20:130, 20:180] for sample in written if "drawn" in sample.title}
    assert {title: bool((pixels == 4095).any()) for title, pixels in corner.items()} == {
        "drawn: chest, name burned in": True, "drawn: chest of a child": False, "drawn: screen of text": True,
    }


def test_drawings_repeat() -> None:
    """The same shape and seed give the same pixels."""
    assert np.array_equal(drawing.chest(drawing.CHILD, 1), drawing.chest(drawing.CHILD, 1))


def test_configuration_is_one_of_loopback(tmp_path: Path) -> None:
    """Both nodes listen on this machine only, and the node's destination is the archive."""
    archive = loop.make(tmp_path / "archive", "ARCHIVE")
    node = loop.make(tmp_path / "node", "DICOMNODE", archive)
    settings = load(node.config)
    assert (settings.node.bind, settings.node.open) == ("127.0.0.1", True)
    assert (settings.peers["archive"].host, settings.peers["archive"].port) == ("127.0.0.1", archive.port)
    assert load(archive.config).node.bind == "127.0.0.1"


def row(state: str = "done", delivery: str = "delivered") -> dict[str, Any]:
    """Give a row of the queue with one delivery."""
    return {"state": state, "deliveries": [{"state": delivery, "sop_instance_uid": "1.9", "kind": "sr", "reason": ""}]}


@pytest.mark.parametrize(("rows", "found", "complete"), [
    ({"1.2.3": row()}, {"1.9": Path("y")}, True),
    ({"1.2.3": row()}, {}, False),
    ({"1.2.3": row(delivery="hold")}, {"1.9": Path("y")}, False),
    ({"1.2.3": row(state="quarantine")}, {"1.9": Path("y")}, False),
    ({"1.2.3": {"state": "done", "deliveries": []}}, {}, False),
    ({}, {}, False),
])
def test_missing_results_are_noticed(rows: dict[str, Any], found: dict[str, Path], complete: bool) -> None:
    """The demo is complete only when every sample is done and each of its outputs stands in the archive."""
    assert bool(command._complete([SAMPLE], rows, found)) is complete


@pytest.mark.parametrize(("given", "ended"), [
    (row(), True), (row(delivery="hold"), True), (row(state="active"), False), (row(delivery="deferred"), False), (None, False),
])
def test_waiting_ends_when_nothing_changes_any_more(given: dict[str, Any] | None, ended: bool) -> None:
    """An instance is waited for while it, or a delivery of it, can still change by itself."""
    assert command._ended(given) is ended
