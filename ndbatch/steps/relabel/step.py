"""`relabel`: other ids for labels, by a table, without gaps, or as if by chance; 64-bit ids exactly.

    - relabel: {input: segments, output: neurons, table: merges.parquet, columns: [segment, neuron], missing: zero}
    - relabel: {input: atlas, output: areas, map: {315: 1, 698: 2, 1089: 3}}
    - relabel: {input: segments, output: dense, consecutive: true}
    - relabel: {input: segments, output: shown, random: 7}

- *table* or *map*: each id becomes another; several may become the same. Ids that are not in it are kept, become 0, or are
  an error. 0 stays 0 unless the table says otherwise.
- *consecutive*: ids from 1 in the order of the old ones. One read of the volume finds which there are; the driver holds them
  (about 24 bytes an id).
- *random*: ids that look like chance, the same for the same seed, no two alike: a bijection of all numbers of the dtype
  (multiplications by odd numbers and shifts, as in the finaliser of MurmurHash3), in which 0 stays 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ndbatch.casting import cast, integer_for
from ndbatch.errors import PlanError, StepError
from ndbatch.geometry import Block, Box, Grid, Shape
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Operation, Pass, Patch
from ndbatch.steps.components.merge import NodeValues
from ndbatch.steps.function.models import files_of
from ndbatch.steps.payload import pack, unpack
from ndbatch.steps.relabel.ids import distinct, replaced
from ndbatch.steps.relabel.tables import IdTable
from ndbatch.steps.scratch import scratch_array
from ndbatch.steps.unary import Unary


class Relabel(Unary):
    """Give labels other ids: from a table, consecutive ones, or random ones."""

    kind: ClassVar[str] = "relabel"

    input: str
    """Labels, integers."""
    output: str
    """The name of the result: the labels' dtype (consecutive: uint32) unless the output asks for another."""
    table: Annotated[str | None, Field(examples=["ids.csv"])] = None
    """A CSV or parquet file of old and new ids, by its path from the configuration's folder."""
    columns: Annotated[tuple[str, str], Field(strict=False)] = ("from", "to")
    """The names of the table's columns: old ids, new ids."""
    map: dict[int, int] | None = None
    """Old and new ids, written here."""
    consecutive: bool = False
    """Ids from 1 without gaps, in the order of the old ones."""
    random: int | None = None
    """The seed of ids that look like chance."""
    missing: Literal["keep", "zero", "error"] = "keep"
    """What becomes of ids that are not in the table or map: they are kept, become 0, or stop the run."""

    @model_validator(mode="after")
    def _one_way(self) -> Relabel:
        given = [name for name in ("table", "map", "random") if getattr(self, name) is not None]
        given += ["consecutive"] if self.consecutive else []
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given)} are given; keep one of them"
                if given
                else "nothing says which ids; give table, map, consecutive: true, or random: 1"
            )
        if "missing" in self.model_fields_set and given[0] not in ("table", "map"):
            raise ValueError(f"missing goes with table or map, not with {given[0]}")
        if "columns" in self.model_fields_set and self.table is None:
            raise ValueError("columns are those of table, which is not given")
        return self

    def identity(self) -> dict[str, Any]:
        """Return what the fingerprint keeps: the parameters, and the content of the table."""
        return {**super().identity(), "files": files_of({"table": self.table or ""})}

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: no halo; consecutive has a pass and is bound to blocks.

        Raises PlanError for an input or output that is not of integers, new ids that the output does not hold, a table that
        gives one id several new ones, and random ids in a dtype smaller than the labels'; ConfigError for a table that is
        not there or lacks its columns.
        """
        info = inputs["input"]
        self.require_labels(info)
        own = np.dtype(np.uint32) if self.consecutive else info.dtype
        made = replace(info, dtype=dtypes.get("output", own), kind=Kind.LABELS)
        if made.dtype.kind not in "ui":
            raise PlanError(f"relabel: {self.output} holds ids, which {made.dtype} does not; use uint32 or uint64")
        # Runs and ids of some voxels, the copy in which they are replaced, the result.
        working = 10.0 + 2 * info.dtype.itemsize + made.dtype.itemsize
        if self.consecutive:
            count = _Counting("ids", (0,) * info.ndim, made.dtype, self.output)
            return _Consecutive(
                arrays={"output": made}, passes=(count,), working_bytes=working, block_bound=True, name=self.output
            )
        if self.random is not None:
            if made.dtype.itemsize < info.dtype.itemsize:
                raise PlanError(
                    f"relabel: {self.input} is {info.dtype}, whose ids do not all fit {made.dtype} one by one; set dtype: "
                    f"uint{8 * info.dtype.itemsize} for {self.output}, or put relabel with consecutive: true before"
                )
            return _Replacing(
                arrays={"output": made}, working_bytes=working, new=_Scrambled(self.random), name=self.output
            )
        table = IdTable.of_mapping(self.map) if self.map is not None else IdTable.of_file(str(self.table), self.columns)
        table.require_within(made.dtype, f"relabel: {self.output}")
        return _Replacing(
            arrays={"output": made}, working_bytes=working, new=_Looked(table, self.missing), name=self.output
        )


@dataclass(frozen=True)
class _Scrambled:
    """A bijection of all numbers of a width, by a seed; 0 stays 0."""

    seed: int

    def of(self, ids: Array, dtype: np.dtype[Any], where: str) -> Array:
        """Return the new ids of `ids`, of `dtype`, at least as wide as theirs."""
        del where
        bits = 8 * dtype.itemsize
        plain = ids.view(f"u{ids.dtype.itemsize}")
        found: Array = plain.astype(f"u{dtype.itemsize}")
        digest = blake2b(str(self.seed).encode(), digest_size=16).digest()
        for half in (digest[:8], digest[8:]):
            found ^= found >> found.dtype.type(bits // 2)
            found *= found.dtype.type((int.from_bytes(half, "little") | 1) & (2**bits - 1))
        found ^= found >> found.dtype.type(bits // 2)
        return found.view(dtype)


@dataclass(frozen=True)
class _Looked:
    """New ids from a table."""

    table: IdTable
    missing: str

    def of(self, ids: Array, dtype: np.dtype[Any], where: str) -> Array:
        """Return the new ids of `ids`, of `dtype`; StepError where one is not in the table, which must hold all, or is kept
        and does not fit."""
        found, known = self.table.look_up(ids, dtype)
        lacking = ids[~known & (ids != 0)]
        if len(lacking) and self.missing == "error":
            raise StepError(
                f"{where}: {len(lacking)} ids are not in the table, such as {lacking[0]}; add them, or set missing: keep or "
                "zero",
                ids=lacking[:20].tolist(),
            )
        if len(lacking) and self.missing == "keep":
            found[~known] = cast(ids[~known], dtype, where)
        return found


@dataclass(frozen=True)
class _Replacing(Operation):
    new: _Scrambled | _Looked = field(kw_only=True)
    name: str = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return the labels of `box` under their new ids."""
        labels = _integers(inputs["input"].crop(box))
        ids = distinct(labels)
        return {"output": replaced(labels, ids, self.new.of(ids, self.arrays["output"].dtype, self.name))}


