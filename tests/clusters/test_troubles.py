"""What goes wrong on clusters that others started: workers paused, gone, silent or short-lived, schedulers that come again."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pyarrow import csv

import ndbatch as nb
from ndbatch import events
from ndbatch.errors import ClusterError, RemoteError
from ndbatch.executors.base import Reply
from ndbatch.executors.dask import DaskExecutor
from ndbatch.executors.settings import SINGLE_THREADED
from ndbatch.journal import Journal

from .conftest import Seen, Site
from .test_scheduler import job as site_job

Start = Callable[..., Site]
FUNCTIONS = '''
import ctypes, os, time

import numpy as np


def sleeps(image, block, seconds, bad=()):
    time.sleep(seconds if not bad or block.index in bad else 0)
    return image + 1


def holds(image, block, seconds):
    """Holds the interpreter lock: nobody else in the process can even look."""
    if block.index == 5:
        ctypes.pydll.LoadLibrary(None).sleep(seconds)
    return image + 1


def eats(image, block):
    hoard = []
    while block.index == 5:
        hoard.append(np.ones(4_000_000))
        time.sleep(0.005)
    return image + 1


def surroundings(image, block):
    return [{"block": block.index, **{name: os.environ.get(name, "") for name in %r}}]
'''
LONG = pytest.mark.skipif("NDBATCH_TEST_CLUSTER" not in os.environ, reason="waits until workers have come and gone")


def job(folder: Path, function: str, cluster: dict[str, Any], parameters: dict[str, Any], **more: Any) -> Any:
    (folder / "troubled.py").write_text(FUNCTIONS % (list(SINGLE_THREADED),))
    step = {"parameters": parameters, **more.pop("step", {})}
    return site_job(folder, f"troubled:{function}", cluster, step, **more)


def failures(folder: Path) -> list[Any]:
    with Journal.read(folder / "runs/job") as journal:
        return journal.failures()


@LONG
def test_what_dies_with_its_worker_before_it_was_fetched_is_done_again(
    site: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver is slow to fetch: the batch is finished, its worker dies, and dask says that the result is lost."""
    cluster = site()
    first = cluster.worker("--no-nanny")
    wait, seen = DaskExecutor.wait, set[str]()

    def late(executor: DaskExecutor, seconds: float) -> Sequence[Reply]:
        if seen:
            return wait(executor, seconds)
        futures = list(executor._under_way.values())
        until(lambda: all(future.status == "finished" for future in futures))
        first.kill()
        until(lambda: all(future.status != "finished" for future in futures))
        seen.update(future.status for future in futures)
        replies = wait(executor, seconds)
        cluster.worker("--no-nanny")
        return replies

    monkeypatch.setattr(DaskExecutor, "wait", late)
    result = nb.run(job(tmp_path, "sleeps", {"address": cluster.address}, {"seconds": 0.0}), report=False)
    assert "lost" in seen
    assert result.counts == events.Counts(planned=12, done=12)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@LONG
def test_all_workers_are_killed_and_another_comes(site: Start, tmp_path: Path) -> None:
    cluster = site()
    workers = [cluster.worker("--no-nanny") for _ in range(2)]

    def replace() -> None:
        for worker in workers:
            worker.kill()
        cluster.worker()

    config = job(tmp_path, "sleeps", {"address": cluster.address}, {"seconds": 0.2})
    result = nb.run(config, observers=[Seen(after=2, then=replace)], report=False)
    assert result.counts == events.Counts(planned=12, done=12)


@LONG
def test_all_workers_are_killed_and_none_comes(site: Start, tmp_path: Path) -> None:
    cluster = site()
    worker = cluster.worker("--no-nanny")
    config = job(tmp_path, "sleeps", {"address": cluster.address, "start_within": 20}, {"seconds": 0.2})
    config = config.model_copy(update={"cluster": config.cluster.model_copy(update={"start_within": "5 s"})})
    with pytest.raises(
        ClusterError, match=r"lost all its workers and has none for 5 s: start some with: dask worker tcp:"
    ):
        nb.run(config, observers=[Seen(after=2, then=worker.kill)], report=False)
    assert failures(tmp_path) == []


@LONG
def test_paused_workers_are_told_and_not_waited_for_without_end(site: Start, tmp_path: Path) -> None:
    cluster = site()
    cluster.worker("--no-nanny", "--memory-limit", "60 MB")
    config = job(tmp_path, "sleeps", {"address": cluster.address, "start_within": 6}, {"seconds": 0.1})
    with pytest.raises(ClusterError, match=r"for 6 s|after 6 s") as told:
        nb.run(config, report=False)
    assert "dask has paused 1 of 1 workers, since their memory is nearly full" in str(told.value)


@LONG
def test_a_memory_limit_of_the_worker_itself_is_told_as_such(site: Start, tmp_path: Path) -> None:
    """Its nanny would kill it at 95 % without a word, whatever was promised."""
    cluster = site()
    cluster.worker("--memory-limit", "500 MB")
    result = nb.run(job(tmp_path, "eats", {"address": cluster.address}, {}), report=False)
    assert result.counts == events.Counts(planned=12, done=11, failed=1)
    (failure,) = failures(tmp_path)
    assert (failure.block, failure.kind) == (5, "OutOfMemory")
    assert "it was promised 0.42 GiB" in failure.error


