"""Channels whose volumes the configuration tells more of than their files say: every protocol opens them as told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch
from ndbatch.geometry import Box
from ndbatch.server.pyramids import Making, begin, making, reason
from ndbatch.server.scan import fill_configured
from ndbatch.testing.serving import serving
from ndbatch.testing.volumes import voxels
from tests.server.sample import HTTP

SHAPE, OFFSET = (20, 40, 30), (64, 0, 128)


@pytest.fixture
def stored(tmp_path: Path) -> Any:
    """Write a volume that begins at 0, and return its voxels."""
    data = voxels(SHAPE, "uint8", seed=4)
    volume = ndbatch.create(tmp_path / "kept/raw.zarr", shape=SHAPE, dtype="uint8", chunks=(16, 16, 16))
    volume.write(volume.domain, data)
    return data


def told(tmp_path: Path) -> dict[str, dict[str, Any]]:
    offset = dict(zip("zyx", OFFSET, strict=True))
    return {"lab/em": {"url": str(tmp_path / "kept/raw.zarr"), "offset": offset}}


def later(url: str) -> ndbatch.Volume:
    """Commit the only version of a service and return the volume em at the one after it."""
    (root,) = HTTP.request("GET", f"{url}/api/repos/info").json()
    node = f"{url}/api/node/{root}"
    assert HTTP.request("POST", f"{node}/commit", body=b'{"note": "done"}').status == 200
    child = HTTP.request("POST", f"{node}/newversion", body=b'{"note": "on"}').json()["child"]
    return ndbatch.open(f"{url.replace('http', 'dvid')}/{child}/em")


def test_dvid_reads_and_writes_where_the_configuration_says(tmp_path: Path, stored: Any) -> None:
    with serving(tmp_path / "served") as (url, service):
        fill_configured(service, told(tmp_path))
        (entry,) = (one for one in ndbatch.connect(url.replace("http", "dvid")).ls() if one.name.endswith("em"))
        volume = ndbatch.open(entry.url)
        box = Box.of_shape(SHAPE, OFFSET)
        assert volume.domain.contains(box)
        np.testing.assert_array_equal(volume.read(box), stored)
        part = Box.of_shape((8, 8, 8), OFFSET)
        volume.write(part, 255 - stored[:8, :8, :8])
        changed = volume.read(box)
        child = later(url)
        np.testing.assert_array_equal(child.read(box), changed)
        child.write(part, stored[:8, :8, :8])
        np.testing.assert_array_equal(child.read(box), stored)
        np.testing.assert_array_equal(volume.read(box), changed)
    kept = ndbatch.open(tmp_path / "kept/raw.zarr")[...]
    np.testing.assert_array_equal(kept[:8, :8, :8], 255 - stored[:8, :8, :8])
    np.testing.assert_array_equal(kept[8:], stored[8:])


def test_levels_are_made_only_of_what_the_file_itself_says(tmp_path: Path, stored: Any) -> None:
    """Levels are written beside the file's own words, in which they would lie elsewhere."""
    with serving(tmp_path / "served") as (_, service):
        fill_configured(service, told(tmp_path))
        channel = service.catalogue.channel("lab", "em")
        begin(service, channel, 2, {"z": 2, "y": 2, "x": 2})
        until = time.monotonic() + 180
        while (state := making(service, channel)) is Making.RUNNING and time.monotonic() < until:
            time.sleep(0.02)
        assert state is Making.FAILED
        assert "offset" in reason(service, channel)
        assert "ndbatch downsample" in reason(service, channel)
    assert ndbatch.open(tmp_path / "kept/raw.zarr").levels == 1
