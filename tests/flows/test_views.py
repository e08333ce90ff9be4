"""Views as inputs of runs and of map_blocks: in this process and in others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.errors import ConfigError
from ndbatch.remotes.base import Array

DATA = np.random.default_rng(5).integers(0, 1000, (2, 3, 12, 14, 10), np.uint16)


def doubled(image: Array) -> Array:
    return image * 2


@pytest.fixture
def volume(tmp_path: Path) -> nb.Volume:
    made = nb.create(str(tmp_path / "five.zarr"), shape=DATA.shape, dtype="uint16", chunks=(1, 1, 6, 7, 5))
    made.write(made.domain, DATA)
    return made


@pytest.mark.parametrize("cluster", ["inline", "processes"])
def test_map_blocks_takes_a_view(volume: nb.Volume, tmp_path: Path, cluster: str) -> None:
    size = {"z": "1 um", "y": "1 um", "x": "2 um"}
    view = nb.open(
        volume.url, t=1, c=2, flip="y", crop={"z": (2, 11)}, voxel_size=size, offset={"x": 100}, kind="probability"
    )
    output = str(tmp_path / "out.zarr")
    result = nb.map_blocks(doubled, view, output, blocks={"z": 5}, cluster=cluster, directory=tmp_path / "run")
    assert result.exit_code == 0
    made = nb.open(output)
    assert (made.offset, made.voxel_size) == ((2, 0, 100), (1.0, 1.0, 2.0))
    assert np.array_equal(made[...], DATA[1, 2, 2:11, ::-1] * 2)


def test_replaced_facts_of_a_view_are_not_lost_in_silence(volume: nb.Volume, tmp_path: Path) -> None:
    view = nb.open(volume.url, t=0, c=0).override(offset=(5, 5, 5))
    with pytest.raises(ConfigError, match=r"give them to ndbatch\.open instead"):
        nb.map_blocks(doubled, view, str(tmp_path / "out.zarr"), cluster="inline", directory=tmp_path / "run")


def test_a_run_over_time_and_channels(volume: nb.Volume, tmp_path: Path) -> None:
    config = {
        "inputs": {"all": volume.url, "one": {"url": volume.url, "t": 0, "c": 1, "pad": {"z": 2}, "fill": 7}},
        "steps": [{"copy": {"input": "all", "output": "copied"}}],
        "outputs": {"copied": str(tmp_path / "copied.h5")},
        "cluster": {"kind": "inline"},
        "directory": str(tmp_path / "run"),
    }
    with pytest.raises(nb.NdbatchError, match="axes tczyx and zyx"):
        nb.run(config)
    config["inputs"] = {"all": volume.url}
    assert nb.run(config).exit_code == 0
    assert np.array_equal(nb.open(str(tmp_path / "copied.h5"))[...], DATA)
