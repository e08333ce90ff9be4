"""Addresses and the registry of schemes."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from ndbatch.errors import PlanError
from ndbatch.remotes import registry
from ndbatch.remotes.address import Address, parse


@pytest.mark.parametrize(
    ("url", "scheme", "path", "inside", "options"),
    [
        ("image.tif", "tiff", "image.tif", "", ()),
        ("a/b.ome.TIFF", "tiff", "a/b.ome.TIFF", "", ()),
        ("seg.h5::/seg", "hdf5", "seg.h5", "/seg", ()),
        ("seg.h5::group/seg", "hdf5", "seg.h5", "/group/seg", ()),
        ("labels.zarr", "zarr", "labels.zarr", "", ()),
        ("labels.zarr/", "zarr", "labels.zarr", "", ()),
        ("labels.zarr/0", "zarr", "labels.zarr/0", "", ()),
        ("image.ome.zarr/labels/nuclei", "zarr", "image.ome.zarr/labels/nuclei", "", ()),
        ("image.zarr/notes.tif", "tiff", "image.zarr/notes.tif", "", ()),
        ("zarr:///data/plain?level=2&axes=zyx", "zarr", "/data/plain", "", (("axes", "zyx"), ("level", "2"))),
        ("zarr://rel/plain", "zarr", "rel/plain", "", ()),
        ("memory://name", "memory", "name", "", ()),
        ("s3://bucket/deep/x.zarr", "zarr", "s3://bucket/deep/x.zarr", "", ()),
        ("zarr://s3://bucket/x", "zarr", "s3://bucket/x", "", ()),
        ("s3://b/x.zarr?endpoint=http://h:9000", "zarr", "s3://b/x.zarr", "", (("endpoint", "http://h:9000"),)),
        ("https://host:8000/x.h5::/seg?level=1", "hdf5", "https://host:8000/x.h5", "/seg", (("level", "1"),)),
        ("precomputed://https://host/layer", "precomputed", "https://host/layer", "", ()),
        ("precomputed://gs://bucket/layer/", "precomputed", "gs://bucket/layer", "", ()),
        ("precomputed://layer", "precomputed", "layer", "", ()),
        ("gcs://bucket/x.zarr", "zarr", "gs://bucket/x.zarr", "", ()),
        ("file:///data/a%20b.zarr", "zarr", "/data/a b.zarr", "", ()),
        ("image.zarr.zip", "zarr", "image.zarr.zip", "", ()),
        ("http://host/image.ozx/labels/one", "zarr", "http://host/image.ozx/labels/one", "", ()),
        ("dvid://host:8000/uuid/seg", "dvid", "host:8000/uuid/seg", "", ()),
    ],
)
def test_parts(url: str, scheme: str, path: str, inside: str, options: tuple[tuple[str, str], ...]) -> None:
    address = parse(url)
    assert address == Address(scheme, path, inside, options)
    assert parse(address.url) == address


def test_relative_paths_have_a_base() -> None:
    base = Path("/runs/here")
    assert parse("a.tif", base).path == "/runs/here/a.tif"
    assert parse("../a.h5::/x", base).path == "/runs/a.h5"
    assert parse("/abs/a.zarr", base).path == "/abs/a.zarr"
    assert parse("memory://a", base).path == "a"
    assert parse("s3://bucket/a.zarr", base).path == "s3://bucket/a.zarr"
    assert parse("precomputed://a", base).path == "/runs/here/a"
    assert parse("dvid://host/uuid", base).path == "host/uuid"
    assert parse("~/a.tif").path == str(Path.home() / "a.tif")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("notes.docx", r"cannot tell the format from the ending; use one of \.zarr"),
        ("", "names no file and no volume"),
        ("zarr://", "names no file and no volume"),
        ("s3://", "names no file and no volume"),
        ("zarr://s3:///x", "names no bucket"),
        ("zarr://https:///x", "names no host"),
    ],
)
def test_what_is_no_address(url: str, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        parse(url)


@pytest.mark.parametrize(
    "url",
    [
        "s3://me:pa55word@bucket/x.zarr",
        "precomputed://https://me:pa55word@host/layer",
        "https://host/x.zarr?X-Amz-Signature=pa55word",
        "s3://bucket/x.zarr?aws_secret_access_key=pa55word",
        "s3://bucket/x?token=pa55word",
    ],
)
def test_secrets_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(PlanError, match="no place in a URL") as caught:
        parse(url)
    assert "pa55word" not in str(caught.value)


def test_options_of_places() -> None:
    parse("s3://b/x.zarr?endpoint=http://h&profile=p&aws_region=r&anonymous=true").require_options(("level",))
    with pytest.raises(PlanError, match=r"unknown option profil=p; did you mean profile=p\?"):
        parse("s3://b/x.zarr?profil=p").require_options(("level",))
    for url in ("x.zarr?profile=p", "http://h/x.zarr?profile=p"):
        with pytest.raises(PlanError, match="unknown option profile=p"):
            parse(url).require_options(("level",))


def test_options() -> None:
    address = parse("a.zarr?level=2&ome=0.4")
    assert (address.option("ome"), address.option("axes", "none"), address.count("level")) == ("0.4", "none", 2)
    assert address.with_options(level="0", axes="zyx").url == "a.zarr?axes=zyx&level=0&ome=0.4"
    with pytest.raises(PlanError, match=r"unknown option level=2; did you mean levels=2\?"):
        address.require_options(("levels", "ome"))
    with pytest.raises(PlanError, match="unknown option level=2; zarr knows: ome"):
        address.require_options(("ome",))
    for text in ("-1", "one", "1.5", "²"):
        with pytest.raises(PlanError, match="is not a whole number"):
            address.with_options(level=text).count("level")


def test_schemes_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("twin", "ndbatch.remotes.memory:MemoryVolume", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.GROUP else [])
    registry.schemes.cache_clear()
    try:
        assert registry.store_class("twin").scheme == "memory"
        assert registry.store_class("zarr").scheme == "zarr"
        with pytest.raises(PlanError, match=r"unknown scheme zar://; did you mean zarr://\?"):
            registry.store_class("zar")
        with pytest.raises(PlanError, match=r"known: .*memory.*twin, zarr"):
            registry.store_class("gopher")
    finally:
        registry.schemes.cache_clear()


def test_every_scheme_of_the_package_is_declared() -> None:
    declared = {point.name: point.value for point in importlib.metadata.entry_points(group=registry.GROUP)}
    assert registry.BUILT_IN.items() <= declared.items()
    for scheme in registry.BUILT_IN:
        assert registry.store_class(scheme).scheme == scheme
