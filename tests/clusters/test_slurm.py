"""The main job in a real Slurm: done, killed halfway, refused, waiting, out of memory, at the end of its walltime."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch import events
from ndbatch.config.load import dump, from_mapping
from ndbatch.errors import ClusterError
from ndbatch.journal import Journal

from .conftest import Seen, contents, demo
from .slurm import OneNodeSlurm

CLUSTER = {"kind": "slurm", "jobs": 2, "memory": "1 GB", "interface": "lo", "walltime": "20 min"}
LONG = pytest.mark.skipif("NDBATCH_TEST_CLUSTER" not in os.environ, reason="make test-cluster runs it")
FUNCTIONS = '''
import subprocess, sys, time


def eats(image, block, bad):
    """Takes 2 GB in a process of its own: only the queue sees it."""
    if block.index in bad:
        hoard = "import time; hoard = bytearray(b'1') * 2 * 10**9; time.sleep(20)"
        subprocess.run([sys.executable, "-c", hoard], check=True)
    return image + 1


def slow(image, seconds):
    time.sleep(seconds)
    return image + 1
'''


def job(folder: Path, step: dict[str, Any], cluster: dict[str, Any]) -> Any:
    """Return a job of 12 blocks over a small volume."""
    (folder / "queue_functions.py").write_text(textwrap.dedent(FUNCTIONS))
    data = np.arange(16 * 22 * 15, dtype="uint16").reshape(16, 22, 15)
    volume = nb.create(f"{folder}/image.zarr", shape=data.shape, dtype=data.dtype, chunks=(8, 8, 8))
    volume.write(volume.domain, data)
    name, parameters = next(iter(step.items()))
    document = {
        "name": "job",
        "inputs": {"image": "image.zarr"},
        "steps": [{f"queue_functions:{name}": {"input": "image", "output": "out", "parameters": parameters}}],
        "outputs": {"out": {"url": "out.zarr", "chunks": {"z": 8, "y": 8, "x": 8}}},
        "blocks": {"z": 8, "y": 8, "x": 8},
        "cluster": CLUSTER | cluster,
    }
    return from_mapping(document, folder)


def test_the_demo_is_the_same_with_a_job_cancelled_halfway(
    slurm: OneNodeSlurm, tmp_path: Path, local_result: dict[str, bytes]
) -> None:
    seen = Seen(after=48, then=lambda: slurm.call("scancel", slurm.jobs()[0]))
    result = nb.run(demo(tmp_path, CLUSTER), observers=[seen], report=False)
    assert (result.status, result.counts.failed) == ("done", 0)
    assert "CANCELLED" in slurm.call("squeue", "-h", "-t", "all", "-o", "%T")
    assert contents(tmp_path) == local_result
    assert slurm.jobs() == []


@LONG
def test_jobs_may_have_several_workers(slurm: OneNodeSlurm, tmp_path: Path, local_result: dict[str, bytes]) -> None:
    cluster = CLUSTER | {"jobs": 1, "cores": 2}
    assert nb.run(demo(tmp_path, cluster), report=False).status == "done"
    assert contents(tmp_path) == local_result


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"memory": "900 GB"}, "Requested node configuration is not available"),
        ({"queue": "nowhere"}, "Invalid partition name specified"),
        ({"directives": ["--nonsense=3"]}, "unrecognized option '--nonsense=3'"),
    ],
)
def test_what_the_queue_refuses_is_told_in_its_words(
    slurm: OneNodeSlurm, tmp_path: Path, capfd: pytest.CaptureFixture[str], wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises(ClusterError, match=r"the slurm queue( nowhere)? refused the job: sbatch: ") as told:
        nb.run(demo(tmp_path, CLUSTER | wrong), report=False)
    assert words in str(told.value)
    assert str(told.value).count("refused") == 1
    assert "Traceback" not in "".join(capfd.readouterr())


def test_options_that_nobody_knows_are_told_without_all_the_others(slurm: OneNodeSlurm, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"cannot be described .*unexpected keyword argument 'nosuch'") as told:
        nb.run(demo(tmp_path, CLUSTER | {"options": {"nosuch": 1}}), report=False)
    assert "export" not in str(told.value)


@LONG
def test_jobs_that_follow_the_work_begin_with_none(slurm: OneNodeSlurm, tmp_path: Path) -> None:
    """dask asks for no worker before it has work, and ndbatch has no work before it has asked a worker."""
    config = job(tmp_path, {"slow": {"seconds": 0.1}}, {"jobs": 1, "minimum": 0, "maximum": 2, "start_within": 60})
    assert nb.run(config, report=False).counts == events.Counts(planned=12, done=12)
    assert slurm.jobs() == slurm.jobs("PENDING") == []


@pytest.mark.skipif("NDBATCH_TEST_CLUSTER" not in os.environ, reason="a job that waits for jobs of its own")
def test_the_driver_may_be_a_job_itself_in_the_background(slurm: OneNodeSlurm, tmp_path: Path) -> None:
    """What the queue tells the driver's job of its own memory and cores must not become that of the workers' jobs."""
    config = job(tmp_path, {"slow": {"seconds": 0.1}}, {"jobs": 1})
    (tmp_path / "job.yaml").write_text(dump(config))
    command = f"{sys.executable} -m ndbatch run job.yaml --detach && {sys.executable} -m ndbatch attach job.yaml"
    asked = ["--mem=700M", "--cpus-per-task=1", f"--chdir={tmp_path}", f"--output={tmp_path}/driver.log"]
    slurm.call("sbatch", *asked, f"--wrap={command}; echo exit $?; {sys.executable} -m ndbatch status runs/job")
    deadline = time.monotonic() + 90
    while slurm.call("squeue", "-h", "-o", "%i").split() and time.monotonic() < deadline:
        time.sleep(0.2)
    told = (tmp_path / "driver.log").read_text()
    assert "exit 0" in told, told
    assert "12" in told.partition("exit 0")[2]
    image = nb.open(f"{tmp_path}/runs/job/out.zarr")[...]
    assert np.array_equal(image.ravel(), np.arange(16 * 22 * 15) + 1)


def test_why_jobs_wait_is_told_in_the_words_of_the_queue(slurm: OneNodeSlurm, tmp_path: Path) -> None:
    cluster = CLUSTER | {"queue": "closed", "start_within": 3}
    with pytest.raises(ClusterError, match=r"queue closed has no worker after 3 s: job \d+: PENDING \(PartitionDown\)"):
        nb.run(demo(tmp_path, cluster), report=False)
    assert slurm.jobs("PENDING") == []


def test_a_job_that_cannot_start_its_worker_says_why(slurm: OneNodeSlurm, tmp_path: Path) -> None:
    cluster = CLUSTER | {"python": "/no/such/python", "start_within": 60}
    with pytest.raises(ClusterError, match=r"ended \d jobs before a worker began: job .*/no/such/python: No such file"):
        nb.run(demo(tmp_path, cluster), report=False)


def test_a_job_that_takes_too_much_memory_is_told_by_the_queue(slurm: OneNodeSlurm, tmp_path: Path) -> None:
    result = nb.run(job(tmp_path, {"eats": {"bad": [5]}}, {}), report=False)
    assert result.counts == events.Counts(planned=12, done=11, failed=1)
    with Journal.read(tmp_path / "runs/job") as journal:
        (failure,) = journal.failures()
    assert (failure.block, failure.kind) == (5, "OutOfMemory")
    assert "memory limit" in failure.error
    assert "raise cluster: memory" in failure.error


@pytest.mark.skipif("NDBATCH_TEST_CLUSTER" not in os.environ, reason="takes a minute, the shortest walltime of Slurm")
def test_workers_leave_before_their_walltime_and_others_go_on(slurm: OneNodeSlurm, tmp_path: Path) -> None:
    seen = Seen()
    config = job(tmp_path, {"slow": {"seconds": 3.3}}, {"jobs": 1, "walltime": "1 min"})
    assert nb.run(config, observers=[seen], report=False).counts == events.Counts(planned=12, done=12)
    assert not seen.of(events.WorkerLost)
    assert not seen.of(events.BlockRetried)
