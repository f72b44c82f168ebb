"""A whole node with a model that says where: captures and segmentations arrive inside and outside, and come back as ours."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage, SegmentationStorage

from dicomnode.repository import models_dir
from dicomnode.settings import WorkSettings
from tests.acceptance.harness import Node
from tests.acceptance.samples import radiograph, write
from tests.integration.conformance_tools import DCIODVFY, dciodvfy_errors
from tests.peers import STORESCP, storescp, wait_for

mapper = pytest.importorskip("tests.unit.mapper", reason="the extra `train` is not installed: onnx makes the model")
SHIPPED = models_dir(WorkSettings())
needs = pytest.mark.skipif(
    not shutil.which(STORESCP) or not list(SHIPPED.glob("bodypart-router/*/model.onnx")),
    reason="DCMTK is not installed (apt: dcmtk), or the router's model is not in models/",
)
#: Rows from and to, columns from and to, of what is bright.
BOX = (150, 210, 60, 160)
ROUTES = """\
[[rule]]
name = "all"
models = ["lesions"]
outputs = ["sr", "sc", "sc-map", "seg", "deidentified"]
destinations = ["inside", "partner"]
urgent = "abnormal"
"""


def send(port: int, *paths: Path) -> None:
    """Send files with storescu of DCMTK, which proposes their SOP Classes alone."""
    line = ["/usr/bin/storescu", "-R", "-aec", "DICOMNODE", "127.0.0.1", str(port), *map(str, paths)]
    subprocess.run(line, check=True, env={**os.environ, "TCP_NODELAY": "1"}, timeout=60)


@needs
def test_a_node_sends_where_a_model_saw_something(tmp_path: Path) -> None:
    """From C-STORE to two archives: the mask lies on what is bright, names its image, and is not worked when it comes back."""
    ds = radiograph(rows=300, cols=200)
    pixels = ds.pixel_array // 4
    pixels[BOX[0] : BOX[1], BOX[2] : BOX[3]] = 4000
    ds.PixelData = pixels.tobytes()
    mapper.write(tmp_path / "models", size=64)
    (tmp_path / "models" / "bodypart-router").symlink_to(SHIPPED / "bodypart-router")
    with (
        storescp(tmp_path / "inside", ae_title="INSIDE") as inside,
        storescp(tmp_path / "outside", ae_title="OUTSIDE") as outside,
    ):
        node = Node(tmp_path, forward=(inside.forward,))
        node.append("peers/partner.toml", f'ae_title = "OUTSIDE"\nhost = "127.0.0.1"\nport = {outside.port}\n')
        node.edit("node.toml", '# models_dir = "/var/lib/dicomnode-models"', f'models_dir = "{tmp_path / "models"}"')
        (node.config / "routes.toml").write_text(ROUTES)
        with node.running():
            send(node.port, write(ds, tmp_path / "sources"))
            for archive in (inside, outside):
                arrived = lambda archive=archive: len(list(archive.folder.iterdir())) == 5  # noqa: E731
                wait_for(arrived, 120, lambda: f"results arrive; {node.counts()} {node.tail()}")
            (row,) = node.json("queue", "show", str(ds.SOPInstanceUID))
            assert (row["model"], row["finding"], row["abnormal"]) == ("lesions 1.0.0", "lesion", True)
            assert row["findings"] == [
                {"model": "lesions", "version": "1.0.0", "finding": "lesion", "probability": pytest.approx(1, abs=0.01),
                 "abnormal": True},
            ]  # fmt: skip
            assert {one["kind"] for one in row["deliveries"] if one["urgent"]} == {"sr", "sc", "sc-map", "seg", "deidentified"}
            ours = [path for path in inside.folder.iterdir() if dcmread(path).SOPClassUID == SegmentationStorage]
            send(node.port, *ours)
            known = lambda: node.counts().get("instance/own") == 1  # noqa: E731
            wait_for(known, 60, lambda: f"ours is known; {node.counts()} {node.tail()}")
    for archive, identity in ((inside, "kept"), (outside, "removed")):
        found = {path: dcmread(path) for path in archive.folder.iterdir()}
        (path,) = [path for path, one in found.items() if one.SOPClassUID == SegmentationStorage]
        segmentation, captures = found[path], [o for o in found.values() if o.SOPClassUID == SecondaryCaptureImageStorage]
        assert sorted(one.SeriesNumber for one in captures) == [9002, 9003]
        assert (segmentation.PatientID == ds.PatientID) == (identity == "kept")
        image = next(one for one in found.values() if one.SOPClassUID == ds.SOPClassUID)
        source = segmentation.SourceImageSequence[0].ReferencedSOPInstanceUID
        assert source == (ds.SOPInstanceUID if identity == "kept" else image.SOPInstanceUID)
        inside_of = hd.seg.segread(path).pixel_array.reshape(300, 200) > 0
        down, across = np.flatnonzero(inside_of.any(axis=1)), np.flatnonzero(inside_of.any(axis=0))
        off = np.array([down[0], down[-1] + 1, across[0], across[-1] + 1]) - BOX
        assert np.abs(off).max() <= 6, off  # a cell of the model's map is 9 pixels of this frame
        if shutil.which(DCIODVFY):
            assert dciodvfy_errors(path) == []
