"""The comparisons of benchmarks/speed.py: volumes are compared slab by slab, and what differs is found wherever it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import ndbatch as nb

Array = np.ndarray[Any, Any]
SCRIPT = Path(__file__).parent.parent / "benchmarks/speed.py"


@pytest.fixture(scope="module")
def speed() -> ModuleType:
    import sys

    spec = importlib.util.spec_from_file_location("speed_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def compared(speed: ModuleType, name: str, one: Array, other: Array) -> bool:
    volumes = []
    for number, data in enumerate((one, other)):
        volume = nb.create(f"memory://speed-{name}-{number}", shape=data.shape, dtype=data.dtype, overwrite=True)
        volume.write(volume.domain, data)
        volumes.append(volume)
    return bool(getattr(speed, name)(speed.slabs(*volumes)))


def objects(planes: int = 200) -> Array:
    labels = np.zeros((planes, 12, 12), np.uint64)
    labels[:, 1:5, 1:5], labels[:, 7:11, 7:11] = 1, 2
    return labels


def test_partitions_may_have_other_numbers_but_no_other_objects(speed: ModuleType) -> None:
    labels = objects()
    renamed = np.where(labels == 1, 9, np.where(labels == 2, 4, 0)).astype(np.uint32)
    assert compared(speed, "same_partition", labels, renamed)
    torn = renamed.copy()
    torn[150:][torn[150:] == 9] = 8  # each slab by itself has the same objects; the volume has not
    assert not compared(speed, "same_partition", labels, torn)
    assert not compared(speed, "same_partition", torn, labels)


def test_rounding_is_one_step_at_most(speed: ModuleType) -> None:
    image = np.full((130, 4, 4), 100, np.uint8)
    close, far = image.copy(), image.copy()
    close[129, 3, 3], far[129, 3, 3] = 99, 98
    assert compared(speed, "nearly", image, close)
    assert not compared(speed, "nearly", image, far)


def test_labels_may_differ_at_borders_only(speed: ModuleType) -> None:
    labels = objects()
    border, inside = labels.copy(), labels.copy()
    border[:, 1, 1], inside[64, 3, 3] = 0, 7
    inside[63:66, 2:5, 2:5] = 7
    assert compared(speed, "mostly", labels, border)
    assert not compared(speed, "mostly", labels, inside)


@pytest.mark.parametrize(("name", "dtype"), [("image", "uint16"), ("mask", "uint8"), ("labels64", "uint64")])
def test_a_volume_is_made_slab_by_slab(speed: ModuleType, tmp_path: Path, name: str, dtype: str) -> None:
    speed.prepare(tmp_path, name, 128, "uint16")
    volume = nb.open(f"{tmp_path}/{name}.zarr")
    whole = np.concatenate(list(speed.content(name.removesuffix("64"), 128, "uint16")))
    assert (volume.shape, volume.dtype) == ((128,) * 3, np.dtype(dtype))
    np.testing.assert_array_equal(volume.read(volume.domain), whole)
    assert whole[64:].any()
