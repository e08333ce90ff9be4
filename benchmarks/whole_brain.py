"""Two larger comparisons of `make accuracy`: a whole-brain crop beside cellfinder, and pinky40 from voxels to tables.

Every program runs in a fresh process, which is timed from its start to its end; memory is the peak of its whole process tree.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import yaml
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import ndbatch as nb
from ndbatch.remotes.base import Array

ROOT = Path(__file__).parents[1]
PEER = ROOT / ".venv-cellfinder/bin/python"
SIZE = (5.0, 2.0, 2.0)
SOMA = 16.0
MARKERS_GOAL = 0.92
"""Share of the markers that cellfinder's own test wants found again."""
MEMORY_GOAL = 1e9
PINKY40 = (512, 1024, 512)
COARSE = {"z": 2, "y": 2, "x": 2}


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    seconds: float
    bytes: int


def watched(command: Sequence[str | Path]) -> Cost:
    """Run `command`; RuntimeError with its last words where it fails."""
    with tempfile.TemporaryFile("w+") as said:
        begun, peak = time.perf_counter(), 0
        process = subprocess.Popen([str(part) for part in command], stdout=said, stderr=said, cwd=ROOT)
        watch = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, _resident(watch))
            time.sleep(0.05)
        seconds = time.perf_counter() - begun
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read()[-2000:])
    return Cost(seconds, peak)


def _resident(process: psutil.Process) -> int:
    """Return the memory of a process and its children. A page that several share counts once, where the system tells."""
    total = 0
    try:
        for one in [process, *process.children(recursive=True)]:
            known = one.memory_full_info()
            total += getattr(known, "pss", known.rss)
    except psutil.Error:
        pass
    return total


def by_ndbatch(folder: Path, document: dict[str, Any]) -> Cost:
    """Run a configuration as a user would, from the command line."""
    path = folder / "run.yaml"
    document["outputs"] = {name: str(folder / place) for name, place in document["outputs"].items()}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return watched([sys.executable, "-m", "ndbatch", "run", path, "--quiet"])


