"""The catalogue of a service: what is kept in memory of it is never older than the last change that was answered."""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path

import pytest

import ndbatch as nb
from ndbatch.errors import NotFound
from ndbatch.portable import Portable
from ndbatch.server.catalogue import Catalogue, Channel, Project
from ndbatch.server.mark import Kept
from ndbatch.server.voxels import Voxels


class Value(list[int]):
    """A list that can be watched going away."""


@pytest.fixture
def two(tmp_path: Path) -> tuple[Catalogue, Catalogue]:
    """Return the catalogues of two processes over one file, with a project and a channel."""
    first, second = (Catalogue(tmp_path / "catalogue.db", tmp_path) for _ in range(2))
    first.add_project(Project("embryo", "lab", (4, 5, 6)))
    first.add_channel(Channel("embryo", "em", "/somewhere/em.zarr", "image", "uint8"))
    return first, second


def test_what_one_process_changes_the_other_sees_at_once(two: tuple[Catalogue, Catalogue]) -> None:
    first, second = two
    for one, other in ((first, second), (second, first)):
        assert other.channel("embryo", "em") is other.channel("embryo", "em")  # kept, not read again
        levels = other.channel("embryo", "em").levels + 1
        one.change_channel("embryo", "em", levels=levels)
        one.change_project("embryo", levels=levels)
        assert (other.channel("embryo", "em").levels, other.project("embryo").levels) == (levels, levels)
    first.remove_channel("embryo", "em")
    with pytest.raises(NotFound, match="no channel em in embryo"):
        second.channel("embryo", "em")
    first.add_channel(Channel("embryo", "em", "/elsewhere/em.zarr", "labels", "uint64"))
    assert second.channel("embryo", "em").url == "/elsewhere/em.zarr"


def test_a_transaction_sees_what_it_changed_and_nobody_what_it_took_back(two: tuple[Catalogue, Catalogue]) -> None:
    first, second = two

    def change_and_fail() -> None:
        with first.transaction():
            first.change_channel("embryo", "em", levels=7)
            assert first.channel("embryo", "em").levels == 7
            assert second.channel("embryo", "em").levels == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change_and_fail()
    assert (first.channel("embryo", "em").levels, second.channel("embryo", "em").levels) == (1, 1)


def test_nobody_reads_less_than_what_was_answered(two: tuple[Catalogue, Catalogue]) -> None:
    first, second = two
    answered, older = [1], []

    def look(catalogue: Catalogue) -> None:
        while answered[0] < 50:
            known = answered[0]
            found = catalogue.channel("embryo", "em").levels
            if found < known:
                older.append((found, known))

    threads = [threading.Thread(target=look, args=(one,)) for one in (first, first, second, second)]
    for thread in threads:
        thread.start()
    for levels in range(2, 51):
        (first if levels % 2 else second).change_channel("embryo", "em", levels=levels)
        answered[0] = levels
    for thread in threads:
        thread.join()
    assert older == []


def test_paths_below_the_folder_are_kept_relative_to_it_and_no_others() -> None:
    first, second = Portable(Path("/data")), Portable(Path('/mnt/a "b" \\c'))
    facts = {
        "path": "/data/lab/em.zarr",
        "url": "precomputed:///data/lab/em?x=1",
        "elsewhere": "/mnt/data/lab/em.zarr",
        "beside": "/database/em.zarr",
        "words": "lies in /data/lab",
    }
    text = first.text(facts)
    assert first.facts(text) == facts
    there = '/mnt/a "b" \\c/lab/em'
    assert second.facts(text) == facts | {"path": f"{there}.zarr", "url": f"precomputed://{there}?x=1"}
    assert first.facts(second.text(second.facts(text))) == facts
    assert Portable(Path("/")).facts(Portable(Path("/")).text(facts)) == facts


def test_what_is_kept_is_of_one_stamp_and_the_last_asked_for() -> None:
    kept: Kept[list[int]] = Kept(2)
    first = kept.get(1, "a", lambda: [1])
    assert kept.get(1, "a", lambda: [2]) is first
    gone = weakref.ref(kept.get(1, "b", Value))
    assert kept.get(1, "a", lambda: [3]) is first
    kept.get(1, "c", lambda: [4])  # the third: b goes, which was asked for longest ago
    assert gone() is None
    held = weakref.ref(kept.get(1, "d", Value))
    kept.get(2, "a", lambda: [5])
    assert held() is None
    with pytest.raises(ZeroDivisionError):
        kept.get(2, "e", lambda: [1 // 0])
    assert kept.get(2, "e", lambda: [6]) == [6]


def test_volumes_that_were_opened_before_a_change_are_closed(tmp_path: Path) -> None:
    """Also by a process that did not make the change, as soon as it is asked for anything."""
    nb.create(tmp_path / "image.tif", shape=(4, 8, 8), dtype="uint8")
    ours, others = Voxels(tmp_path / "state"), Voxels(tmp_path / "state")

    def held() -> int:
        return sum(
            os.path.realpath(f"/proc/self/fd/{one}").endswith("image.tif") for one in os.listdir("/proc/self/fd")
        )

    assert not others.open(str(tmp_path / "image.tif"))[...].any()
    of_one = held()
    assert of_one > 0
    for _ in range(20):
        ours.forget()
        assert not others.open(str(tmp_path / "image.tif"))[...].any()
    assert held() == of_one
