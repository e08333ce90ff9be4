"""Neuroglancer's own JavaScript in a real browser, over served volumes: what it draws is the voxels that are there.

The pattern is one that cannot come out right by chance: bars of four values across x, marked with a corner in y, so that an axis
taken for another, a flipped one, or a wrong type or byte order each draws something else.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from numpy.typing import NDArray

import ndbatch
from ndbatch.server import viewer
from ndbatch.server.addresses import addresses
from ndbatch.server.service import Access, Service
from ndbatch.testing.serving import serving
from tests.server.sample import store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox")
SHAPE = (32, 64, 128)
BARS = (40, 100, 160, 220)
PLANE = 20
"""The slice that is looked at."""
FAR = "https://boss.example.org"
"""Neuroglancer takes BOSS from https:// and a name with a dot alone; here the browser is led from there to the service."""
SCALE = 4
"""Pixels of the window a voxel, so that the middle of every voxel is well inside it."""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or not viewer.files(),
    reason="Chromium (apt-get install chromium) or Neuroglancer (pip install 'ndbatch[viewer]') is not installed",
)


def pattern() -> NDArray[np.uint8]:
    """Return bars across x, 32 voxels each; the first 16 rows of y of the first bar are black; other slices are inverted."""
    data = np.zeros(SHAPE, np.uint8)
    for number, value in enumerate(BARS):
        data[..., 32 * number : 32 * (number + 1)] = value
    data[:, :16, :32] = 0
    data[:PLANE] = 255 - data[:PLANE]
    data[PLANE + 1 :] = 255 - data[PLANE + 1 :]
    return data


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Service]]:
    root = tmp_path_factory.mktemp("viewed")
    plain = {"offset": (0, 0, 0), "voxel_size": (1.0, 1.0, 1.0), "chunks": (32, 64, 64)}
    store(root / "lab/bars/image.zarr", pattern(), **plain)
    ids = (np.searchsorted(BARS, pattern()) + 1).astype(np.uint64) * (pattern() > 0)
    store(root / "lab/bars/ids.zarr", ids.astype(np.uint64), kind="labels", **plain)
    store(root / "lab/bars/flat.zarr", ids.astype(np.uint64), kind="labels", **plain)
    ndbatch.downsample(root / "lab/bars/ids.zarr", levels=1, cluster="inline", directory=root.parent / "levels")
    with serving(root, Access("nobody")) as (url, made):
        yield url, made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as program:
        started = program.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield started
        started.close()


def drawn(browser: Any, url: str, layer: dict[str, Any], picture: Path) -> NDArray[np.uint8]:
    """Return the pixels (rows, columns, 3) of the plane z = PLANE in the viewer, SCALE pixels a voxel, once they stand still."""
    from PIL import Image

    metre = {axis: [1e-6, "m"] for axis in "xyz"}
    shown = {
        "dimensions": metre,
        # Its source zarr:// puts the middle of a voxel where the others put the beginning; this is in the slice for both.
        "position": [SHAPE[2] / 2, SHAPE[1] / 2, PLANE + 0.25],
        "crossSectionScale": 1 / SCALE,
        "layers": [layer],
        "layout": "xy",
        "showAxisLines": False,
        "showScaleBar": False,
        "showDefaultAnnotations": False,
        "crossSectionBackgroundColor": "#000000",
    }
    page = browser.new_page(viewport={"width": 700, "height": 420})
    said: list[str] = []
    page.route(f"{FAR}/**", lambda route: route.fulfill(response=route.fetch(url=route.request.url.replace(FAR, url))))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    try:
        page.goto(f"{url}{viewer.AT}/#!{quote(json.dumps(shown))}")
        before = b""
        for _ in range(30):
            page.wait_for_timeout(500)
            now: bytes = page.screenshot()
            pixels = panel(np.asarray(Image.open(io.BytesIO(now)).convert("RGB")))
            if now == before and pixels.max() > 0:
                break
            before = now
        picture.write_bytes(now)
        assert pixels.max() > 0, f"nothing was drawn: {said}"
        return pixels
    finally:
        page.close()