def compare_whole_brain(data: Path, cluster: str) -> bool:
    """Print a row for each program, return whether ndbatch finds the markers."""
    text = (data / "cells_whole_brain/reference_cells.xml").read_text()
    markers = np.array([[int(v) for v in re.findall(rf"<Marker{axis}>(-?\d+)<", text)] for axis in "ZYX"]).T
    image = data / "cells_whole_brain/signal.h5"
    span = (int(markers[:, 0].min()), int(markers[:, 0].max()) + 1)
    share = 0.0
    for preset in ("whole_brain", "nuclei"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            cost = by_ndbatch(folder, _whole_brain(image, preset, cluster))
            points = pq.read_table(folder / "cells.parquet")
            labels = nb.open(folder / "labels.zarr")[...]
        found = np.stack([points[axis].to_numpy() for axis in "zyx"], axis=1)
        near = _row(f"ndbatch {preset}", markers, found, span, cost, float((labels[tuple(markers.T)] > 0).mean()))
        share = near if preset == "whole_brain" else share
    if not PEER.exists():
        print(f"{'cellfinder':22} not measured: it is not installed in {PEER.parents[1].name}; see what pip said above")
    else:
        with tempfile.TemporaryDirectory() as name:
            made = Path(name) / "cells.json"
            cost = watched([PEER, ROOT / "benchmarks/cellfinder_peer.py", image, made])
            result = json.loads(made.read_text())
        _row("cellfinder", markers, np.array(result["cells"]), span, cost, None)
        print(f"{'':22} (of these seconds {result['seconds']:.1f} for the detection, the rest to start and import)")
    print(
        f"{'':22} {'met' if share >= MARKERS_GOAL else 'MISSED'} (ndbatch whole_brain finds {MARKERS_GOAL:.0%} of the markers)"
    )
    return share >= MARKERS_GOAL


def _whole_brain(image: Path, preset: str, cluster: str) -> dict[str, Any]:
    size = {axis: f"{value} um" for axis, value in zip("zyx", SIZE, strict=True)}
    step = {"input": "image", "diameter": f"{SOMA} um", "preset": preset, "output": "labels", "points": "cells"}
    return {
        "name": "whole-brain",
        "inputs": {"image": {"url": f"{image}::/signal", "voxel_size": size}},
        "steps": [{"nuclei": step}],
        "outputs": {"labels": "labels.zarr", "cells": "cells.parquet"},
        "cluster": {"kind": cluster},
    }


def _row(name: str, markers: Array, found: Array, span: tuple[int, int], cost: Cost, covered: float | None) -> float:
    """Print what one program found; return the share of markers with a find of their own within one soma."""
    apart = cdist(markers * SIZE, found * np.array(SIZE))
    rows, columns = linear_sum_assignment(np.where(apart <= SOMA, 2 - apart / SOMA, 0.0), maximize=True)
    share = float((apart[rows, columns] <= SOMA).mean())
    within = int(((found[:, 0] >= span[0]) & (found[:, 0] < span[1])).sum())
    inside = "" if covered is None else f"{covered:.3f}"
    print(
        f"{name:22} {len(markers):7} {share:9.3f} {inside:>8} {within:9} {len(found):6} {cost.seconds:8.1f} "
        f"{cost.bytes / 1e6:8.0f}",
        flush=True,
    )
    return share


def run_pinky40(data: Path, cluster: str) -> bool:
    """Run components, measure and downsample over pinky40 in one go; return whether all is right and memory small."""
    document = {
        "name": "pinky40",
        "inputs": {"seg": {"url": f"{data / 'seg_pinky40_a/seg_a.h5'}::/seg", "kind": "labels"}},
        "steps": [
            {"components": {"input": "seg", "connectivity": 26, "multilabel": True, "output": "parts"}},
            {"measure": {"labels": "parts", "output": "sizes"}},
            {"downsample": {"input": "parts", "factors": COARSE, "output": "coarse"}},
        ],
        "outputs": {"parts": "parts.zarr", "sizes": "sizes.parquet", "coarse": "coarse.zarr"},
        "cluster": {"kind": cluster},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cost = by_ndbatch(folder, document)
        sizes = pq.read_table(folder / "sizes.parquet")
        parts, coarse = nb.open(folder / "parts.zarr"), nb.open(folder / "coarse.zarr")
        right = _pinky40_right(data, sizes, parts, coarse)
    met = right and cost.bytes <= MEMORY_GOAL
    print(
        f"{'pinky40 end to end':22} {sizes.num_rows:6} components {'' if right else 'WRONG'} {cost.seconds:8.1f} s "
        f"{cost.bytes / 1e6:8.0f} MB  {'met' if met else 'MISSED'} (2591, {MEMORY_GOAL / 1e6:.0f} MB)",
        flush=True,
    )
    return met


def _pinky40_right(data: Path, sizes: Any, parts: nb.Volume, coarse: nb.Volume) -> bool:
    """Return whether the table and the coarse volume are those of the components, and these those of the segmentation."""
    step = tuple(COARSE.values())
    seg = nb.open(f"{data / 'seg_pinky40_a/seg_a.h5'}::/seg")
    counted = np.zeros(sizes.num_rows + 1, np.int64)
    good = coarse.shape == tuple(-(-n // s) for n, s in zip(PINKY40, step, strict=True))
    for low in range(0, PINKY40[0], 32):
        slab, source = parts[low : low + 32], seg[low : low + 32]
        counted += np.bincount(slab.ravel(), minlength=len(counted))
        good &= bool(((slab > 0) == (source > 0)).all())
        small = coarse[low // step[0] : (low + 32) // step[0]]
        # The most frequent of eight voxels is at least one of them.
        cells = np.stack([slab[z::2, y::2, x::2] for z in (0, 1) for y in (0, 1) for x in (0, 1)])
        good &= bool((cells == small).any(axis=0).all())
    column = "voxels" if "voxels" in sizes.column_names else "area"
    return good and len(counted) == 2592 and bool((sizes[column].to_numpy() == counted[1:]).all())
