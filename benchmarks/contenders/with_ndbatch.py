"""The works of benchmarks/speed.py done by ndbatch, as a user would: one configuration each, two workers."""

from __future__ import annotations

import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from ndbatch.config.load import from_mapping
from ndbatch.runner import run

for _module in ("remotes.zarr", "steps.components", "steps.downsample", "steps.filter", "executors.local"):
    import_module(f"ndbatch.{_module}")  # peers import what they need before the clock starts, too
import_module("tensorstore")


def configuration(work: str, folder: Path) -> dict[str, Any]:
    """Return the configuration of `work` on the volumes of `folder`."""
    out = folder / "ndbatch"
    small = {"z": 64, "y": 64, "x": 64}
    copied = {"steps": [{"copy": {"input": "image", "output": "copied"}}]}
    mode = {"steps": [{"downsample": {"input": "image", "output": "next"}}]}
    cases: dict[str, dict[str, Any]] = {
        "transcode": {
            **copied,
            "inputs": {"image": str(folder / "image.zarr")},
            "outputs": {"copied": {"url": f"{out}.zarr", "chunks": small}},
        },
        "precomputed": {
            **copied,
            "inputs": {"image": str(folder / "image.zarr")},
            "outputs": {"copied": {"url": f"precomputed://{out}.precomputed", "chunks": small}},
        },
        "gaussian": {
            "inputs": {"image": str(folder / "image.zarr")},
            "steps": [
                {"filter": {"input": "image", "sigma": 2, "output": "smooth"}},
                {"threshold": {"input": "smooth", "value": 128.5, "output": "mask"}},
            ],
            "outputs": {"mask": {"url": f"{out}.zarr"}},
        },
        "components": {
            "inputs": {"image": str(folder / "mask.zarr")},
            "steps": [{"components": {"input": "image", "connectivity": 6, "output": "labels"}}],
            "outputs": {"labels": {"url": f"{out}.zarr", "chunks": {"z": 128, "y": 128, "x": 128}}},
        },
        "image-pyramid": {
            **mode,
            "inputs": {"image": str(folder / "image64.zarr")},
            "outputs": {"next": {"url": f"{out}.zarr", "pyramid": 2, "chunks": small}},
        },
        "labels-pyramid": {
            **mode,
            "inputs": {"image": str(folder / "labels64.zarr")},
            "outputs": {"next": {"url": f"{out}.zarr", "pyramid": 2, "chunks": small}},
        },
    }
    # All of these works run in compiled code, beside Python's lock: threads do as well as processes, and start at once.
    return {"name": work, "cluster": {"kind": "threads", "workers": 2}, "directory": f"{out}-run", **cases[work]}


def main() -> None:
    """Do the work named on the command line and print its seconds."""
    config = from_mapping(configuration(sys.argv[1], Path(sys.argv[2])), Path.cwd())
    begun = time.perf_counter()
    result = run(config, report=False)
    seconds = time.perf_counter() - begun
    assert result.status == "done"
    print(seconds)


if __name__ == "__main__":
    main()
