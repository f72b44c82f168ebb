"""`dicomnode check`: every fault is found, named, and ends with 78."""

from __future__ import annotations

import fcntl
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner, Result

from dicomnode import check as looks
from dicomnode.check import Answer
from dicomnode.commands.check import check
from dicomnode.commands.init import compose, parse_forward, set_value
from dicomnode.errors import BadCard, MissingModel, PeerUnavailable
from dicomnode.records import BODY_PARTS, OutputKind
from dicomnode.rules import Routes, Rule
from dicomnode.settings import Settings, load


def fake_model(task: str = "findings") -> object:
    """Give something that has a card like a model."""
    card = SimpleNamespace(
        name="a", version="1.0.0", task=task, body_parts=("pediatric_chest",), maps=(), intended_use="Not for diagnostic use.",
        licence=SimpleNamespace(identifier="CC-BY-NC-SA-4.0"),
        labels=[SimpleNamespace(key=part) for part in (*BODY_PARTS, "hand")],
    )
    return SimpleNamespace(card=card, provider="CPUExecutionProvider")


MODELS: dict[str, object] = {"bodypart-router": fake_model("router"), "pneumonia-pediatric": fake_model()}


def loading(models: Mapping[str, object]) -> Callable[..., dict[str, object]]:
    """Stand in for `load_models`: an error in place of a model is raised."""
    def load_models(_work: object, names: list[str], _approved: object) -> dict[str, object]:
        for name in names:
            if isinstance(error := models.get(name, MissingModel(f"no model {name!r}")), Exception):
                raise error
        return {name: models[name] for name in names}

    return load_models


