"""RAMON objects through ndio 1.1.6, the published client of ndstore, unmodified, in a process of its own.

Three things that today's Python lacks are given to it from outside: `numpy.float`, and `getURL` in the module that calls it as
if it were no method; the package six is installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch import ramon
from ndbatch.geometry import Box
from ndbatch.ramon import Neuron, Organelle, Segment, Synapse
from ndbatch.testing.serving import serving

SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy
numpy.float = float
import requests
import ndio.remote.neurodata
from ndio import ramon

module = sys.modules["ndio.remote.neurodata"]  # the package gives the class that name
module.getURL = lambda url: requests.get(url)
client = module.neurodata("placeholder", hostname=sys.argv[1], protocol="http", check_tokens=True)
token, channel = "lab", "labels"
out = {}

out["reserved"] = [int(one) for one in client.reserve_ids(token, channel, 3)]
first, second, third = out["reserved"]
cell = ramon.RAMONSegment(id=first, neuron=77, segmentclass=2, author="me", confidence=0.5, kvpairs={"colour": "red"})
touch = ramon.RAMONSynapse(id=second, weight=0.25, synapse_type=1, segments=[first, 4], author="me", kvpairs={"a": "b"})
part = ramon.RAMONOrganelle(id=third, organelle_class=3, author="me", kvpairs={})
whole = ramon.RAMONNeuron(id=77, segments=[first], author="me", kvpairs={"n": "1"})
out["posted"] = client.post_ramon(token, channel, [cell, touch, part, whole])
out["one"] = client.post_ramon(token, channel, ramon.RAMONGeneric(id=500, author="you", kvpairs={}))

out["ids"] = sorted(int(one) for one in client.get_ramon_ids(token, channel))
out["segments"] = [int(one) for one in client.get_ramon_ids(token, channel, 4)]
out["neurons"] = [int(one) for one in client.get_ramon_ids(token, channel, ramon.RAMONNeuron)]
out["none"] = client.get_ramon_ids(token, channel, 3)

def told(thing):
    facts = {key: value for key, value in vars(thing).items() if key != "cutout"}
    return [type(thing).__name__, json.loads(json.dumps(facts, default=lambda value: numpy.asarray(value).tolist()))]

everything = client.get_ramon(token, channel, out["ids"])
out["got"] = {thing.id: told(thing) for thing in everything}
out["single"] = told(client.get_ramon(token, channel, first))
out["sieved"] = [thing.id for thing in client.get_ramon(token, channel, out["ids"], sieve=lambda one: one.author == "you")]
out["metadata"] = client.get_ramon_metadata(token, channel, first)
out["several"] = client.get_ramon_metadata(token, channel, [first, second])
out["box"] = [int(edge) for edge in client.get_ramon_bounding_box(token, channel, 4)]
with_voxels = client.get_ramon(token, channel, 4, include_cutout=True)
out["cutout"] = list(with_voxels.cutout.shape)
for name, call in {
    "no such box": lambda: client.get_ramon_bounding_box(token, channel, 500),
    "no such object": lambda: client.get_ramon(token, channel, 12345),
    "neuron's box": lambda: client.get_ramon_bounding_box(token, channel, 77),
}.items():
    try:
        call()
        out[name] = "answered"
    except Exception as error:
        out[name] = [type(error).__name__, str(error)]
out["deleted"] = client.delete_ramon(token, channel, everything[-1])
out["left"] = sorted(int(one) for one in client.get_ramon_ids(token, channel))

back = client.get_ramon(token, channel, third)
back.id = 900
out["again"] = client.post_ramon(token, channel, back)
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what ndio saw, and the objects that were there then."""
    pytest.importorskip("h5py")
    found = subprocess.run([sys.executable, "-c", "import ndio"], capture_output=True, text=True)
    if "No module named 'ndio'" in found.stderr:
        pytest.skip("ndio is not installed: pip install --no-deps ndio==1.1.6 json-spec")
    root = tmp_path_factory.mktemp("served")
    labels = nb.create(
        root / "data" / "lab" / "labels.zarr",
        shape=(32, 64, 64),
        dtype="uint32",
        axes="zyx",
        kind="labels",
        chunks=(16, 32, 32),
    )
    labels.write(Box((4, 10, 20), (8, 16, 32)), np.full((4, 6, 12), 4, np.uint32))
    with serving(root) as (url, _):
        store = ramon.open(f"ndstore+{url}/lab/labels")
        store.put([Segment(id=4, neuron=77)])
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, url.removeprefix("http://")],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=root,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1]), list(store)


def test_ids_and_objects_arrive(driven: Any) -> None:
    seen, stored = driven
    first, second, third = seen["reserved"]
    assert (second, third) == (first + 1, first + 2)
    assert sorted(seen["posted"]) == sorted([first, second, third, 77])
    assert seen["one"] == [500]
    known = {thing.id: thing for thing in stored}
    assert known[first] == Segment(
        id=first, neuron=77, segmentclass=2, author="me", confidence=0.5, kvpairs={"colour": "red"}
    )
    assert known[second] == Synapse(
        id=second, weight=0.25, synapse_type=1, segments=(first, 4), author="me", kvpairs={"a": "b"}
    )
    assert known[third] == Organelle(id=third, organelleclass=3, author="me")
    assert known[77] == Neuron(id=77, author="me", kvpairs={"n": "1"})
    assert known[900].author == "me"
    assert known[900] == Organelle(id=900, organelleclass=3, author="me")


def test_queries_and_reads(driven: Any) -> None:
    seen, _ = driven
    first, second, third = seen["reserved"]
    assert seen["ids"] == sorted([4, first, second, third, 77, 500])
    assert seen["segments"] == sorted([4, first])
    assert seen["neurons"] == [77]
    assert seen["none"] == []
    assert {number: kind for number, (kind, _) in seen["got"].items()} == {
        str(first): "RAMONSegment", str(second): "RAMONSynapse", str(third): "RAMONOrganelle", "4": "RAMONSegment",
        "77": "RAMONNeuron", "500": "RAMONGeneric",
    }  # fmt: skip
    facts = seen["got"][str(first)][1]
    assert (facts["neuron"], facts["segmentclass"], facts["kvpairs"], facts["confidence"]) == (
        77,
        2,
        {"colour": "red"},
        0.5,
    )
    assert facts["synapses"] == [second]
    assert seen["got"]["77"][1]["segments"] == sorted([4, first])
    assert seen["got"][str(second)][1]["segments"] == [first, 4]
    assert seen["single"] == seen["got"][str(first)]
    assert seen["sieved"] == ["500"]
    assert seen["metadata"][str(first)]["metadata"]["kvpairs"] == {"colour": "red"}
    assert [list(one) for one in seen["several"]] == [[str(first)], [str(second)]]


def test_boxes_and_deleting(driven: Any) -> None:
    seen, _ = driven
    assert seen["box"] == [20, 32, 10, 16, 4, 8]
    assert len(seen["cutout"]) == 3
    assert seen["no such box"] == ["RemoteDataNotFoundError", "No such ID 500"]
    assert seen["no such object"][0] == "RemoteDataNotFoundError"
    assert seen["neuron's box"] == "answered"
    assert seen["deleted"] is True
    assert len(seen["left"]) == len(seen["ids"]) - 1
