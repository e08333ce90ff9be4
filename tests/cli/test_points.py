"""ndbatch points: converted, counted as the step counts, and refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

import ndbatch as nb
from ndbatch.tables import read_points, write_points

if TYPE_CHECKING:
    from conftest import Command

SIZE = {"z": "4 um", "y": "2 um", "x": "2 um"}


@pytest.fixture(autouse=True)
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """labels.zarr in the current folder: the number of its objects."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    voxels = np.zeros((20, 60, 50), np.uint16)
    for label in range(1, 61):
        z, y, x = (rng.integers(0, n) for n in voxels.shape)
        voxels[z : z + 3, y : y + 4, x : x + 5] = label
    volume = nb.create(
        "labels.zarr", shape=voxels.shape, dtype="uint16", voxel_size=SIZE, kind="labels", chunks=(8, 32, 32)
    )
    volume.write(volume.domain, voxels)
    return len(np.unique(voxels)) - 1


def test_table_of_a_run_and_the_same_map_twice(labels: int, ndbatch: Command) -> None:
    """A run writes XML; the map of its table is that of the step, to the bit."""
    config = {
        "name": "map",
        "inputs": {"labels": {"url": "labels.zarr"}},
        "steps": [
            {"measure": {"labels": "labels", "output": "cells"}},
            {"measure": {"labels": "labels", "output": "centres"}},
            {"density": {"labels": "labels", "voxel_size": "20 um", "smooth": "30 um", "output": "map"}},
        ],
        "outputs": {
            "cells": str(Path("cells.parquet").resolve()),
            "centres": str(Path("cells.xml").resolve()),
            "map": "map.zarr",
        },
        "cluster": {"kind": "inline"},
        "blocks": {"z": 10, "y": 20, "x": 20},
    }
    Path("job.yaml").write_text(json.dumps(config))
    done = ndbatch("run", "job.yaml", "-q")
    assert done.code == 0, done.err
    table, xml = read_points("cells.parquet"), read_points("cells.xml")
    assert table.num_rows == labels
    for axis in "zyx":
        np.testing.assert_array_equal(xml[axis].to_numpy(), np.floor(table[axis].to_numpy() + 0.5))
    words = ["--voxel-size", "20um", "--smooth", "30um", "--like", "labels.zarr", "--output", "again.zarr", "--json"]
    done = ndbatch("points", "density", "cells.parquet", *words)
    assert json.loads(done.out) == {"points": labels, "beyond": 0, "url": "again.zarr", "shape": [4, 6, 5]}
    (step,) = Path("runs").glob("**/map.zarr") if not Path("map.zarr").exists() else [Path("map.zarr")]
    made, again = nb.open(str(step)), nb.open("again.zarr")
    np.testing.assert_array_equal(made[:], again[:])
    assert again[:].sum() == pytest.approx(labels)
    assert made.spec.voxel_size == again.spec.voxel_size == (20.0, 20.0, 20.0)


def test_without_a_volume(ndbatch: Command) -> None:
    rng = np.random.default_rng(4)
    write_points("cells.csv", pa.table({f"{axis}_um": rng.uniform(0, 500, 300) for axis in "zyx"}))
    done = ndbatch("points", "density", "cells.csv", "--voxel-size", "50um", "--output", "a.zarr")
    assert done.code == 0, done.err
    assert nb.open("a.zarr")[:].sum() == 300
    assert nb.open("a.zarr").spec.voxel_size == (50.0, 50.0, 50.0)
    write_points("plane.csv", pa.table({axis: rng.integers(0, 90, 40) for axis in "yx"}))
    assert ndbatch("points", "density", "plane.csv", "--voxel-size", 10, "--output", "b.zarr").code == 0
    assert nb.open("b.zarr").spec.shape == (1, 9, 9)
    assert nb.open("b.zarr")[:].sum() == 40


def test_points_beyond_the_volume_are_told(ndbatch: Command) -> None:
    write_points("cells.xml", pa.table({"z": [0, 99], "y": [0, 0], "x": [0, 0]}))
    done = ndbatch(
        "points", "density", "cells.xml", "--voxel-size", "20um", "--like", "labels.zarr", "--output", "a.zarr"
    )
    assert done.code == 0
    assert "1 points lie beyond" in done.err
    assert nb.open("a.zarr")[:].sum() == 1


def test_convert(ndbatch: Command) -> None:
    write_points("cells.parquet", pa.table({axis: [1.0, 2.0] for axis in "zyx"}))
    assert ndbatch("points", "convert", "cells.parquet", "cells.xml").out == "2 points in cells.xml\n"
    assert ndbatch("points", "convert", "cells.xml", "cells.napari.csv").code == 0
    assert read_points("cells.napari.csv")["x"].to_pylist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["convert", "none.xml", "a.csv"], "there is no such file"),
        (["convert", "cells.xml", "a.txt"], "must end in"),
        (["density", "cells.xml", "--voxel-size", "50um", "--output", "a.zarr"], "add --like VOLUME"),
        (["density", "um.csv", "--voxel-size", "5", "--output", "a.zarr"], "with a unit"),
        (["density", "um.csv", "--voxel-size", "0um", "--output", "a.zarr"], "not above 0"),
        (["density", "cells.xml", "--voxel-size", "wide", "--output", "a.zarr"], "not a length"),
        (["density", "cells.xml", "--voxel-size", "50um", "--like", "no.zarr", "--output", "a.zarr"], "no.zarr"),
        (["density", "cells.xml", "--voxel-size", "50um", "--like", "labels.zarr", "--output", "labels.zarr"], "there"),
    ],
)
def test_refusals(words: list[str], said: str, ndbatch: Command) -> None:
    write_points("cells.xml", pa.table({"z": [1, 5], "y": [0, 7], "x": [0, 9]}))
    write_points("um.csv", pa.table({"y_um": [1.0], "x_um": [2.0]}))
    refused = ndbatch("points", *words)
    assert refused.code == 2
    assert said in refused.err
    assert refused.err.count("\n") == 1