@LONG
def test_a_scheduler_that_comes_again_ends_the_run_which_then_goes_on(site: Start, tmp_path: Path) -> None:
    cluster = site()
    cluster.worker()
    port = cluster.address.rpartition(":")[2]

    def again() -> None:
        cluster.processes[0].kill()
        cluster.processes[0].wait()
        place = ["--host", "127.0.0.1", "--port", port, "--dashboard-address", "127.0.0.1:0"]
        cluster.processes.append(cluster._run((), "scheduler", *place))

    config = job(tmp_path, "sleeps", {"address": cluster.address}, {"seconds": 0.3})
    with pytest.raises(ClusterError, match=r"is gone .* run the same command again"):
        nb.run(config, observers=[Seen(after=2, then=again)], report=False)
    cluster.worker()
    result = nb.run(config, report=False)
    assert (result.status, result.counts.failed) == ("done", 0)
    assert result.counts.skipped >= 2


@LONG
def test_a_block_that_holds_the_interpreter_is_not_taken_for_dead(site: Start, tmp_path: Path) -> None:
    """The scheduler, not ours, gives up workers that are silent for 4 s."""
    cluster = site(DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="4s")
    cluster.worker()
    seen = Seen()
    result = nb.run(
        job(tmp_path, "holds", {"address": cluster.address}, {"seconds": 10}), observers=[seen], report=False
    )
    assert result.counts == events.Counts(planned=12, done=12)
    assert not seen.of(events.BlockRetried)
    assert not seen.of(events.WorkerLost)


@LONG
def test_a_block_that_outlasts_every_worker_is_told_so(site: Start, tmp_path: Path) -> None:
    """dask gives it to one worker after another, without end."""
    cluster = site()
    cluster.worker("--lifetime", "3s", "--lifetime-restart")
    parameters = {"seconds": 9, "bad": [5]}
    config = job(tmp_path, "sleeps", {"address": cluster.address}, parameters)
    result = nb.run(config, report=False)
    assert result.counts == events.Counts(planned=12, done=11, failed=1)
    (failure,) = failures(tmp_path)
    assert (failure.block, failure.kind) == (5, "TimeLimit")
    assert "before the block was done; raise cluster: walltime" in failure.error


def test_certificates_of_another_authority_are_one_sentence(site: Start, tmp_path: Path) -> None:
    for name in ("theirs", "other"):
        pair = ["-keyout", f"{tmp_path}/{name}.key", "-out", f"{tmp_path}/{name}.pem"]
        subject = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
        subprocess.run(["openssl", "req", "-x509", *subject, *pair], check=True, capture_output=True)
    theirs, other = (
        {"ca": f"{tmp_path}/{n}.pem", "cert": f"{tmp_path}/{n}.pem", "key": f"{tmp_path}/{n}.key"}
        for n in ("theirs", "other")
    )
    options = ["--tls-ca-file", theirs["ca"], "--tls-cert", theirs["cert"], "--tls-key", theirs["key"]]
    cluster = site("--protocol", "tls", *options)
    with pytest.raises(RemoteError, match=r"certificate") as told:
        nb.run(job(tmp_path, "sleeps", {"address": cluster.address, "tls": other}, {"seconds": 0}), report=False)
    assert "\n" not in str(told.value)
    assert "cluster: tls" in str(told.value)


@pytest.mark.parametrize("kind", ["processes", "local", "with a nanny", "without"])
def test_libraries_are_told_to_use_one_thread(
    kind: str, site: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SINGLE_THREADED:
        monkeypatch.delenv(name, raising=False)
    where: dict[str, Any] = {"kind": kind, "workers": 1}
    if kind.startswith("with"):
        cluster = site()
        cluster.worker(*(["--no-nanny"] if kind == "without" else []))
        where = {"address": cluster.address}
    config = job(
        tmp_path, "surroundings", where, {}, step={"output": None, "table": "found"}, outputs={"found": "found.csv"}
    )
    assert nb.run(config, report=False).status == "done"
    found = csv.read_csv(tmp_path / "runs/job/found.csv").to_pylist()
    assert {name: str(value) for name, value in found[0].items() if name != "block"} == SINGLE_THREADED


@LONG
def test_workers_that_end_as_soon_as_they_start_are_told_in_one_sentence(site: Start, tmp_path: Path) -> None:
    """Their nanny ends them at 95 % of a limit that is too small for Python itself, and starts them again."""
    cluster = site()
    cluster.worker("--memory-limit", "60 MB")
    config = job(tmp_path, "sleeps", {"address": cluster.address, "start_within": 6}, {"seconds": 0.1})
    with pytest.raises(ClusterError, match=r"the dask scheduler at tcp://"):
        nb.run(config, report=False)
