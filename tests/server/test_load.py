"""Readers and writers at once, for some seconds: what `benchmarks/service_load.py` does for a minute."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from ndbatch.testing.serving import serving


@pytest.fixture(scope="module")
def benchmark() -> Any:
    """Load the benchmark as a module."""
    path = Path(__file__).parents[2] / "benchmarks/service_load.py"
    spec = importlib.util.spec_from_file_location("service_load", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


def test_no_error_and_no_lost_write(benchmark: Any, tmp_path: Path) -> None:
    benchmark.filled(tmp_path)
    with serving(tmp_path) as (url, _):
        load = benchmark.Load(url, readers=32, writers=8, seconds=4.0)
        load.run()
        assert load.errors == []
        assert load.lost() == 0
    assert load.done["writes"] > 8
    assert load.done["reads"] > 32
