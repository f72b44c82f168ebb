"""The names of the spool: folders, instance ids, locations, temporary files. Ours alone; the peer's text is never a path.

**Way** An instance id is UTC time and 32 random bits, so that names sort as they were made. A location is a path below the
spool's root, as rows hold it. The name of a temporary file says which process writes it.

**Fails** `check_id` raises ValueError: an id of another form is a defect of ours, never a path.
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

from dicomnode.queue.owner import Owner, alive, this_process

FOLDERS = ("tmp", "incoming", "outgoing", "quarantine")
_ID = r"[0-9]{8}T[0-9]{12}-[0-9a-f]{8}"
_UID = r"[0-9]+(?:\.[0-9]+)*"
#: An original keeps its UID, whatever its form, so its file says which instance it is of.
_RESULT = rf"(?:{_UID}|[0-9.]{{1,64}}-{_ID})"
ID_ONLY = re.compile(_ID)
HOUR = re.compile(r"[0-9]{10}")
LOCATION = re.compile(rf"incoming/[0-9]{{10}}/{_ID}\.dcm|quarantine/{_ID}\.dcm|outgoing/{_RESULT}\.dcm")
RESULT_ONLY = re.compile(_RESULT)
#: <name>.<boot id>.<pid>.<start ticks>.<random>.part
_TEMPORARY = re.compile(r".+\.(?P<boot>[0-9a-f-]{36})\.(?P<pid>\d{1,9})\.(?P<ticks>\d{1,18})\.[0-9a-f]{8}\.part", re.ASCII)


def new_id(now: datetime) -> str:
    """Give a new instance id: UTC time and 32 random bits, so that names sort as they were made."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"


def check_id(instance_id: str) -> None:
    """Refuse what is no instance id."""
    if ID_ONLY.fullmatch(instance_id) is None:
        raise ValueError("an instance id has the form yyyymmddThhmmssffffff-xxxxxxxx")


def hour_of(instance_id: str) -> str:
    """Give the folder of an instance below ``incoming/``, ``yyyymmddhh``."""
    check_id(instance_id)
    return instance_id[:8] + instance_id[9:11]


def temporary_name(name: str) -> str:
    """Give the name of a temporary file that this process writes."""
    owner = this_process()
    return f"{name}.{owner.boot_id}.{owner.pid}.{owner.start_ticks}.{secrets.token_hex(4)}.part"


def orphaned(name: str) -> bool:
    """Say whether the name is that of a temporary file whose writer is dead."""
    match = _TEMPORARY.fullmatch(name)
    return match is not None and not alive(Owner(match["boot"], int(match["pid"]), int(match["ticks"])))
