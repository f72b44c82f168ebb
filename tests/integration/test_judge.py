"""The judge as a process of a real master: only where a model is asked, started again when it dies, replaced by a reload."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicomnode.judging import SocketAppeal, wire
from tests import llm
from tests.acceptance.harness import Node
from tests.integration.master import Master
from tests.peers import wait_for
from tests.unit import pictures

TEXTS = ["QUISTGAARD", "WOBBLER"]
RIGHT = ["phi", "harmless"]


@pytest.fixture
def model() -> Iterator[llm.Model]:
    """An endpoint that judges well, until the test says otherwise."""
    with llm.running() as made:
        yield made


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    """A master whose children are killed with it."""
    made = Master(Node(tmp_path))
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.wait()
        wait_for(lambda: not made.node.pids("judge"), 20, "the judge ends with its master")


def configure(node: Node, model: llm.Model, *, header: bool = True) -> None:
    """Name the model, and ask it."""
    node.edit("node.toml", "[judge]", f'[judge]\nurl = "{model.url}"')
    node.edit("node.toml", 'model = ""', 'model = "tiny"')
    node.edit("node.toml", "timeout_s = 20.0", "timeout_s = 5.0")
    if header:
        node.edit("node.toml", 'redaction = "strict"', 'redaction = "header"')


def appeal(node: Node) -> SocketAppeal:
    """The judge as a worker sees it."""
    return SocketAppeal(node.state, "tiny", 5)


def test_it_judges_dies_and_judges_again(master: Master, model: llm.Model) -> None:
    """SIGKILL takes the judge: meanwhile all is phi, then another one answers; it ends with the master, and its socket goes."""
    node = master.node
    configure(node, model)
    master.start("judge")
    master.ready()
    ask = appeal(node)
    assert ask(TEXTS) == RIGHT
    assert model.texts == TEXTS
    (old,) = node.pids("judge")
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: len(node.events("judge_started")) == 2, 60, node.tail)
    assert ask(TEXTS) == RIGHT
    (new,) = node.pids("judge")
    os.kill(new, signal.SIGSTOP)
    impatient = SocketAppeal(node.state, "tiny", 0.1)
    assert impatient(TEXTS) == ["phi", "phi"]
    os.kill(new, signal.SIGCONT)
    master.stop()
    assert not (node.state / wire.SOCKET).exists()
    assert ask(TEXTS) == ["phi", "phi"]
    assert not any(text in node.log_path.read_text() for text in TEXTS)


def test_strict_mode_and_no_url_have_no_judge(master: Master, model: llm.Model) -> None:
    """A master has a judge only where one is asked; a reload brings it, changes it and takes it away."""
    node = master.node
    configure(node, model, header=False)
    master.start("judge", "keep")
    master.ready()
    assert node.pids("judge") == []
    node.edit("node.toml", 'redaction = "strict"', 'redaction = "header"')
    reload(master, 1)
    assert appeal(node)(TEXTS) == RIGHT
    first = node.pids("judge")
    node.edit("node.toml", "batch = 40", "batch = 1")
    reload(master, 2)
    wait_for(lambda: len(node.pids("judge")) == 1 and node.pids("judge") != first, 30, node.tail)
    model.asked.clear()
    assert appeal(node)(TEXTS) == RIGHT
    assert len(model.asked) == 2
    node.edit("node.toml", f'url = "{model.url}"', "")
    reload(master, 3)
    wait_for(lambda: node.pids("judge") == [], 30, "it has ended")
    assert not (node.state / wire.SOCKET).exists()
    master.stop()


def reload(master: Master, times: int) -> None:
    """Have the settings read anew."""
    master.tell(signal.SIGHUP)
    wait_for(lambda: len(master.node.events("config_reloaded")) == times, 120, master.node.tail)


def test_a_key_that_is_open_to_others_stops_the_start(master: Master, model: llm.Model) -> None:
    """Exit 78 and the name of the file; `check` says the same, and neither shows the key."""
    node = master.node
    configure(node, model)
    node.append("judge.key", "sk-secret\n")
    (node.config / "judge.key").chmod(0o644)
    node.edit("node.toml", '# key_file = "judge.key"', 'key_file = "judge.key"')
    for line in (("judge",), ("check", "--only", "judge")):
        done = node.command(*line, check=False)
        told = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == 78
        assert "judge.key is open to other accounts" in told
        assert "sk-secret" not in told
    (node.config / "judge.key").chmod(0o600)
    answers = {one["about"]: one for one in node.json("check", "--only", "judge")}
    assert answers["judge"]["outcome"] == "ok"
    assert "tiny judges in" in answers["judge"]["detail"]
    assert {headers["Authorization"] for headers in model.headers} == {"Bearer sk-secret"}
    model.mind = lambda texts: llm.said(["harmless"] * len(texts))
    answers = {one["about"]: one for one in node.json("check", "--only", "judge")}
    assert answers["judge"]["outcome"] == "warning"
    assert "do not use this model" in answers["judge"]["detail"]


def test_without_a_model_there_is_no_role_to_run(master: Master) -> None:
    """`dicomnode judge` alone names the setting that is missing."""
    done = master.node.command("judge", check=False)
    assert done.returncode == 78
    assert "judge.url" in done.stderr


# -- a picture, from the words in it to the answer of the model
#: Where the words stand in `source`: nobody knows either of them, and the model knows the second one to be technical.
NOBODYS, KNOWN = (20, 30, 170, 40), (20, 130, 170, 40)
RULE = """
[[place]]
manufacturer = "Acme"
model = "Sono 5"
rows = 200
columns = 400
rectangles = [{ x = 301, y = 150, w = 33, h = 21 }]
"""


def source(folder: Path) -> Path:
    """A colour picture of a device, in pairs of columns, with two words."""
    picture = np.zeros((200, 400), np.uint8)
    for text, (x, y, _, h) in (("ZIRBELNUSS", NOBODYS), ("WOBBLER", KNOWN)):
        pictures.draw(picture, text, x, y + h - 10, 255, 0.9)
    pairs = np.empty((200, 800), np.uint8)
    pairs[:, 0::4], pairs[:, 1::4] = picture[:, 0::2], picture[:, 1::2]
    pairs[:, 2::4], pairs[:, 3::4] = 128, 128
    device = {"Manufacturer": "Acme", "ManufacturerModelName": "Sono 5"}
    ds = pictures.dataset(np.zeros((200, 400, 3), np.uint8), "YBR_FULL_422", **device)
    path = folder / "x.dcm"
    path.write_bytes(pictures.part10(ds, pairs.tobytes()))
    return path


def redacted(node: Node, path: Path, mode: str) -> list[dict[str, Any]]:
    """Redact a file as the node would; gives the reported regions."""
    report = path.with_name("report.jsonl")
    node.command("redact", str(path), str(path.with_name("out.dcm")), "--mode", mode, "--report", str(report))
    (line,) = (json.loads(line) for line in report.read_text().splitlines())
    assert "held" not in line
    means = line["certificate"]["means"]
    assert (means["judge"], len(means["places"])) == ("tiny" if mode == "header" else "", 64)
    return list(line["regions"])


def reasons_at(regions: list[dict[str, Any]], place: tuple[int, int, int, int]) -> set[str]:
    """Why something goes where this word stands."""
    x, y, w, h = place
    return {r["reason"] for r in regions if r["x"] < x + w and x < r["x"] + r["w"] and r["y"] < y + h and y < r["y"] + r["h"]}


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="the program tesseract is not installed")
def test_a_picture_is_judged_by_model_and_rule(master: Master, model: llm.Model, tmp_path: Path) -> None:
    """What the model calls harmless stays; without a judge all that nobody knows goes; strict mode asks nobody.

    A rule's rectangle goes in any mode, fitted to the cells of the picture.
    """
    node, path = master.node, source(tmp_path)
    configure(node, model)
    node.append("redaction/acme.toml", RULE)
    master.start("judge")
    master.ready()
    judged = redacted(node, path, "header")
    assert reasons_at(judged, NOBODYS) == {"model"}
    assert reasons_at(judged, KNOWN) == set()
    rule = [{key: one[key] for key in "xywh"} for one in judged if one["reason"] == "rule"]
    assert rule == [{"x": 300, "y": 150, "w": 34, "h": 21}]
    assert {"ZIRBELNUSS", "WOBBLER"} <= set(model.texts)
    model.asked.clear()
    strict = redacted(node, path, "strict")
    assert "model" not in {one["reason"] for one in strict}
    assert reasons_at(strict, NOBODYS)
    assert reasons_at(strict, KNOWN)
    assert [one for one in strict if one["reason"] == "rule"]
    assert model.asked == []
    model.mind = lambda _: "Both of them are harmless, I am sure."
    assert reasons_at(redacted(node, path, "header"), KNOWN) == {"model"}
    assert model.asked
    master.stop()
    alone = redacted(node, path, "header")
    assert reasons_at(alone, NOBODYS) == reasons_at(alone, KNOWN) == {"model"}
    assert not any(text in node.log_path.read_text() for text in ("ZIRBELNUSS", "WOBBLER"))
