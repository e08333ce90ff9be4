"""Steps that ask for something beside a core: only workers that offer it do their blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.errors import ClusterError
from ndbatch.journal import Journal

from .conftest import Runner

ASKS = {"resources": {"gpu": 1}}


def pids(folder: Path) -> set[str]:
    return {path.name.rpartition("-")[2] for path in folder.iterdir()}


@pytest.mark.parametrize(("offers", "at_once"), [({}, 1), ({"gpu": 1}, 2)])
def test_without_a_word_one_process_of_this_machine_does_them(
    run: Runner, image: Any, tmp_path: Path, offers: dict[str, float], at_once: int
) -> None:
    calls = tmp_path / "calls"
    calls.mkdir()
    cluster = {"kind": "processes", "workers": 2, "memory": "2 GB", "resources": offers}
    step = {"parameters": {"folder": str(calls), "seconds": 0.1}, **ASKS}
    assert run("processes", "counted_slowly", step=step, cluster=cluster).counts.done == 12
    assert len(pids(calls)) == at_once
    assert np.array_equal(nb.open(f"{tmp_path}/runs/job/out.zarr")[...], image + 1)


def test_a_cluster_that_offers_none_is_told_so(run: Runner, image: Any) -> None:
    with pytest.raises(ClusterError, match=r"no worker offers {'gpu': 1.*write cluster: {resources: "):
        run("local", "double", step=ASKS)


def test_what_a_step_asks_for_does_not_decide_its_output(run: Runner, image: Any, tmp_path: Path) -> None:
    run("threads", "double", step=ASKS)
    assert run("threads", "double").nothing_to_do
    with Journal.read(tmp_path / "runs/job") as journal:
        assert journal.status == "done"
