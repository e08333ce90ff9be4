"""One service through several of its protocols at once: what is done by one must not spoil what another shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("starlette", reason="the service needs the extra serve")

import ndbatch
from ndbatch.cli.app import app
from ndbatch.remotes.base import Array
from ndbatch.testing.serving import serving

SHAPE = (20, 64, 66)
SIZE = {"z": "0.5 um", "y": "0.25 um", "x": "0.25 um"}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path / "served") as (base, _):
        yield base.removeprefix("http://")


@pytest.fixture
def cells(tmp_path: Path) -> tuple[str, Array]:
    """A volume of labels in a file, some above 2^53, and its voxels."""
    data = np.random.default_rng(3).integers(0, 3, (5, 16, 17), np.uint64).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    data = data[: SHAPE[0], : SHAPE[1], : SHAPE[2]] * np.uint64(2**53 + 1)
    path = tmp_path / "cells.zarr"
    volume = ndbatch.create(path, shape=data.shape, dtype="uint64", kind="labels", voxel_size=SIZE)
    volume.write(volume.domain, data)
    return str(path), data


def test_an_instance_with_levels_leaves_those_of_other_channels(host: str, cells: tuple[str, Array]) -> None:
    """Levels of a labelmap are coarser along z too; those of an experiment whose z is kept stay as they are."""
    path, data = cells
    url = f"boss://{host}/lab/brain/first"
    ndbatch.copy(path, url, levels=1, cluster="inline")
    finer = ndbatch.open(url)
    assert finer.levels == 2
    before = ndbatch.open(url, level=1)[...]
    (root,) = {entry.name.partition("/")[0] for entry in ndbatch.connect(f"dvid://{host}").ls()}
    ndbatch.copy(path, f"dvid://{host}/{root}/second?downres=1", cluster="inline")
    assert ndbatch.open(f"dvid://{host}/{root}/second").levels == 2
    assert ndbatch.open(url).levels == 2
    assert np.array_equal(ndbatch.open(url, level=1)[...], before)
    second = ndbatch.open(f"boss://{host}/lab/brain/second")
    assert np.array_equal(second[...], data)


def test_info_of_a_volume_in_a_service_tells_no_bytes_that_nobody_knows(host: str, cells: tuple[str, Array]) -> None:
    ndbatch.copy(cells[0], f"ndstore://{host}/brain/cells", cluster="inline")
    result = CliRunner().invoke(app, ["info", f"ndstore://{host}/brain/cells"])
    assert result.exit_code == 0
    assert "uint64, labels" in result.stdout
    assert "stored" not in result.stdout
