"""Servers on loopback for tests of volumes elsewhere: S3, Google's storage, and static files over HTTP with ranges."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from unittest import mock

RANGE = re.compile(r"bytes=(\d*)-(\d*)")
KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "loopback-only", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def s3_server(*buckets: str) -> Iterator[str]:
    """Serve S3 with `buckets` on a free port, and yield its endpoint, `http://127.0.0.1:PORT`.

    While it runs, the environment of this process (and of those it starts) names the endpoint and keys, and no profile.
    """
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    _one_at_a_time(server)
    endpoint = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with mock.patch.dict(os.environ, {**kept, **KEYS, "AWS_ENDPOINT_URL": endpoint}, clear=True):
        client = s3_client(endpoint)
        for bucket in buckets:
            client.create_bucket(Bucket=bucket)
        try:
            yield endpoint
        finally:
            # moto keeps its buckets in this process, beyond the life of a server.
            urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")).close()
            server.stop()


def _one_at_a_time(server: Any) -> None:
    """Let a moto server answer one request after the other: S3 is atomic for each object, moto's threads are not."""
    answer, lock = server._server.app, threading.Lock()

    def locked(environ: Any, start_response: Any) -> Any:
        with lock:
            return answer(environ, start_response)

    server._server.app = locked


def s3_client(endpoint: str) -> Any:
    """Return a boto3 client of a server that `s3_server` started."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=KEYS["AWS_DEFAULT_REGION"],
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )


class _Files(SimpleHTTPRequestHandler):
    """Static files, parts of them where a range is asked for, and an index page for a folder unless told not to."""

    def __init__(self, *arguments: Any, index: bool, asked: list[str], **options: Any) -> None:
        self.index, self.asked = index, asked
        super().__init__(*arguments, **options)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""

    def list_directory(self, path: str | os.PathLike[str]) -> BytesIO | None:
        """Give an index page, or refuse as many servers do."""
        if self.index:
            return super().list_directory(path)
        self.send_error(403)
        return None

    def send_head(self) -> BytesIO | IO[bytes] | None:  # type: ignore[override]
        """Answer a request for a part of a file with that part; any other as a plain server does."""
        wanted, path = RANGE.fullmatch(self.headers.get("Range", "")), Path(self.translate_path(self.path))
        self.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".rstrip())
        if wanted is None or not path.is_file():
            return super().send_head()
        data = path.read_bytes()
        first = int(wanted[1]) if wanted[1] else max(0, len(data) - int(wanted[2]))
        last = min(int(wanted[2]), len(data) - 1) if wanted[1] and wanted[2] else len(data) - 1
        if first > last:
            self.send_error(416)
            return None
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        return BytesIO(data[first : last + 1])


@contextmanager
def file_server(folder: Path, index: bool = True) -> Iterator[tuple[str, list[str]]]:
    """Serve the files below `folder` on a free port; yield the address and a list that every request is added to.

    Without `index` a folder has no page that lists it.
    """
    asked: list[str] = []
    handler = partial(_Files, directory=str(folder), index=index, asked=asked)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def google_server(bucket: str) -> Iterator[str]:
    """Serve Google Cloud Storage with one bucket on a free port, and yield its address.

    A process uses it where TENSORSTORE_GCS_HTTP_URL names it before the process first reads from `gs://`.
    """
    from gcp_storage_emulator import server as emulator

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        for _, methods in emulator.HANDLERS:
            download = methods.get("GET")
            if download in (emulator.objects.download, emulator.objects.get):
                stack.enter_context(mock.patch.dict(methods, {"GET": partial(_with_generation, download)}))
        server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket=bucket)
        server.start()
        stack.callback(server.stop)
        yield f"http://127.0.0.1:{port}"


def _with_generation(download: Any, request: Any, response: Any, storage: Any, *more: Any, **options: Any) -> None:
    """Send the generation of an object with its bytes, as Google does and the emulator does not."""
    with suppress(Exception):  # of an object that is absent: the emulator's own answer follows
        found = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        response["x-goog-generation"] = found["generation"]
    download(request, response, storage, *more, **options)