def panel(window: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the pixels of the volume: it is in the middle of the panel, which is below the two bars of the window."""
    rows, columns = SHAPE[1] * SCALE, SHAPE[2] * SCALE
    top, left = (48 + window.shape[0] - rows) // 2, (window.shape[1] - columns) // 2
    return window[top : top + rows, left : left + columns]


def centres(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the colour in the middle of every voxel but those at the edges of bars, which a pixel of shift would change."""
    half = SCALE // 2
    return pixels[half::SCALE, half::SCALE].astype(np.int64)


def inner(x: int) -> slice:
    return slice(32 * x + 3, 32 * (x + 1) - 3)


SOURCES = ("precomputed", "zarr", "boss", "dvid")


def source(service: tuple[str, Service], channel: str, scheme: str) -> str:
    """Return the address that the start page has for Neuroglancer."""
    url, made = service
    project = made.catalogue.project("bars")
    known = addresses(made, url, project, made.catalogue.channel("bars", channel))
    text = next(one.text for one in known if one.text.startswith(f"{scheme}://"))
    assert "Neuroglancer" in next(one.taken_by for one in known if one.text == text)
    return text.replace(url, FAR) if scheme == "boss" else text


@pytest.mark.parametrize("scheme", SOURCES)
def test_an_image_is_drawn_as_it_is(service: tuple[str, Service], browser: Any, tmp_path: Path, scheme: str) -> None:
    """Grey values of the screen are those of the voxels, within one step."""
    layer = viewer.layer(source(service, "image", scheme), "image", "image", (0, 255))
    grey = centres(drawn(browser, service[0], layer, tmp_path / f"{scheme}.png"))
    assert grey.shape == (64, 128, 3)
    for number, value in enumerate(BARS):
        rows = slice(19, 61) if number == 0 else slice(3, 61)
        assert np.abs(grey[rows, inner(number)] - value).max() <= 1, number
    assert grey[3:13, inner(0)].max() <= 1


@pytest.mark.parametrize(("scheme", "channel"), [*((scheme, "ids") for scheme in SOURCES), ("dvid", "flat")])
def test_labels_are_drawn_in_colours(
    service: tuple[str, Service], browser: Any, tmp_path: Path, scheme: str, channel: str
) -> None:
    """Every id has one colour of its own, and the background none; `flat` has one level alone."""
    layer = viewer.layer(source(service, channel, scheme), "ids", "labels")
    layer |= {"selectedAlpha": 1, "notSelectedAlpha": 1, "segmentColors": {"2": "#ff0000", "4": "#0000ff"}}
    colours = centres(drawn(browser, service[0], layer, tmp_path / f"{scheme}.png"))
    assert colours[3:13, inner(0)].max() <= 1
    found = []
    for number in range(4):
        part = colours[19:61, inner(number)].reshape(-1, 3)
        assert np.ptp(part, axis=0).max() <= 1, number
        found.append(tuple(int(value) for value in part[0]))
    assert len(set(found)) == 4
    assert found[1] == (255, 0, 0)
    assert found[3] == (0, 0, 255)


def test_the_link_of_the_start_page_opens_the_viewer(
    service: tuple[str, Service], browser: Any, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": 900, "height": 700})
    try:
        page.goto(service[0])
        assert page.locator("article").count() == 3
        page.wait_for_load_state("networkidle")
        assert page.evaluate("[...document.images].map(one => one.naturalWidth > 0)") == [True, True, True]
        page.locator("article", has_text="image").get_by_text("Open in Neuroglancer").last.click()
        page.wait_for_url("**/neuroglancer/**")
        page.get_by_text("Sections").wait_for()
        assert "precomputed" in page.url
    finally:
        page.close()
