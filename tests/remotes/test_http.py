"""The HTTP layer against real services on loopback: what it survives, what it refuses, and what it never shows."""

from __future__ import annotations

import gzip
import os
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ndbatch.errors import Conflict, Corrupt, Denied, NdbatchError, NotFound, RemoteError, Transient
from ndbatch.remotes.address import parse
from ndbatch.remotes.http import retries, transport
from ndbatch.remotes.http.client import ATTEMPTS, IN_FLIGHT, Reply, base_and_path, client, in_flight, segment
from ndbatch.remotes.http.digest import content_digest, intact
from ndbatch.remotes.http.reply import shown
from ndbatch.remotes.http.retries import retry_after
from ndbatch.testing.chaos import Faults, chaos_proxy

BODY = bytes(range(256)) * 400
Answer = tuple[int, dict[str, str], bytes]


class Service(ThreadingHTTPServer):
    """A service that answers what a function says, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, answer: Callable[[Any], Answer]) -> None:
        self.answer, self.connections = answer, 0
        self.asked: list[Any] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(self)
        status, headers, body = self.server.answer(self)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_GET


@contextmanager
def served(answer: Callable[[Any], Answer] = lambda _: (200, {}, BODY)) -> Iterator[Service]:
    with Service(answer) as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield service
        service.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause briefly, and begin with hosts that nothing is known of."""
    monkeypatch.setattr(retries, "PAUSE", 0.005)
    retries.host.cache_clear()
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def with_digest(_: object) -> Answer:
    return 200, {"Content-Digest": content_digest(BODY)}, BODY


# -- connections and time-outs ---------------------------------------------------------------------------------------


def test_connections_are_kept() -> None:
    with served() as service:
        for _ in range(50):
            assert client(service.url).get("/a").body == BODY
        assert service.connections == 1
        assert [r.status for r in in_flight([lambda: client(service.url).get("/a")] * 300)] == [200] * 300
        assert service.connections <= IN_FLIGHT + 1
        service.answer = lambda _: (404, {}, b"no")
        with pytest.raises(NotFound):
            client(service.url).get("/b")
        before = service.connections
        service.answer = lambda _: (200, {}, b"")
        assert client(service.url, {"Authorization": "Token x"}).get("/c").body == b""
        assert service.connections == before


def test_a_host_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "CONNECT", 0.1)
    with socket.socket() as closed, socket.socket() as full, ExitStack() as waiting:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(Transient, match=r"cannot be reached \(.*refused\); tried 5 times"):
            client(f"http://127.0.0.1:{closed.getsockname()[1]}").get("/")
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # after these nobody else is let in
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        begun = time.monotonic()
        with pytest.raises(Transient, match=r"cannot be reached .*timed? ?out"):
            client(f"http://127.0.0.1:{full.getsockname()[1]}").get("/")
        assert time.monotonic() - begun < 60
    with pytest.raises(Transient, match="cannot be reached"):
        client("http://no-such-host.invalid").get("/")


def test_a_service_that_does_not_answer() -> None:
    with served() as service, chaos_proxy(service.url, Faults(dead=1, silence=60)) as chaos:
        begun = time.monotonic()
        with pytest.raises(Transient, match="did not answer in time; tried 5 times"):
            client(chaos.url).get("/", read_timeout=0.1)
        assert time.monotonic() - begun < 50
        assert chaos.counts["dead"] == ATTEMPTS


def test_an_answer_that_trickles() -> None:
    with served() as service, chaos_proxy(service.url, Faults(trickle=1, trickle_seconds=60)) as chaos:
        begun = time.monotonic()
        with pytest.raises(Transient, match=r"did not answer in time|came too slowly: \d+ bytes"):
            client(chaos.url).get("/", deadline=0.2)
        assert time.monotonic() - begun < 50
        chaos.faults = Faults(trickle=1, trickle_seconds=0.2)
        assert client(chaos.url).get("/", deadline=60).body == BODY


