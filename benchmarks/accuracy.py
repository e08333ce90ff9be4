"""Counts and segmentations against ground truth: one set of defaults, the user gives the voxel size and a diameter.

    python benchmarks/accuracy.py [--data ../shared/data] [--only nuclei components cells pipeline] [--cluster processes]

`nuclei`: the diameter is the median one of the truth. Centroid F1: one to one within half a diameter (centre of mass of
each label). IoU F1: one to one at 0.5. `components`: numbers of components at 26, 18 and 6 neighbours, with the peak
memory of the driver and all its workers together.
`cells`: somata of a whole-brain crop, beside cellfinder: the share of its
markers that have a find of their own within one soma. `pipeline`: components, measure
and downsample in one run. Data sets that are not there are named and left out; exits 1 where a figure misses its goal.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile

import ndbatch as nb
from ndbatch.config.load import from_mapping
from ndbatch.testing.scoring import centroid_f1, centroids, iou_f1, median_diameter

sys.path.insert(0, str(Path(__file__).parent))  # its neighbour, also where this is imported as a file

from whole_brain import compare_whole_brain, run_pinky40

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Nuclei:
    """A volume with labelled nuclei, and what is to be reached on it."""

    name: str
    image: str
    truth: str
    voxel_size: tuple[float, float, float]
    count: tuple[int, int]
    centroid: float
    iou: float


NUCLEI = (
    Nuclei(
        "embryo 8-cell", "nuclei_embryo/8cell_image.tif", "nuclei_embryo/8cell_labels.tif", (2.18, 1, 1), (8, 8), 1, 1
    ),
    Nuclei(
        "embryo 16-cell",
        "nuclei_embryo/16cell_image.tif",
        "nuclei_embryo/16cell_labels.tif",
        (2.18, 1, 1),
        (16, 16),
        1,
        1,
    ),
    Nuclei(
        "dense small", "nuclei_dense_small/img3d.tif", "nuclei_dense_small/mask3d.tif", (1, 1, 1), (0, 99), 0.93, 0.78
    ),
    Nuclei(
        "cells3d",
        "nuclei_cells3d/nuclei.tif",
        "nuclei_cells3d/nuclei_label.tif",
        (0.29, 0.26, 0.26),
        (18, 22),
        0.93,
        0.86,
    ),
)
COMPONENTS = (
    ("fib25 bodies", "em_fib25_medulla/fib25_250.h5::/bodies", True, {26: 554, 18: 554, 6: 559}),
    ("fib25 supervoxels", "em_fib25_medulla/fib25_250.h5::/supervoxels", True, {26: 3337, 18: 3337, 6: 3337}),
    ("pinky40 seg", "seg_pinky40_a/seg_a.h5::/seg", True, {26: 2591, 18: 2626, 6: 3824}),
    ("pinky40 foreground", "seg_pinky40_a/seg_a.h5::/seg", False, {26: 13}),
)
PARTS = ["nuclei", "components", "cells", "pipeline"]
MEMORY_GOAL = 1e9
"""Bytes, driver and workers together, on the 268 million voxels of pinky40."""


class Peak:
    """Watches the memory of this process and its children together while it is entered."""

    def __enter__(self) -> Peak:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *ending: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.1):
            self.bytes = max(self.bytes, sum(_rss(p) for p in [me, *me.children(recursive=True)]))


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def score_nuclei(data: Path, case: Nuclei, cluster: str) -> bool:
    """Run the step as a user would, print a row, return whether the goals are met."""
    truth = tifffile.imread(data / case.truth)
    diameter = median_diameter(truth, case.voxel_size)
    size = {axis: f"{value} um" for axis, value in zip("zyx", case.voxel_size, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        result = run(
            Path(folder),
            {"url": str(data / case.image), "voxel_size": size},
            {"nuclei": {"input": "image", "diameter": f"{diameter} um", "output": "labels"}},
            cluster,
        )
        seconds = time.perf_counter() - begun
        labels = nb.open(result.outputs["labels"])[...]
    count = len(np.unique(labels[labels > 0]))
    near = centroid_f1(centroids(truth), centroids(labels), case.voxel_size, diameter / 2)
    overlap = iou_f1(truth, labels)
    met = case.count[0] <= count <= case.count[1] and near >= case.centroid and overlap >= case.iou
    print(
        f"{case.name:18} {len(np.unique(truth)) - 1:6} {count:6} {near:11.3f} {overlap:8.3f} {seconds:8.1f}  "
        f"{'met' if met else 'MISSED'} (count {case.count[0]}-{case.count[1]}, {case.centroid}, {case.iou})",
        flush=True,
    )
    return met


def run(folder: Path, image: dict[str, Any], step: dict[str, Any], cluster: str) -> nb.Result:
    """Run one step from one input to a label volume."""
    document = {
        "name": "accuracy",
        "inputs": {"image": image},
        "steps": [step],
        "outputs": {"labels": "labels.zarr"},
        "cluster": {"kind": cluster},
    }
    return nb.run(from_mapping(document, folder), report=False)


def count_components(data: Path, case: tuple[str, str, bool, dict[int, int]], cluster: str) -> bool:
    """Count components at each connectivity, print a row for each, return whether all numbers are right."""
    name, path, multilabel, expected = case
    good = True
    for connectivity, right in expected.items():
        step = {
            "components": {"input": "image", "connectivity": connectivity, "multilabel": multilabel, "output": "labels"}
        }
        with tempfile.TemporaryDirectory() as folder, Peak() as peak:
            begun = time.perf_counter()
            result = run(Path(folder), {"url": str(data / path), "kind": "labels"}, step, cluster)
            seconds = time.perf_counter() - begun
        count = result.facts["components"]["components"]
        met = count == right and ("pinky40" not in name or peak.bytes <= MEMORY_GOAL)
        good &= met
        verdict = "met" if met else "MISSED"
        numbers = f"{connectivity:6} {right:6} {count:6} {peak.bytes / 1e6:11.0f} {seconds:8.1f}"
        print(f"{name:18} {numbers}  {verdict}", flush=True)
    return good


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; return 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--cluster", default="processes")
    options = parser.parse_args(arguments)
    good = True
    if "nuclei" in options.only:
        print(f"{'nuclei':18} {'truth':>6} {'found':>6} {'centroid F1':>11} {'IoU F1':>8} {'seconds':>8}  goal")
        for case in NUCLEI:
            if (options.data / case.image).exists():
                good &= score_nuclei(options.data, case, options.cluster)
            else:
                print(f"{case.name:18} not measured: {case.image} is not in {options.data}")
    if "components" in options.only:
        print(f"\n{'components':18} {'at':>6} {'truth':>6} {'found':>6} {'peak MB':>11} {'seconds':>8}  goal")
        for row in COMPONENTS:
            if (options.data / row[1].partition("::")[0]).exists():
                good &= count_components(options.data, row, options.cluster)
            else:
                print(f"{row[0]:18} not measured: {row[1].partition('::')[0]} is not in {options.data}")
    if "cells" in options.only:
        print(
            f"\n{'whole-brain cells':22} {'markers':>7} {'found':>9} {'in masks':>8} {'in planes':>9} {'all':>6} "
            f"{'seconds':>8} {'peak MB':>8}"
        )
        good &= _where_there(options.data, "cells_whole_brain", compare_whole_brain, options.cluster)
    if "pipeline" in options.only:
        print()
        good &= _where_there(options.data, "seg_pinky40_a", run_pinky40, options.cluster)
    return 0 if good else 1


def _where_there(data: Path, name: str, measure: Callable[[Path, str], bool], cluster: str) -> bool:
    if (data / name).exists():
        return measure(data, cluster)
    print(f"{name:22} not measured: it is not in {data}")
    return True


if __name__ == "__main__":
    raise SystemExit(main())
