"""What the planner says a worker takes, held against what real workers took: the kernel's own count of their peak."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

import ndbatch as nb
from ndbatch import runner
from ndbatch.config.load import from_mapping
from ndbatch.executors.processes import ProcessesExecutor
from ndbatch.plan.make import make_plan
from ndbatch.plan.model import Plan
from ndbatch.worker.work import Work

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel tells no peak memory here")

NUCLEI = Path(__file__).parents[2] / "examples/data/nuclei_cells3d.tif"
BLOCK = (64, 256, 256)
"""4 million voxels: arrays then take as much as the libraries and more, and a block is done within a second or two."""
HALF = {"nuclei", "percentiles"}
"""Cases that take long to compute, and whose arrays outweigh the libraries in half a block too."""
COUNT = 3
"""Blocks of a run: one is computed while one is read ahead and one is written behind."""

FUNCTIONS = r"""
import re
from pathlib import Path


def bright(image):
    return (image > image.mean()).astype("uint16") + image


def peak(image):
    status = Path("/proc/self/status").read_text()
    return {"peak": 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])}
"""


class Peaks(ProcessesExecutor):
    """One worker process, a fresh one for each stage, whose peak is read before it goes."""

    def __init__(self, log: Path) -> None:
        super().__init__(1, log)
        self.seen: list[int] = []

    def begin(self, work: Work) -> None:
        """Start the stage in a new process."""
        self._note()
        super().begin(work)

    def close(self) -> None:
        """Read the last stage's peak."""
        self._note()
        super().close()

    def _note(self) -> None:
        for worker in self._pool:
            status = Path(f"/proc/{worker.process.pid}/status").read_text()
            self.seen.append(1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]))  # type: ignore[index]
            worker.process.kill()
            worker.process.wait()
            worker.pipe.close()
            worker.page.close()
        self._pool.clear()


def noise(share: float, dtype: str) -> np.ndarray[Any, Any]:
    """Return COUNT blocks of random voxels; `share` of them are above 0."""
    source = np.random.default_rng(5)
    shape = (COUNT * BLOCK[0], *BLOCK[1:])
    values = source.integers(1, 200, shape, dtype=dtype)
    return values * (source.random(shape, dtype=np.float32) < share)


