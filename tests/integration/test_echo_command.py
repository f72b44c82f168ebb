"""`dicomnode echo PEER` against DCMTK's storescp: what it shows, as a table and as JSON, and how it fails."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from tests.acceptance.harness import DICOMNODE
from tests.peers import STORESCP, Archive, free_port, listens, storescp, wait_for

pytestmark = pytest.mark.skipif(not shutil.which(STORESCP), reason="DCMTK is not installed (apt: dcmtk)")

#: An archive of the old school: Comprehensive SR and CT, the plain syntaxes, nothing else.
OLD = f"""
[[TransferSyntaxes]]
[Plain]
TransferSyntax1 = {ExplicitVRLittleEndian}
TransferSyntax2 = {ImplicitVRLittleEndian}
[[PresentationContexts]]
[Old]
PresentationContext1 = 1.2.840.10008.1.1\\Plain
PresentationContext2 = {ComprehensiveSRStorage}\\Plain
PresentationContext3 = {CTImageStorage}\\Plain
[[Profiles]]
[Default]
PresentationContexts = Old
"""


def configured(root: Path, archive: Archive) -> Path:
    """A configuration whose one peer is the archive."""
    line = [*DICOMNODE, "init", str(root / "config"), "--state-dir", str(root / "state"), "--forward", archive.forward]
    subprocess.run(line, check=True, capture_output=True, timeout=60)
    return root / "config"


def echo(config: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Ask the peer."""
    line = [*DICOMNODE, "echo", *more, "-c", str(config)]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, env=environment)


def test_a_peer_that_takes_everything(tmp_path: Path) -> None:
    """JSON has the times, every SR class by its name in the settings, and the transfer syntaxes of each class."""
    with storescp(tmp_path / "in") as archive:
        done = echo(configured(tmp_path, archive), "archive", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert list(told) == ["peer", "echo", "association_ms", "echo_ms", "sr_classes", "accepted"]
    assert (told["peer"], told["echo"]) == ("archive", True)
    assert told["sr_classes"][0] == "comprehensive-3d"
    assert set(told["sr_classes"]) == {"comprehensive-3d", "comprehensive", "enhanced", "basic-text"}
    assert ExplicitVRLittleEndian in told["accepted"][Comprehensive3DSRStorage]
    assert told["association_ms"] > 0
    assert told["echo_ms"] > 0


def test_a_peer_of_the_old_school_is_told_of(tmp_path: Path) -> None:
    """The table says which classes are taken, and the setting that must change is given as a line to copy."""
    (tmp_path / "old.cfg").write_text(OLD)
    options = ("--config-file", str(tmp_path / "old.cfg"), "Default")
    # `storescp` of tests.acceptance.peers also gives +xa, which a configuration file excludes.
    port = free_port()
    archive = Archive("ARCHIVE", port, tmp_path)
    process = subprocess.Popen([STORESCP, "-aet", "ARCHIVE", "-od", str(tmp_path), *options, str(port)])
    try:
        wait_for(lambda: listens(port), 20, "storescp listens")
        config = configured(tmp_path, archive)
        shown, told = echo(config, "archive"), json.loads(echo(config, "archive", "--json").stdout)
    finally:
        process.kill()
        process.wait()
    assert shown.returncode == 0
    assert "answered in" in shown.stdout
    assert "Comprehensive SR Storage" in shown.stdout
    assert 'set sr_class = "comprehensive" in peers/archive.toml' in shown.stdout
    assert told["sr_classes"] == ["comprehensive"]
    assert told["accepted"][Comprehensive3DSRStorage] == []
    assert told["accepted"][CTImageStorage] == [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


def test_a_peer_that_is_not_there(tmp_path: Path) -> None:
    """Nobody listens: one line on stderr, exit 1."""
    done = echo(configured(tmp_path, Archive("ARCHIVE", free_port(), tmp_path)), "archive")
    assert done.returncode == 1
    assert done.stderr.startswith("dicomnode: ")
    assert done.stderr.count("\n") == 1


def test_a_peer_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """A socket that accepts and says nothing ends with 1 after send.timeout_s."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        config = configured(tmp_path, Archive("ARCHIVE", silent.getsockname()[1], tmp_path))
        node = config / "node.toml"
        # The same key stands in no other section.
        node.write_text(node.read_text().replace("\ntimeout_s = 60.0", "\ntimeout_s = 1.0"))
        done = echo(config, "archive")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_peer_that_is_not_configured(tmp_path: Path) -> None:
    """A name that has no file is a fault of the configuration, and the known names are given."""
    config = configured(tmp_path, Archive("ARCHIVE", free_port(), tmp_path))
    done = echo(config, "pasc")
    assert done.returncode == 78
    assert "pasc" in done.stderr
    assert "known: archive" in done.stderr
