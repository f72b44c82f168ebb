"""A real node whose rules say what is done where the picture cannot be judged, or where Body Part Examined disagrees with it.

The router of the node answers; where an answer is wanted it is made certain by ``min_probability = 0`` and asked for beforehand
with ``dicomnode route``, so that the test holds for every router.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from tests.acceptance.harness import Node
from tests.acceptance.samples import MARKED_NAME, radiograph, write
from tests.peers import STORESCP, free_port, storescp, wait_for

pytestmark = pytest.mark.skipif(not shutil.which(STORESCP), reason="DCMTK is not installed (apt: dcmtk)")

ROUTES = """
min_probability = 0.0

[[rule]]
name = "held"
calling_ae = ["HELD"]
body_part = ["uncertain"]
uncertain = "hold"
outputs = ["sr", "sc", "original"]
destinations = ["archive"]

[[rule]]
name = "every"
calling_ae = ["EVERY"]
body_part = ["uncertain"]
uncertain = "all"
outputs = ["sr"]
destinations = ["archive"]

[[rule]]
name = "by-tag"
calling_ae = ["BYTAG"]
body_part = ["uncertain"]
uncertain = "tag"
outputs = ["sr"]
destinations = ["archive"]

[[rule]]
name = "spine"
calling_ae = ["BYTAG"]
body_part = ["spine"]
outputs = ["sr"]
destinations = ["archive"]

[[rule]]
name = "strict"
calling_ae = ["STRICT"]
trust = "hold"
outputs = ["sr"]
destinations = ["archive"]

[[rule]]
name = "agreeing"
calling_ae = ["BOTH"]
body_part = ["abdomen", "adult_chest", "pediatric_chest", "spine", "other"]
trust = "both"
outputs = ["sr"]
destinations = ["archive"]

[[rule]]
name = "children"
modality = ["CR"]
body_part = ["pediatric_chest"]
models = ["pneumonia-pediatric"]
outputs = ["sr"]
destinations = ["archive"]

[[rule]]
name = "rest"
outputs = ["sr"]
destinations = ["archive"]
"""


def even(tag: str) -> FileDataset:
    """A picture that shows nothing."""
    ds = radiograph(name=MARKED_NAME)
    ds.PixelData = np.full((ds.Rows, ds.Columns), 700, "<u2").tobytes()
    ds.BodyPartExamined = tag
    return ds


def shown(tag: str, seed: int) -> FileDataset:
    """A picture that shows something, of a device of its own."""
    ds = radiograph(seed=seed, name=MARKED_NAME)
    ds.BodyPartExamined, ds.StationName = tag, "QZX-ROOM"
    return ds


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node with these rules and one archive."""
    made = Node(tmp_path, forward=(f"ARCHIVE@127.0.0.1:{free_port()}",))
    (made.config / "routes.toml").write_text(ROUTES)
    return made


def send(node: Node, title: str, *paths: Path) -> None:
    """Send files under an AE title."""
    line = ["/usr/bin/storescu", "-aet", title, "-aec", "DICOMNODE", "127.0.0.1", str(node.port), *map(str, paths)]
    subprocess.run(line, check=True, env={**os.environ, "TCP_NODELAY": "1"}, timeout=60)


def rows(node: Node) -> dict[str, dict[str, Any]]:
    """The rows of the queue by calling AE title; the last one of each."""
    return {row["calling_ae"]: row for row in node.json("queue", "list")}


def all_done(node: Node, number: int) -> bool:
    """Whether so many instances are worked."""
    return node.counts().get("instance/done", 0) == number


