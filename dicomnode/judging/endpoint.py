"""The language model: an OpenAI-compatible endpoint (llama.cpp, Ollama, vLLM), asked over HTTP.

**Way** `Endpoint` puts the texts to ``POST /chat/completions`` in batches, at temperature 0, one connection a batch. It
connects only to addresses of this machine and of private networks, unless ``judge.outside`` allows others; proxies of the
environment and redirects are not followed. TLS is verified. A timer cuts the connection when the time is over, however slowly
the other side drips.

**Fails** `NoVerdict` with a word that may be logged. `BadSetting` for a key or certificates that cannot be used.

**Standard** OpenAI's chat completions as local servers speak it, ``response_format`` ``json_schema`` or ``json_object``.

**Limits** Looking a name up has the time limit of the system's resolver. Answers up to 1 MiB.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from dicomnode.errors import BadSetting
from dicomnode.judging.prompt import Fooled, Question, question
from dicomnode.judging.wire import Odd, left
from dicomnode.settings import Settings, is_private
from dicomnode.stages.redact.appeal import Verdict

_LONGEST_ANSWER = 1 << 20


class NoVerdict(Exception):
    """The model has not judged; its text is the reason, one word: timeout, unreachable, outside, tls, odd_answer, too_large,
    fooled, or http_ and a status.
    """


class Endpoint:
    """One endpoint and model."""

    def __init__(self, settings: Settings) -> None:
        judge = settings.judge
        if judge.url is None:
            raise BadSetting(f"{settings.directory / 'node.toml'}: judge.url is not set, so there is no model to ask")
        parts = urlsplit(judge.url)
        self._host, self._secure = parts.hostname or "", parts.scheme == "https"
        self._port = parts.port or (443 if self._secure else 80)
        self._path = f"{parts.path.rstrip('/')}/chat/completions"
        self._judge = judge
        self._key = _key(settings)
        self._context = _context(settings) if self._secure else None

    def __call__(self, texts: Sequence[str]) -> list[Verdict]:
        """Judge these texts, in ``judge.timeout_s`` altogether; raises `NoVerdict`."""
        until = time.monotonic() + self._judge.timeout_s
        found: list[Verdict] = []
        for start in range(0, len(texts), self._judge.batch):
            asked = question(texts[start : start + self._judge.batch])
            try:
                found += asked.verdicts(_content(self._post(self._body(asked), until)))
            except Odd:
                raise NoVerdict("odd_answer") from None
            except Fooled:
                raise NoVerdict("fooled") from None
        return found

    def _body(self, asked: Question) -> bytes:
        body: dict[str, Any] = {
            "model": self._judge.model,
            "temperature": 0,
            "stream": False,
            "messages": [{"role": "system", "content": asked.system}, {"role": "user", "content": asked.user}],
        }
        if self._judge.answer == "schema":
            schema = {"name": "verdicts", "strict": True, "schema": asked.schema()}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self._judge.answer == "object":
            body["response_format"] = {"type": "json_object"}
        return json.dumps(body).encode("ascii")

    def _post(self, body: bytes, until: float) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        with _named_trouble(until):
            raw = self._connect(until)
            with raw, _cut_off(raw, until):
                connection = http.client.HTTPConnection(self._host, self._port)
                connection.auto_open = 0
                connection.default_port = 443 if self._secure else 80
                with self._shielded(raw) as connection.sock:
                    connection.request("POST", self._path, body, headers)
                    with connection.getresponse() as answer:
                        if answer.status != http.HTTPStatus.OK:
                            raise NoVerdict(f"http_{answer.status}")
                        data = answer.read(_LONGEST_ANSWER + 1)
            left(until)  # cut off, what was read would look like an answer
        if len(data) > _LONGEST_ANSWER:
            raise NoVerdict("too_large")
        return data

    def _connect(self, until: float) -> socket.socket:
        """Connect to the first address that answers, and to none that is not allowed, whatever the name means by now."""
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        addresses = [(family, address) for family, _, _, _, address in found]
        if not self._judge.outside and not all(is_private(str(address[0])) for _, address in addresses):
            raise NoVerdict("outside")
        trouble: OSError = ConnectionError()
        for family, address in addresses:
            made = socket.socket(family, socket.SOCK_STREAM)
            try:
                made.settimeout(left(until))
                made.connect(address)
            except OSError as error:
                made.close()
                trouble = error
            else:
                return made
        raise trouble

    def _shielded(self, raw: socket.socket) -> socket.socket:
        return raw if self._context is None else self._context.wrap_socket(raw, server_hostname=self._host)


@contextmanager
def _named_trouble(until: float) -> Iterator[None]:
    """Turn what sockets and HTTP raise into one word; their texts are not wanted."""
    try:
        yield
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last one: a name that can be no host's
        late = isinstance(error, TimeoutError) or time.monotonic() >= until
        # Who hangs up without a word raises what is both an OSError and an HTTPException.
        word = "unreachable" if isinstance(error, OSError | UnicodeError) else "odd_answer"
        if isinstance(error, ssl.SSLError):
            word = "tls"
        raise NoVerdict("timeout" if late else word) from None


@contextmanager
def _cut_off(raw: socket.socket, until: float) -> Iterator[None]:
    """Break a connection off when its time is over: limits of single reads never end who sends a byte now and then."""
    line = raw.dup()

    def cut() -> None:
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(left(until), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        line.close()


def _content(data: bytes) -> str:
    """Give what the model has said; raises `Odd` for anything but one whole answer."""
    try:
        told = json.loads(data)
        (choice,) = told["choices"]
        content = choice["message"]["content"]
        whole = choice.get("finish_reason", "stop") in ("stop", None)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Odd from None
    if not isinstance(content, str) or not whole:
        raise Odd
    return content


def _key(settings: Settings) -> str:
    """Read the API key; messages name the file, never what is in it."""
    if settings.judge.key_file is None:
        return ""
    path = settings.beside(settings.judge.key_file)
    where = f"judge.key_file: {path}"
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o007:
                raise BadSetting(f"{where} is open to other accounts: chmod 0640 {path}")
            text = file.read(4096).decode("ascii").strip()
    except OSError as error:
        raise BadSetting(f"{where} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable() or " " in text:
        raise BadSetting(f"{where} does not hold one key, a word of ASCII")
    return text


def _context(settings: Settings) -> ssl.SSLContext:
    ca_file = settings.judge.ca_file
    path = None if ca_file is None else settings.beside(ca_file)
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:
        raise BadSetting(f"judge.ca_file: {path} cannot be used ({error.strerror or 'no certificates'})") from None
