"""The units under a systemd that runs them, in a machine of its own: install, walls, restart, reload, watchdog, restore."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.machine import ROOT, Machine, booted
from tests.peers import STORESCP, STORESCU, need, wait_for

ROLES = ("accept", "work", "send", "keep")
SERVICES = tuple(f"dicomnode-{role}.service" for role in ROLES)
README = (ROOT / "systemd" / "README.md").read_text()
#: What the README calls `node`, without sudo, which not every machine has.
_NODE = 'node() { setpriv --reuid=dicomnode --regid=dicomnode --clear-groups /opt/dicomnode/bin/dicomnode "$@"; }'
#: Visits one after the other as long as a file is there; prints how many there were and what went wrong.
_VISITORS = """
import pathlib
from tests.knocks import knock
done, wrong = 0, []
while pathlib.Path("/run/visit").exists():
    try:
        knock(11112, "released", 60)
        done += 1
    except (OSError, ValueError) as error:
        wrong.append(repr(error))
print(done, wrong)
"""
_PICTURES = """
from pathlib import Path
from tests.acceptance.samples import radiograph, write
for seed in range({count}):
    write(radiograph(seed=seed), Path("{folder}"))
"""


def block(heading: str) -> str:
    """The commands below a heading of the README, as they stand there."""
    text = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = re.findall(r"^    (.*)$", text, re.MULTILINE)
    assert lines
    return "\n".join(lines)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with the node installed and running, and an archive beside it."""
    need(STORESCP)
    with booted(tmp_path_factory.mktemp("machine")) as made:
        # The README's own lines, from where the package is installed to where the units are enabled.
        install = block("Install").replace("PACS@192.0.2.10:104", "ARCHIVE@127.0.0.1:11113")
        install = install[install.index('cd "$(/opt'):install.index("systemctl daemon-reload")]
        made.shell(f"{_NODE}\n{install}")
        made.shell(f"""
            sed -i 's/^open = false/open = true/' /etc/dicomnode/node.toml
            sed -Ei 's/^(min_free|reserve)_bytes = .*/\\1_bytes = 0/' /etc/dicomnode/node.toml
            mkdir /run/archive
            systemd-run --quiet --unit=archive --setenv=TCP_NODELAY=1 {STORESCP} -aet ARCHIVE -od /run/archive +xa 11113
            systemctl daemon-reload
            systemctl enable --quiet --now dicomnode.target
        """)
        yield made


@pytest.fixture(autouse=True)
def running(machine: Machine) -> None:
    """Every test begins with the whole node up."""
    machine.run("systemctl", "start", "dicomnode.target")
    wait_for(lambda: all(state == "active" for state in states(machine).values()), 90, lambda: told(machine))


def states(machine: Machine) -> dict[str, str]:
    """Every unit with its state."""
    units = ("dicomnode.target", "dicomnode.socket", *SERVICES)
    found = machine.run("systemctl", "is-active", *units, check=False).stdout.split()
    return dict(zip(units, found, strict=True))


def told(machine: Machine) -> str:
    """States and journal, for a test that failed."""
    return f"{states(machine)}\n{machine.journal()[-4000:]}"


def send(machine: Machine, folder: str, count: int = 1) -> None:
    """Send so many pictures from a folder of the machine."""
    machine.python(_PICTURES.format(folder=folder, count=count))
    machine.shell(f"{need(STORESCU)} -aec DICOMNODE 127.0.0.1 11112 {folder}/*")


