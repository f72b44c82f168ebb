"""The units of systemd/: sound, walled in, true to their README; read by systemd's own programs in a scratch root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from dicomnode.cli import application
from dicomnode.events import EVENTS
from tests.peers import need

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
#: Only where it is enabled: a node without a language model has no judge.
JUDGE = "dicomnode-judge.service"
SERVICES = (*(f"dicomnode-{role}.service" for role in ("accept", "work", "send", "keep")), JUDGE)
ALL = ("dicomnode.target", "dicomnode.socket", *SERVICES)
#: Drop-ins that come with the units, and the folder that each one's first line names.
EXAMPLES = {path.stem: path for path in sorted((UNITS / "examples").glob("*.conf"))}
ANALYZE = "/usr/bin/systemd-analyze"
HIGHEST = 1.3


def folder_of(example: Path) -> str:
    """Where the first line of an example says that it belongs."""
    found = re.match(r"# To /etc/systemd/system/(dicomnode[a-z.-]*\.d)/", example.read_text())
    assert found is not None, example
    return found[1]


def scratch(root: Path, *examples: str) -> Path:
    """A root directory with the units and these examples, where the programs that the units name exist."""
    shutil.copytree("/usr/lib/systemd/system", root / "usr/lib/systemd/system", symlinks=True)
    etc = root / "etc/systemd/system"
    etc.mkdir(parents=True)
    for name in ALL:
        shutil.copy(UNITS / name, etc)
    for name in examples:
        (etc / folder_of(EXAMPLES[name])).mkdir(exist_ok=True)
        shutil.copy(EXAMPLES[name], etc / folder_of(EXAMPLES[name]))
    for program in ("opt/dicomnode/bin/dicomnode", "bin/kill"):
        (root / program).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/true", root / program)
    return root


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    return subprocess.run(
        [need(ANALYZE), *arguments], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "info", "SYSTEMD_PAGER": "cat", "LC_ALL": "C.UTF-8"},
    )


def section(unit: str, after: str) -> list[str]:
    """The directives of a unit below a heading of its comments, up to the next."""
    text = (UNITS / unit).read_text().split(after, 1)[1].split("\n# -- ", 1)[0]
    return [line for line in text.splitlines()[1:] if line and not line.startswith("#")]


# -- what systemd says of them
@pytest.mark.parametrize("examples", [(), tuple(EXAMPLES)], ids=["alone", "with all examples"])
def test_units_are_clean(tmp_path: Path, examples: tuple[str, ...]) -> None:
    """`systemd-analyze verify` has nothing to say of any unit, nor of any with the drop-ins that come along."""
    need(ANALYZE)
    root = scratch(tmp_path / "root", *examples)
    for name in ALL:
        done = analyze("verify", "--man=no", f"--root={root}", name)
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), name


def test_a_wrong_unit_would_be_found(tmp_path: Path) -> None:
    """The check above sees a directive that does not exist and a program that is not there."""
    need(ANALYZE)
    root = scratch(tmp_path / "root")
    path = root / "etc/systemd/system" / SERVICES[0]
    path.write_text(path.read_text().replace("PrivateTmp=", "PrivateTemp="))
    done = analyze("verify", "--man=no", f"--root={root}", SERVICES[0])
    assert "PrivateTemp" in done.stderr
    (root / "opt/dicomnode/bin/dicomnode").unlink()
    assert analyze("verify", "--man=no", f"--root={root}", SERVICES[1]).returncode != 0


@pytest.mark.parametrize("examples", [(), tuple(EXAMPLES)], ids=["alone", "with all examples"])
def test_units_are_walled_in(tmp_path: Path, examples: tuple[str, ...]) -> None:
    """`systemd-analyze security` rates the exposure of every service at most 1.3, also with every drop-in that comes along."""
    need(ANALYZE)
    root = scratch(tmp_path / "root", *examples)
    for name in SERVICES:
        done = analyze("security", "--offline=true", f"--root={root}", name)
        found = re.search(rf"Overall exposure level for {name}: ([0-9.]+)", done.stdout + done.stderr)
        assert found is not None, done.stdout + done.stderr
        assert float(found[1]) <= HIGHEST, done.stdout


# -- what we say of them
def test_walls_are_the_same_for_every_role() -> None:
    """What is said of walls in one unit is said in all five; only the network differs."""
    walls = {name: section(name, "# -- walls") for name in SERVICES}
    assert all(lines == walls[SERVICES[0]] for lines in walls.values())
    assert len(walls[SERVICES[0]]) > 30
    for name in SERVICES:
        net = section(name, "# -- n")
        if name == "dicomnode-send.service":
            assert net == ["RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX"]
        elif name == JUDGE:
            private = "localhost link-local 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7"
            walls_of_judge = ["IPAddressDeny=any", f"IPAddressAllow={private}"]
            assert net[:3] == [*walls_of_judge, "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX"]
        else:
            assert net == ["PrivateNetwork=yes", "IPAddressDeny=any", "RestrictAddressFamilies=AF_UNIX"], name


def test_target_has_every_unit() -> None:
    """Starting the target starts every unit but the judge, which joins where it is enabled; stopping it stops every unit."""
    wants = re.search(r"^Wants=(.+)$", (UNITS / "dicomnode.target").read_text(), re.MULTILINE)
    assert wants is not None
    assert set(wants[1].split()) == set(ALL) - {"dicomnode.target", JUDGE}
    assert "\n[Install]\nWantedBy=dicomnode.target\n" in (UNITS / JUDGE).read_text()
    assert "\nBefore=dicomnode-work.service\n" in (UNITS / JUDGE).read_text()
    for name in set(ALL) - {"dicomnode.target"}:
        assert "\nPartOf=dicomnode.target\n" in (UNITS / name).read_text(), name
    assert {path.name for path in UNITS.iterdir()} == {
        *ALL, "README.md", "dicomnode.sysusers.conf", "dicomnode.tmpfiles.conf", "examples",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="accounts and owners are root's to make")
def test_account_and_folder(tmp_path: Path) -> None:
    """systemd-sysusers makes the account without a shell, systemd-tmpfiles the state directory closed to others."""
    (tmp_path / "etc").mkdir()
    for program, name in (("systemd-sysusers", "sysusers"), ("systemd-tmpfiles", "tmpfiles")):
        line = [need(f"/usr/bin/{program}"), f"--root={tmp_path}", str(UNITS / f"dicomnode.{name}.conf")]
        if name == "tmpfiles":
            line.insert(1, "--create")
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    (entry,) = [line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("dicomnode:")]
    assert entry[5:] == ["/var/lib/dicomnode", "/usr/sbin/nologin"]
    state = (tmp_path / "var/lib/dicomnode").stat()
    assert (state.st_mode & 0o7777, state.st_uid, state.st_gid) == (0o750, int(entry[2]), int(entry[3]))


# -- the README
README = (UNITS / "README.md").read_text()


def commands(command: object, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Every command of the program, with the groups above it."""
    below = getattr(command, "commands", {})
    return {path}.union(*(commands(one, (*path, name)) for name, one in below.items()))


def test_readme_names_commands_that_exist() -> None:
    """Every command that the administrator is told to run is one of the program, called `node` there or by its path."""
    known = commands(typer.main.get_command(application()))
    called = re.findall(r"(?:/bin/dicomnode|`node|^ {4}node) ((?:[a-z]+ ?)+)", README, re.MULTILINE)
    assert len(called) > 10
    for words in map(str.split, called):
        assert any(tuple(words[:length]) in known for length in (1, 2) if words[:length]), words


def test_readme_names_events_and_units_that_exist() -> None:
    """Every event in the table is one of the log's, every unit and drop-in is in the folder."""
    table = [line for line in README.splitlines() if line.startswith("| ")]
    named = {word for line in table for word in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", line.split("|")[2])}
    assert len(named) > 15
    assert named <= set(EVENTS)
    units = set(re.findall(r"dicomnode[a-z-]*\.(?:service|socket|target)\b", README))
    assert units <= {*ALL, "dicomnode.service"}
    assert set(re.findall(r"examples/([a-z0-9-]+)\.conf", README)) == set(EXAMPLES)
    for name in ALL:
        assert set(re.findall(r"examples/([a-z0-9-]+)\.conf", (UNITS / name).read_text())) <= set(EXAMPLES), name