@pytest.fixture
def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def config(tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration without fault; models are stand-ins, small disks are no fault."""
    monkeypatch.setattr(looks, "load_models", loading(MODELS))
    directory = tmp_path / "config"
    for name, text in compose("NODE", free_port, tmp_path / "state", [parse_forward("PACS@127.0.0.1:4242")]).items():
        (directory / name).parent.mkdir(exist_ok=True, parents=True)
        (directory / name).write_text(text)
    edit(directory, "bind", "127.0.0.1")
    edit(directory, "min_free_bytes", 1)
    edit(directory, "reserve_bytes", 1)
    return directory


def edit(directory: Path, key: str, value: object) -> None:
    """Set a key of node.toml."""
    path = directory / "node.toml"
    path.write_text(set_value(path.read_text(), key, value))


def answers(config: Path) -> dict[str, Answer]:
    """Give the answers by what they are about."""
    return {answer.about: answer for answer in looks.check(load(config))}


def run(config: Path, *args: str) -> Result:
    """Run the command."""
    app = typer.Typer()
    app.command()(check)
    return CliRunner().invoke(app, ["-c", str(config), *args])


def test_sound_configuration_ends_with_0(config: Path) -> None:
    """Nothing is wrong: every answer is ok, the summary names AE title, port and digest, the state is not made."""
    done = run(config)
    assert done.exit_code == 0, done.output
    settings = load(config)
    for word in ("NODE", str(settings.node.port), settings.digest[:12], "bodypart-router", "PACS"):
        assert word in done.output
    assert {answer.outcome for answer in answers(config).values()} == {"ok"}
    assert not settings.node.state_dir.exists()


def test_a_port_of_old_is_for_systemd_to_open(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port below 1024 that this account may not open is a warning, which names the way."""

    class Forbidden(socket.socket):
        def bind(self, _address: object) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(looks.socket, "socket", Forbidden)
    assert answers(config)["port"].outcome == "fault"
    edit(config, "port", 104)
    port = answers(config)["port"]
    assert port.outcome == "warning"
    assert "dicomnode.socket" in port.detail


def test_json_is_one_object_a_line(config: Path) -> None:
    """--json prints what each look found."""
    lines = [json.loads(line) for line in run(config, "--json").output.splitlines()]
    assert {"port", "disk", "state", "tesseract"} <= {line["about"] for line in lines}
    assert all(set(line) == {"about", "outcome", "detail"} for line in lines)


@pytest.mark.parametrize(("outputs", "models", "words"), [
    (("sr",), (), "it names no model"),
    (("original",), ("pneumonia-pediatric",), "it makes no report"),
    (("sr", "original"), ("pneumonia-pediatric",), ""),
])
def test_urgency_that_can_never_come_is_told(outputs: tuple[OutputKind, ...], models: tuple[str, ...], words: str) -> None:
    """A rule that waits for an abnormal finding and never asks for one is told by its name."""
    rule = Rule(name="chests", outputs=outputs, models=models, urgent="abnormal")
    settings = SimpleNamespace(routes=Routes(rule=(rule,)))
    told = [answer.detail for answer in looks._routes(settings) if answer.outcome == "warning"]  # type: ignore[arg-type]
    assert [words in detail and "'chests'" in detail for detail in told] == [True] * bool(words)


def test_maps_that_no_model_gives_are_told(config: Path) -> None:
    """A rule that asks for what its models cannot say names itself and the kind."""
    routes = config / "routes.toml"
    routes.write_text(set_value(routes.read_text(), "outputs", ["sr", "seg"]))
    told = [answer.detail for answer in looks.check(load(config)) if answer.outcome == "warning" and "seg" in answer.detail]
    assert len(told) == 2
    assert "'pediatric-chest'" in told[0]


def test_a_model_that_is_never_asked_is_a_fault(config: Path) -> None:
    """A rule for other body parts than its model's names rule, body parts and model."""
    routes = config / "routes.toml"
    routes.write_text(set_value(routes.read_text(), "body_part", ["spine", "abdomen"]))
    (told,) = [answer for answer in looks.check(load(config)) if answer.outcome == "fault"]
    assert told.about == "model pneumonia-pediatric"
    assert "'pediatric-chest' takes spine, abdomen" in told.detail
    routes.write_text(set_value(routes.read_text(), "body_part", ["spine", "uncertain"]))
    assert [answer for answer in looks.check(load(config)) if answer.outcome == "fault"] == []


def test_a_body_part_that_nothing_answers_is_a_fault(config: Path) -> None:
    """A word that router and header reader both do not know is named with its rule; one that either knows is not."""
    routes = config / "routes.toml"
    routes.write_text(set_value(routes.read_text(), "body_part", ["pediatric_chest", "hand", "knee", "uncertain"]))
    (told,) = [answer for answer in looks.check(load(config)) if answer.outcome == "fault"]
    assert told.about == "model bodypart-router"
    assert "routes.toml: rule 'pediatric-chest': there is no body part 'knee'" in told.detail


def test_models_that_are_asked_and_reported_by_nobody_are_told() -> None:
    """All models of all rules, and no report to tell of them."""
    settings = SimpleNamespace(routes=Routes(rule=(Rule(name="unsure", uncertain="all"),)))
    told = [answer.detail for answer in looks._routes(settings) if answer.outcome == "warning"]  # type: ignore[arg-type]
    assert any("'unsure'" in detail and '"all"' in detail for detail in told)


@pytest.mark.parametrize(("models", "about", "words"), [
    ({"bodypart-router": MODELS["bodypart-router"]}, "model pneumonia-pediatric", "routes.toml"),
    ({**MODELS, "bodypart-router": BadCard("sample is 0.3 off")}, "model bodypart-router", "0.3 off"),
    ({**MODELS, "bodypart-router": fake_model()}, "model bodypart-router", "not the body part"),
    ({**MODELS, "pneumonia-pediatric": fake_model("router")}, "model pneumonia-pediatric", "not what is seen"),
])
def test_model_that_is_missing_or_wrong_is_a_fault(
    config: Path, monkeypatch: pytest.MonkeyPatch, models: dict[str, object], about: str, words: str,
) -> None:
    """A model that a rule names and that is not there, fails its own sample, or is for another task, ends with 78."""
    monkeypatch.setattr(looks, "load_models", loading(models))
    told = [answer for answer in looks.check(load(config)) if answer.outcome == "fault"]
    assert [answer.about for answer in told] == [about]
    assert words in told[0].detail
    assert run(config).exit_code == 78


def test_licence_and_intended_use_are_told(config: Path) -> None:
    """Who reads the summary knows under which terms the weights are, and what for."""
    detail = answers(config)["model bodypart-router"].detail
    assert "CC-BY-NC-SA-4.0" in detail
    assert "Not for diagnostic use." in detail


def test_a_model_that_no_rule_names_is_no_fault(config: Path, tmp_path: Path) -> None:
    """What lies in the folder and does not hold is told, and keeps no node from its work."""
    folder = tmp_path / "models" / "spare" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "card.toml").write_text("name = 1")
    node = config / "node.toml"
    absent = '# models_dir = "/var/lib/dicomnode-models"'
    node.write_text(node.read_text().replace(absent, f'models_dir = "{tmp_path / "models"}"'))
    told = answers(config)["model spare@1.0.0"]
    assert told.outcome == "warning"
    assert "card.toml" in told.detail
    assert run(config).exit_code == 0