def inside(machine: Machine, role: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run lines of shell where a service runs: its files, its network, its account, without a privilege."""
    pid = machine.show(f"dicomnode-{role}.service", "MainPID")
    identity = ("setpriv", "--reuid=dicomnode", "--regid=dicomnode", "--clear-groups", "--bounding-set=-all", "--no-new-privs")
    return machine.run("nsenter", f"--target={pid}", "--mount", "--net", *identity, "sh", "-c", script, check=False)


def test_an_instance_goes_the_whole_way(machine: Machine) -> None:
    """Received by the socket's acceptor, worked without a network, sent: SR and SC are at the archive, and nothing is amiss."""
    before = int(machine.shell("ls /run/archive | wc -l"))
    send(machine, "/run/whole-way", 3)
    wait_for(lambda: int(machine.shell("ls /run/archive | wc -l")) >= before + 6, 120, lambda: told(machine), 0.5)
    assert machine.node("queue", "verify").returncode == 0
    modes = set(machine.shell("find /var/lib/dicomnode -name '*.dcm' -printf '%m %u %g\\n'").splitlines())
    assert modes == {"640 dicomnode dicomnode"}


@pytest.fixture
def judged(machine: Machine) -> Iterator[None]:
    """The judge enabled as the README says, until the test is over."""
    machine.shell(f"cp -r /etc/dicomnode /run/before\n{_NODE}\n{block('Redaction with a language model')}")
    yield
    machine.shell("""
        systemctl disable --quiet --now dicomnode-judge.service
        rm -r /etc/dicomnode && mv /run/before /etc/dicomnode
        systemctl restart dicomnode-work.service
    """)


def test_a_judge_is_part_of_the_node_once_enabled(machine: Machine, judged: None) -> None:
    """Its socket is the account's alone, it reaches this machine, starts and stops with the node, and ends after workers."""
    unit = "dicomnode-judge.service"
    assert machine.show(unit, "ActiveState") == "active"
    found = machine.shell("stat -c '%a %U %F' /var/lib/dicomnode/judge.sock").strip()
    assert found == "600 dicomnode socket"
    reach = "echo | timeout 5 bash -c 'cat > /dev/tcp/127.0.0.1/11113'"
    assert inside(machine, "judge", reach).returncode == 0
    machine.shell("systemctl stop dicomnode.target 'dicomnode-*.service'")
    assert machine.show(unit, "ActiveState") == "inactive"
    times = [int(machine.show(name, "InactiveEnterTimestampMonotonic")) for name in ("dicomnode-work.service", unit)]
    assert times == sorted(times)
    machine.run("systemctl", "start", "dicomnode.target")
    assert machine.show(unit, "ActiveState") == "active"


@pytest.mark.parametrize("role", ROLES)
def test_walls_stand(machine: Machine, role: str) -> None:
    """A service has no privilege, sees its own account's processes only, writes and runs nothing where it should not."""
    pid = machine.show(f"dicomnode-{role}.service", "MainPID")
    status = machine.shell(f"cat /proc/{pid}/status")
    for line in ("NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000", "CapEff:\t0000000000000000"):
        assert line in status
    for path in ("/etc", "/opt", "/usr", "/var", "/var/lib", "/run/systemd"):
        assert inside(machine, role, f"touch {path}/x").returncode != 0, path
    state = "/var/lib/dicomnode/walls"
    assert inside(machine, role, f"cp /bin/true {state} && chmod 700 {state}").returncode == 0
    assert inside(machine, role, state).returncode == 126  # found, and not to be run
    assert inside(machine, role, f"rm {state}").returncode == 0
    assert inside(machine, role, "ls /root /home/*").returncode != 0
    seen = inside(machine, role, "ls /proc").stdout.split()
    assert "1" not in seen
    assert {machine.show(name, "MainPID") for name in SERVICES} <= set(seen)  # or living workers would be taken for dead
    reached = inside(machine, role, "echo | timeout 5 bash -c 'cat > /dev/tcp/127.0.0.1/11113'").returncode == 0
    assert reached is (role == "send")


def test_a_restart_refuses_nobody(machine: Machine) -> None:
    """Visitors come one after the other while the acceptors are restarted, and once killed; each is served."""
    machine.shell("touch /run/visit")
    with ThreadPoolExecutor() as pool:
        visitors = pool.submit(machine.python, _VISITORS)
        try:
            first = machine.show(SERVICES[0], "MainPID")
            machine.run("systemctl", "restart", *SERVICES)
            second = machine.show(SERVICES[0], "MainPID")
            machine.run("systemctl", "restart", SERVICES[0])
        finally:
            machine.shell("rm /run/visit")
        done, wrong = visitors.result().stdout.strip().split(" ", 1)
    assert wrong == "[]"
    assert int(done) > 5
    assert len({first, second, machine.show(SERVICES[0], "MainPID")}) == 3


def test_a_killed_service_comes_back_and_connections_wait(machine: Machine) -> None:
    """After SIGKILL of the acceptors' first process a modality that calls waits a few seconds and is served."""
    machine.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", SERVICES[0])
    wait_for(lambda: states(machine)[SERVICES[0]] != "active", 20, lambda: told(machine), 0.02)
    machine.python("from tests.knocks import knock; knock(11112, 'released', 60)")
    wait_for(lambda: states(machine)[SERVICES[0]] == "active", 60, lambda: told(machine))
    assert int(machine.show(SERVICES[0], "NRestarts")) > 0


def test_a_reload_swaps_all_or_nothing(machine: Machine) -> None:
    """A reload with a fault changes nothing and says what is wrong; a sound one is in force; main processes stay."""
    pids = [machine.show(name, "MainPID") for name in SERVICES]
    machine.shell("cp /etc/dicomnode/node.toml /run/kept; echo 'nonsense = true' >> /etc/dicomnode/node.toml")
    try:
        before = machine.journal().count('"config_rejected"')
        machine.shell("systemctl reload 'dicomnode-*.service'", check=False)
        wait_for(lambda: machine.journal().count('"config_rejected"') >= before + len(ROLES), 60, lambda: told(machine), 0.5)
    finally:
        machine.shell("cp /run/kept /etc/dicomnode/node.toml")
    machine.python("from tests.knocks import knock; knock(11112, 'released', 60)")
    machine.shell("""
        sed -i 's/^idle_s = .*/idle_s = 11/' /etc/dicomnode/node.toml
        systemctl reload 'dicomnode-*.service'
    """)
    wait_for(lambda: all(state == "active" for state in states(machine).values()), 60, lambda: told(machine))
    machine.python("from tests.knocks import knock; knock(11112, 'released', 60)")
    assert [machine.show(name, "MainPID") for name in SERVICES] == pids


def test_a_configuration_that_cannot_be_used_is_not_tried_again(machine: Machine) -> None:
    """Exit 78 leaves the service failed, for a person; mended, it starts."""
    unit = SERVICES[3]
    machine.shell("cp /etc/dicomnode/node.toml /run/kept; echo 'nonsense = true' >> /etc/dicomnode/node.toml")
    try:
        machine.run("systemctl", "restart", unit, check=False)
        wait_for(lambda: states(machine)[unit] == "failed", 60, lambda: told(machine))
        assert machine.show(unit, "ExecMainStatus") == "78"
        assert machine.show(unit, "NRestarts") == "0"
    finally:
        machine.shell("cp /run/kept /etc/dicomnode/node.toml")
    machine.shell("systemctl reset-failed 'dicomnode*'; systemctl start dicomnode.target")
    assert states(machine)[unit] == "active"


def test_a_stopped_main_process_is_the_watchdogs(machine: Machine) -> None:
    """A main process that shows no life is ended by systemd and started anew."""
    unit, folder = SERVICES[2], "/run/systemd/system/dicomnode-send.service.d"
    machine.shell(f"""
        mkdir {folder}
        printf '[Service]\\nWatchdogSec=4\\n' > {folder}/quick.conf
        systemctl daemon-reload
        systemctl restart {unit}
    """)
    try:
        pid = machine.show(unit, "MainPID")
        with pytest.raises(AssertionError, match="not within"):  # alive, it is left alone
            wait_for(lambda: machine.show(unit, "MainPID") != pid, 10, tick_s=0.5)
        machine.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGSTOP", unit)
        wait_for(lambda: machine.show(unit, "NRestarts") == "1", 60, lambda: told(machine), 0.5)
        wait_for(lambda: states(machine)[unit] == "active", 60, lambda: told(machine), 0.5)
        assert machine.show(unit, "MainPID") != pid
    finally:
        machine.shell(f"rm -r {folder}; systemctl daemon-reload; systemctl restart {unit}")


def test_a_stop_ends_everything(machine: Machine) -> None:
    """The stop of the README closes the port and leaves no process of the account."""
    machine.shell("systemctl stop dicomnode.target 'dicomnode-*.service'")
    assert set(states(machine).values()) == {"inactive"}
    assert machine.shell("find /proc -maxdepth 1 -user dicomnode") == ""
    machine.python("import socket; assert socket.socket().connect_ex(('127.0.0.1', 11112)) == 111")
    assert all(machine.show(name, "Result") == "success" for name in SERVICES), told(machine)


def test_backup_and_restore_as_the_readme_says(machine: Machine) -> None:
    """The README's commands, with the node running and images coming in: the restored state agrees in every file and row."""
    need("/usr/bin/sqlite3")
    machine.shell("rm -rf /srv/backup")
    with ThreadPoolExecutor() as pool:
        sender = pool.submit(send, machine, "/run/backup-test", 30)
        wait_for(lambda: machine.shell("ls -A /var/lib/dicomnode/spool/incoming"), 60, lambda: told(machine))
        machine.shell(block("Back up"))
        sender.result()
    machine.shell("systemctl stop dicomnode.target 'dicomnode-*.service'; find /var/lib/dicomnode -mindepth 1 -delete")
    restore = block("Restore").replace("node queue verify", "node queue verify --json")
    out = machine.shell(f"{_NODE}\n{restore}")
    assert '"breaches": 0' in out, out
    assert states(machine)["dicomnode.target"] == "active"


def test_recipes_for_the_log_work(machine: Machine) -> None:
    """Every line of the section on the log runs, on the journal of this machine."""
    need("/usr/bin/jq")
    recipes = [line.partition("   # ")[0].rstrip() for line in block("Read the log").splitlines()]
    define = next(line for line in recipes if line.startswith("log()"))
    tried = [line for line in recipes if not line.startswith("log()") and " -f" not in line]
    assert len(tried) > 6
    for line in tried:
        done = machine.run("bash", "-c", f"set -o pipefail\n{define}\n{line}", check=False)
        assert done.returncode in {0, 1}, (line, done.stderr)  # 1: grep or journalctl found nothing
        assert done.stderr == "", line
    assert '"acceptor_started"' in machine.shell(f"{define}\nlog | jq -c .event")
