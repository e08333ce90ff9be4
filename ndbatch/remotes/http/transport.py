"""One attempt of one request: connections kept open, three time-outs, bodies that are whole or an error.

urllib3 holds the connections and nothing else is laid over it: at 20 ms a request and 16 in flight, the CPU time of a request
is what bounds a reader on two cores, and `requests` costs about three times as much of it. Proxies are those of the environment
(HTTP_PROXY, HTTPS_PROXY, NO_PROXY); hosts of this machine are never reached through one. Certificates are
checked against SSL_CERT_FILE, or the system's store, or certifi's where the system has none.
"""

from __future__ import annotations

import os
import time
import urllib.request
import zlib
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

from ndbatch.errors import RemoteError, Transient
from ndbatch.remotes.http.digest import ASKED, HEADER, WANTED, content_digest, intact
from ndbatch.remotes.http.reply import Reply, shown

CONNECT, READ = 5.0, 180.0
"""Seconds to wait for a connection, and between two parts of an answer; services compute before they answer."""
DEADLINE = 600.0
"""Seconds of one attempt in all, from its beginning to the last byte of the answer."""
SLOW_AFTER, SLOWEST = 20.0, 1024.0
"""Seconds after which the body of an answer must have come at so many bytes a second on average."""
CONNECTIONS = 48
"""Connections of a process to one host; more threads than that wait for each other."""
LIMIT = 2**31
"""Bytes of an answer, unpacked, beyond which it is refused."""
PIECE = 2**18
LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0")


def send(
    method: str,
    url: str,
    body: bytes | None,
    headers: Mapping[str, str],
    read_timeout: float = READ,
    deadline: float = DEADLINE,
    limit: int = LIMIT,
) -> Reply:
    """Send a request once and return the whole answer, whatever its status.

    Raises Transient where it was cut off, took too long or was damaged on the way (with the field `sent=False` where no
    connection came about, so that the service knows nothing of it); RemoteError for certificates that are not trusted
    and for answers above `limit` bytes.
    """
    import urllib3

    started = time.monotonic()
    sent = {WANTED: ASKED, **({HEADER: content_digest(body)} if body else {}), **headers}
    where = shown(url)
    try:
        answer = _pool(url).request(
            method,
            url,
            body=body,
            headers=sent,
            timeout=urllib3.Timeout(connect=CONNECT, read=min(read_timeout, deadline)),
            redirect=False,
            preload_content=False,
            decode_content=False,
        )
        try:
            raw = b"" if method == "HEAD" else _body(answer, where, started + deadline, limit)
        finally:
            _give_back(answer)
    except urllib3.exceptions.HTTPError as error:
        raise _failure(error, where) from None
    named = {name.lower(): value for name, value in answer.headers.items()}
    if method != "HEAD" and not intact(raw, named.get(HEADER.lower(), "")):
        raise Transient(f"{where}: the answer was damaged on the way (its {HEADER} differs)", url=where)
    return Reply(answer.status, named, _unpacked(raw, named.get("content-encoding", ""), where, limit), where)


def _body(answer: Any, where: str, until: float, limit: int) -> bytes:
    """Return the body as sent. Transient where it is shorter than announced or comes too slowly."""
    parts, size, begun = [], 0, time.monotonic()
    while part := answer.read1(PIECE):
        parts.append(part)
        size += len(part)
        now = time.monotonic()
        if size > limit:
            raise RemoteError(f"{where}: the answer is larger than {limit} bytes; ask for less at once", url=where)
        if now > until or (now - begun > SLOW_AFTER and size < SLOWEST * (now - begun)):
            raise Transient(f"{where}: the answer came too slowly: {size} bytes in {now - begun:.0f} s", url=where)
    if answer.length_remaining:
        raise Transient(f"{where}: the answer broke off before its end", url=where)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _give_back(answer: Any) -> None:
    """Keep the connection of an answer that was read to its end, and close any other."""
    if answer.length_remaining == 0 or answer.closed:
        answer.release_conn()
    else:
        answer.close()


def _unpacked(raw: bytes, encoding: str, where: str, limit: int) -> bytes:
    """Return a body without the Content-Encoding gzip or deflate; both end in a checksum, which is checked."""
    if encoding in ("", "identity") or not raw:
        return raw
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise RemoteError(f"{where}: the answer is packed by {encoding}, which was not asked for", url=where)
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        body = unpacking.decompress(raw, limit)
    except zlib.error as error:
        raise Transient(f"{where}: the answer was damaged on the way ({error})", url=where) from None
    if unpacking.unconsumed_tail:
        raise RemoteError(f"{where}: the answer is larger than {limit} bytes once unpacked", url=where)
    if unpacking.unused_data:
        raise RemoteError(f"{where}: the answer goes on after its packed part ends", url=where)
    if not unpacking.eof:
        raise Transient(f"{where}: the answer broke off before its end", url=where)
    return body


def _failure(error: Exception, where: str) -> RemoteError:
    """Return an error of urllib3 as one of ours."""
    from urllib3 import exceptions

    cause = getattr(error, "reason", None) or error
    if isinstance(error, exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return RemoteError(
            f"{where}: its certificate is not trusted ({_words(cause)}); name the file of the authority in SSL_CERT_FILE",
            url=where,
        )
    if isinstance(error, exceptions.LocationValueError):
        return RemoteError(f"{where} is no address of a service ({_words(cause)})", url=where)
    if isinstance(error, exceptions.NewConnectionError | exceptions.ConnectTimeoutError | exceptions.ProxyError):
        return Transient(f"{where} cannot be reached ({_words(cause)})", url=where, sent=False)
    if isinstance(error, exceptions.ReadTimeoutError):
        return Transient(f"{where} did not answer in time", url=where)
    if "IncompleteRead" in str(error):
        return Transient(f"{where}: the answer broke off before its end", url=where)
    return Transient(f"{where}: the connection broke ({_words(cause)})", url=where)


def _words(error: object) -> str:
    """Return the last and plainest part of what an error says."""
    inner = error.args[-1] if isinstance(error, Exception) and error.args else error
    return str(inner).split(": ")[-1].strip("'\")( ") or type(error).__name__


@cache
def _certificates() -> Any:
    """Return what certificates are checked against."""
    import ssl

    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if not context.cert_store_stats()["x509_ca"] and not paths.cafile and not paths.capath:
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _pool(url: str) -> Any:
    """Return what holds the connections of this process to the host of `url`: direct, or through a proxy."""
    parts = urlsplit(url)
    name = parts.hostname or ""
    proxies = {} if name in LOCAL or urllib.request.proxy_bypass(name) else urllib.request.getproxies()
    return _manager(proxies.get(parts.scheme) or proxies.get("all") or "")


@cache
def _manager(proxy: str) -> Any:
    """Return the connections of this process that go through `proxy`; empty for those that go through none."""
    import urllib3

    options: dict[str, Any] = {
        "maxsize": CONNECTIONS,
        "num_pools": 32,
        "block": True,
        "retries": False,
        "ssl_context": _certificates(),
    }
    if not proxy:
        return urllib3.PoolManager(**options)
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    known = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
    named = urllib3.make_headers(proxy_basic_auth=known) if known else None
    bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return urllib3.ProxyManager(bare, proxy_headers=named, **options)


os.register_at_fork(after_in_child=_manager.cache_clear)  # connections do not survive a fork