def nuclei() -> np.ndarray[Any, Any]:
    """Return COUNT blocks of real nuclei, one above the other."""
    data = nb.open(NUCLEI)[...]
    more = [(0, n - m) for n, m in zip((COUNT * BLOCK[0], *BLOCK[1:]), data.shape, strict=True)]
    return np.pad(data, more, mode="symmetric")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes of COUNT blocks: real nuclei, noise as a mask, as an image, and as labels of some 100 voxels each."""
    place = tmp_path_factory.mktemp("memory")
    ids = np.arange(1, COUNT * 16 * 52 * 52 + 1, dtype="uint32").reshape(-1, 52, 52)
    labels = ids.repeat(4, 0).repeat(5, 1).repeat(5, 2)[:, : BLOCK[1], : BLOCK[2]]
    arrays = {
        "nuclei": nuclei(),
        "image": noise(1.0, "uint16"),
        "mask": noise(0.3, "uint8"),
        "labels": labels,
    }
    for name, data in arrays.items():
        volume = nb.create(
            place / f"{name}.zarr",
            shape=data.shape,
            dtype=data.dtype,
            chunks=(64, 64, 64),
            voxel_size=(0.29, 0.26, 0.26),
        )
        volume.write(volume.domain, data)
    (place / "mine.py").write_text(FUNCTIONS)
    return place


CASES: Mapping[str, tuple[str, list[dict[str, Any]], tuple[str, ...]]] = {
    "copy": ("image", [{"copy": {"input": "image", "output": "out"}}], ("out",)),
    "gaussian": ("image", [{"filter": {"input": "image", "sigma": 2.0, "output": "out"}}], ("out",)),
    "tophat": ("image", [{"filter": {"input": "image", "method": "tophat", "radius": 3, "output": "out"}}], ("out",)),
    "otsu": ("image", [{"threshold": {"input": "image", "output": "out"}}], ("out",)),
    "components": ("mask", [{"components": {"input": "mask", "output": "out"}}], ("out",)),
    "chain": (
        "image",
        [
            {"filter": {"input": "image", "sigma": 1.0, "output": "smooth"}},
            {"threshold": {"input": "smooth", "output": "bright"}},
            {"components": {"input": "bright", "output": "out"}},
        ],
        ("out",),
    ),
    "nuclei": ("nuclei", [{"nuclei": {"input": "nuclei", "diameter": "11 um", "output": "out"}}], ("out",)),
    "hysteresis": (
        "image",
        [{"threshold": {"input": "image", "method": "hysteresis", "low": 150, "high": 190, "output": "out"}}],
        ("out",),
    ),
    "split": ("labels", [{"components": {"input": "labels", "multilabel": True, "output": "out"}}], ("out",)),
    "intensity": (
        "labels image",
        [{"measure": {"labels": "labels", "intensity": "image", "output": "table"}}],
        ("table",),
    ),
    "percentiles": (
        "labels image",
        [{"measure": {"labels": "labels", "intensity": "image", "percentiles": [50], "output": "table"}}],
        ("table",),
    ),
    "measure": ("labels", [{"measure": {"labels": "labels", "output": "table"}}], ("table",)),
    "function": ("image", [{"mine:bright": {"input": "image", "halo": 4, "output": "out"}}], ("out",)),
}


def measured(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[Plan, list[int]]:
    """Run a case with one worker; return its plan and the peak of each stage in bytes."""
    sources, steps, outputs = CASES[name]
    block = dict(zip("zyx", BLOCK, strict=True))
    if name in HALF:
        block["y"] //= 2
    document = {
        "name": name,
        "inputs": {source: f"{source}.zarr" for source in sources.split()},
        "steps": steps,
        "outputs": {out: f"{out}.parquet" if out == "table" else f"{out}.zarr" for out in outputs},
        "blocks": block,
        "cluster": {"kind": "processes", "workers": 1, "memory": "8 GB"},
    }
    if name in HALF:
        document["region"] = {"y": (0, block["y"])}
    config = from_mapping(document, folder)
    plan, executors = make_plan(config), []

    def start(cluster: object, workers: int, directory: Path, limit: float | None) -> Peaks:
        executors.append(Peaks(directory / "run.log"))
        return executors[-1]

    monkeypatch.setattr(runner, "make_executor", start)
    assert nb.run(config, report=False).status == "done"
    assert len(executors[0].seen) == len(plan.stages)
    return plan, executors[0].seen


@pytest.mark.parametrize("kind", ["processes", "dask"])
def test_libraries_take_what_is_set_aside_for_them(kind: str, folder: Path, tmp_path: Path) -> None:
    """Blocks of next to nothing: what is left is Python and what the steps import, those for tables included."""
    document = {
        "name": "small",
        "inputs": {"image": "image.zarr"},
        "steps": [{"mine:peak": {"input": "image", "table": "peaks"}}],
        "outputs": {"peaks": "peaks.parquet"},
        "region": {"z": (0, 16), "y": (0, 16), "x": (0, 16)},
        "blocks": {"z": 2},
        "cluster": {"kind": kind, "workers": 1, "memory": "8 GB"},
        "directory": str(tmp_path),
    }
    config = from_mapping(document, folder)
    projected = make_plan(config).costs[0].memory
    assert nb.run(config, report=False).status == "done"
    peak = max(parquet.read_table(tmp_path / "peaks.parquet")["peak"].to_pylist())
    assert 0.8 * projected < peak <= 1.1 * projected, f"{projected / 1e6:.0f} MB planned, {peak / 1e6:.0f} MB taken"


@pytest.mark.parametrize("name", CASES)
def test_the_peak_is_what_was_projected(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, peaks = measured(name, folder, monkeypatch)
    for stage, cost, peak in zip(plan.stages, plan.costs, peaks, strict=True):
        told = f"{stage.title(plan.steps)}: {cost.memory / 1e6:.0f} MB planned, {peak / 1e6:.0f} MB taken"
        print(f"{name:12} {told}")
        assert peak <= 1.1 * cost.memory, told
    # A stage may take less than its steps declare for the worst of their passes; the largest decides which block it is.
    assert max(cost.memory for cost in plan.costs) <= 3 * max(peaks)
