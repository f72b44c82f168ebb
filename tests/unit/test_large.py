"""Objects of many frames in the memory of a few, for every way in which frames are stored."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path

import pytest

from dicomnode.header import header
from dicomnode.pipeline import process
from tests.cine import KINDS, write_cine
from tests.unit.fakes import kit, route

#: Even the few are more than the pieces in which files are copied.
FEW, MANY = 20, 40
#: Small frames: what is measured is how many of them are in memory at a time.
SIDE = 256


def peak_bytes(path: Path) -> int:
    """The most that is allocated while an object goes through all stages and is written."""
    with path.open("rb") as source, path.with_suffix(".out").open("w+b") as out:
        instance = header(source, instance_id="20310709T101112131415-0badcafe", location="incoming/x.dcm", node_id="n")
        tracemalloc.start()
        try:
            result = process(instance, source, kit(route(("sr", "sc", "deidentified", "original"))))
            for output in result.outputs:
                out.seek(0)
                output.write(out)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(result.outputs) == 4
        assert result.pixel_digest
        return peak


@pytest.mark.parametrize("name", KINDS)
def test_frames_do_not_add_up_in_memory(name: str, tmp_path: Path) -> None:
    """Twice the frames take hardly more memory."""
    kind = dataclasses.replace(KINDS[name], rows=SIDE, cols=SIDE)
    peaks = []
    for frames in (FEW, FEW, MANY):  # the first time modules are loaded and tables are made
        path = tmp_path / f"{frames}.dcm"
        write_cine(path, kind, frames)
        peaks.append(peak_bytes(path))
    _, few, many = peaks
    assert many - few < 2 * kind.native_bytes, (few, many)
