"""Arrays whose lines lie apart in the cache: the same voxels, other steps between them."""

from __future__ import annotations

import numpy as np
import pytest

from ndbatch.steps.strides import GAP, PAGE, spread, spread_out


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_rows_have_a_gap(dtype: str) -> None:
    made = spread((2, 3, 4096), np.dtype(dtype))
    assert made.shape == (2, 3, 4096)
    assert made.strides[1] == 4096 * made.itemsize + GAP
    assert all(stride % PAGE for stride in made.strides[:-1])


def test_only_what_meets_in_the_cache_is_copied() -> None:
    meets = np.arange(8 * 8 * 512, dtype=np.uint16).reshape(8, 8, 512)
    copy = spread_out(meets)
    assert copy is not meets
    assert all(stride % PAGE for stride in copy.strides[:-1])
    assert np.array_equal(copy, meets)
    apart = meets[:, :, :500].copy()
    assert spread_out(apart) is apart
    line = np.zeros(PAGE, np.uint8)
    assert spread_out(line) is line