def test_a_body_too_slow_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "SLOW_AFTER", 0.2)
    monkeypatch.setattr(transport, "SLOWEST", 1e6)
    with served() as service, chaos_proxy(service.url, Faults(trickle=1, trickle_seconds=2)) as chaos:
        with pytest.raises(Transient, match="came too slowly"):
            client(chaos.url).get("/")
        assert chaos.counts["trickle"] == ATTEMPTS


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("reset", "broke|reset"),
        ("truncated", "broke off"),
        ("longer", "broke off"),
        ("shorter", "damaged on the way"),
        ("corrupt", "damaged on the way"),
        ("error", r"answered 50[023]: this is chaos"),
        ("busy", "answered 429: this is chaos"),
        ("wait", "answered 429: this is chaos"),
    ],
)
def test_each_fault(fault: str, words: str) -> None:
    faults: dict[str, Any] = {fault: 1.0, "silence": 0.05, "retry_after": 0.01}
    with served(with_digest) as service, chaos_proxy(service.url, Faults(**faults)) as chaos:
        with pytest.raises(Transient, match=f"{chaos.url}/a.*({words}).*tried {ATTEMPTS} times") as caught:
            client(chaos.url).get("/a")
        assert caught.value.fields["url"] == f"{chaos.url}/a"
        assert chaos.counts == {fault: ATTEMPTS}
        chaos.faults = Faults()
        assert client(chaos.url).get("/a").body == BODY


@pytest.mark.parametrize("seed", range(4))
def test_all_faults_together(seed: int) -> None:
    faults = Faults.every(0.02, silence=0.3, trickle_seconds=0.6, retry_after=0.02, jitter=0.002, seed=seed)
    with served(with_digest) as service, chaos_proxy(service.url, faults) as chaos:
        # Each path meets faults of its own, whatever order the threads come in.
        got = list(in_flight([partial(client(chaos.url).get, f"/{number}") for number in range(200)]))
        assert {reply.body for reply in got} == {BODY}
        assert len(chaos.counts) > 8
        assert sum(chaos.counts.values()) > 200


def test_the_rest_of_an_answer_is_never_taken_for_the_next() -> None:
    with served(lambda h: (200, {}, h.path.encode() * 99)) as service, chaos_proxy(service.url) as chaos:
        for number in range(20):
            chaos.faults = Faults(shorter=number % 2)
            got = client(chaos.url).get(f"/{number}").body
            assert (f"/{number}".encode() * 99).startswith(got)
            assert number % 2 or len(got) == 99 * len(f"/{number}")


def test_what_is_packed_is_unpacked_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(BODY)
    with served(lambda _: (200, {"Content-Encoding": "gzip"}, packed)) as service:
        assert client(service.url).get("/").body == BODY
        for broken, words in ((packed[:-9], "broke off"), (packed[:-8] + b"12345678", "damaged on the way")):
            service.answer = lambda _, data=broken: (200, {"Content-Encoding": "gzip"}, data)  # type: ignore[misc]
            with pytest.raises(Transient, match=words):
                client(service.url).get("/")
        service.answer = lambda _: (200, {"Content-Encoding": "deflate"}, zlib.compress(BODY))
        assert client(service.url).get("/").body == BODY
        service.answer = lambda _: (200, {"Content-Encoding": "br"}, packed)
        with pytest.raises(RemoteError, match="packed by br, which was not asked for"):
            client(service.url).get("/")
        bomb = gzip.compress(bytes(10**8))
        service.answer = lambda _: (200, {"Content-Encoding": "gzip"}, bomb)
        with pytest.raises(RemoteError, match="larger than 1000000 bytes once unpacked"):
            client(service.url).get("/", limit=10**6)
        service.answer = lambda _: (200, {}, BODY)
        with pytest.raises(RemoteError, match="larger than 1000 bytes; ask for less"):
            client(service.url).get("/", limit=1000)


