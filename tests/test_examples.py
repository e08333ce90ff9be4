"""The examples, run as a reader would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ndbatch as nb

EXAMPLES = Path(__file__).parents[1] / "examples"

SAID = {
    "open_and_look.py": ("z=60 y=256 x=256 uint16", "plane 30: (256, 256) uint16", "brightest along z: (256, 256)"),
    "own_function.py": ("done: 4 blocks", "flat.zarr", "background"),
    "count_nuclei.py": ("volume_um3", " nuclei; look at ", "report.html"),
}
MADE = {
    "open_and_look.py": set(),
    "own_function.py": {"flat.zarr", "background.parquet", "run"},
    "count_nuclei.py": {"labels.zarr", "cells.parquet", "report.html", "provenance.json"},
}


def example(name: str, folder: Path, *words: str) -> str:
    """Run an example in an empty folder and return what it said."""
    environment = {**os.environ, "PYTHONPATH": str(Path(nb.__file__).parents[1]), "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(EXAMPLES / name), *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", sorted(p.name for p in EXAMPLES.glob("*.py")))
def test_it_runs_and_writes_only_where_it_is_told(name: str, tmp_path: Path) -> None:
    here, results = tmp_path / "here", tmp_path / "results"
    here.mkdir()
    results.mkdir()
    said = example(name, here, str(results))
    for words in SAID[name]:
        assert words in said
    assert {path.name for path in results.iterdir()} >= MADE[name]
    assert not list(here.iterdir())
