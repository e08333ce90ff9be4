"""The examples, run as a reader would run them."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ndbatch as nb

EXAMPLES = Path(__file__).parents[1] / "examples"
ALONE = {"buckets.py", "count_nuclei.py", "own_function.py"}
"""Those that start processes or send functions of their own to workers; the others need no interpreter to themselves,
which takes as long to load what they import as they take to run."""

SAID = {
    "open_and_look.py": ("z=60 y=256 x=256 uint16", "plane 30: (256, 256) uint16", "brightest along z: (256, 256)"),
    "open_anything.py": ("nuclei.nii.gz", "precomputed://nuclei-layer", "all 14 equal"),
    "convert.py": ("nuclei.n5", "the last is the first: largest difference 0"),
    "pyramid.py": ("level 0: (60, 256, 256)", "level 3: (8, 32, 32), voxels of 2.32 x 2.08 x 2.08 um, 20 nuclei"),
    "label_and_measure.py": ("sphericity", "density_per_mm3", "upper left", "15 objects"),
    "own_function.py": ("done: 4 blocks", "background", "done: patches in batches of 4", "from 0.00 to 1.00"),
    "channels_and_time.py": (
        "zyx (60, 256, 256); the same: True",
        "zyx (60, 116, 256) from (0, 38, 0)",
        "(3, 2, 1, 256, 256)",
    ),
    "buckets.py": (
        "s3://microscope/nuclei.zarr: zarr (60, 256, 256) uint16, 2 level(s)",
        "15 objects in precomputed://s3://",
    ),
    "count_nuclei.py": ("volume_um3", " nuclei; look at ", "report.html"),
}
MADE = {
    "open_and_look.py": {"look.png"},
    "open_anything.py": {"nuclei.zarr", "slices", "formats.png"},
    "convert.py": {"nuclei.nii.gz", "layer", "convert.png"},
    "pyramid.py": {"nuclei.zarr", "labels.zarr", "pyramid.png"},
    "label_and_measure.py": {"cells.parquet", "density.csv", "label_and_measure.png"},
    "own_function.py": {"flat.zarr", "background.parquet", "run", "probability.zarr", "own_function.png"},
    "channels_and_time.py": {"film.zarr", "flat", "nuclei", "channels_and_time.png"},
    "buckets.py": {"buckets.png"},
    "count_nuclei.py": {"labels.zarr", "cells.parquet", "report.html", "provenance.json", "count_nuclei.png"},
}


def example(name: str, folder: Path, *words: str) -> str:
    """Run an example in an empty folder, in a process of its own, and return what it said."""
    environment = {**os.environ, "PYTHONPATH": str(Path(nb.__file__).parents[1]), "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(EXAMPLES / name), *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def example_here(name: str, folder: Path, words: str, capfd: pytest.CaptureFixture[str]) -> str:
    """Run an example in an empty folder, in this process, and return what it said."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    with pytest.MonkeyPatch.context() as patch, mpl.rc_context():
        patch.chdir(folder)
        patch.setattr(sys, "argv", [str(EXAMPLES / name), words])
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        finally:
            plt.close("all")
    said, wrong = capfd.readouterr()
    assert wrong == ""
    return said


def require_drawn(picture: Path) -> None:
    """Require a picture that is large enough to be read, and shows more than axes on white."""
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("L"))
    assert min(pixels.shape) >= 250
    assert np.unique(pixels).size > 100
    assert (pixels < 250).mean() > 0.2, "most of it is white"


@pytest.mark.parametrize("name", sorted(p.name for p in EXAMPLES.glob("*.py")))
def test_it_runs_and_writes_only_where_it_is_told(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The folder of the results is told as seen from the current one, as people do."""
    if name == "buckets.py":
        pytest.importorskip("moto", reason="moto, the S3 server, is not installed")
    here, results = tmp_path / "work" / "here", tmp_path / "results"
    here.mkdir(parents=True)
    results.mkdir()
    said = example(name, here, "../../results") if name in ALONE else example_here(name, here, "../../results", capfd)
    for words in SAID[name]:
        assert words in said
    assert {path.name for path in results.iterdir()} >= MADE[name]
    assert not list(here.iterdir())
    (picture,) = results.glob("*.png")
    require_drawn(picture)
