"""Every promise of a run, on every executor."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

import ndbatch as nb
from ndbatch import events
from ndbatch.journal import Journal

from .conftest import Runner, Seen

Image = np.ndarray[Any, Any]


def out(tmp_path: Path) -> Image:
    return nb.open(f"{tmp_path}/runs/job/out.zarr")[...]


def core(index: int) -> tuple[slice, ...]:
    place = np.unravel_index(index, (2, 3, 2))
    return tuple(slice(8 * p, 8 * p + 8) for p in place)


def failures(tmp_path: Path) -> list[Any]:
    with Journal.read(tmp_path / "runs/job") as journal:
        return journal.failures()


def test_every_block_is_done_once(executor: str, run: Runner, image: Image, tmp_path: Path, seen: Seen) -> None:
    calls = tmp_path / "calls"
    calls.mkdir()
    result = run(executor, "counted", step={"parameters": {"folder": str(calls)}})
    assert (result.status, result.exit_code) == ("done", 0)
    assert result.counts == events.Counts(planned=12, done=12)
    assert np.array_equal(out(tmp_path), image + 1)
    assert sorted(int(p.name.split("-")[0]) for p in calls.iterdir()) == list(range(12))
    assert sum(event.blocks for event in seen.of(events.BlocksDone)) == 12
    assert isinstance(seen[-1], events.RunEnded)


def test_a_second_run_has_nothing_to_do(harmless: dict[str, Any], run: Runner, image: Image, tmp_path: Path) -> None:
    run(harmless, "double")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs/job/out.zarr").rglob("*")}
    again = run(harmless, "double")
    assert again.nothing_to_do
    assert again.counts == events.Counts(planned=12, skipped=12)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs/job/out.zarr").rglob("*")} == before


def test_context_reaches_into_neighbours_and_is_clipped_at_the_edge(
    harmless: dict[str, Any], run: Runner, image: Image, tmp_path: Path
) -> None:
    run(harmless, "double", step={"halo": 3})
    assert np.array_equal(out(tmp_path), image * 2)


def test_tables_are_in_block_order(harmless: dict[str, Any], run: Runner, image: Image, tmp_path: Path) -> None:
    step = {"output": None, "table": "sums"}
    result = run(harmless, "rows", step=step, outputs={"sums": "sums.parquet"})
    table = parquet.read_table(tmp_path / "runs/job/sums.parquet").to_pydict()
    assert table["block"] == list(range(12))
    assert table["sum"] == [int(image[core(i)].sum()) for i in range(12)]
    assert result.rows == {"sums": 12}


def test_an_array_and_a_table_together(harmless: dict[str, Any], run: Runner, image: Image, tmp_path: Path) -> None:
    run(harmless, "both", step={"table": "peaks"}, outputs={"out": "out.zarr", "peaks": "peaks.csv"}, blocks="auto")
    assert np.array_equal(out(tmp_path), image // 2)
    assert (tmp_path / "runs/job/peaks.csv").read_text().startswith('"block","max"')


def test_several_inputs_by_name(harmless: dict[str, Any], run: Runner, image: Image, tmp_path: Path) -> None:
    name = "bench_functions:add"
    steps = [{name: {"inputs": {"a": "image", "b": "image"}, "output": "out", "parameters": {"factor": 3}}}]
    run(harmless, "add", steps=steps)
    assert np.array_equal(out(tmp_path), image * 4)


def test_a_function_may_change_its_input_in_place(
    harmless: dict[str, Any], run: Runner, image: Image, tmp_path: Path
) -> None:
    run(harmless, "in_place")
    assert np.array_equal(out(tmp_path), np.where(image < 5, 0, image))


def test_a_failed_block_costs_no_neighbour_and_is_retried_alone(
    executor: str, run: Runner, image: Image, tmp_path: Path, seen: Seen
) -> None:
    step = {"parameters": {"bad": [4, 7]}}
    result = run(executor, "raises", step=step)
    assert (result.status, result.exit_code) == ("failed", 1)
    assert result.counts == events.Counts(planned=12, done=10, failed=2)
    first, second = failures(tmp_path)
    assert (first.block, second.block, first.kind) == (4, 7, "StepError")
    assert "raised ValueError: no good voxels in block 4 (bench_functions.py, line" in first.error
    assert "Traceback" not in first.error
    assert first.traceback.lstrip().startswith('File "')
    assert "no good voxels in block 4" in (tmp_path / "runs/job/run.log").read_text()
    assert nb.open(f"{tmp_path}/runs/job/out.zarr").attributes["complete"] is False
    again = run(executor, "raises", step=step)
    assert again.counts == events.Counts(planned=12, skipped=10, failed=2)


def test_faults_that_pass_are_tried_again(
    harmless: dict[str, Any], run: Runner, image: Image, tmp_path: Path, seen: Seen
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    result = run(harmless, "flaky", step={"parameters": {"folder": str(marks)}})
    assert result.status == "done"
    assert np.array_equal(out(tmp_path), image)
    assert len(seen.of(events.BlockRetried)) == 12


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("wrong_shape", r"returned shape \(7, 8, 8\) where \(8, 8, 8\) is due"),
        ("wrong_dtype", "returned float64 where uint16 is due; set dtype: float64"),
        ("nothing", r"returned nothing \(None\) where an array"),
        ("no_array", "returned a str where an array"),
    ],
)
def test_what_a_function_must_not_return(
    harmless: dict[str, Any], run: Runner, tmp_path: Path, function: str, words: str
) -> None:
    result = run(harmless, function)
    assert result.counts.failed == 12
    assert re.search(words, failures(tmp_path)[0].error)


@pytest.mark.parametrize(
    ("function", "words"), [("dies", "killed: .*SIGKILL|killed: the dask worker"), ("exits", "killed: ")]
)
def test_a_dead_worker_costs_its_culprit_at_most(
    run: Runner, image: Image, tmp_path: Path, seen: Seen, function: str, words: str, process_executor: str
) -> None:
    result = run(process_executor, function, step={"parameters": {"bad": [5]}})
    assert result.counts == events.Counts(planned=12, done=11, failed=1)
    (failure,) = failures(tmp_path)
    assert (failure.block, failure.kind) == (5, "WorkerKilled")
    assert re.search(words, failure.error), failure.error
    good = np.ones(image.shape, bool)
    good[core(5)] = False
    assert np.array_equal(out(tmp_path)[good], image[good])


def test_out_of_memory_is_told_as_such(run: Runner, tmp_path: Path, process_executor: str) -> None:
    cluster = {"kind": process_executor, "workers": 2, "memory": "600 MB"}
    result = run(process_executor, "eats", step={"parameters": {"bad": [5]}}, cluster=cluster)
    assert result.counts == events.Counts(planned=12, done=11, failed=1)
    (failure,) = failures(tmp_path)
    assert (failure.block, failure.kind) == (5, "OutOfMemory")
    assert "out of memory: the worker used" in failure.error


def test_a_block_over_its_time_is_given_up(executor: str, run: Runner, image: Image, tmp_path: Path) -> None:
    result = run(executor, "hangs", step={"parameters": {"bad": [5]}}, time_limit=1)
    assert result.counts == events.Counts(planned=12, done=11, failed=1)
    (failure,) = failures(tmp_path)
    assert (failure.block, failure.kind) == (5, "TimeLimit")
    assert "longer than time_limit, 1 s" in failure.error


def test_a_block_that_holds_the_interpreter_is_stopped_too(run: Runner, tmp_path: Path) -> None:
    result = run("processes", "hangs_hard", step={"parameters": {"bad": [5]}}, time_limit=0.5, retry={"kills": 1})
    assert result.counts == events.Counts(planned=12, done=11, failed=1)
    (failure,) = failures(tmp_path)
    assert (failure.block, failure.kind) == (5, "TimeLimit")


def test_interrupted_keeps_what_is_done_and_goes_on(executor: str, run: Runner, image: Image, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    step = {"parameters": {"folder": str(marks)}}

    def press() -> None:
        while not any(marks.iterdir()):
            time.sleep(0.01)
        time.sleep(0.8)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=press)
    thread.start()
    result = run(executor, "interrupts", step=step)
    thread.join()
    assert (result.status, result.exit_code) == ("interrupted", 3)
    assert result.counts.balanced
    assert 0 < result.counts.pending < 12
    again = run(executor, "interrupts", step=step)
    assert again.status == "done"
    assert again.counts.skipped == result.counts.done
    assert np.array_equal(out(tmp_path), image)
