"""Every registered store keeps every type it declares, odd sizes and far offsets: a store joins by its registration.

What a store declares not to hold must be refused before anything is touched. Each volume is written in blocks that line up
with nothing, closed, and read back by another object.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.errors import PlanError
from ndbatch.geometry import Box, Grid, Shape
from ndbatch.remotes import formats
from ndbatch.remotes.abilities import VOXEL_TYPES
from ndbatch.remotes.base import Array
from ndbatch.remotes.registry import BUILT_IN, store_class

ROOT = Path(__file__).parents[2]
SHAPES: tuple[Shape, ...] = ((7, 13, 29), (1, 1, 1), (3, 1, 65))
FAR: Shape = (11, 70_001, 3)
STORES = [(scheme, example) for scheme in sorted(BUILT_IN) for example in store_class(scheme).abilities.examples]


def url_of(scheme: str, example: str, folder: Path) -> str:
    """Return an address of the example's kind below `folder`."""
    places = store_class(scheme).abilities.places
    if places == ("memory",):
        return f"memory://{folder}"
    if "file" not in places:
        pytest.skip(f"{scheme} volumes lie in none of this machine's folders")
    start, separator, path = example.rpartition("://")
    return f"{start}{separator}{folder}/{path}"


def values(shape: Shape, dtype: str) -> Array:
    """Return voxels that use the ends of the type's range."""
    kind = np.dtype(dtype)
    source = np.random.default_rng(kind.num)
    if kind.kind == "b":
        return source.random(shape) > 0.5
    if kind.kind == "f":
        data = (source.standard_normal(shape) * 1000).astype(kind)
        data.flat[:: max(1, data.size // 4)] = np.finfo(kind).max
        return data
    limits = np.iinfo(kind)
    data = source.integers(limits.min, limits.max, shape, kind, endpoint=True)
    data.flat[0] = limits.max
    return data


@pytest.mark.parametrize("dtype", VOXEL_TYPES)
@pytest.mark.parametrize(("scheme", "example"), STORES)
def test_types(scheme: str, example: str, dtype: str, tmp_path: Path) -> None:
    url, able = url_of(scheme, example, tmp_path), store_class(scheme).abilities
    if dtype not in able.dtypes:
        with pytest.raises(PlanError, match=f"cannot hold {dtype}; use"):
            nb.create(url, shape=SHAPES[0], dtype=dtype)
        assert not list(tmp_path.iterdir())
        return
    data = values(SHAPES[0], dtype)
    made = nb.create(url, shape=data.shape, dtype=dtype, chunks=(4, 8, 16))
    for block in Grid.over(made.domain, made.spec.write_unit if able.concurrent else (5, 7, 20)):
        made.write(block.core, data[block.core.slices()])
    made.close()
    again = nb.open(made.url)
    assert (again.shape, again.dtype, again.axes) == (data.shape, data.dtype, "zyx")
    assert again.read(again.domain).tobytes() == data.tobytes()
    part = Box((1, 2, 3), (6, 12, 28))
    assert np.array_equal(again.read(part), data[part.slices()])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("scheme", "example"), STORES)
def test_sizes_and_offsets(scheme: str, example: str, shape: Shape, tmp_path: Path) -> None:
    url, able = url_of(scheme, example, tmp_path), store_class(scheme).abilities
    facts = {"voxel_size": {"z": "40 nm", "y": "5 nm", "x": "7 nm"}, "kind": "labels"}
    dtype = next(name for name in ("uint32", "uint16") if name in able.dtypes)
    data = values(shape, dtype)
    if not able.offset:
        with pytest.raises(PlanError, match="keeps no position"):
            nb.create(url, shape=shape, dtype=dtype, offset=FAR, **facts)
    offset = FAR if able.offset else (0, 0, 0)
    made = nb.create(url, shape=shape, dtype=dtype, offset=offset, **facts)
    made.write(made.domain, data)
    made.close()
    again = nb.open(made.url)
    assert (again.shape, again.offset) == (shape, offset)
    assert again.voxel_size == (pytest.approx((0.04, 0.005, 0.007)) if able.facts else None)
    assert again.kind == ("labels" if able.facts else "image")
    assert np.array_equal(again.read(again.domain), data)


@pytest.mark.parametrize("name", ["docs/formats.md", "README.md"])
def test_the_documents_say_what_the_stores_declare(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "<!-- formats" in text
    assert formats.filled(text) == text, f"run: python -m ndbatch.remotes.formats {name}"
