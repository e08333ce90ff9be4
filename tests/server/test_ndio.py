"""Voxels through ndio 1.1.6, the published client of ndstore, unmodified, in a process of its own.

Three things that today's Python lacks are given to it from outside: `numpy.float`, and `getURL` in the module that calls it as
if it were no method; the package six is installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.remotes.address import parse
from ndbatch.remotes.ndstore.service import connected, sizes
from ndbatch.testing.serving import serving
from ndbatch.testing.volumes import voxels

OFFSET = (4, 10, 20)
SHAPE = (24, 90, 110)
SIZE = (0.1, 0.4, 0.4)
SHIMS = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy
numpy.float = float
import requests
import ndio.remote.neurodata

module = sys.modules["ndio.remote.neurodata"]  # the package gives the class that name
module.getURL = lambda url, token="placeholder": requests.get(url, headers={"Authorization": "Token " + token})
host = sys.argv[1]
client = module.neurodata(
    "placeholder", hostname=host, protocol="http", meta_root=host + "/", meta_protocol="http", check_tokens=True,
    **json.loads(sys.argv[2])
)
def refused(call):
    try:
        return ["answered", repr(call())]
    except Exception as error:
        return [type(error).__name__, str(error)]
def low(array, name):
    numpy.save(name, array)
"""
SCRIPT = (
    SHIMS
    + """
out = {"ping": client.ping(), "pings": client.ping("lab/info/"), "tokens": client.get_public_tokens()}
out["datasets"] = client.get_public_datasets_and_tokens()
out["info"] = client.get_proj_info("lab")
out["channels"] = sorted(client.get_channels("lab"))
out["size"], out["coarse"] = client.get_image_size("lab"), client.get_image_size("lab", 1)
out["offset"], out["block"] = client.get_image_offset("lab"), client.get_block_size("lab", 0)
out["no token"] = refused(lambda: client.get_proj_info("nowhere"))

box = (20, 130, 10, 100, 4, 28)
low(client.get_cutout("lab", "em", *box, resolution=0), "read.npy")
low(client.get_cutout("lab", "em", 30, 41, 12, 99, 7, 9, resolution=0), "part.npy")
low(client._get_cutout_blosc_no_chunking("lab", "em", 0, *box), "blosc.npy")
low(client.get_xy_slice("lab", "em", 20, 130, 10, 100, 9), "slice.npy")
low(client.get_volume("lab", "em", 20, 60, 10, 70, 4, 20, resolution=0).cutout, "volume.npy")
low(client.get_cutout("lab", "em", 20, 130, 10, 100, 1, 7, resolution=0, neariso=True), "neariso.npy")
out["outside"] = refused(lambda: client.get_cutout("lab", "em", 0, 130, 10, 100, 4, 28, resolution=0))

out["made"] = client.create_channel("lab", "copy", "image", "uint8", False)
out["made twice"] = refused(lambda: client.create_channel("lab", "copy", "image", "uint8", False))
out["locked"] = client.create_channel("lab", "locked", "annotation", "uint32", True)
source = numpy.load("read.npy")
out["posted"] = client.post_cutout("lab", "copy", 20, 10, 4, source)
low(client.get_cutout("lab", "copy", *box, resolution=0), "copy.npy")
labels = numpy.load("labels.npy")
out["labels"] = client.create_channel("lab", "labels", "annotation", "uint32", False)
out["blosc posted"] = client._post_cutout_no_chunking_blosc("lab", "labels", 20, 10, 4, labels, 0)
out["readonly"] = refused(lambda: client.post_cutout("lab", "locked", 20, 10, 4, source))
out["too large"] = refused(lambda: client.post_cutout("lab", "copy", 120, 10, 4, source))

out["before"] = client.get_propagate_status("lab", "copy")
out["propagate"] = client.propagate("lab", "copy")
deadline = time.monotonic() + 180
while (status := client.get_propagate_status("lab", "copy")) == "1" and time.monotonic() < deadline:
    time.sleep(0.05)
out["after"], out["again"] = status, client.propagate("lab", "copy")
low(client.get_cutout("lab", "copy", 10, 65, 5, 50, 4, 28, resolution=1), "level.npy")

out["metadata"] = client.set_metadata("lab", {"secret": "s3cret", "author": "me"})
out["subvolume"] = client.add_subvolume("lab", "em", "s3cret", 20, 30, 10, 20, 4, 8, 0, "soma", "well stained")
out["subvolumes"], out["kept"] = client.get_subvolumes("lab"), client.get_metadata("lab")["metadata"]
out["deleted"] = client.delete_channel("lab", "locked")
client.create_channel("lab", "gone", "image", "uint16", False)
client.delete_channel("lab", "gone")
out["left"] = sorted(client.get_channels("lab"))
print(json.dumps(out))
"""
)
PARTS = (
    SHIMS
    + """
low(client.get_cutout("lab", "em", 20, 130, 10, 100, 4, 28, resolution=0, block_size=(64, 64, 16)), "parts.npy")
client.create_channel("lab", "parts", "image", "uint8", False)
client.post_cutout("lab", "parts", 20, 10, 4, numpy.load("parts.npy"))
print(json.dumps({}))
"""
)