def test_a_body_that_cannot_be_decoded_is_asked_for_again() -> None:
    with served() as service:
        answers = iter([b"bad", b"bad", b"good"])
        service.answer = lambda _: (200, {}, next(answers, b"bad"))

        def check(reply: Reply) -> None:
            if reply.body != b"good":
                raise Corrupt(f"{reply.url}: not good")

        assert client(service.url).get("/", check=check).body == b"good"
        with pytest.raises(Corrupt, match="not good; tried 3 times"):
            client(service.url).get("/", check=check)
        assert len(service.asked) == 6
        with pytest.raises(Corrupt, match="not JSON"):
            client(service.url).get("/").json()


def test_the_digest_of_what_is_sent() -> None:
    with served(lambda h: (200, {}, str(intact(h.body, h.headers["Content-Digest"])).encode())) as service:
        assert client(service.url).put("/", BODY).body == b"True"
    assert not intact(BODY, content_digest(BODY[:-1]))
    assert not intact(BODY, "sha-256=:notbase64=x:")
    assert intact(BODY, "md5=:AAAA:")


# -- retries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, RemoteError), (401, Denied), (403, Denied), (404, NotFound), (409, Conflict), (410, NotFound), (501, RemoteError)],
)  # fmt: skip
def test_permanent_answers_are_not_asked_for_again(status: int, kind: type[NdbatchError]) -> None:
    with served(lambda _: (status, {"X-Request-Id": "r-17"}, b"<p>because</p>")) as service:
        with pytest.raises(kind, match=rf"/a answered {status}: because \(request r-17\)$") as caught:
            client(service.url).get("/a")
        assert type(caught.value) is kind
        assert caught.value.fields == {"url": f"{service.url}/a", "status": status, "request": "r-17"}
        assert len(service.asked) == 1


def test_what_a_service_means_by_its_codes() -> None:
    with served(lambda _: (404, {}, b"IO Error")) as service:
        meant = client(service.url, meaning=lambda reply: Denied("private") if b"IO" in reply.body else None)
        with pytest.raises(Denied, match="private"):
            meant.get("/")
        assert meant.get("/", expect=(404,)).text == "IO Error"


@pytest.mark.parametrize("form", ["seconds", "date", "date without a zone"])
def test_retry_after(form: str) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=2)
    value = {"seconds": "1", "date": format_datetime(moment, usegmt=True)}.get(
        form, moment.strftime("%a, %d %b %Y %H:%M:%S")
    )
    with served() as service:
        answers = iter([(429, {"Retry-After": value}, b"slower")])
        service.answer = lambda _: next(answers, (200, {}, b"ok"))
        begun = time.monotonic()
        assert client(service.url).get("/").body == b"ok"
        assert 0.8 < time.monotonic() - begun < 60


def test_retry_after_holds_all_threads_of_a_process() -> None:
    first = threading.Event()

    def answer(_: object) -> Answer:
        if not first.is_set():
            first.set()
            return 503, {"Retry-After": "0.4"}, b"restarting"
        return 200, {}, b"ok"

    with served(answer) as service:
        thread = threading.Thread(target=client(service.url).get, args=("/",))
        thread.start()
        first.wait()
        time.sleep(0.1)
        begun = time.monotonic()
        client(service.url).get("/other")
        assert time.monotonic() - begun > 0.15
        thread.join()


def test_a_wait_that_is_too_long_is_told() -> None:
    with served(lambda _: (429, {"Retry-After": "86400"}, b"daily quota")) as service:
        with pytest.raises(Transient, match=r"daily quota; it asks to wait 86400 s; run again after that"):
            client(service.url).get("/")
        assert len(service.asked) == 1


@pytest.mark.parametrize("text", ["", "soon", "-3", "Sun, 06 Nov 1994 08:49:37 GMT", "١"])
def test_a_wait_that_says_nothing(text: str) -> None:
    assert retry_after({"retry-after": text}) == 0