@dataclass(frozen=True)
class _Counting(Pass):
    """Finds all ids there are, and the number of each in their order."""

    name: str
    halo: Shape
    dtype: np.dtype[Any]
    output: str

    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        """Return the ids of the block."""
        return pack({"ids": _objects(_integers(inputs["input"].crop(block.core)))})

    def reduce(self, payloads: Iterable[tuple[Block, bytes]], grid: Grid, scratch: Path) -> NodeValues:
        """Return, for every block, the numbers of its ids; PlanError where the dtype cannot hold them."""
        every = _union(unpack(payload)["ids"] for _, payload in payloads)
        if len(every) > np.iinfo(self.dtype).max:
            raise PlanError(
                f"relabel: {len(every)} ids do not fit into {self.output}, which is {self.dtype}; set dtype: "
                f"{integer_for(0, len(every))} for this output"
            )
        starts = scratch_array(scratch / "starts", np.int64, (len(grid) + 1,))
        total = 0
        with (scratch / "numbers").open("wb") as file:
            for block, payload in payloads:
                numbers = np.searchsorted(every, unpack(payload)["ids"]) + 1
                file.write(numbers.astype(self.dtype).tobytes())
                total += len(numbers)
                starts[block.index + 1] = total
        numbers = np.memmap(scratch / "numbers", self.dtype, "r") if total else np.empty(0, self.dtype)
        return NodeValues(starts, numbers, scratch, {"ids": len(every)})


@dataclass(frozen=True)
class _Consecutive(Operation):
    name: str = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        """Return the labels of the core under their numbers."""
        labels, numbers = _integers(inputs["input"].crop(box)), states["ids"]
        ids = _objects(labels)
        if len(ids) != len(numbers):
            raise StepError(
                f"{self.name}: the block has {len(ids)} ids where the first look found {len(numbers)}; its input changed "
                "during the run: start over with --fresh"
            )
        zero = np.zeros(1, ids.dtype)
        at = int(np.searchsorted(ids, 0))
        return {"output": replaced(labels, np.insert(ids, at, zero), np.insert(numbers, at, 0))}


def _integers(labels: Array) -> Array:
    return labels.view(np.uint8) if labels.dtype.kind == "b" else labels


def _objects(labels: Array) -> Array:
    """Return the ids but 0, ascending."""
    ids = distinct(labels)
    found: Array = ids[ids != 0]
    return found


def _union(parts: Iterable[Array], most: int = 1 << 22) -> Array:
    """Return all ids of all parts, each once, ascending; about `most` are held beside them on the way."""
    kept: list[Array] = []
    count = grown = 0
    for part in parts:
        kept.append(part)
        count += len(part)
        if count > max(most, 2 * grown):
            kept = [np.unique(np.concatenate(kept))]
            count = grown = len(kept[0])
    return np.unique(np.concatenate(kept)) if kept else np.empty(0, np.uint64)
