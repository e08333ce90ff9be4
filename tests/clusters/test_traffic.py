"""What goes between driver and workers: the work of a stage once, then numbers out and receipts back."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

import ndbatch as nb
from ndbatch import events
from ndbatch.executors.dask import DaskExecutor

from .test_scheduler import job

LARGE = 1_000_000
PARAMETERS = {"large": "x" * LARGE, "seconds": 0.02}
FUNCTIONS = """
import time


def slow(image, seconds, large):
    time.sleep(seconds)
    return image + 1
"""


def test_work_goes_out_once_and_receipts_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed

    work: list[int] = []
    batches: list[tuple[int, int]] = []
    results: list[int] = []
    register, submit = distributed.Client.register_plugin, distributed.Client.submit
    wait = DaskExecutor.wait

    def registering(client: Any, plugin: Any, *words: Any, **more: Any) -> Any:
        work.append(len(getattr(plugin, "data", b"")))
        return register(client, plugin, *words, **more)

    def submitting(client: Any, function: Any, *words: Any, **more: Any) -> Any:
        batches.append((len(pickle.dumps(words)), len(list(words[2].blocks))))
        return submit(client, function, *words, **more)

    def waiting(executor: DaskExecutor, seconds: float) -> Any:
        replies = wait(executor, seconds)
        results.extend(len(pickle.dumps(reply)) for reply in replies)
        return replies

    monkeypatch.setattr(distributed.Client, "register_plugin", registering)
    monkeypatch.setattr(distributed.Client, "submit", submitting)
    monkeypatch.setattr(DaskExecutor, "wait", waiting)
    (tmp_path / "traffic_functions.py").write_text(FUNCTIONS)
    small = {
        "blocks": {"z": 1, "y": 8, "x": 8},
        "outputs": {"out": {"url": "out.zarr", "chunks": {"z": 1, "y": 8, "x": 8}}},
    }
    config = job(
        tmp_path, "traffic_functions:slow", {"kind": "local", "workers": 1}, {"parameters": PARAMETERS}, **small
    )
    assert nb.run(config, report=False).counts == events.Counts(planned=96, done=96)
    assert len([size for size in work if size > LARGE]) == 1  # for the one stage; dask keeps it for workers that come
    assert sum(blocks for _, blocks in batches) == 96
    assert len(results) == len(batches)
    assert max(size for size, _ in batches) < 1500
    assert sum(results) < 400 * 96 + 1500 * len(results)
