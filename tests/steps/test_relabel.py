"""Other ids: numpy's on the whole array, tables in files, and 64-bit ids to the last one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from skimage.segmentation import relabel_sequential

from ndbatch.errors import ConfigError, PlanError, StepError
from ndbatch.geometry import Block, Box
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Patch, Step
from ndbatch.steps.relabel.ids import distinct, replaced
from ndbatch.steps.relabel.step import Relabel
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(81)
SMALL = np.repeat(RNG.integers(0, 40, (14, 19, 7), np.uint16), 3, axis=2)
WIDE = np.where(SMALL > 5, SMALL.astype(np.uint64) * np.uint64(2**58 + 12345), np.uint64(0))


def make(**fields: Any) -> Relabel:
    return Relabel.model_validate({"input": "a", "output": "r", **fields})


class OfLabels(StepSuite):
    image: Array = SMALL
    kinds: ClassVar[dict[str, Kind]] = {"a": Kind.LABELS}

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": self.image}


class TestMapped(OfLabels):
    @pytest.fixture
    def step(self) -> Step:
        return make(map={3: 900, 7: 900, 8: 3, 77777: 1})

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        result = self.image.copy()
        for old, new in {3: 900, 7: 900, 8: 3}.items():
            result[self.image == old] = new
        return {"r": result}


class TestMappedWide(OfLabels):
    image = WIDE

    @pytest.fixture
    def step(self) -> Step:
        return make(map={int(WIDE.max()): 2**64 - 1, int(WIDE[WIDE > 0].min()): 2**63 + 1}, missing="zero")

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        result = np.zeros_like(self.image)
        result[WIDE.max() == WIDE] = 2**64 - 1
        result[WIDE[WIDE > 0].min() == WIDE] = 2**63 + 1
        return {"r": result}


class TestConsecutive(OfLabels):
    image = SMALL * np.uint16(1501)
    dtypes: ClassVar[dict[str, str]] = {"r": "uint16"}

    @pytest.fixture
    def step(self) -> Step:
        return make(consecutive=True)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"r": relabel_sequential(self.image)[0].astype(np.uint16)}


class TestConsecutiveWide(OfLabels):
    image = WIDE

    @pytest.fixture
    def step(self) -> Step:
        return make(consecutive=True)

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"r": np.unique(self.image, return_inverse=True)[1].astype(np.uint32)}


class TestRandom(OfLabels):
    image = WIDE

    @pytest.fixture
    def step(self) -> Step:
        return make(random=4)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_random_ids_are_a_bijection(dtype: str) -> None:
    every = np.arange(1 << (8 * np.dtype(dtype).itemsize)).astype(dtype).reshape(16, -1)
    made = run_operation(make(random=1), {"a": every}, (5, 77))["r"]
    assert made.reshape(-1)[0] == 0
    np.testing.assert_array_equal(np.unique(made), np.unique(every))
    assert (made != every).mean() > 0.95
    assert (made != run_operation(make(random=2), {"a": every}, (5, 77))["r"]).mean() > 0.95


def test_random_wide_ids_differ_and_do_not_change_with_time() -> None:
    low = np.arange(20000, dtype=np.uint64)
    ids = np.concatenate([low, ~low])[None]
    made = run_operation(make(random=7), {"a": ids}, (1, 9999))["r"]
    assert len(np.unique(made)) == ids.size
    assert made[0, :3].tolist() == [0, 12545010024347383716, 16948783809680566807]


def test_tables_in_files(tmp_path: Path) -> None:
    old, new = [3, 2**63 + 5, 9], [2**64 - 1, 1, 0]
    image = np.array([[0, 3, 2**63 + 5, 9, 11]], np.uint64)
    csv = tmp_path / "ids.csv"
    csv.write_text("name,from,to\n" + "".join(f"n,{a},{b}\n" for a, b in zip(old, new, strict=True)))
    parquet = tmp_path / "ids.parquet"
    pyarrow.parquet.write_table(pa.table({"a": pa.array(old, "u8"), "b": pa.array(new, "u8")}), parquet)
    for step in (make(table=str(csv)), make(table=str(parquet), columns=["a", "b"])):
        made = run_operation(step, {"a": image}, (1, 2))["r"]
        np.testing.assert_array_equal(made, np.array([[0, 2**64 - 1, 1, 0, 11]], np.uint64))
    before = make(table=str(csv)).identity()
    csv.write_text("from,to\n3,-4\n")
    assert make(table=str(csv)).identity() != before
    made = run_operation(make(table=str(csv)), {"a": image.astype(np.int64)}, (1, 2))["r"]
    assert made[0].tolist() == [0, -4, -(2**63) + 5, 9, 11]


def test_a_table_that_changes_during_the_run_is_told(tmp_path: Path) -> None:
    csv = tmp_path / "ids.csv"
    csv.write_text("from,to\n3,4\n")
    info = ArrayInfo(Box.of_shape(SMALL.shape), SMALL.dtype, "zyx", kind=Kind.LABELS)
    operation = make(table=str(csv)).bind({"input": info}, {})
    csv.write_text("from,to\n3,5\n8,9\n")
    box = info.domain
    with pytest.raises(StepError, match="changed during the run"):
        operation.apply({"input": Patch(SMALL, box)}, box, Block(0, box), {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,to\n3,4\n", "no column 'from'; it has id, to"),
        ("from,to\n3,4.5\n", "cannot be read as CSV of whole numbers"),
        ("from,to\n3,4\n3,5\n", "gives the id 3 two new ones, 4 and 5"),
        ("from,to\n3,\n", "has empty cells"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "ids.csv").write_text(text)
    with pytest.raises((ConfigError, PlanError), match=words):
        run_operation(make(table=str(tmp_path / "ids.csv")), {"a": SMALL}, SMALL.shape)
    with pytest.raises(ConfigError, match="does not exist"):
        run_operation(make(table="nowhere.csv"), {"a": SMALL}, SMALL.shape)


def test_ids_that_are_missing_stop_the_run_where_asked_for() -> None:
    with pytest.raises(StepError, match="ids are not in the table, such as"):
        run_operation(make(map={3: 4}, missing="error"), {"a": SMALL}, SMALL.shape)
    every = {int(n): 1 for n in np.unique(SMALL)[1:]}
    made = run_operation(make(map=every, missing="error"), {"a": SMALL}, (5, 9, 9))["r"]
    np.testing.assert_array_equal(made, (SMALL > 0).astype(np.uint16))


def test_ids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PlanError, match="new id 70000 does not fit uint16"):
        run_operation(make(map={3: 70000}), {"a": SMALL}, SMALL.shape)
    with pytest.raises(StepError, match="does not fit uint32"):
        run_operation(make(map={3: 7}), {"a": WIDE}, WIDE.shape, dtypes={"r": "uint32"})
    with pytest.raises(PlanError, match="consecutive: true before"):
        run_operation(make(random=1), {"a": WIDE}, WIDE.shape, dtypes={"r": "uint32"})
    with pytest.raises(PlanError, match="300 ids do not fit into r, which is uint8; set dtype: uint16"):
        run_operation(make(consecutive=True), {"a": np.arange(301)[None]}, (1, 50), dtypes={"r": "uint8"})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "nothing says which ids"),
        ({"map": {1: 2}, "random": 1}, "map and random are given; keep one"),
        ({"random": 1, "missing": "zero"}, "missing goes with table or map, not with random"),
        ({"map": {1: 2}, "columns": ["a", "b"]}, "columns are those of table"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make(**fields)


@settings(max_examples=100, deadline=None)
@given(
    labels=st.sampled_from(["uint8", "int16", "int64", "uint64", "bool"]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=3, max_side=8))
    ),
    made=st.sampled_from(["uint8", "int32", "int64", "uint64"]),
)
def test_replacing_is_exact_for_every_pair_of_dtypes(labels: Array, made: str) -> None:
    ids = distinct(labels)
    np.testing.assert_array_equal(ids, np.unique(labels))
    values = (np.arange(len(ids)) % 100).astype(made)
    values[-1] = np.iinfo(made).max
    np.testing.assert_array_equal(replaced(labels, ids, values), values[np.searchsorted(ids, labels)])
