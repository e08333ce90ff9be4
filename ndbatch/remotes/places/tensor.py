"""tensorstore in this process: its context, the guard against forks, and what it raises, in our words."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeVar

import numpy as np

from ndbatch.errors import Corrupt, Denied, NoRoom, NotFound, RemoteError, Transient
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Array
from ndbatch.remotes.places.keyvalue import AGAIN
from ndbatch.remotes.places.unreachable import names_no_bucket, unreachable

T = TypeVar("T")
CACHE_BYTES = 32 * 2**20
"""Decoded chunks and shard indices kept by a process; part of what a worker uses at rest."""
DECODERS = 4
"""Threads that decode and encode chunks in a process."""
REQUESTS = 32
"""Files and objects read and written at the same time by a process."""
RETRIES = {"max_retries": 5, "initial_delay": "250ms", "max_delay": "8s"}
"""How a request is repeated that a busy service refused (429 and 5xx); after that the engine decides."""
PATIENCE = {
    "TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS": "10",
    "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "30",
    "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1024",
}
"""Without these tensorstore waits for ever for a host that is silent: seconds to connect, and seconds at fewer bytes a second."""
FAILURES = (ValueError, RuntimeError, OSError, NotImplementedError)
"""What tensorstore raises."""

_started_in: list[int] = []


@cache
def context() -> Any:
    """Return the tensorstore.Context that all stores of this process share."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)  # read once, when the first request is made
    import tensorstore

    _started_in.append(os.getpid())
    places = ("s3", "gcs", "http")
    return tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": CACHE_BYTES},
            "data_copy_concurrency": {"limit": min(DECODERS, os.cpu_count() or 1)},
            "file_io_concurrency": {"limit": REQUESTS},
            **{f"{place}_request_concurrency": {"limit": REQUESTS} for place in places},
            **{f"{place}_request_retries": RETRIES for place in places},
        }
    )


def read(view: Any, order: Literal["C", "F"] = "C") -> Array:
    """Return the voxels of a view of a store, in memory of numpy's.

    Measured on uint64 chunks: a third less CPU time than tensorstore's own arrays take, because numpy asks the system for
    large pages.
    """
    import tensorstore

    result = np.empty(view.shape, view.dtype.numpy_dtype, order=order)
    moved = view[tensorstore.d[:].translate_to[0]] if view.rank else view
    web = view.kvstore is not None and view.kvstore.spec().to_json()["driver"] == "http"
    attempted(lambda: tensorstore.array(result).write(moved).result(), web)
    return result


def attempted(call: Callable[[], T], web: bool) -> T:
    """Return what `call` returns, which reads from a web server where `web` is True, called again where its bytes were damaged.

    What tensorstore itself asked for again (statuses, broken connections) is not, nor what the server says by its status.
    """
    for _ in range(AGAIN - 1 if web else 0):
        try:
            return call()
        except FAILURES as error:
            text = str(error)
            stated = _PASSING.search(text) or _REJECTED.search(text) or _STATED.match(text)
            if stated and "Content or Transfer-Encoding" not in text:
                raise
    return call()


def require_no_fork(address: Address) -> None:
    """Raise RemoteError in a process forked from one that used tensorstore: its threads are gone, and calls hang."""
    if _started_in and _started_in[-1] != os.getpid():
        raise RemoteError(
            f"{address.url}: {address.scheme} volumes cannot be used in a forked process; start processes with the "
            'spawn method (multiprocessing.get_context("spawn"))',
            url=address.url,
        )


def translated(error: Exception, address: Address, where: str) -> RemoteError:
    """Return an error of tensorstore as one of ours: what and why, without the specification that it repeats.

    `where` says which part of the volume was meant: a box, its metadata, the name of an object.
    """
    text = re.sub(r"\s*\[(tensorstore_spec|source locations|http_|x-)[^\n]*", "", str(error), flags=re.DOTALL)
    code, _, reason = text.partition(": ")
    reason = re.sub(r"Error (reading|opening|writing) ", r"\1 ", reason or text).strip()
    reason = re.sub(r"^All \d+ retry attempts failed: |\s*\[curl_code=[^]]*\]", "", reason)
    url = address.url
    if "No space left" in text or "Disk quota" in text or "File too large" in text:
        return NoRoom(f"{url}: no room to write {where}; free some space, then run again", url=url)
    silent = None if address.place == "file" else unreachable(text, address.place)
    if silent is not None and code not in ("PERMISSION_DENIED", "UNAUTHENTICATED", "NOT_FOUND"):
        return Transient(f"{url}: {silent} ({where})", url=url)
    if code in ("PERMISSION_DENIED", "UNAUTHENTICATED") or _REFUSED.search(text):
        return Denied(f"{url}: {reason}; {_remedy(address)}", url=url)
    if names_no_bucket(text):
        return NotFound(f"{url}: there is no bucket {address.path.split('/')[2]}; check its name and endpoint", url=url)
    if code == "NOT_FOUND":
        return NotFound(f"{url}: {reason} ({where})", url=url)
    if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "RESOURCE_EXHAUSTED") or _PASSING.search(text):
        return Transient(f"{url}: {reason} ({where})", url=url)
    if _REJECTED.search(text):
        return RemoteError(
            f"{url}: {reason} ({where}); the server will not answer this request, look at the address", url=url
        )
    web = {"passing": True} if address.place in ("http", "https") else {}  # another attempt may bring other bytes
    return Corrupt(f"{url}: {where} cannot be read: {reason}", url=url, **web)


_REFUSED = re.compile(
    r"Permission denied|Read-only file system|AccessDenied|ACCESS_DENIED|InvalidAccessKeyId|INVALID_ACCESS_KEY_ID"
    r"|SignatureDoesNotMatch|SIGNATURE_DOES_NOT_MATCH|ExpiredToken|InvalidToken|HTTP (?:status|code) 40[13]|credentials",
    re.IGNORECASE,
)
_REJECTED = re.compile(r"HTTP code 4(?!08|25|29)\d\d")
_PASSING = re.compile(
    r"NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|curlCode|CURL error|timed out"
)

_STATED = re.compile(
    r"NOT_FOUND|PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|RESOURCE_EXHAUSTED|UNIMPLEMENTED"
)


def _remedy(address: Address) -> str:
    """Return what to do where a place refuses."""
    if address.place == "s3":
        return "check the credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ?profile=, or ?anonymous=true"
    if address.place == "gs":
        return "check the credentials: gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS"
    if address.place in ("http", "https"):
        return "the server does not give it to everybody; copy the volume first"
    return "change the permissions or choose another path"
