"""Requests to one service: a pool of connections for each process, two time-outs, retries under a budget, our own errors.

urllib3 holds the connections and nothing else is laid over it: at 20 ms a request and 16 in flight, the CPU time of a request
is what bounds a reader on two cores, and `requests` costs about three times as much of it.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from ndbatch.errors import Conflict, Corrupt, Denied, NdbatchError, NotFound, RemoteError, Transient
from ndbatch.remotes.address import Address

T = TypeVar("T")
CONNECT, READ = 5.0, 180.0
"""Seconds to wait for a connection, and between two parts of an answer; services compute before they answer."""
ATTEMPTS = 5
"""Attempts of one request; after the last a Transient error, and the engine decides."""
PAUSE, LONGEST = 0.2, 20.0
"""Seconds before the second attempt, doubled for each further one, and the most that is waited."""
IN_FLIGHT = 32
"""Requests of one process at the same time, to all services together."""
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Reply:
    """What a service answered: status, headers (names in small letters), and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    url: str

    @property
    def text(self) -> str:
        """The body as text, broken bytes replaced."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON; Corrupt where it is none."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Corrupt(f"{self.url} answered with something that is not JSON ({error})", url=self.url) from None


Meaning = Callable[[Reply], NdbatchError | None]
"""What a service's answer means where its codes are not those of the standard; None leaves it to the standard."""


class Client:
    """Requests to one service. Made by `client`, so that a process keeps one pool of connections for each host."""

    def __init__(self, base: str, headers: Mapping[str, str], meaning: Meaning | None = None) -> None:
        import urllib3

        self.base = base.rstrip("/")
        self._headers = dict(headers)
        self._meaning = meaning
        self._pool = urllib3.PoolManager(maxsize=IN_FLIGHT, num_pools=4, retries=False)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        expect: Iterable[int] = (200,),
        read_timeout: float = READ,
        again: bool = True,
    ) -> Reply:
        """Send one request and return the answer, whose status is one of `expect`.

        `path` begins with a slash and is escaped by the caller (`segment`). Faults that may pass are tried again unless `again`
        is False (a request that must not be carried out twice). Raises Transient, Denied, NotFound, Conflict, RemoteError.
        """
        url = f"{self.base}{path}" + (f"?{urlencode(query)}" if query else "")
        wanted = frozenset(expect)
        attempts = ATTEMPTS if again else 1
        for attempt in range(1, attempts + 1):
            wait = PAUSE * 2**attempt * random.uniform(0.5, 1.0)
            try:
                reply = self._once(method, url, body, {**self._headers, **(headers or {})}, read_timeout)
            except Transient as error:
                failure: NdbatchError = error
            else:
                if reply.status in wanted:
                    return reply
                failure = (self._meaning and self._meaning(reply)) or standard_meaning(reply)
                wait = max(wait, _retry_after(reply))
            if not isinstance(failure, Transient) or attempt == attempts:
                raise failure
            time.sleep(min(wait, LONGEST))
        raise AssertionError("unreachable")

    def _once(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], read: float) -> Reply:
        import urllib3

        try:
            answer = self._pool.request(
                method, url, body=body, headers=headers, timeout=urllib3.Timeout(CONNECT, read), redirect=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise Transient(f"{url} cannot be reached ({_reason(error)})", url=url) from None
        return Reply(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.data, url)

    def get(self, path: str, **options: Any) -> Reply:
        """GET; the options are those of `request`."""
        return self.request("GET", path, **options)

    def post(self, path: str, body: bytes = b"", **options: Any) -> Reply:
        """POST `body`; the options are those of `request`."""
        return self.request("POST", path, body=body, **options)

    def put(self, path: str, body: bytes = b"", **options: Any) -> Reply:
        """PUT `body`; the options are those of `request`."""
        return self.request("PUT", path, body=body, **options)

    def delete(self, path: str, **options: Any) -> Reply:
        """DELETE; the options are those of `request`."""
        return self.request("DELETE", path, **options)

    def post_json(self, path: str, value: Any, **options: Any) -> Reply:
        """POST `value` as JSON."""
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        return self.post(path, json.dumps(value).encode(), headers=headers, **options)


@cache
def _client(base: str, headers: tuple[tuple[str, str], ...], meaning: Meaning | None, process: int) -> Client:
    del process  # connections do not survive a fork
    return Client(base, dict(headers), meaning)


def client(base: str, headers: Mapping[str, str] | None = None, meaning: Meaning | None = None) -> Client:
    """Return this process's client of the service at `base`, such as `https://host:8000/prefix`."""
    return _client(base, tuple(sorted((headers or {}).items())), meaning, os.getpid())


def base_and_path(address: Address, protocol: str = "https") -> tuple[str, tuple[str, ...]]:
    """Return `https://host:port` of an address of a service, and the parts of its path after the host.

    A path that says its protocol keeps it; hosts of this machine are http, others `protocol`.
    """
    start, separator, rest = address.path.rpartition("://")
    host, *parts = rest.split("/")
    name = host.rpartition(":")[0].strip("[]") if ":" in host else host
    local = name in ("localhost", "127.0.0.1", "::1", "0.0.0.0")
    return f"{start if separator else 'http' if local else protocol}://{host}", tuple(part for part in parts if part)


def segment(name: object) -> str:
    """Return `name` escaped as one part of a path."""
    return quote(str(name), safe="")


def standard_meaning(reply: Reply) -> NdbatchError:
    """Return the error that a status stands for, with the service's own words and its number for the request."""
    said = " ".join(reply.text.split())[:300] or "nothing more was said"
    asked = next(
        (reply.headers[n] for n in ("x-request-id", "x-amzn-requestid", "x-trace-id") if n in reply.headers), ""
    )
    message = f"{reply.url} answered {reply.status}: {said}" + (f" (request {asked})" if asked else "")
    kinds: dict[int, type[RemoteError]] = {401: Denied, 403: Denied, 404: NotFound, 409: Conflict}
    kind = Transient if reply.status in TRANSIENT else kinds.get(reply.status, RemoteError)
    return kind(message, url=reply.url, status=reply.status)


def in_flight(calls: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yield the results of `calls` in their order, up to `IN_FLIGHT` of them at a time; the first error is raised."""
    pending = [_pool(os.getpid()).submit(call) for call in calls]
    try:
        for one in pending:
            yield one.result()
    finally:
        for one in pending:
            one.cancel()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    del process
    return ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="ndbatch-http")


def _retry_after(reply: Reply) -> float:
    text = reply.headers.get("retry-after", "")
    return float(text) if text.isdigit() else 0.0


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).split(": ")[-1]
