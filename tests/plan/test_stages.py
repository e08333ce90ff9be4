"""Stages: as few looks at the volume as passes allow, with exactly the context that consumers declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.geometry import Block, Box, Grid
from ndbatch.plan.program import Apply, Bound, Map, Stage, compile_stages
from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo, Constant, Operation, Pass, Patch, State

INFO = ArrayInfo(Box.of_shape((64, 64, 64)), np.dtype("uint8"), "zyx")
ONES = (1, 1, 1)


class Look(Pass):
    """A pass with a name and a halo."""

    def __init__(self, name: str, halo: int) -> None:
        self.name, self.halo = name, (halo,) * 3

    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        return b""

    def reduce(self, payloads: Iterable[tuple[Block, bytes]], grid: Grid, scratch: Path) -> State:
        return Constant(None)


@dataclass(frozen=True)
class Plain(Operation):
    """Never run here."""

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        raise AssertionError


def step(source: str, product: str, halo: int = 0, passes: tuple[int, ...] = (), **more: Any) -> Bound:
    looks = tuple(Look(f"look{i}", h) for i, h in enumerate(passes))
    own = (halo,) * 3 if halo else ()
    return Bound(product, Plain({"out": INFO}, halo=own, passes=looks, **more), {"in": source}, {"out": product}, ONES)


def table(source: str, product: str) -> Bound:
    return Bound(product, Plain({}, ("rows",)), {"in": source}, {"rows": product}, ONES)


def stages(steps: list[Bound], *kept: str, within: bool = False) -> tuple[tuple[Stage, ...], frozenset[str]]:
    infos = {"image": INFO, **{name: INFO for s in steps for name in s.array_names().values()}}
    return compile_stages(steps, infos, frozenset(kept), within=within)


def loads(stage: Stage) -> dict[str, int]:
    return {load.name: load.halo[0] for load in stage.loads}


def halos(stage: Stage, steps: list[Bound]) -> dict[str, int]:
    return {steps[c.step].kind: c.halo[0] for c in stage.calls if isinstance(c, Apply)}


def test_local_steps_fuse_and_their_halos_add_up() -> None:
    steps = [step("image", "a", 3), step("a", "b", 2), step("b", "c", 1)]
    (only,), stored = stages(steps, "c")
    assert loads(only) == {"image": 6}
    assert halos(only, steps) == {"a": 3, "b": 1, "c": 0}
    assert only.stores == ("c",)
    assert stored == {"c"}


def test_a_global_pass_splits_and_intermediates_are_computed_again() -> None:
    steps = [step("image", "smooth", 4), step("smooth", "mask", passes=(0,))]
    first, second = stages(steps, "mask")[0]
    assert [type(c).__name__ for c in first.calls] == ["Apply", "Map"]
    assert (loads(first), first.stores) == ({"image": 4}, ())
    assert (halos(second, steps), second.stores) == ({"smooth": 0, "mask": 0}, ("mask",))
    assert second.after == {0}


def test_a_chain_of_global_steps_takes_one_stage_more_than_passes() -> None:
    steps = [
        step("image", "smooth", 2),
        step("smooth", "mask", passes=(0,)),
        step("mask", "parts", passes=(1,), block_bound=True),
        table("parts", "sizes"),
    ]
    result, stored = stages(steps, "parts", "sizes")
    assert len(result) == 3
    assert loads(result[1]) == {"image": 3}
    assert result[2].after == {0, 1}
    assert stored == {"parts"}
    assert [c.rows for c in result[2].calls if isinstance(c, Apply)][-1]


def test_within_a_larger_volume_context_is_computed_again_rather_than_read_from_what_ends_with_the_region() -> None:
    steps = [
        step("image", "mask", 2),
        step("mask", "floods", 3),
        step("floods", "dense", passes=(0,), block_bound=True),
    ]
    first, second = stages(steps, "mask", "dense")[0]
    assert (loads(first), loads(second)) == ({"image": 5}, {"mask": 3})
    first, second = stages(steps, "mask", "dense", within=True)[0]
    assert (loads(first), loads(second)) == ({"image": 5}, {"image": 5})
    assert (first.stores, second.stores) == (("mask",), ("dense",))


def test_independent_steps_share_their_stages() -> None:
    steps = [step("image", "a", passes=(0,)), step("image", "b", passes=(5,)), step("image", "c", 1)]
    result, _ = stages(steps, "a", "b", "c")
    assert len(result) == 2
    assert loads(result[0]) == {"image": 5}
    assert sum(isinstance(c, Map) for c in result[0].calls) == 2
    assert result[0].stores == ("c",)
    assert result[1].stores == ("a", "b")


def test_a_kept_array_is_read_back_instead_of_computed_again() -> None:
    steps = [step("image", "smooth", 9), step("smooth", "mask", passes=(0,))]
    first, second = stages(steps, "smooth", "mask")[0]
    assert first.stores == ("smooth",)
    assert loads(second) == {"smooth": 0}
    assert second.beside == {0}


def test_block_local_labels_wanted_with_context_are_stored_on_the_way() -> None:
    steps = [step("image", "parts", passes=(1,), block_bound=True), step("parts", "copy"), step("copy", "grown", 3)]
    result, stored = stages(steps, "grown")
    assert stored == {"parts", "grown"}
    assert result[1].stores == ("parts",)
    assert loads(result[2]) == {"parts": 3}
    assert result[2].beside == {1}


def test_a_users_function_runs_in_one_stage_only() -> None:
    steps = [step("image", "mine", once=True), step("mine", "mask", passes=(0,))]
    result, stored = stages(steps, "mask")
    assert stored == {"mine", "mask"}
    assert sum(c.step == 0 for s in result for c in s.calls) == 1


def test_what_nobody_wants_is_not_made() -> None:
    steps = [step("image", "a", 3), step("image", "b")]
    (only,), _ = stages(steps, "b")
    assert loads(only) == {"image": 0}
    assert [c.step for c in only.calls] == [1]
