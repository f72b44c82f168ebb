"""A large object through a whole node: every process stays small, and what arrives is the picture without the name."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicomnode.image import Image
from tests.acceptance.large import OUTPUTS, big_node, status
from tests.cine import KINDS, write_cine
from tests.peers import STORESCP, STORESCU, storescp, wait_for

#: Of 8 MB each.
FRAMES = 24
#: By how much a process may be larger behind the large object than behind one frame, MB: far less than the object.
#: The worker keeps the frame before, to see what has changed in this one: stored values and as displayed, for both looks.
GROWTH_MB = {"accept": 24, "work": 96, "send": 24, "keep": 24}

needs = pytest.mark.skipif(
    not all(shutil.which(p) for p in (STORESCP, STORESCU, "tesseract")), reason="DCMTK or tesseract is not installed",
)


@needs
def test_a_large_object_passes_in_little_memory(tmp_path: Path) -> None:
    """200 MB in 24 frames cost each process hardly more than one frame does, through all stages to the archive."""
    kind = KINDS["smooth"]
    with storescp(tmp_path / "archive") as archive:
        node = big_node(tmp_path, archive.forward)
        node.edit("node.toml", "workers = 2", "workers = 1")

        def send(name: str, frames: int) -> tuple[Path, dict[str, int]]:
            path = tmp_path / name
            write_cine(path, kind, frames)
            before = len(node.events("delivery_done"))
            line = [STORESCU, "-aec", "DICOMNODE", "127.0.0.1", str(node.port), str(path)]
            subprocess.run(line, check=True, timeout=120)

            def through() -> bool:
                assert not node.events("output_held"), node.tail()
                return len(node.events("delivery_done")) >= before + OUTPUTS

            wait_for(through, 180, lambda: f"all delivered; {node.tail()}", 0.2)
            return path, {role: max(status(pid, "VmHWM") for pid in node.pids(role)) for role in GROWTH_MB}

        with node.running():
            wait_for(lambda: node.events("worker_started"), 60, "the worker is up")
            _, small = send("one.dcm", 1)
            source, large = send("many.dcm", FRAMES)
        grown = {role: large[role] - small[role] for role in GROWTH_MB}
        assert all(grown[role] <= most for role, most in GROWTH_MB.items()), (small, large)
        assert large["accept"] < 200
        assert large["work"] < 1000
        _redacted(source, archive.folder)


def _redacted(source: Path, folder: Path) -> None:
    """The original is there byte for byte, and in the de-identified image only the text is gone, from every frame."""
    kind = KINDS["smooth"]
    uid = str(dcmread(source, stop_before_pixels=True).SOPInstanceUID)
    arrived = {path: dcmread(path, stop_before_pixels=True) for path in folder.iterdir()}
    (original,) = [path for path, ds in arrived.items() if str(ds.SOPInstanceUID) == uid]
    (clean,) = [path for path, ds in arrived.items() if ds.get("NumberOfFrames") == FRAMES and path != original]
    with source.open("rb") as one, original.open("rb") as two, clean.open("rb") as three:
        before, passed, after = Image.open(one), Image.open(two), Image.open(three)
        assert "Quorvexley" not in str(after.dataset)
        for number in range(FRAMES):
            np.testing.assert_array_equal(before.frame(number), passed.frame(number))
            changed = before.frame(number) != after.frame(number)
            assert changed.any()
            assert not changed[kind.band :].any()
            assert not after.frame(number)[: kind.band].any()
