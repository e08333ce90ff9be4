"""Named bytes: one contract, in a folder, a bucket, on a web server and in a zip file."""

from __future__ import annotations

import json
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ndbatch.errors import Corrupt, Denied, NotFound, PlanError, Transient
from ndbatch.remotes.address import parse
from ndbatch.remotes.places.keyvalue import KeyValue, place
from ndbatch.testing.chaos import Faults, chaos_proxy
from ndbatch.testing.servers import KEYS, file_server, s3_client, s3_server
from tests.remotes.conftest import script

FILES = {"zarr.json": b"{}", "0/zarr.json": b"[]", "0/c/0/0": b"chunk", "0/c/0/1": b"other", "a b#c": b"name"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server("bucket") as url:
        yield url


@pytest.fixture(params=["folder", "bucket"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> KeyValue:
    """Return a folder that can be written and is not there yet."""
    if request.param == "folder":
        return place(parse(f"{tmp_path}/deep/x.zarr"))
    request.getfixturevalue("endpoint")
    return place(parse(f"s3://bucket/{tmp_path.name}/x.zarr"))


@pytest.fixture
def full(empty: KeyValue) -> KeyValue:
    """Return a folder with files."""
    for key, data in FILES.items():
        empty.write(key, data)
    return empty


@pytest.fixture(params=["folder", "bucket", "web", "zip", "zip in a bucket", "zip on the web"])
def readable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyValue]:
    """Return the same files wherever they can be read."""
    local = place(parse(f"{tmp_path}/x.zarr"))
    for key, data in FILES.items():
        local.write(key, data)
    zipped = tmp_path / "x.zarr.zip"
    with zipfile.ZipFile(zipped, "w") as file:
        for key, data in FILES.items():
            file.writestr(key, data)
    if request.param in ("folder", "zip"):
        yield local if request.param == "folder" else place(parse(str(zipped)))
    elif request.param in ("web", "zip on the web"):
        with file_server(tmp_path) as (url, _):
            yield place(parse(f"{url}/x.zarr" + ".zip" * request.param.startswith("zip")))
    else:
        client = s3_client(request.getfixturevalue("endpoint"))
        for key, data in FILES.items():
            client.put_object(Bucket="bucket", Key=f"{tmp_path.name}/x.zarr/{key}", Body=data)
        client.put_object(Bucket="bucket", Key=f"{tmp_path.name}/x.zarr.zip", Body=zipped.read_bytes())
        yield place(parse(f"s3://bucket/{tmp_path.name}/x.zarr" + ".zip" * request.param.startswith("zip")))


def test_reading(readable: KeyValue) -> None:
    for key, data in FILES.items():
        assert readable.read(key) == data
    assert readable.read("1/zarr.json") is None
    assert readable.child("0").child("c/0").read("1") == b"other"
    assert list(readable.names()) == ["0/", "a b#c", "zarr.json"]
    assert list(readable.names("0/c/")) == ["0/"]
    assert list(readable.child("0/c").names("0/")) == ["0", "1"]
    assert list(readable.names("nothing/")) == []
    assert [readable.exists(key) for key in ("", "0", "0/c/0/1", "zarr.json", "1", "zarr")] == [True] * 4 + [False] * 2
    assert readable.etag("zarr.json")
    assert not readable.etag("1/zarr.json")
    assert readable.missing() is None
    assert str(readable.child("0/c").parent) == str(readable.child("0")) == f"{readable}/0"
    assert readable.digest() == readable.digest()


def test_writing(empty: KeyValue) -> None:
    assert not empty.exists()
    assert list(empty.names()) == []
    empty.write("one", b"1")
    empty.write("a/b/two", b"2" * 100_000)
    empty.write("none", b"")
    assert (empty.read("one"), empty.read("none"), empty.read("a/b/two")) == (b"1", b"", b"2" * 100_000)
    assert list(empty.names()) == ["a/", "none", "one"]
    tags = {empty.etag("one"), empty.etag("none"), empty.etag("a/b/two")}
    assert len(tags) == 3
    empty.write("one", b"11")
    assert empty.read("one") == b"11"
    assert empty.etag("one") not in tags


def test_deleting(full: KeyValue) -> None:
    full.delete("a b#c")
    full.child("00").write("beside", b"")
    full.delete("0/")
    assert list(full.names()) == ["00/", "zarr.json"]
    full.delete("nothing")
    full.delete("nothing/")
    full.delete()
    assert not full.exists()
    full.delete()


def test_the_digest_sees_every_change_but_those_that_do_not_count(full: KeyValue) -> None:
    ignored = ("zarr.json",)
    full.delete("a b#c")
    seen = [full.digest(ignored)]
    full.write("zarr.json", b"[1]")
    assert full.digest(ignored) == seen[0] != full.digest()
    for act in (
        lambda: full.write("0/c/0/0", b"CHUNK"),  # as long as before, and within the same second
        lambda: full.write("0/c/0/2", b"more"),
        lambda: full.delete("0/c/0/2"),
        lambda: full.delete("0/c/0/"),
    ):
        act()
        seen.append(full.digest(ignored))
    assert len(set(seen)) >= len(seen) - 1  # a bucket is as before once what was added is deleted


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = place(parse(f"{tmp_path}/x.zarr"))
    with target.published() as folder:
        folder.write("a", b"1")
        assert not target.exists()
    assert target.read("a") == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["x.zarr"]


def test_what_is_missing(full: KeyValue) -> None:
    above = full.parent
    assert above is not None
    error = above.child("x.zar").missing()
    assert isinstance(error, NotFound)
    assert f"did you mean {full}?" in str(error)


def test_read_only_places_say_so(tmp_path: Path) -> None:
    with file_server(tmp_path) as (url, _), pytest.raises(Denied, match="a web server is read only here"):
        place(parse(f"{url}/x.zarr")).write("a", b"")
    with zipfile.ZipFile(tmp_path / "x.zarr.zip", "w") as file:
        file.writestr("a", "")
    with pytest.raises(Denied, match=r"x\.zarr\.zip: a zip file is read only here"):
        place(parse(f"{tmp_path}/x.zarr.zip")).delete()


def test_a_web_server_without_an_index(tmp_path: Path) -> None:
    place(parse(f"{tmp_path}/x.zarr")).write("a", b"1")
    with file_server(tmp_path, index=False) as (url, _):
        folder = place(parse(f"{url}/x.zarr"))
        assert folder.read("a") == b"1"
        with pytest.raises(Denied, match="gives no index of this folder; name a volume in it"):
            list(folder.names())


def test_a_missing_bucket(endpoint: str) -> None:
    folder = place(parse("s3://nobody/x.zarr"))
    for act in (folder.exists, lambda: folder.write("a", b""), lambda: list(folder.names()), folder.delete):
        with pytest.raises(NotFound, match="there is no bucket nobody"):
            act()


def test_nobody_answers() -> None:
    """Asked again a few times only; both ways to S3 say so."""
    folder = place(parse("s3://bucket/x.zarr?endpoint=http://127.0.0.1:9&anonymous=true"))
    with pytest.raises(Transient, match="does not answer"):
        list(folder.names())


@pytest.mark.parametrize(
    ("query", "environment", "kind"),
    [
        ("", KEYS, {"type": "environment"}),
        ("?anonymous=true", KEYS, {"type": "anonymous"}),
        ("?profile=lab", KEYS, {"type": "profile", "profile": "lab"}),
        ("", {"AWS_PROFILE": "lab"}, {"type": "profile", "profile": "lab"}),
        ("", {"AWS_WEB_IDENTITY_TOKEN_FILE": "/run/token"}, {"type": "default"}),
        ("", {}, {"type": "anonymous"}),
    ],
)
def test_where_keys_come_from(
    query: str, environment: dict[str, str], kind: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in (*KEYS, "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    spec = place(parse(f"s3://bucket/x.zarr{query}")).spec()
    assert spec["aws_credentials"] == kind
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in json.dumps(spec)


def test_options_of_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    spec = place(parse("s3://bucket/a/x.zarr?endpoint=https://minio:9000/&aws_region=eu-west-1&anonymous=true")).spec()
    assert (spec["endpoint"], spec["aws_region"], spec["path"]) == ("https://minio:9000", "eu-west-1", "a/x.zarr/")
    with pytest.raises(PlanError, match="anonymous=maybe is neither true nor false"):
        place(parse("s3://bucket/x.zarr?anonymous=maybe"))
    assert place(parse("gs://bucket/a/x.zarr")).spec() == {"driver": "gcs", "bucket": "bucket", "path": "a/x.zarr/"}


def test_wrong_keys_are_denied_and_not_shown(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a fresh process, since a process keeps the keys that it began with."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "pa55word")
    _require_keys(endpoint, "0")
    try:
        said = script(
            """
from ndbatch.remotes.address import parse
from ndbatch.remotes.places.keyvalue import place
folder = place(parse("s3://bucket/x.zarr"))
for act in (lambda: folder.read("a"), lambda: folder.write("a", b""), lambda: list(folder.names()), folder.delete):
    try:
        act()
    except nb.NdbatchError as error:
        print(type(error).__name__, error)
"""
        )
    finally:
        _require_keys(endpoint, "inf")
    lines = said.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("Denied s3://bucket/x.zarr: ") and "check the credentials" in line for line in lines)
    assert "pa55word" not in said


def _require_keys(endpoint: str, after: str) -> None:
    """Let the server check signatures from now on (`0`), or never (`inf`)."""
    asked = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", data=after.encode(), method="POST")
    asked.add_header("Content-Type", "text/plain")
    urllib.request.urlopen(asked).close()


def test_metadata_cut_off_on_the_way_is_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "info").write_text(json.dumps({"scales": list(range(50))}))
    (tmp_path / "broken").write_text('{"scales": [')
    cut = Faults(shorter=0.6, seed=4)
    with file_server(tmp_path) as (url, _), chaos_proxy(url, cut) as chaos:
        folder = place(parse(f"precomputed://{chaos.url}"))
        assert folder.document("info") == {"scales": list(range(50))}
        assert chaos.counts["shorter"] > 0
        assert folder.document("absent") is None
        with pytest.raises(Corrupt, match=f"{chaos.url}/broken is damaged: it is not JSON"):
            folder.document("broken")
