"""Many small blocks: what the journal keeps of each, and going on from halfway. The figures themselves: benchmarks/scale.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks/scale.py"


def test_ten_thousand_blocks_of_a_step_that_reads_nothing() -> None:
    """The benchmark itself, on the smallest run: all blocks done, all there again, the second half after a stop."""
    spec = importlib.util.spec_from_file_location("scale", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    scale = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scale)
    figures = scale.measure(10_000, "threads", 2)
    assert figures["blocks"] == 10_000
    assert figures["journal_bytes"] < 60
    assert figures["growth_mb"] < 30
