"""Owners of claims: a process is told from every other one, also after its death."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time

from dicomnode.queue.owner import Owner, _stat, alive, this_process


def child() -> subprocess.Popen[bytes]:
    """A process that sleeps."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def owner_of_child(process: subprocess.Popen[bytes]) -> Owner:
    """Its name as an owner."""
    return Owner(this_process().boot_id, process.pid, _stat(process.pid)[1])


def test_this_process_is_alive() -> None:
    """The caller names itself by its own pid and counts as alive."""
    assert os.getpid() == this_process().pid
    assert alive(this_process())


def test_another_process_is_alive_until_it_is_killed_and_a_zombie_is_dead() -> None:
    """A killed process that its parent has not reaped yet is dead already."""
    process = child()
    owner = owner_of_child(process)
    assert alive(owner)
    process.kill()
    deadline = time.monotonic() + 10
    while alive(owner) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(owner)
    assert _stat(process.pid)[0] == "Z"
    process.wait()
    assert not alive(owner)


def test_a_pid_given_away_again_is_not_taken_for_the_dead_owner() -> None:
    """The same pid with another start time is another process."""
    assert not alive(dataclasses.replace(this_process(), start_ticks=this_process().start_ticks - 1))


def test_an_owner_from_before_the_restart_of_the_machine_is_dead() -> None:
    """Another boot id is another life of the machine."""
    assert not alive(dataclasses.replace(this_process(), boot_id="00000000-0000-0000-0000-000000000000"))


def test_a_forked_child_names_itself() -> None:
    """The name of the parent is not carried over a fork."""
    this_process()
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writer, str(this_process().pid).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert str(pid) == pipe.read()


def test_a_command_with_parentheses_and_spaces_is_read() -> None:
    """Field 22 is counted from the last parenthesis, since a program's name may hold some."""
    code = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'a) Z 1 (b', 0, 0, 0); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert alive(owner_of_child(process))
        process.kill()
