"""Tables of objects of coarser voxels lie where those of the inputs' voxels do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.report import figures
from ndbatch.report.objects import describe
from ndbatch.runner import run


def test_places_of_a_coarser_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.zeros((24, 40, 60), np.uint32)
    data[4:8, 4:12, 8:20], data[16:20, 20:28, 40:52] = 1, 2
    labels = nb.create(
        tmp_path / "in.zarr",
        shape=data.shape,
        dtype="uint32",
        kind="labels",
        voxel_size=(0.5, 0.25, 0.25),
        offset=(8, 0, 16),
    )
    labels.write(labels.domain, data)
    run(
        {
            "inputs": {"fine": labels.url},
            "steps": [
                {"downsample": {"input": "fine", "factors": {"z": 2, "y": 4, "x": 4}, "output": "coarse"}},
                {"measure": {"labels": "fine", "output": "objects"}},
                {"measure": {"labels": "coarse", "output": "larger"}},
            ],
            "outputs": {"objects": "objects.csv", "larger": "larger.parquet"},
            "cluster": {"kind": "inline"},
            "directory": str(tmp_path / "run"),
        }
    )
    drawn: dict[str, tuple[Any, ...]] = {}

    def drawing(places: Any, low: Any, high: Any, unit: str, name: str) -> str:
        drawn[name] = (places, low, high, unit)
        return ""

    monkeypatch.setattr(figures, "places_map", drawing)
    document, summary = (json.loads((tmp_path / "run" / f"{name}.json").read_text()) for name in ("plan", "summary"))
    fine, coarse = describe(summary, document, tmp_path / "run")
    (places, *ends), (larger, *same) = drawn["objects: places"], drawn["larger: places"]
    assert same == ends
    for axis in "zyx":
        assert np.abs(places[axis] - larger[axis]).max() < 1, "less than a coarse voxel, 1 um, apart"
    assert fine.depths is not None
    assert coarse.depths == pytest.approx(fine.depths, abs=2)