def test_every_policy_through_the_whole_node(node: Node, tmp_path: Path) -> None:
    """Hold waits for a person and leaves when one says so; all asks each model; tag decides; nobody's name is in the log."""
    first = write(shown("", 1), tmp_path / "asked")
    node.command("check", check=False)
    (asked,) = [json.loads(line) for line in node.command("route", str(first), "--json").stdout.splitlines()]
    assert (asked["picture"], asked["doubt"], asked["agreement"]) == (asked["body_part"], None, "absent")
    wrong = "LSPINE" if asked["picture"] != "spine" else "ABDOMEN"
    files = {title: write(even("LSPINE"), tmp_path / "even") for title in ("HELD", "EVERY", "BYTAG", "OTHER")}
    files |= {title: write(shown(wrong, 1), tmp_path / "shown") for title in ("STRICT", "BOTH", "PICTURE")}
    with node.running():
        for title, path in files.items():
            send(node, title, path)
        wait_for(lambda: all_done(node, len(files)), 120, lambda: f"all is worked; {node.tail()}", 0.5)
        found = rows(node)
        told = {
            title: (
                row["rule"], row["body_part"], row["doubt"], row["agreement"],
                sorted((one["kind"], one["state"], one["reason"]) for one in row["deliveries"] if one["state"] == "hold"),
            )
            for title, row in found.items()
        }
        uncertain = ("uncertain", "constant", "")
        by = [("sc", "hold", "body_part_uncertain"), ("sr", "hold", "body_part_uncertain")]
        assert told == {
            "HELD": ("held", *uncertain, by), "EVERY": ("every", *uncertain, []),
            "BYTAG": ("spine", "spine", "constant", "", []), "OTHER": ("rest", *uncertain, []),
            "STRICT": ("strict", asked["picture"], "", "disagrees", [("sr", "hold", "tag_disagrees")]),
            "BOTH": ("rest", "uncertain", "tag_disagrees", "disagrees", []),
            "PICTURE": (
                "children" if asked["picture"] == "pediatric_chest" else "rest", asked["picture"], "", "disagrees", [],
            ),
        }
        assert found["EVERY"]["model"].startswith("pneumonia-pediatric")
        assert found["OTHER"]["model"] == ""
        assert "original" in {one["kind"] for one in found["HELD"]["deliveries"] if one["state"] != "hold"}
        (where,) = node.json("where", "HELD")
        assert {"dicomnode queue release" in str(now.get("acts")) for now in where["now"] if now["state"] == "hold"} == {True}
        assert "body part uncertain because constant" in node.command("where", "HELD").stdout
        for title in ("HELD", "STRICT"):
            node.command("queue", "release", found[title]["instance_id"])
        port = int(next(
            line.split(" = ")[1] for line in (node.config / "peers" / "archive.toml").read_text().splitlines()
            if line.startswith("port = ")
        ))
        with storescp(tmp_path / "archive", ae_title="ARCHIVE", port=port):
            arrived = lambda: {key for key in node.counts() if key.startswith("delivery/")} == {"delivery/delivered"}  # noqa: E731
            wait_for(arrived, 120, lambda: f"all is delivered; {node.counts()} {node.tail()}", 0.5)
        disagreements = node.events("tag_disagrees")
        (device,) = {one["device"] for one in disagreements}
        assert {(one["body_part"], one["calling_ae"]) for one in disagreements} == {
            (asked["picture"], title) for title in ("STRICT", "BOTH", "PICTURE")
        }
        (again,) = [json.loads(line) for line in node.command("route", str(first), "--json").stdout.splitlines()]
        assert again["device"] == device
    counted = {row["calling_ae"]: row for row in node.json("report", "tags")}
    summed = {title: (row["wrong"], row["pictures"], row["device"]) for title, row in counted.items()}
    assert summed == dict.fromkeys(("STRICT", "BOTH", "PICTURE"), (1, 1, device))
    text = node.log_path.read_text() + node.command("report", "tags").stdout
    for mark in (*MARKED_NAME.split("^"), "QZX-ROOM", "LSPINE"):
        assert mark.lower() not in text.lower()


def test_killed_workers_count_each_picture_once(node: Node, tmp_path: Path) -> None:
    """Workers are killed again and again while pictures come; the report has each of them once."""
    paths = [write(shown("LSPINE", seed), tmp_path / "shown") for seed in range(24)]
    with node.running():
        for start in range(0, len(paths), 6):
            send(node, "SCANNER", *paths[start : start + 6])
            node.kill("work")
        wait_for(lambda: all_done(node, len(paths)), 180, lambda: f"all is worked; {node.counts()} {node.tail()}", 0.5)
        send(node, "SCANNER", *paths[:3])
        wait_for(lambda: node.counts().get("instance/duplicate") == 3, 60, lambda: f"resends are known; {node.tail()}", 0.5)
    (row,) = node.json("report", "tags")
    assert (row["pictures"], row["right"] + row["wrong"]) == (len(paths), len(paths))


@pytest.mark.parametrize("role", ["check", "work"])
def test_a_body_part_that_nothing_answers_refuses_the_start(node: Node, role: str) -> None:
    """File, rule and word are named; the start ends with 78."""
    node.edit("routes.toml", 'body_part = ["pediatric_chest"]', 'body_part = ["pediatric_chest", "left_knee"]')
    done = node.command(role, check=False)
    assert done.returncode == 78 if role == "work" else done.returncode != 0
    for word in ("routes.toml", "'children'", "'left_knee'"):
        assert word in done.stdout + done.stderr
