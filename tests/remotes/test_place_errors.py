"""What is said where a place cannot be reached or a bucket is not there: one sentence of ours, and nothing of a library's."""

from __future__ import annotations

import re
import socket

import pytest

import ndbatch as nb
from ndbatch.errors import NotFound, RemoteError, Transient
from ndbatch.remotes.address import parse
from ndbatch.remotes.places.tensor import translated

RAW = re.compile(r"curl|errno|aws error|details|retry attempts|\[|operation:", re.IGNORECASE)
"""What libraries write."""


@pytest.mark.parametrize(
    ("raised", "url", "kind", "sentence"),
    [
        (
            "UNAVAILABLE: All 5 retry attempts failed: CURL error Could not resolve hostname: Could not resolve host: "
            "storage.googleapis.com [curl_code='6']",
            "gs://lab/x.zarr",
            Transient,
            "there is no host storage.googleapis.com; check the address and the network (zarr.json)",
        ),
        (
            "UNAVAILABLE: All 5 retry attempts failed: CURL error Could not connect to server: Failed to connect to "
            "127.0.0.1 port 9 after 0 ms: Could not connect to server [curl_code='7']",
            "s3://lab/x.zarr?endpoint=http://127.0.0.1:9",
            Transient,
            "127.0.0.1 port 9 does not answer; check the endpoint and whether the server runs (zarr.json)",
        ),
        (
            "AWS Error NETWORK_CONNECTION during ListObjectsV2 operation: curlCode: 7, Could not connect to server; Details: "
            "Failed to connect to 127.0.0.1:9 after 0 ms: Could not connect to server",
            "s3://lab/x.zarr",
            Transient,
            "127.0.0.1:9 does not answer; check the endpoint and whether the server runs (zarr.json)",
        ),
        ("[Errno -2] Name or service not known", "gs://lab/x.zarr", Transient, "its host is not known; check"),
        ("[Errno 111] Connection refused", "https://a.org/x.zarr", Transient, "it does not answer; check"),
        (
            "DEADLINE_EXCEEDED: CURL error Timeout was reached: Operation timed out [curl_code='28']",
            "https://a.org/x.zarr",
            Transient,
            "no answer in time; look whether the server is busy and try again (zarr.json)",
        ),
        (
            "UNAVAILABLE: CURL error SSL peer certificate or SSH remote key was not OK [curl_code='60']",
            "https://a.org/x.zarr",
            Transient,
            "its certificate is not accepted; check",
        ),
        (
            'FAILED_PRECONDITION: bucket "lab" does not exist',
            "s3://lab/x.zarr",
            NotFound,
            "there is no bucket lab; check its name and endpoint",
        ),
        (
            "NOT_FOUND: HTTP response code: 404 with body: The specified bucket does not exist.",
            "gs://lab/x.zarr",
            NotFound,
            "there is no bucket lab; check its name",
        ),
    ],
)
def test_one_sentence(raised: str, url: str, kind: type[RemoteError], sentence: str) -> None:
    told = translated(OSError(raised) if "Errno" in raised else ValueError(raised), parse(url), "zarr.json")
    assert type(told) is kind
    assert sentence in told.message
    assert not RAW.search(told.message.removeprefix(f"{told.fields['url']}: ")), told.message


def test_a_port_that_nobody_listens_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(Transient, match=r"does not answer") as caught:
            list(nb.connect(f"s3://lab/folder?endpoint=http://127.0.0.1:{port}&anonymous=true").ls())
        assert not RAW.search(caught.value.message)
        with pytest.raises(Transient, match=r"^http://.*does not answer") as caught:
            list(nb.connect(f"http://127.0.0.1:{port}/folder/").ls())
        assert not RAW.search(caught.value.message)
