"""The start page: every volume with its picture and its addresses, and nothing that a name could smuggle in."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ndbatch
from ndbatch.server.service import Access, Service
from ndbatch.testing.serving import serving
from tests.server.sample import HTTP, filled, noise, store


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Service]]:
    root = tmp_path_factory.mktemp("page")
    filled(root)
    with serving(root, Access("nobody")) as (url, service):
        yield url, service


def page(url: str, **headers: str) -> str:
    reply = HTTP.request("GET", f"{url}/", headers=headers)
    assert reply.status == 200
    return str(reply.data.decode())


def test_every_address_that_is_printed_opens_the_same_voxels(served: tuple[str, Service]) -> None:
    url, service = served
    shown = {html.unescape(text) for text in re.findall(r"<code>(.*?)</code>", page(url))}
    opened = 0
    for channel in service.catalogue.channels("embryo"):
        local = service.volume(channel)
        if "t" in local.axes:
            continue
        expected = local.read(local.domain)
        for address in sorted(text for text in shown if text.endswith(f"/{channel.name}")):
            volume = ndbatch.open(address)
            if "t" in volume.axes:  # ndstore and BOSS give all channels the times and the frame of their project
                volume = ndbatch.open(address, t=0)
            assert volume.voxel_size == local.voxel_size, address
            assert volume.domain.contains(local.domain), address
            np.testing.assert_array_equal(volume.read(local.domain).astype(expected.dtype), expected, address)
            opened += 1
    assert opened > 20
    assert not any("precomputed" in text and text.endswith("/signed") for text in shown)


def test_pictures_are_kept_until_the_voxels_change(tmp_path: Path) -> None:
    from PIL import Image

    place = tmp_path / "lab/embryo/nuclei.zarr"
    store(place, noise("uint8"))
    with serving(tmp_path) as (url, _):
        first = HTTP.request("GET", f"{url}/thumbnail/embryo/nuclei.png")
        assert Image.open(io.BytesIO(first.data)).size[0] <= 512
        again = HTTP.request(
            "GET", f"{url}/thumbnail/embryo/nuclei.png", headers={"If-None-Match": first.headers["ETag"]}
        )
        assert again.status == 304
        volume = ndbatch.open(str(place))
        volume.write(volume.domain, noise("uint8")[:, ::-1])
        assert HTTP.request("GET", f"{url}/thumbnail/embryo/nuclei.png").data != first.data


def test_the_page_needs_nothing_from_elsewhere_and_runs_no_script_but_its_own(served: tuple[str, Service]) -> None:
    url, _ = served
    text = page(url)
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', text)
    policy = HTTP.request("GET", f"{url}/").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_a_strange_host_is_not_repeated(served: tuple[str, Service]) -> None:
    url, _ = served
    assert "<script>alert" not in page(url, Host="a<script>alert(1)</script>")
    assert "ndstore://cluster-7:81/embryo/nuclei" in page(url, Host="cluster-7:81")


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    with serving(tmp_path) as (url, _):
        assert "put one into the folder" in page(url)
