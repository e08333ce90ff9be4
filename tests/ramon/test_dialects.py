"""Round trips of every class through every form, for all values that the standard allows."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndbatch.errors import Corrupt, PlanError
from ndbatch.ramon import CLASSES, LARGEST_ID, ROI, Annotation, Neuron, Node, Organelle, Segment, Synapse, class_of
from ndbatch.ramon.dialects import FLAT_KEYS, dumps, from_json, loads, to_both, to_flat, to_nested
from ndbatch.ramon.hdf5 import Paint, from_hdf5, to_hdf5
from ndbatch.ramon.model import written
from ndbatch.ramon.rows import from_pandas, from_rows, to_pandas, to_table

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20) | st.sampled_from(
    ["", "a,b", "line\nline", "\r", "\r\n", '"', "naïve 🧠", "a\tb ", "'"]
)
IDS = st.integers(0, LARGEST_ID)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "whole": IDS,
    "id": IDS,
    "parent": st.integers(-1, LARGEST_ID),
    "real": st.floats(allow_nan=False, allow_infinity=False),
    "text": TEXT,
    "ids": st.lists(IDS, max_size=4).map(tuple),
    "place": st.just(()) | st.tuples(*[st.integers(-(2**31), LARGEST_ID)] * 3),
    "point": st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3),
    "pairs": st.dictionaries(TEXT.filter(lambda key: key not in FLAT_KEYS), TEXT, max_size=4),
}


def things(kind: type[Annotation]) -> st.SearchStrategy[Annotation]:
    return st.fixed_dictionaries({name: VALUES[how.kind] for name, how in written(kind).items()}).map(
        lambda facts: kind(**facts)
    )


ANY = st.sampled_from(CLASSES).flatmap(things)
MANY = st.lists(ANY, max_size=5, unique_by=lambda thing: thing.id)


@given(ANY)
@settings(deadline=None, max_examples=80)
def test_json_gives_back_what_it_was_given(thing: Annotation) -> None:
    for form in (to_flat, to_nested, to_both):
        again = from_json(json.loads(json.dumps(form(thing))), thing.id)
        assert again == thing
        assert type(again) is type(thing)


@given(MANY)
@settings(deadline=None, max_examples=40)
def test_documents_files_and_tables_give_back_what_they_were_given(given_: list[Annotation]) -> None:
    assert all(loads(dumps(given_, dialect)) == given_ for dialect in ("flat", "nested", "both"))
    assert list(from_rows(to_table(given_))) == given_
    assert from_pandas(to_pandas(given_)) == given_
    assert {t.id: t for t, _ in from_hdf5(to_hdf5(given_))} == {t.id: t for t in given_}


def test_every_class_and_field_of_the_standard_is_there() -> None:
    assert [one.number for one in CLASSES] == list(range(1, 10))
    assert [one.word for one in CLASSES] == [
        "generic", "synapse", "seed", "segment", "neuron", "organelle", "node", "skeleton", "roi",
    ]  # fmt: skip
    keys = {how.json for one in CLASSES for how in written(one).values()} - {""}
    standard = (
        "ann_id ann_status ann_confidence ann_author syn_weight syn_type syn_seeds syn_segments syn_presegments "
        "syn_postsegments syn_centroid seed_parent seed_position seed_cubelocation seed_source seg_class seg_parentseed "
        "seg_neuron org_class org_centroid org_segment org_parentseed org_seeds node_type node_location node_parent "
        "node_radius node_skeleton skel_type skel_rootnode roi_parent"
    )
    assert keys == set(standard.split())


def test_json_of_a_synapse_is_that_of_the_reference() -> None:
    thing = Synapse(id=21, weight=0.5, segments=(3,), centroid=(30, 20, 10), kvpairs={"colour": "red"})
    assert to_flat(thing) == {
        "ann_id": 21, "ann_type": 2, "ann_status": 0, "ann_confidence": 0.0, "ann_author": "", "syn_weight": 0.5,
        "syn_type": 0, "syn_seeds": [], "syn_segments": [3], "syn_presegments": [], "syn_postsegments": [],
        "syn_centroid": "[10, 20, 30]", "colour": "red",
    }  # fmt: skip
    nested = to_nested(thing)
    assert nested["type"] == "synapse"
    assert nested["metadata"]["kvpairs"] == {"colour": "red"}
    assert nested["metadata"]["segments"] == [3]


def test_json_that_keeps_all_as_text_is_read() -> None:
    rows = {"ann_id": "7", "ann_type": "2", "syn_weight": "0.25", "syn_segments": "9", "syn_seeds": "[1, 2]",
            "syn_presegments": ["4", "5"], "syn_postsegments": "6,8", "syn_centroid": "[]", "n": 3}  # fmt: skip
    assert from_json(rows) == Synapse(
        id=7, weight=0.25, segments=(9,), seeds=(1, 2), presegments=(4, 5), postsegments=(6, 8), kvpairs={"n": "3"}
    )


def test_keys_of_fields_are_no_pairs_in_flat_json_but_in_both_dialects_they_are() -> None:
    thing = Neuron(id=3, kvpairs={"ann_type": "9", "type": "roi", "metadata": "x"})
    with pytest.raises(PlanError, match="ann_type"):
        to_flat(thing)
    assert from_json(to_both(thing)) == thing


def test_hdf5_is_laid_out_as_in_the_reference() -> None:
    cutout = np.zeros((2, 3, 4), np.uint8)
    cutout[1, 2, 3] = 1
    paint = {8: Paint(1, (5, 6, 7), cutout), 9: Paint(0, voxels=np.array([[1, 2, 3], [4, 5, 6]]))}
    body = to_hdf5(
        [
            Segment(id=8, neuron=2, author="me", kvpairs={"a": "1", "b": "x,y"}),
            Organelle(id=9, seeds=(4,), centroid=(3, 2, 1)),
            Node(id=10, parent=-1, location=(3.5, 2, 1)),
            Synapse(),
        ],
        paint,
    )
    with h5py.File(io.BytesIO(body)) as file:
        assert sorted(name for name in file if name.isdigit()) == ["10", "8", "9"]
        assert len(file) == 4
        assert file["8/ANNOTATION_TYPE"][()].tolist() == [4]
        assert file["8/ANNOTATION_TYPE"].dtype == np.uint32
        assert file["8/METADATA/KVPAIRS"].asstr()[()].tolist() == ['a,1\r\nb,"x,y"\r\n']
        assert file["8/METADATA/CONFIDENCE"].dtype == np.float64
        assert file["8/XYZOFFSET"][()].tolist() == [7, 6, 5]
        assert file["8/RESOLUTION"][()].tolist() == [1]
        assert file["8/CUTOUT"].shape == (2, 3, 4)
        assert file["9/VOXELS"][()].tolist() == [[3, 2, 1], [6, 5, 4]]
        assert file["9/METADATA/CENTROID"][()].tolist() == [1, 2, 3]
        assert file["9/METADATA/SEEDS"][()].tolist() == [4]
        assert file["10/METADATA/PARENTID"][()].tolist() == [-1]
        assert file["10/METADATA/PARENTID"].dtype == np.int32
        assert file["10/METADATA/LOCATION"][()].tolist() == [1, 2, 3.5]
        assert "SEEDS" not in file[next(name for name in file if not name.isdigit())]["METADATA"]
    found = {thing.id: (thing, painted) for thing, painted in from_hdf5(body)}
    assert type(found[0][0]) is Synapse
    assert found[8][1] is not None
    assert np.array_equal(np.asarray(found[8][1].cutout), cutout)
    assert found[8][1].start == (5, 6, 7)
    assert found[9][1] is not None
    assert np.array_equal(np.asarray(found[9][1].voxels), [[1, 2, 3], [4, 5, 6]])


def test_the_misspelt_dataset_of_old_files_is_read() -> None:
    target = io.BytesIO()
    with h5py.File(target, "w") as file:
        file["5/ANNOTATION_TYPE"] = np.array([2], np.uint32)
        file["5/METADATA/SPOSTEGMENTS"] = np.array([11, 12], np.uint32)
    assert from_hdf5(target.getvalue()) == [(Synapse(id=5, postsegments=(11, 12)), None)]


@pytest.mark.parametrize("way", ["soft", "external", "raw", "virtual"])
def test_files_that_lead_to_other_files_are_refused(way: str, tmp_path: Any) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(range(12)))
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["VOXELS"] = np.arange(3, dtype=np.uint32).reshape(1, 3)
    target = io.BytesIO()
    with h5py.File(target, "w") as file:
        group = file.create_group("5")
        if way == "soft":
            file["a"] = np.zeros((1, 3), np.uint32)
            group["VOXELS"] = h5py.SoftLink("/a")
        elif way == "external":
            group["VOXELS"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/VOXELS")
        elif way == "raw":
            group.create_dataset("VOXELS", (1, 3), "u4", external=[(str(tmp_path / "secret.bin"), 0, 12)])
        else:
            layout = h5py.VirtualLayout((1, 3), "u4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "VOXELS", (1, 3))
            group.create_virtual_dataset("VOXELS", layout)
    with pytest.raises(Corrupt):
        from_hdf5(target.getvalue())


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"id": 2**32}, "id"),
        ({"id": -1}, "id"),
        ({"confidence": float("nan")}, "confidence"),
        ({"author": 3}, "author"),
        ({"kvpairs": {"a": 1}}, "kvpairs"),
        ({"kvpairs": {"a": "\0"}}, "NUL"),
        ({"kvpairs": {"\ud800": "a"}}, "surrogates"),
        ({"status": 1.5}, "status"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(facts: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        Annotation(**facts)


def test_values_of_numpy_become_numbers() -> None:
    thing = Synapse(id=np.uint32(4), segments=np.array([1, 2], np.uint32), weight=np.float32(0.5))  # type: ignore[arg-type]
    assert (type(thing.id), thing.segments, type(thing.weight)) == (int, (1, 2), float)
    assert dataclasses.replace(thing, status=1).status == 1


def test_classes_by_number_word_and_old_word() -> None:
    assert class_of(" Segment ") is Segment
    assert class_of("annotation") is class_of(1) is Annotation
    assert class_of("attributedregion") is Node
    assert class_of("9") is ROI
    for wrong in (0, 10, "cell", ""):
        with pytest.raises(PlanError, match="is no type of RAMON"):
            class_of(wrong)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(deadline=None)
def test_damage_is_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt):
        from_hdf5(body)
    with contextlib.suppress(Corrupt):
        assert loads(body) == []


VALUE = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSONS = st.recursive(
    VALUE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@given(
    st.dictionaries(st.sampled_from([*sorted(FLAT_KEYS), "type", "metadata", "id"]), JSONS, max_size=4),
    st.integers(1, 9),
)
@settings(deadline=None, max_examples=100)
def test_json_of_any_shape_is_an_object_or_corrupt(found: dict[str, Any], number: int) -> None:
    with contextlib.suppress(Corrupt):
        assert from_json({"ann_type": number, **found}).number in range(1, 10)
