"""The approved configuration in memory: the same settings on the other side, and nobody can change them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dicomnode import snapshot
from dicomnode.settings import Peer, Settings, load
from dicomnode.snapshot import Snapshot
from tests.integration.acceptor import settings


def everything(root: Path) -> Settings:
    """Settings in which nothing that travels stands at its default."""
    peer = Peer(
        ae_title="PACS", host="127.0.0.1", port=104, calls_from=("10.0.0.0/8", "::1"), trust="inside", associations=3,
        priority="high", max_mbit_s=12.5, windows=("19:00-06:00",), plain=True, plain_reason="a test",
    )
    return settings(root, peers={"pacs": peer}, open_=True, scp={"acceptors": 5, "acse_timeout_s": 0.5})


def test_settings_come_through_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every value, the digest included; a process takes them once."""
    given = everything(tmp_path)
    made = Snapshot(given)
    monkeypatch.setenv(snapshot.DESCRIPTOR, str(os.dup(made.descriptor)))
    found = snapshot.handed()
    assert found == given
    assert isinstance(found.peers["pacs"], Peer)
    assert snapshot.handed() is None
    made.close()


def test_the_shipped_configuration_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in ae_config/ is the same on the other side."""
    given = load(Path(__file__).parents[2] / "ae_config")
    made = Snapshot(given)
    monkeypatch.setenv(snapshot.DESCRIPTOR, str(made.descriptor))
    assert snapshot.handed() == given


def test_nobody_can_change_it(tmp_path: Path) -> None:
    """The kernel refuses to write, cut or lengthen it."""
    made = Snapshot(everything(tmp_path))
    for change in (
        lambda: os.pwrite(made.descriptor, b"x", 0), lambda: os.ftruncate(made.descriptor, 0),
        lambda: os.ftruncate(made.descriptor, 1 << 20),
    ):
        with pytest.raises(PermissionError):
            change()
    made.close()


def test_what_is_not_sealed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor that anybody might have written is no approved configuration."""
    monkeypatch.setenv(snapshot.DESCRIPTOR, str(os.memfd_create("open", os.MFD_ALLOW_SEALING)))
    with pytest.raises(RuntimeError, match="sealed"):
        snapshot.handed()
