"""The folders of the spool and the identity of the node beside them.

**Way** `Folders` makes what is missing and syncs every entry up to the state directory's own, so that after a cut of power
behind the first acknowledgement the way to the file is there too. `Folders.identity` is made by the first process.

**Fails** A state directory that cannot serve is `BadSetting`, which ends the node for good; a full disk is `SpoolFull`, which
ends the process to be started again.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from dicomnode.errors import BadSetting, DicomNodeError, SpoolFull
from dicomnode.spool.disk import DIRECTORY_MODE, FULL, sync_directory, sync_stream
from dicomnode.spool.names import FOLDERS


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """What makes this node this node: made once, kept in ``node.json``."""

    #: Random UUID, 32 hex digits; stands as Device Serial Number (0018,1000) in our results.
    node_id: str
    #: Secret of tokens and pseudonyms, 32 bytes.
    key: bytes

#: What is said of a state directory that has patient data and is not closed.
OPEN_TO_OTHERS = "is open to every account of this machine and holds patient data: chmod o= it"


class Folders:
    """The folders below ``<state_dir>/spool`` and what lies beside them."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.root = state_dir / "spool"
        self.queue_path = state_dir / "queue.sqlite"
        missing = [path for path in state_dir.absolute().parents if not path.exists()]
        try:
            state_dir.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            for path in (self.root, *(self.root / name for name in FOLDERS), state_dir / "receipts"):
                path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            # Always: who made these folders may not have come so far. What stands above them may be closed to us.
            sync_directory(self.root)
            sync_directory(state_dir)
            for path in (state_dir.absolute().parent, *(path.parent for path in missing)):
                with contextlib.suppress(PermissionError):
                    sync_directory(path)
        except OSError as error:
            raise _unmade(f"node.state_dir: {error.filename or state_dir} cannot be made", error) from None

    def identity(self) -> NodeIdentity:
        """Give the node's identity, made at the first call of the first process."""
        path = self.state_dir / "node.json"
        if not path.exists():
            self._make_identity(path)
        return read_identity(self.state_dir)

    def _make_identity(self, path: Path) -> None:
        text = json.dumps({"node_id": secrets.token_hex(16), "key": secrets.token_hex(32)})
        draft = path.with_name(f".node.json.{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(text.encode())
                sync_stream(file)
            with contextlib.suppress(FileExistsError):  # of processes that start together the first one wins
                os.link(draft, path)
            draft.unlink()
            sync_directory(self.state_dir)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise _unmade(f"{path}: cannot be written", error) from None

    def check(self) -> None:
        """See that the folders are on one file system and can be written, and that nobody else can look into them.

        Raises
        ------
        BadSetting
            Names the folder.
        """
        if open_to_others(self.state_dir):
            raise BadSetting(f"node.state_dir: {self.state_dir} {OPEN_TO_OTHERS}")
        device = self.root.stat().st_dev
        for name in FOLDERS:
            folder = self.root / name
            if folder.stat().st_dev != device:
                raise BadSetting(f"node.state_dir: {folder} is on another file system than {self.root}; rename needs one")
            if not os.access(folder, os.W_OK | os.X_OK):
                raise BadSetting(f"node.state_dir: {folder} cannot be written by this user")


def read_identity(state_dir: Path) -> NodeIdentity:
    """Give the identity of a node that has run; nothing is made."""
    path = state_dir / "node.json"
    try:
        kept = json.loads(path.read_bytes())
        return NodeIdentity(str(kept["node_id"]), bytes.fromhex(kept["key"]))
    except PermissionError:
        raise BadSetting(f"{path}: cannot be read by this user; run this as the node's own (sudo -u)") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadSetting(f"{path}: cannot be read ({type(error).__name__}); restore it from a backup") from None


def open_to_others(state_dir: Path) -> bool:
    """Say whether accounts that are neither its owner nor of its group can read, change or enter the state directory."""
    return bool(state_dir.stat().st_mode & 0o007)


def _unmade(what: str, error: OSError) -> DicomNodeError:
    return (SpoolFull if error.errno in FULL else BadSetting)(f"{what} ({error.strerror})")
