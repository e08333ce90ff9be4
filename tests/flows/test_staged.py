"""Outputs in files that only one process may write: staged while blocks come in, written once, then renamed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import ndbatch as nb
from ndbatch import finish
from ndbatch.config.load import from_mapping
from ndbatch.journal import Journal
from ndbatch.report import provenance

OUTPUTS = ("out.h5::/a/b", "out.tif", "out.ome.tif")
SHAPE = (20, 30, 40)


def path(folder: Path, url: str) -> Path:
    """Return the file of an output's address."""
    return folder / url.partition("::")[0]


@pytest.fixture(params=OUTPUTS)
def url(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = np.random.default_rng(4).integers(0, 60000, SHAPE, dtype="uint16")
    volume = nb.create(
        tmp_path / "image.zarr", shape=SHAPE, dtype="uint16", chunks=(8, 16, 16), voxel_size=(0.5, 0.25, 0.25)
    )
    volume.write(volume.domain, data)
    return tmp_path


def document(folder: Path, url: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": "job",
        "inputs": {"image": str(folder / "image.zarr")},
        "steps": [{"filter": {"input": "image", "sigma": 1, "output": "out"}}],
        "outputs": {"out": {"url": str(folder / url), "dtype": "uint16"}},
        "blocks": {"z": 8, "y": 16, "x": 20},
        "cluster": {"kind": "threads", "workers": 2},
        "directory": str(folder / "work"),
        **changes,
    }


def run(folder: Path, url: str, **changes: Any) -> nb.Result:
    return nb.run(from_mapping(document(folder, url, **changes), folder), report=False)


def expected(folder: Path) -> np.ndarray[Any, Any]:
    from scipy import ndimage

    image = nb.open(folder / "image.zarr")[...]
    smooth: np.ndarray[Any, Any] = ndimage.gaussian_filter(image.astype("float32"), (0.5, 1, 1))
    rounded: np.ndarray[Any, Any] = np.rint(smooth).astype("uint16")
    return rounded


def require_tidy(folder: Path, url: str) -> None:
    """Nothing but the result is left: no staging, no scratch, no partial file."""
    assert not (folder / "work/staging").exists()
    assert not (folder / "work/scratch").exists()
    assert sorted(p.name for p in folder.iterdir()) == sorted(["image.zarr", "work", path(folder, url).name])


@pytest.mark.parametrize("kind", ["inline", "threads", "processes"])
def test_the_result_is_that_of_the_whole_array(url: str, kind: str, folder: Path) -> None:
    result = run(folder, url, cluster={"kind": kind, "workers": 1 if kind == "inline" else 2})
    assert result.status == "done"
    volume = nb.open(result.outputs["out"])
    assert np.array_equal(volume[...], expected(folder))
    assert volume.voxel_size == pytest.approx((0.5, 0.25, 0.25))
    require_tidy(folder, url)


def test_two_runs_give_the_same_bytes(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the time of the run, which the provenance in the file tells."""
    monkeypatch.setattr(provenance, "timestamp", lambda: "2026-01-01T00:00:00.000+00:00")
    run(folder, url)
    first = path(folder, url).read_bytes()
    path(folder, url).unlink()
    shutil.rmtree(folder / "work")
    time.sleep(1.1)  # some formats keep times, in seconds
    run(folder, url, cluster={"kind": "inline"})
    assert path(folder, url).read_bytes() == first


def test_a_second_run_has_nothing_to_do(url: str, folder: Path) -> None:
    run(folder, url)
    before = path(folder, url).stat().st_mtime_ns
    assert run(folder, url).nothing_to_do
    assert path(folder, url).stat().st_mtime_ns == before
    require_tidy(folder, url)


def test_check_reads_it_and_finds_damage(url: str, folder: Path) -> None:
    run(folder, url)
    report = nb.check(folder / "work")
    assert (report.ok, report.blocks) == (True, 12)
    volume = nb.open(folder / url)
    data = volume[...]
    data[0, 0, 0] += 1
    nb.create(folder / url, like=volume, overwrite=True).write(volume.domain, data)
    report = nb.check(folder / "work")
    assert [mismatch.block for mismatch in report.mismatches] == [0]


def test_a_file_that_is_gone_is_told_by_check(url: str, folder: Path) -> None:
    run(folder, url)
    path(folder, url).unlink()
    assert not nb.check(folder / "work").ok


def test_something_in_the_way_is_left_alone(url: str, folder: Path) -> None:
    path(folder, url).write_bytes(b"precious")
    with pytest.raises(nb.NdbatchError):
        run(folder, url)
    assert path(folder, url).read_bytes() == b"precious"


def test_blocks_that_failed_leave_no_file_and_go_on_later(url: str, folder: Path) -> None:
    (folder / "shaky.py").write_text(
        "from pathlib import Path\n\n\ndef shaky(image, block, mark):\n"
        "    if block.index == 5 and not Path(mark).exists():\n        raise ValueError('not yet')\n    return image\n"
    )
    step = {"shaky:shaky": {"input": "image", "output": "out", "parameters": {"mark": str(folder / "mark")}}}
    assert run(folder, url, steps=[step]).counts.failed == 1
    assert not path(folder, url).exists()
    (folder / "mark").touch()
    result = run(folder, url, steps=[step])
    assert (result.status, result.counts.done, result.counts.skipped) == ("done", 1, 11)
    assert np.array_equal(nb.open(folder / url)[...], nb.open(folder / "image.zarr")[...])


# -- killed between the last block and the file -------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from types import SimpleNamespace
from ndbatch import finish, run

where, count = sys.argv[1], 0

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

if where == "before writing":
    finish._write_whole = die
elif where == "while writing":
    slabs = finish._slabs
    finish.SLAB_BYTES = 1
    def some(target):
        for number, slab in enumerate(slabs(target)):
            if number == 1:
                die()
            yield slab
    finish._slabs = some
elif where == "before renaming":
    finish.os = SimpleNamespace(replace=die)
elif where == "before the journal knows":
    finish.os = SimpleNamespace(replace=lambda *names: (os.replace(*names), die()))
run("job.yaml", report=False)
"""


@pytest.mark.parametrize("where", ["before writing", "while writing", "before renaming", "before the journal knows"])
def test_a_run_killed_while_it_finishes_is_finished_by_the_same_command(where: str, url: str, folder: Path) -> None:
    (folder / "job.yaml").write_text(yaml.safe_dump(document(folder, url)))
    environment = {**os.environ, "PYTHONPATH": str(Path(nb.__file__).parents[1])}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, where],
        cwd=folder,
        env=environment,
        timeout=180,
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert path(folder, url).exists() == (where == "before the journal knows")
    with Journal.read(folder / "work") as journal:
        assert len(journal.done(0)) == 12
        assert journal.status != "done"
    result = run(folder, url)
    assert (result.status, result.counts.done, result.counts.skipped) == ("done", 0, 12)
    assert np.array_equal(nb.open(folder / url)[...], expected(folder))
    (folder / "job.yaml").unlink()
    require_tidy(folder, url)
    assert nb.check(folder / "work").ok


def test_the_file_is_written_in_slabs_of_whole_chunks(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "SLAB_BYTES", 1)
    run(folder, url)
    assert np.array_equal(nb.open(folder / url)[...], expected(folder))
