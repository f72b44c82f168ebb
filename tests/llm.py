"""A language model for tests: an HTTP server on loopback that speaks like an OpenAI-compatible endpoint, well or badly."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dicomnode.judging import prompt

#: Takes the numbered texts of a question, gives what the model says.
Mind = Callable[[list[str]], str]
HARMLESS = frozenset({"FOV 350 mm", "120 kVp", "Gain 52 dB", "T2 TSE COR", "WOBBLER", "PORTABLE"})


def sound(texts: list[str]) -> str:
    """What a model says that knows technical words, in the form that it was asked for."""
    return said(["harmless" if text in HARMLESS else "phi" for text in texts])


def said(words: list[str]) -> str:
    """Verdicts in the form that is asked for."""
    return json.dumps({"verdicts": [{"n": number, "verdict": word} for number, word in enumerate(words, 1)]})


def completion(content: Any, **choice: Any) -> bytes:
    """The body of an answer with this content."""
    return json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": content}, **choice}]}).encode()


def is_decoy(text: str) -> bool:
    """Say whether a text is one that the judge made itself."""
    return any(name in text for name in prompt._FAMILY)


@dataclass
class Model:
    """A running endpoint, and how it behaves."""

    port: int
    mind: Mind = sound
    status: int = 200
    #: In place of what the mind says.
    body: bytes | None = None
    #: Waits with its answer until this is set, or gives it byte by byte, slowly.
    hold: threading.Event | None = None
    drips: bool = False
    location: str = ""
    #: Bodies and headers of the questions so far.
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """What judge.url is set to."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def texts(self) -> list[str]:
        """Every text that was asked about, without decoys, in order."""
        return [text for body in self.asked for text in numbered(body) if not is_decoy(text)]


def numbered(body: dict[str, Any]) -> list[str]:
    """The texts of a question."""
    lines = body["messages"][1]["content"].splitlines()
    assert lines[1] == lines[-1]
    found = [re.fullmatch(r"(\d+): (.*)", line) for line in lines[2:-1]]
    assert [one and int(one[1]) for one in found] == list(range(1, len(found) + 1))
    return [json.loads(one[2]) for one in found if one]


@contextlib.contextmanager
def running() -> Iterator[Model]:
    """Run an endpoint for the length of a with block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            model.asked.append(body)
            model.headers.append({"path": self.path, **dict(self.headers.items())})
            if model.hold is not None:
                model.hold.wait(30)
            data = model.body if model.body is not None else completion(model.mind(numbered(body)), finish_reason="stop")
            with contextlib.suppress(OSError):
                self.send_response(model.status)
                if model.location:
                    self.send_header("Location", model.location)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if not model.drips:
                    self.wfile.write(data)
                for byte in data if model.drips else b"":
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    model = Model(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield model
    finally:
        if model.hold is not None:
            model.hold.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextlib.contextmanager
def slamming() -> Iterator[int]:
    """A port that takes a connection and closes it at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        stop = threading.Event()

        def run() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    server.accept()[0].close()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        stop.set()
        thread.join(10)
