"""A bad network before a good service: faults of every kind, each with its probability, the same ones for the same seed.

    with serving(folder) as (url, _), chaos_proxy(url, Faults(reset=0.05, latency=0.02)) as chaos:
        volume = nb.open(f"precomputed://{chaos.url}/precomputed/embryo/nuclei")
        ...
        assert chaos.counts["reset"] > 0

The proxy speaks HTTP/1.1 on loopback and works below it: it resets connections, cuts bodies, lies about their length, damages
their bytes. What happens to the n-th request for one path depends on seed, method, path, range and n alone, whatever order
threads ask in. Any service can stand behind it, also those of other programs.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

HEAD = 2**16
"""Bytes of a head at most."""
END = b"\r\n\r\n"


@dataclass(frozen=True)
class Faults:
    """What goes wrong: probabilities from 0 to 1 of each fault for a request, at most one fault a request.

    `latency` and `jitter` (seconds) delay every answer: by the first, and by up to the second more.
    """

    error: float = 0.0
    """500, 502 or 503 without asking the service."""
    busy: float = 0.0
    """429 without Retry-After."""
    wait: float = 0.0
    """429 with Retry-After, `retry_after` seconds."""
    reset: float = 0.0
    """The connection is reset in the middle of the body. The service has done what it was asked."""
    truncated: float = 0.0
    """The connection ends in the middle of the body."""
    longer: float = 0.0
    """Content-Length announces more than comes; the connection then waits, and ends after `silence` seconds."""
    shorter: float = 0.0
    """Content-Length announces less than comes: the rest stands before the next answer."""
    corrupt: float = 0.0
    """Some bytes of the body are others; length and headers are right."""
    trickle: float = 0.0
    """The body comes in small pieces over `trickle_seconds`."""
    dead: float = 0.0
    """No answer comes; the connection ends after `silence` seconds."""
    latency: float = 0.0
    jitter: float = 0.0
    retry_after: float = 1.0
    trickle_seconds: float = 30.0
    silence: float = 30.0
    seed: int = 0
    where: str = ""
    """Only requests whose `METHOD /path` this pattern finds (`re.search`) meet a fault; all are delayed."""

    @classmethod
    def every(cls, share: float, **others: Any) -> Faults:
        """Return all kinds of faults, each with probability `share`; `others` are fields."""
        return cls(**{**dict.fromkeys(KINDS, share), **others})

    def of(self, request: str, number: int) -> tuple[str, random.Random]:
        """Return the kind of fault that the `number`-th such request meets (empty for none), and the dice for its details."""
        dice = random.Random(f"{self.seed} {number} {request}")
        chance = dice.random()
        if not re.search(self.where, request):
            return "", dice
        for kind in KINDS:
            chance -= getattr(self, kind)
            if chance < 0:
                return kind, dice
        return "", dice


KINDS = tuple(f.name for f in fields(Faults))[:10]
"""Names of the faults."""


@dataclass
class Chaos:
    """A running proxy. `faults` may be replaced at any time."""

    url: str
    faults: Faults
    counts: Counter[str] = field(default_factory=Counter)
    """Requests by the fault they met; those that met none under the empty name."""
    connections: int = 0
    """Connections that clients made."""
    met: list[tuple[str, str]] = field(default_factory=list)
    """Faults in order: kind, and `METHOD /path`."""
    asked: Counter[str] = field(default_factory=Counter)
    """How often each request was made: `METHOD /path`, and the range where one was asked for."""
    _refused: tuple[int, str] = (0, "")

    def refuse(self, status: int, where: str = "") -> None:
        """Answer every request whose `METHOD /path` the pattern finds with `status`, until this is called with 0."""
        self._refused = status, where

    def refused(self, request: str) -> int:
        """Return the status that a request is refused with, 0 for none."""
        status, where = self._refused
        return status if status and re.search(where, request) else 0

    def next(self, request: str) -> tuple[str, random.Random]:
        """Count a request and return its fault."""
        self.asked[request] += 1
        kind, dice = self.faults.of(request, self.asked[request])
        self.counts[kind] += 1
        if kind:
            self.met.append((kind, request))
        return kind, dice


@contextmanager
def chaos_proxy(target: str, faults: Faults | None = None) -> Iterator[Chaos]:
    """Put a proxy with `faults` (none if not given) before the service at `target`, `http://host:port`; yield it, running."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    chaos = Chaos(f"http://127.0.0.1:{bound.getsockname()[1]}", faults or Faults())
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        proxy = _Proxy(chaos, target, stop)
        server = await asyncio.start_server(proxy.serve, sock=bound, limit=HEAD, backlog=1024)
        ready.set()
        await stop.wait()
        server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for writer in tuple(proxy.open):
                writer.transport.abort()
            await asyncio.wait(others, timeout=0.1)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="chaos", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield chaos
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


class _Broken(Exception):
    """The connection to the client ends here."""