def test_a_dying_service_is_not_hammered() -> None:
    with served(lambda _: (503, {}, b"dying")) as service:

        def ask() -> str:
            with pytest.raises(Transient) as caught:
                client(service.url).get("/")
            return str(caught.value)

        said = list(in_flight([ask] * 400))
        assert 400 <= len(service.asked) <= 400 + retries.FLOOR + 400 * retries.SHARE + 5
        assert sum("too many requests to this host fail" in one for one in said) > 200
        assert client("http://127.0.0.1:1").base  # another host has a budget of its own


def test_requests_that_must_not_be_repeated() -> None:
    with served() as service, chaos_proxy(service.url, Faults(reset=1)) as chaos:
        with pytest.raises(Transient, match="not sent again, because it may have been carried out"):
            client(chaos.url).post("/reserve", b"5", again=False)
        assert len(service.asked) == 1
        chaos.faults = Faults(error=1)
        with pytest.raises(Transient, match="may have been carried out"):
            client(chaos.url).post("/reserve", b"5", again=False)
        answers = iter([(429, {}, b""), (503, {"Retry-After": "0.01"}, b""), (408, {}, b"")])
        service.answer = lambda _: next(answers, (200, {}, b"done"))
        assert client(service.url).post("/reserve", b"5", again=False).body == b"done"


def test_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as service:
        begun = time.monotonic()
        list(in_flight([lambda: client(service.url, rate=50).get("/")] * 20))
        assert time.monotonic() - begun > 0.37
        monkeypatch.setenv("NDBATCH_REQUESTS_PER_SECOND", "20")
        begun = time.monotonic()
        list(in_flight([lambda: client(service.url).get("/")] * 5))
        assert time.monotonic() - begun > 0.15
        monkeypatch.setenv("NDBATCH_REQUESTS_PER_SECOND", "many")
        with pytest.raises(NdbatchError, match="'many' is no number of requests a second"):
            client(service.url).get("/")