def drive(script: str, url: str, folder: Path, **options: Any) -> Any:
    """Return what a script with ndio printed; its arrays lie in `folder`."""
    command = [sys.executable, "-c", script, url.removeprefix("http://"), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def em() -> Any:
    """Return what is served: uint8, (z, y, x)."""
    return voxels(SHAPE, "uint8", seed=3)


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory, em: Any) -> Any:
    """Return what ndio saw, the folder of its arrays, and what the service holds afterwards."""
    pytest.importorskip("h5py", reason="h5py is not installed")
    found = subprocess.run([sys.executable, "-c", "import ndio"], capture_output=True, text=True)
    if "No module named 'ndio'" in found.stderr:
        pytest.skip("ndio is not installed: make test does it")
    root, folder = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("ndio")
    np.save(folder / "labels.npy", voxels(SHAPE, "uint32", seed=5))
    with serving(root) as (url, _):
        host = url.replace("http://", "ndstore://")
        service = connected(parse(host))
        facts = {**sizes(("imagesize",), SHAPE), **sizes(("offset",), OFFSET), **sizes(("voxelres",), SIZE)}
        service.add_dataset("lab", {**facts, "scalinglevels": 1})
        service.add_project("lab", "lab")
        volume = nb.create(f"{host}/lab/em", shape=SHAPE, dtype="uint8", offset=OFFSET, voxel_size=SIZE)
        volume.write(volume.domain, em)
        seen = drive(SCRIPT, url, folder)
        drive(PARTS, url, folder, chunk_threshold=2**16)
        held = {name: nb.open(f"{host}/lab/{name}")[...] for name in ("copy", "labels", "locked", "parts")}
    return seen, folder, held


def xyz(data: Any) -> Any:
    """Return an array as ndio gives it."""
    return data.transpose(2, 1, 0)


def test_what_there_is(driven: Any) -> None:
    seen = driven[0]
    assert (seen["ping"], seen["pings"], seen["tokens"], seen["datasets"]) == (200, 200, ["lab"], {"lab": ["lab"]})
    assert seen["channels"] == ["em"]
    assert (seen["size"], seen["coarse"]) == ([110, 90, 24], [55, 45, 24])
    assert (seen["offset"], seen["block"]) == ([20, 10, 4], [64, 64, 64])
    assert seen["info"]["dataset"]["voxelres"]["1"] == pytest.approx([0.8, 0.8, 0.1])
    assert seen["info"]["channels"]["em"]["datatype"] == "uint8"
    assert seen["no token"][0] == "RemoteDataNotFoundError"


def test_reading(driven: Any, em: Any) -> None:
    seen, folder, _ = driven
    assert np.array_equal(np.load(folder / "read.npy"), xyz(em))
    assert np.array_equal(np.load(folder / "part.npy"), xyz(em[3:5, 2:89, 10:21]))
    assert np.array_equal(np.load(folder / "blosc.npy"), em)
    assert np.array_equal(np.load(folder / "slice.npy"), xyz(em)[:, :, 5])
    assert np.array_equal(np.load(folder / "volume.npy"), xyz(em[:16, :60, :40]))
    assert np.array_equal(np.load(folder / "parts.npy"), xyz(em))
    kind, said = seen["outside"]
    assert kind == "OSError"
    assert "404" in said
    assert "Illegal range" in said


def test_near_isotropic(driven: Any, em: Any) -> None:
    """Four slices of 0.1 um make one of 0.4 um; the first of them begins where the volume does."""
    thick = em.reshape(6, 4, 90, 110).mean(axis=1).astype("uint8")
    assert np.array_equal(np.load(driven[1] / "neariso.npy"), xyz(thick))


def test_writing(driven: Any, em: Any) -> None:
    seen, folder, held = driven
    assert seen["made"] is seen["posted"] is seen["labels"] is seen["blosc posted"] is seen["locked"] is True
    assert np.array_equal(np.load(folder / "copy.npy"), xyz(em))
    assert np.array_equal(held["copy"], em)
    assert np.array_equal(held["parts"], em)
    assert np.array_equal(held["labels"], np.load(folder / "labels.npy"))
    assert seen["made twice"][0] == seen["readonly"][0] == seen["too large"][0] == "RemoteDataUploadError"
    assert "readonly" in seen["readonly"][1]
    assert not held["locked"].any()


def test_levels(driven: Any, em: Any) -> None:
    seen, folder, _ = driven
    assert (seen["before"], seen["propagate"], seen["after"], seen["again"]) == ("0", True, "2", None)
    mean = em.reshape(24, 45, 2, 55, 2).mean(axis=(2, 4))
    made = np.load(folder / "level.npy")
    assert made.shape == (55, 45, 24)
    assert np.abs(made.transpose(2, 1, 0) - mean).max() <= 1


def test_metadata_and_removal(driven: Any) -> None:
    seen = driven[0]
    assert seen["metadata"] == {"_id": 1}
    assert seen["kept"]["author"] == "me"
    assert "secret" not in seen["kept"]
    box = {"token": "lab", "channel": "em", "x_start": 20, "x_stop": 30, "title": "soma", "notes": "well stained"}
    assert len(seen["subvolumes"]) == 1
    assert box.items() <= seen["subvolumes"][0].items()
    assert seen["left"] == ["copy", "em", "labels", "locked"]  # what is read-only is passed over
