"""A machine of its own for tests: systemd as first process in namespaces, over this machine's files, which stay as they are.

**Way** ``unshare`` gives namespaces of processes, mounts, network, host name and control groups; inside, an overlay on ``/``
whose upper layer lies in memory becomes the root, and systemd starts there. ``/opt/dicomnode/bin`` has ``dicomnode`` and
``python``, which run this source tree with this interpreter, as if it were installed there.

**Fails** `pytest.skip` where it cannot be: not root, no systemd, no control groups of version 2, namespaces forbidden.

**Limits** No udev, no network beyond loopback, no controllers: weights and limits of memory are not tested.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers import wait_for

ROOT = Path(__file__).parents[2]
SYSTEMD = "/lib/systemd/systemd"

_BOOT = r"""
set -e
work=$1 tree=$2 python=$3 site=$4 name=$5
root=$work/root
mount --make-rprivate /
mkdir -p "$work/layer" "$root"
mount -t tmpfs tmpfs "$work/layer"
mkdir "$work/layer/upper" "$work/layer/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/layer/upper,workdir=$work/layer/work" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
rm -rf "$root/opt/dicomnode" "$root/etc/dicomnode" "$root/var/lib/dicomnode" "$root/var/log/journal"
mkdir -p "$root/opt/dicomnode/bin" "$root/opt/python" "$root/opt/site" "$root/opt/tree"
mount --bind "$python" "$root/opt/python"
mount --bind "$site" "$root/opt/site"
mount --bind "$tree" "$root/opt/tree"
for program in "python " "dicomnode -m dicomnode"; do
    cat >"$root/opt/dicomnode/bin/${program%% *}" <<END
#!/bin/sh
export PYTHONHOME=/opt/python LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/tree:/opt/site
exec /opt/python/bin/$name ${program#* } "\$@"
END
    chmod 755 "$root/opt/dicomnode/bin/${program%% *}"
done
for unit in systemd-sysctl.service systemd-modules-load.service systemd-remount-fs.service sys-kernel-debug.mount \
    sys-kernel-tracing.mount sys-fs-fuse-connections.mount dev-hugepages.mount; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
mkdir "$root/run/old"
cd "$root"
pivot_root . run/old
umount -l /run/old
exec env -i container=dicomnode-test PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
    /lib/systemd/systemd --system --unit=basic.target --log-target=console --show-status=0 </dev/null
"""


@dataclass(frozen=True)
class Machine:
    """A booted machine; ``pid`` is its first process, as seen from here."""

    pid: int

    def run(self, *line: str, check: bool = True, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a program inside, as root."""
        done = subprocess.run(
            ["nsenter", f"--target={self.pid}", "--all", "--root", "--wd", *line],
            capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False, stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TCP_NODELAY": "1"},
        )
        assert not check or done.returncode == 0, (line, done.returncode, done.stdout[-4000:], done.stderr[-4000:])
        return done

    def shell(self, script: str, *, check: bool = True, timeout_s: float = 120) -> str:
        """Run lines of bash inside; gives stdout."""
        return self.run("bash", "-ec", script, check=check, timeout_s=timeout_s).stdout

    def node(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of dicomnode as its account."""
        identity = ("setpriv", "--reuid=dicomnode", "--regid=dicomnode", "--clear-groups")
        return self.run(*identity, "/opt/dicomnode/bin/dicomnode", *arguments, check=check)

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run lines of Python inside, as root, with this source tree and its tests."""
        return self.run("/opt/dicomnode/bin/python", "-c", code)

    def show(self, unit: str, key: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "-P", key, unit).stdout.strip()

    def journal(self) -> str:
        """What all units of the node have written."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", "dicomnode*").stdout


def _control_groups() -> Path | None:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2" and os.access(where, os.W_OK):
            return Path(where)
    return None


@contextlib.contextmanager
def booted(work: Path, tree: Path = ROOT) -> Iterator[Machine]:
    """Run a machine for the length of a with block."""
    groups = _control_groups()
    if os.geteuid() != 0 or not Path(SYSTEMD).exists() or groups is None:
        pytest.skip("a machine of its own needs root, systemd and control groups of version 2")
    if subprocess.run(["unshare", "--pid", "--fork", "--mount", "--net", "--cgroup", "true"], check=False).returncode != 0:
        pytest.skip("namespaces are forbidden here")
    group = groups / f"dicomnode-test-{os.getpid()}"
    group.mkdir()
    (work / "boot").write_text(_BOOT)
    places = (str(tree), sys.base_prefix, sysconfig.get_path("purelib"), f"python{sysconfig.get_python_version()}")
    unshare = "exec unshare --pid --fork --kill-child --mount --uts --ipc --net --cgroup bash"
    line = ["bash", "-c", f'echo $$ >"$0/cgroup.procs"; {unshare} "$@"', str(group), str(work / "boot"), str(work), *places]
    with (work / "boot.log").open("wb") as log:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        def first() -> int | None:
            """The process that unshare forked, once it is systemd and its bus answers."""
            assert process.poll() is None, (work / "boot.log").read_text(errors="replace")[-4000:]
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if children and Path(f"/proc/{children[0]}/exe").resolve() == Path(SYSTEMD).resolve():
                machine = Machine(int(children[0]))
                if machine.run("systemctl", "is-active", "basic.target", check=False).stdout.strip() == "active":
                    return machine.pid
            return None

        yield Machine(wait_for(first, 120, lambda: "systemd is up; " + (work / "boot.log").read_text(errors="replace")[-4000:]))
    finally:
        process.send_signal(signal.SIGKILL)  # unshare takes its child along, and that all of its namespace
        process.wait()
        _remove(group)


def _remove(group: Path) -> None:
    """Remove the control groups once the kernel has reaped everything in them."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            for below in sorted(group.rglob("*"), reverse=True):
                if below.is_dir():
                    below.rmdir()
            group.rmdir()
            return
        time.sleep(0.1)
