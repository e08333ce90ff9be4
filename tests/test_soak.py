"""What `benchmarks/soak.py` judges by: growth is found beneath noise, flat memory is not called growth, what is left is found."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WATCH = Path(__file__).parents[1] / "benchmarks/soak_watch.py"


@pytest.fixture(scope="module")
def watching() -> Any:
    spec = importlib.util.spec_from_file_location("soak_watch", WATCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


def wandering(seed: int, number: int) -> np.ndarray[Any, Any]:
    """Return noise of 5 MB whose neighbours are alike, as memory's are."""
    dice, level, values = np.random.default_rng(seed), 0.0, []
    for _ in range(number):
        level = 0.8 * level + dice.normal(0, 3)
        values.append(level)
    return np.array(values)


@pytest.mark.parametrize("seed", range(5))
def test_growth_is_found_beneath_noise(watching: Any, seed: int) -> None:
    blocks = np.arange(600) * 10.0
    growing = watching.slope(blocks, 100 + 0.004 * blocks + wandering(seed, 600))
    assert growing.grows(0.001)
    assert growing.low < 0.004 < growing.high


def test_flat_memory_is_not_called_growth(watching: Any) -> None:
    blocks = np.arange(600) * 10.0
    found = [watching.slope(blocks, 100 + wandering(seed, 600)).grows(0.001) for seed in range(40)]
    assert sum(found) <= 2  # what an interval of 95 % lets pass


def test_short_series_are_judged_together(watching: Any) -> None:
    """Each worker begins at another level; what they have in common is the growth."""
    blocks = np.arange(30) * 5.0
    leak = [(blocks, 80 + 9 * n + 0.01 * blocks + wandering(n, 30) / 10) for n in range(12)]
    flat = [(blocks, 80 + 9 * n + wandering(n, 30) / 10) for n in range(12)]
    assert watching.pooled(leak).grows(0.001)
    assert watching.pooled(leak).low < 0.01 < watching.pooled(leak).high
    assert not watching.pooled(flat).grows(0.001)
    assert watching.pooled(leak[:3]) is None
    assert watching.slope([1, 2, 3], [1, 2, 3]) is None


def test_a_process_that_lost_its_parent_is_found_and_a_dead_child_that_nobody_asks_after(watching: Any) -> None:
    marker = f"NDBATCH_SOAK=test-{os.getpid()}"
    environment = {**os.environ, **dict([marker.split("=")])}
    code = (
        "import subprocess, sys, time\n"
        "orphan = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "dead = subprocess.Popen(['true'])\n"
        "print(orphan.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    watch = watching.Watch(lambda process: "driver", marker)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True)
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline())
    try:
        with watch:
            while not watch.zombies:
                time.sleep(0.01)
                watch.look(watch.series)
            watch.zombies = dict.fromkeys(watch.zombies, -2 * watching.PATIENCE)
            watch.look(watch.rest)
        assert any("true of" in one for one in watch.unreaped)
        assert watch.rest["driver", parent.pid][0].memory > 10_000
        parent.kill()
        parent.wait()
        assert [process.pid for process in watch.marked()] == [orphan]
    finally:
        parent.kill()
        parent.wait()
        os.kill(orphan, 9)
        parent.stdout.close()
