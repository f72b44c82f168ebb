"""The drill's receiving peer: an archive that takes everything, or behaves as archives do on a bad day.

**Way** A thread waits for connections, one more serves each. `mood` says how: ``take`` answers 0x0000; ``slow`` does so after
`SLOW_S`; ``silent`` accepts the association and never answers a C-STORE; ``no-contexts`` accepts the association and none of
its contexts; ``reject`` and ``reject-now`` reject it for good and for now. What it has is kept by SOP Instance UID with the
digest of its bytes and how often it was answered 0x0000.

**Limits** It keeps no objects. A mood holds for what comes after it was set; who waits for an answer in ``silent`` waits on.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections import Counter
from typing import Literal

from dicomnode.drill import pdu
from dicomnode.drill.pdu import Ended, Wrong

Mood = Literal["take", "slow", "silent", "no-contexts", "reject", "reject-now"]
#: An archive that is slow answers after this, seconds.
SLOW_S = 1.0


class Archive:
    """One destination."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mood: Mood = "take"
        #: How often each UID was answered 0x0000, and the digests under which it came.
        self.taken: Counter[str] = Counter()
        self.digests: dict[str, set[str]] = {}
        #: C-STOREs that came whole, answered or not.
        self.come = 0
        #: What a peer must never send, told once.
        self.faults: list[str] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._listen, name=f"archive-{name}", daemon=True).start()

    def close(self) -> None:
        """Stop listening and end what is open."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.forget_peers()

    def forget_peers(self) -> None:
        """End every connection that is open, without a word."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # closed
                return
            with self._lock:
                self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock,), name=f"archive-{self.name}", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._associated(sock):
                    self._messages(sock)
        except (Ended, OSError):
            pass
        except (Wrong, UnicodeDecodeError, IndexError) as fault:
            self.faults.append(str(fault))
        finally:
            with self._lock:
                self._open.discard(sock)

    def _associated(self, sock: socket.socket) -> bool:
        kind, body = pdu.read(sock)
        if kind != pdu.RQ:
            raise Wrong(f"the node began an association with a PDU of type {kind}")
        called, calling, contexts = pdu.request_of(body)
        if self.mood in ("reject", "reject-now"):
            pdu.write(sock, pdu.reject(1, 1, 1) if self.mood == "reject" else pdu.reject(2, 3, 1))
            return False
        result = pdu.NO_ABSTRACT_SYNTAX if self.mood == "no-contexts" else pdu.ACCEPTED
        pdu.write(sock, pdu.associate_ac(called, calling, [
            (number, result, syntaxes[0] if syntaxes else "") for number, _, syntaxes in contexts
        ]))
        return True

    def _messages(self, sock: socket.socket) -> None:
        command, content = b"", b""
        while True:
            kind, body = pdu.read(sock)
            if kind == pdu.RELEASE_RQ:
                pdu.write(sock, pdu.pdu(pdu.RELEASE_RP, bytes(4)))
                return
            if kind != pdu.DATA:
                return
            for context, of_command, last, fragment in pdu.fragments(body):
                if of_command:
                    command += fragment
                else:
                    content += fragment
                if not last:
                    continue
                request = pdu.elements_of(command)
                if pdu.number_in(request, 0x0100) == pdu.C_ECHO_RQ:
                    pdu.write(sock, pdu.response(context, pdu.C_ECHO_RSP, request, 0))
                elif of_command:
                    continue  # its data set follows
                else:
                    self._store(sock, context, request, content)
                command, content = b"", b""

    def _store(self, sock: socket.socket, context: int, request: dict[int, bytes], content: bytes) -> None:
        uid = pdu.uid_in(request, 0x1000)
        if uid.encode() not in content:
            raise Wrong(f"{uid} was sent to {self.name} with a data set that is not its own")
        mood = self.mood
        with self._lock:
            self.come += 1
        if mood == "silent":
            pdu.read(sock)  # until the node loses its patience
            raise Ended("the node gave up")
        if mood == "slow":
            time.sleep(SLOW_S)
        with self._lock:
            self.taken[uid] += 1
            self.digests.setdefault(uid, set()).add(hashlib.sha256(content).hexdigest())
        pdu.write(sock, pdu.response(context, pdu.C_STORE_RSP, request, 0))
