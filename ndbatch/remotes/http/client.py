"""Requests to one service: connections shared by the process, polite retries under a budget, errors in our words.

`transport` makes one attempt, `retries` says when to make another, `reply` what an answer means, `digest` whether it is whole.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import islice
from threading import current_thread
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from ndbatch.errors import Corrupt, NdbatchError, PlanError, Transient
from ndbatch.remotes.address import Address
from ndbatch.remotes.http.reply import Meaning, Reply, secrets_of, standard_meaning, without_secrets
from ndbatch.remotes.http.retries import LONGEST, Host, host, pause, retry_after
from ndbatch.remotes.http.transport import DEADLINE, LIMIT, LOCAL, READ, send

T = TypeVar("T")
ATTEMPTS = 5
"""Attempts of one request; after the last a Transient error, and the engine decides."""
DAMAGED = 3
"""Attempts to get an answer that can be decoded (`check`)."""
IN_FLIGHT = 32
"""Requests of one process at the same time, to all services together."""
REFUSED = frozenset({408, 425, 429})
"""Statuses of requests that were not carried out, so that any of them may be sent again."""
RATE = "NDBATCH_REQUESTS_PER_SECOND"
"""Variable of the environment: the most requests a second that a process begins to one host."""
__all__ = [
    "IN_FLIGHT",
    "Client",
    "Meaning",
    "Reply",
    "base_and_path",
    "client",
    "in_flight",
    "segment",
    "standard_meaning",
]


class Client:
    """Requests to one service. It holds no connection itself, so that it may be kept, forked and used by many threads."""

    def __init__(
        self, base: str, headers: Mapping[str, str], meaning: Meaning | None = None, rate: float | None = None
    ) -> None:
        self.base = base.rstrip("/")
        self._origin = "://".join(urlsplit(self.base)[:2])
        self._headers = dict(headers)
        self._meaning = meaning
        self._rate = rate

    @property
    def near(self) -> bool:
        """Whether the service is on this machine, where to send bytes takes less time than to pack them."""
        return urlsplit(self.base).hostname in LOCAL

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
        deadline: float = DEADLINE,
        limit: int = LIMIT,
        again: bool = True,
        check: Callable[[Reply], object] | None = None,
    ) -> Reply:
        """Send one request and return the answer, whose status is one of `expect`.

        `path` begins with a slash and is escaped by the caller (`segment`). An attempt takes at most `deadline` seconds and
        `limit` bytes of answer. Faults that may pass are tried again under the budget of the host; where `again` is False (a
        request that must not be carried out twice) only if the service surely did not carry it out. `check` looks at an
        answer and raises Corrupt where it cannot be decoded; then it is asked for again too.
        Raises Transient, Denied, NotFound, Conflict, Corrupt, RemoteError; none of them shows a secret.
        """
        url = f"{self.base}{path}" + (f"?{urlencode(query)}" if query else "")
        sent, wanted, shared = {**self._headers, **(headers or {})}, frozenset(expect), host(self._origin)
        shared.earn()
        for attempt in range(1, ATTEMPTS + 1):
            shared.begin(self._rate or _rate())
            asked = 0.0
            try:
                reply = send(method, url, body, sent, read_timeout, deadline, limit)
                if reply.status in wanted:
                    if check is not None:
                        check(reply)
                    return reply
                failure = (self._meaning and self._meaning(reply)) or standard_meaning(reply)
                asked = retry_after(reply.headers)
                unheard = reply.status in REFUSED or (reply.status == 503 and "retry-after" in reply.headers)
            except (Transient, Corrupt) as error:
                failure, unheard = error, error.fields.get("sent") is False
            refusal = _why_not_again(failure, attempt, asked, again or unheard, shared)
            if refusal is not None:
                raise without_secrets(_said(failure, refusal), secrets_of(url, sent)) from None
            shared.hold(asked)
            time.sleep(pause(attempt))  # beside what was asked for, so that threads do not come back all at once
        raise AssertionError("unreachable")

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


def _why_not_again(failure: NdbatchError, attempt: int, asked: float, again: bool, shared: Host) -> str | None:
    """Return why a request is not sent again, to be added to the error; empty where that needs no word, None where it is."""
    if not isinstance(failure, Transient | Corrupt):
        return ""
    if not again:
        return "it was not sent again, because it may have been carried out; look whether it was"
    if attempt >= (DAMAGED if isinstance(failure, Corrupt) else ATTEMPTS):
        return f"tried {attempt} times"
    if asked > LONGEST:
        return f"it asks to wait {asked:.0f} s; run again after that"
    if not shared.may_retry():
        return "not tried again, because too many requests to this host fail; look whether the service is well"
    return None


def _said(failure: NdbatchError, refusal: str) -> NdbatchError:
    return type(failure)(f"{failure.message}; {refusal}", **failure.fields) if refusal else failure


def _rate() -> float | None:
    """Return the rate that the environment sets. PlanError where it is no number."""
    text = os.environ.get(RATE, "")
    try:
        return float(text) if text else None
    except ValueError:
        raise PlanError(f"{RATE}={text!r} is no number of requests a second") from None


@cache
def _client(base: str, headers: tuple[tuple[str, str], ...], meaning: Meaning | None, rate: float | None) -> Client:
    return Client(base, dict(headers), meaning, rate)


def client(
    base: str,
    headers: Mapping[str, str] | None = None,
    meaning: Meaning | None = None,
    rate: float | None = None,
) -> Client:
    """Return the client of the service at `base`, such as `https://host:8000/prefix`; `rate` is requests a second."""
    return _client(base, tuple(sorted((headers or {}).items())), meaning, rate)


def base_and_path(address: Address, protocol: str = "https") -> tuple[str, tuple[str, ...]]:
    """Return `https://host:port` of an address of a service, and the parts of its path after the host.

    A path that says its protocol keeps it; hosts of this machine are http, others `protocol`. PlanError where it names no host.
    """
    start, separator, rest = address.path.rpartition("://")
    host_port, *parts = rest.split("/")
    try:
        parsed = urlsplit(f"//{host_port}")
        name, _ = parsed.hostname or "", parsed.port
    except ValueError as error:
        raise PlanError(f"{address.url}: {host_port} is no host and port ({error})") from None
    found = start if separator else "http" if name in LOCAL else protocol
    return f"{found}://{host_port}", tuple(part for part in parts if part)


def segment(name: object) -> str:
    """Return `name` escaped as one part of a path."""
    return quote(str(name), safe="")


def in_flight(calls: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yield the results of `calls` in their order, up to `IN_FLIGHT` of them at a time; the first error is raised.

    Calls begin as results are taken, so that a long list holds no more than two rounds of results. A call may use `in_flight`
    itself; what it asks for is then done one after the other.
    """
    left = iter(calls)
    if current_thread().name.startswith(_THREADS):
        yield from (call() for call in left)
        return
    pool = _pool(os.getpid())
    pending: deque[Future[T]] = deque(pool.submit(call) for call in islice(left, 2 * IN_FLIGHT))
    try:
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(call) for call in islice(left, 1))
            yield result
    finally:
        for one in pending:
            one.cancel()


_THREADS = "ndbatch-http"


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    del process  # threads do not survive a fork
    return ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix=_THREADS)