@dataclass
class _Message:
    """A request or an answer: first line, header lines as they came, and the body without chunks."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    def replaced(self, **values: str) -> bytes:
        """Return the head, with the headers `values` (underscores for dashes) instead of those it has."""
        new = {name.replace("_", "-"): value for name, value in values.items()}
        kept = [(k, v) for k, v in self.headers if k.lower() not in {*new, "transfer-encoding"}]
        lines = [self.line, *(f"{k}: {v}" for k, v in [*kept, *new.items()])]
        return "\r\n".join(lines).encode("latin-1") + END


class _Proxy:
    """Serves connections of clients, each with one of its own to the service."""

    def __init__(self, chaos: Chaos, target: str, stop: asyncio.Event) -> None:
        self._chaos, self._stop = chaos, stop
        self.open: set[asyncio.StreamWriter] = set()
        """Ends of connections."""
        parts = urlsplit(target)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until it ends."""
        self._chaos.connections += 1
        self.open.add(writer)
        service: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while (request := await _message(reader, writer)) is not None:
                method, path, _ = request.line.split(" ", 2)
                asked = " ".join((method, path, request.header("range"))).rstrip()
                kind, dice = self._chaos.next(asked)
                faults = self._chaos.faults
                await self._wait(faults.latency + dice.random() * faults.jitter)
                status = self._chaos.refused(asked)
                refusal = _Message(f"HTTP/1.1 {status} Refused", [], b"this is chaos\n") if status else None
                answer = refusal or _refusal(kind, dice, faults)
                if kind == "dead":
                    await self._wait(faults.silence)
                    raise _Broken
                if answer is None:
                    service = service or await asyncio.open_connection(self._host, self._port, limit=HEAD)
                    self.open.add(service[1])
                    answer = await self._asked(request, method, *service)
                await self._answered(writer, answer, method, kind, dice, faults)
                if "close" in (answer.header("connection").lower(), request.header("connection").lower()):
                    break
        except (_Broken, OSError, EOFError, asyncio.LimitOverrunError, ValueError):
            pass  # the connection has ended, or was to be ended
        finally:
            for one in (writer, service[1] if service else None):
                if one is not None:
                    self.open.discard(one)
                    with suppress(OSError, RuntimeError):
                        one.close()

    async def _asked(
        self, request: _Message, method: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> _Message:
        """Return the service's answer to `request`."""
        host = f"{self._host}:{self._port}"
        length = {"content_length": str(len(request.body))} if request.body or method in ("POST", "PUT") else {}
        writer.write(request.replaced(host=host, connection="keep-alive", **length) + request.body)
        await writer.drain()
        answer = await _message(reader, None, bodiless=method == "HEAD")
        if answer is None:
            raise _Broken
        return answer

    async def _answered(
        self,
        writer: asyncio.StreamWriter,
        answer: _Message,
        method: str,
        kind: str,
        dice: random.Random,
        faults: Faults,
    ) -> None:
        """Send `answer` to the client, with the fault `kind`. Raises _Broken where the connection ends with it."""
        body = answer.body
        if method == "HEAD" or answer.line.split(" ")[1] in ("204", "304"):
            writer.write(answer.replaced())
            await writer.drain()
            return
        half = dice.randrange(len(body)) if body else 0
        announced = len(body)
        if kind == "longer":
            announced += dice.randrange(1, 5000)
        elif kind == "shorter":
            announced = half
        elif kind == "corrupt" and body:
            body = damaged(body, dice)
        writer.write(answer.replaced(content_length=str(announced)))
        if kind in ("reset", "truncated"):
            writer.write(body[:half])
            await writer.drain()
            await self._wait(0.005)  # the client has the first part when the connection ends
            if kind == "reset":
                _reset(writer)
            raise _Broken
        if kind == "trickle":
            pieces = min(20, max(1, len(body)))
            for number in range(pieces):
                writer.write(body[len(body) * number // pieces : len(body) * (number + 1) // pieces])
                await writer.drain()
                await self._wait(faults.trickle_seconds / pieces)
        else:
            writer.write(body)
        await writer.drain()
        if kind == "longer":
            await self._wait(faults.silence)
            raise _Broken

    async def _wait(self, seconds: float) -> None:
        """Wait, and no longer than the proxy runs."""
        if seconds <= 0:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
            raise _Broken


async def _message(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None, bodiless: bool = False
) -> _Message | None:
    """Read a request (then `writer` is the client's) or an answer; None where the connection has ended."""
    try:
        head = await reader.readuntil(END)
    except asyncio.IncompleteReadError:
        return None
    line, *lines = head[: -len(END)].decode("latin-1").split("\r\n")
    headers = [(name.strip(), value.strip()) for name, _, value in (text.partition(":") for text in lines)]
    message = _Message(line, headers)
    if writer is not None and message.header("expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if bodiless or line.split(" ")[1] in ("204", "304"):
        return message
    if "chunked" in message.header("transfer-encoding").lower():
        parts = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            parts.append(await reader.readexactly(size))
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
        message.body = b"".join(parts)
    elif length := message.header("content-length"):
        message.body = await reader.readexactly(int(length))
    elif writer is None:
        message.body = await reader.read()
        message.headers.append(("Connection", "close"))
    return message


def _refusal(kind: str, dice: random.Random, faults: Faults) -> _Message | None:
    """Return the answer that is given in place of the service's."""
    lines = {
        "error": dice.choice(("500 Internal Server Error", "502 Bad Gateway", "503 Service Unavailable")),
        "busy": "429 Too Many Requests",
        "wait": "429 Too Many Requests",
    }
    if kind not in lines:
        return None
    headers = [("Retry-After", f"{faults.retry_after:g}")] if kind == "wait" else []
    return _Message(f"HTTP/1.1 {lines[kind]}", headers, b"this is chaos\n")


def damaged(body: bytes, dice: random.Random) -> bytes:
    """Return `body` with one to four of its bytes changed, its length kept."""
    changed = bytearray(body)
    for _ in range(dice.randint(1, 4)):
        changed[dice.randrange(len(changed))] ^= dice.randrange(1, 256)
    return bytes(changed) if changed != body else damaged(body, dice)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, as a host does that restarts."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