@pytest.mark.parametrize(("path", "outcome", "words"), [
    ("", "fault", "install tesseract-ocr"),
    ("echo 'List of available languages (1):'; echo deu", "fault", "not installed: eng"),
    ("echo 'List of available languages (2):'; echo deu; echo eng", "ok", "eng"),
])
def test_ocr_program_and_its_languages(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, outcome: str, words: str,
) -> None:
    """Tesseract must be there with each language that is set."""
    programs = tmp_path / "bin"
    programs.mkdir()
    if path:
        (programs / "tesseract").write_text(f"#!/bin/sh\n{path}\n")
        (programs / "tesseract").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    found = answers(config)["tesseract"]
    assert found.outcome == outcome
    assert words in found.detail


@pytest.fixture
def listener(free_port: int) -> Iterator[None]:
    """Somebody listens on the node's port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", free_port))
        sock.listen()
        yield


@pytest.mark.usefixtures("listener")
def test_port_of_another_is_a_fault(config: Path) -> None:
    """A port that another program has is a fault."""
    assert answers(config)["port"].outcome == "fault"


@pytest.mark.usefixtures("listener")
def test_port_of_this_node_is_fine(config: Path, tmp_path: Path) -> None:
    """A port is fine when a `dicomnode serve` on this very state directory has it."""
    (tmp_path / "state").mkdir()
    with (tmp_path / "state" / "serve.accept.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert answers(config)["port"] == Answer("port", "ok", f"{load(config).node.port}, in use by this node")


def test_a_state_directory_that_others_can_read_is_a_fault(config: Path, tmp_path: Path) -> None:
    """It holds patient data: serve does not start on it, and check says so before."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o755)
    assert answers(config)["state"].outcome == "fault"
    assert "chmod o=" in answers(config)["state"].detail
    (tmp_path / "state").chmod(0o750)
    assert answers(config)["state"].outcome == "ok"


def test_network_file_system_is_a_fault(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state directory on NFS is refused: it does not keep what is promised."""
    monkeypatch.setattr(looks, "file_system", lambda _path: "nfs4")
    assert "nfs4" in answers(config)["state"].detail
    assert answers(config)["state"].outcome == "fault"


def test_state_that_cannot_be_written_is_a_fault(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state directory that this account cannot write is a fault."""
    monkeypatch.setattr(looks.os, "access", lambda *_args: False)
    assert answers(config)["state"].outcome == "fault"


def test_file_system_is_known_by_the_kernel(tmp_path: Path) -> None:
    """The type of /proc is proc, and that of a real folder is not unknown."""
    assert looks.file_system(Path("/proc")) == "proc"
    assert looks.file_system(tmp_path) != ""


@pytest.mark.parametrize(("minimum", "outcome"), [(1, "ok"), (1 << 60, "fault")])
def test_free_disk_against_the_watermark(config: Path, minimum: int, outcome: str) -> None:
    """Less free disk than the watermark is a fault: every association would be refused."""
    edit(config, "min_free_bytes", minimum)
    assert answers(config)["disk"].outcome == outcome


def test_open_node_and_unreachable_node_are_warned_of(config: Path) -> None:
    """A node that takes any caller, and one that takes none, are warned of and may start."""
    (config / "peers" / "pacs.toml").write_text(
        (config / "peers" / "pacs.toml").read_text().replace('calls_from = ["127.0.0.1"]', "calls_from = []"),
    )
    assert answers(config)["callers"].outcome == "warning"
    edit(config, "open", value=True)
    assert "trials" in answers(config)["callers"].detail
    assert run(config).exit_code == 0


def test_hook_that_is_no_program_is_a_fault(config: Path) -> None:
    """A hook that cannot be run is found before it is needed."""
    edit(config, "hook", ["/nowhere/tell"])
    assert answers(config)["hook"].outcome == "fault"


def test_peers_are_asked_only_when_wanted(config: Path) -> None:
    """Without an echo no peer is contacted; with one, a silent peer is a warning that names the cause."""
    settings: Settings = load(config)

    def echo(name: str) -> str:
        raise PeerUnavailable(f"{name} does not answer")

    plain = {answer.about: answer for answer in looks.check(settings)}
    asked = {answer.about: answer for answer in looks.check(settings, echo)}
    assert plain["peer pacs"].outcome == "ok"
    assert asked["peer pacs"].outcome == "warning"
    assert "does not answer" in asked["peer pacs"].detail