# -- secrets, proxies, certificates, forks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers"),
    [(403, {}), (500, {}), (302, {"Location": "http://u:p@else/?token=s3cret"}), (200, {"Content-Length": "999"})],
)
def test_secrets_are_never_shown(status: int, headers: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    def echo(asked: Any) -> Answer:
        asked.close_connection = True
        return status, headers, f"no: {asked.path} {asked.headers['Authorization']} {asked.headers['Cookie']}".encode()

    caplog.set_level("DEBUG")
    with served(echo) as service:
        mine = client(service.url, {"Authorization": "Bearer s3cret", "Cookie": "s3cret"})
        with pytest.raises(RemoteError) as caught:
            mine.delete("/node?x=1", query=None)
        with pytest.raises(RemoteError) as other:
            mine.delete("/node", query={"admintoken": "s3cret/é", "view": 1})
        assert "admintoken=***&view=1" in str(other.value)
        for error in (caught.value, other.value):
            assert "s3cret" not in f"{error} {error.fields} {error!r}"
        assert b"s3cret" in b"".join(one.path.encode() for one in service.asked)
    assert "Bearer" not in caplog.text


def test_urls_as_they_may_be_shown() -> None:
    assert shown("https://u:p@h/a?token=x&y=2&Signature=z&flag") == "https://h/a?token=***&y=2&Signature=***&flag"


def test_a_place_that_moved() -> None:
    moved = {"Location": "https://new.example/v1?key=1"}
    words = r"answered 301: it is now at https://new\.example/v1\?key=1; use that"
    with served(lambda _: (301, moved, b"")) as service, pytest.raises(RemoteError, match=words):
        client(service.url).get("/")


def test_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(lambda h: (200, {}, f"{h.path} {h.headers['Proxy-Authorization']}".encode())) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:s3cret@127.0.0.1:{proxy.server_port}")
        assert client("http://service.invalid").get("/a").text == "http://service.invalid/a Basic bWU6czNjcmV0"
        with served() as service:
            assert client(service.url).get("/").body == BODY  # hosts of this machine are asked themselves
        monkeypatch.setenv("NO_PROXY", "service.invalid")
        with pytest.raises(Transient, match="cannot be reached"):
            client("http://service.invalid").get("/a")
        assert len(proxy.asked) == 1
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", "http://me:s3cret@127.0.0.1:1")
    with pytest.raises(Transient, match="cannot be reached") as caught:
        client("http://service.invalid").get("/a")
    assert "s3cret" not in str(caught.value)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Write a certificate of 127.0.0.1 that is its own authority, with its key, as one PEM file."""
    pytest.importorskip("cryptography", reason="cryptography makes the certificate")
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path / "loopback.pem"
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_certificates_are_checked(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fresh() -> None:
        for cached in (transport._manager, transport._certificates):
            cached.cache_clear()

    with served() as service:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        service.socket = context.wrap_socket(service.socket, server_side=True, do_handshake_on_connect=False)
        url = service.url.replace("http:", "https:")
        fresh()
        with pytest.raises(RemoteError, match=r"certificate is not trusted .*SSL_CERT_FILE") as caught:
            client(url).get("/")
        assert not isinstance(caught.value, Transient)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        fresh()
        assert client(url).get("/").body == BODY
    fresh()


def test_forked_processes_have_connections_of_their_own() -> None:
    with served(lambda h: (200, {}, h.path.encode())) as service:
        mine = client(service.url)
        assert mine.get("/before").text == "/before"
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            text = ""
            try:
                calls = [partial(mine.get, f"/{number}") for number in range(40)]
                text = ",".join(reply.text for reply in in_flight(calls))
            finally:
                os.write(writing, text.encode())
                os._exit(0)
        os.close(writing)
        theirs = [mine.get(f"/parent{n}").text for n in range(40)]
        with os.fdopen(reading) as pipe:
            assert pipe.read() == ",".join(f"/{n}" for n in range(40))
        os.waitpid(child, 0)
        assert theirs == [f"/parent{n}" for n in range(40)]
        assert service.connections > 1


# -- many at once, and addresses ---------------------------------------------------------------------------------------


def test_many_in_flight() -> None:
    begun: list[int] = []

    def one(number: int) -> int:
        begun.append(number)
        return number

    results = in_flight(partial(one, number) for number in range(10_000))
    assert next(results) == 0
    time.sleep(0.05)
    assert len(begun) <= 3 * IN_FLIGHT  # what nobody takes is not asked for
    assert list(results) == list(range(1, 10_000))
    nested = in_flight([lambda: list(in_flight([lambda: 1] * 3))] * (2 * IN_FLIGHT))
    assert list(nested) == [[1, 1, 1]] * (2 * IN_FLIGHT)
    with pytest.raises(Transient, match="third"):
        list(in_flight([lambda: 1, lambda: 2, lambda: _raise(Transient("third")), lambda: 4]))


def _raise(error: Exception) -> int:
    raise error


@pytest.mark.parametrize(
    ("url", "base", "parts"),
    [
        ("boss://api.org/c/e/ch", "https://api.org", ("c", "e", "ch")),
        ("boss://localhost:8000/c/e/ch", "http://localhost:8000", ("c", "e", "ch")),
        ("boss+https://localhost/c", "https://localhost", ("c",)),
        ("boss+http://h:1/c", "http://h:1", ("c",)),
        ("boss://[::1]:80/c", "http://[::1]:80", ("c",)),
        ("boss://[::1]/c", "http://[::1]", ("c",)),
    ],
)
def test_bases(url: str, base: str, parts: tuple[str, ...]) -> None:
    assert base_and_path(parse(url)) == (base, parts)
    assert segment("a/b ü") == "a%2Fb%20%C3%BC"
    with pytest.raises(NdbatchError, match="is no host and port"):
        base_and_path(parse("boss://host:port/c"))


@pytest.mark.parametrize(
    ("base", "near"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://localhost:8000/prefix", True),
        ("http://[::1]:8000", True),
        ("https://api.bossdb.io", False),
        ("https://localhost.example.org", False),
    ],
)
def test_a_service_of_this_machine_is_near(base: str, near: bool) -> None:
    """Bodies are packed less for it."""
    assert client(base).near is near
