"""`dicomnode init`: what it writes, that the node loads it, and that it never overwrites."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from dicomnode.commands.init import init, parse_forward
from dicomnode.settings import NodeFile, load
from dicomnode.share import share

FORWARDS = ["--forward", "PACS@127.0.0.1:4242", "--forward", "ARCHIVE 2@[::1]:104"]


def run(*args: str) -> Result:
    """Run the command."""
    app = typer.Typer()
    app.command()(init)
    return CliRunner().invoke(app, list(args))


def test_defaults_of_the_command_are_those_of_the_node(tmp_path: Path) -> None:
    """Without options the configuration equals the defaults of the settings, with the state in /var/lib/dicomnode."""
    assert run(str(tmp_path / "c")).exit_code == 0
    settings = load(tmp_path / "c")
    expected = NodeFile.model_validate({"node": {"state_dir": "/var/lib/dicomnode"}})
    assert {name: getattr(settings, name) for name in NodeFile.model_fields} == dict(expected)
    assert settings.peers == {}
    assert all(rule.outputs == () for rule in settings.routes.rule)


def test_options_arrive(tmp_path: Path) -> None:
    """AE title, port and state directory stand in node.toml, a relative state directory made absolute."""
    done = run(str(tmp_path / "c"), "--ae-title", 'NODE "1"', "--port", "10400", "--state-dir", "here/state")
    assert done.exit_code == 0, done.output
    node = load(tmp_path / "c").node
    assert (node.ae_title, node.port, node.state_dir) == ('NODE "1"', 10400, Path("here/state").absolute())


def test_forward_makes_inside_peers_that_get_sr_and_sc(tmp_path: Path) -> None:
    """Each --forward is an inside peer that may call from its host; children's chests get the findings model."""
    done = run(str(tmp_path / "c"), *FORWARDS)
    assert done.exit_code == 0, done.output
    settings = load(tmp_path / "c")
    assert set(settings.peers) == {"pacs", "archive-2"}
    assert {peer.trust for peer in settings.peers.values()} == {"inside"}
    assert settings.peers["pacs"].calls_from == ("127.0.0.1",)
    assert settings.peers["archive-2"].host == "::1"
    first, last = settings.routes.rule
    assert (first.body_part, first.models) == (("pediatric_chest",), ("pneumonia-pediatric",))
    assert (last.matches_all, last.models) == (True, ())
    for rule in (first, last):
        assert (rule.outputs, rule.destinations) == (("sr", "sc"), ("pacs", "archive-2"))


def test_same_name_twice_gets_a_number(tmp_path: Path) -> None:
    """Two destinations whose names would be equal are both kept."""
    run(str(tmp_path / "c"), "--forward", "PACS@127.0.0.1:1", "--forward", "pacs@127.0.0.1:2")
    assert {name: peer.port for name, peer in load(tmp_path / "c").peers.items()} == {"pacs": 1, "pacs-2": 2}


def test_never_overwrites(tmp_path: Path) -> None:
    """One existing file stops all: exit 1, the file named and untouched, nothing else written."""
    (tmp_path / "routes.toml").write_text("mine")
    done = run(str(tmp_path), *FORWARDS)
    assert done.exit_code == 1
    assert str(tmp_path / "routes.toml") in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["routes.toml"]
    assert (tmp_path / "routes.toml").read_text() == "mine"


@pytest.mark.parametrize("args", [
    ["--ae-title", "LONGER THAN 16 CHARACTERS"], ["--ae-title", "A\\B"], ["--port", "0"], ["--port", "70000"],
    ["--forward", "PACS"], ["--forward", "PACS@host"], ["--forward", "PACS@host:0"], ["--forward", "A\\B@host:104"],
])
def test_bad_option_is_usage(tmp_path: Path, args: list[str]) -> None:
    """An option that cannot be is a fault of usage, exit 2, and nothing is written."""
    done = run(str(tmp_path / "c"), *args)
    assert done.exit_code == 2
    assert args[0] in done.stderr
    assert not (tmp_path / "c").exists()


def test_peer_name_is_never_a_path() -> None:
    """An AE title of dots and slashes gives a plain file name."""
    assert parse_forward("../../ETC@h:1").name == "etc"
    assert parse_forward("//@h:1").name == "peer"


def test_open_stands_once(tmp_path: Path) -> None:
    """node.toml has exactly one line ``open = false``, and that text nowhere else."""
    run(str(tmp_path / "c"))
    text = (tmp_path / "c" / "node.toml").read_text()
    assert text.splitlines().count("open = false") == 1
    assert text.count("open = false") == 1
    assert "open = true" not in text
    (tmp_path / "c" / "node.toml").write_text(text.replace("open = false", "open = true"))
    assert load(tmp_path / "c").node.open is True


def test_template_is_complete_and_commented() -> None:
    """The template of node.toml holds every setting with its default; what has none is there as a comment."""
    text = (share("ae_config") / "node.toml").read_text()
    given = tomllib.loads(text)
    for section, field in NodeFile.model_fields.items():
        for key, setting in field.annotation.model_fields.items():
            if setting.default is None:
                assert f"# {key} = " in text
            elif key != "state_dir":
                assert setting.annotation is not None
                assert given[section][key] == (list(setting.default) if isinstance(setting.default, tuple) else setting.default)
    assert text.count("#") > 20
