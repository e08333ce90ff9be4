"""Views: what every option shows, held against numpy, for whole volumes and for any box."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import ndbatch as nb
from ndbatch.errors import PlanError, RemoteError, StepError
from ndbatch.geometry import Box
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Array, Volume
from ndbatch.remotes.memory import MemoryVolume
from ndbatch.remotes.registry import open_volume
from ndbatch.remotes.views.options import view
from ndbatch.remotes.views.resampling import PIECE, Resample, ratio
from ndbatch.remotes.views.view import View

SIZE = {"z": "0.6 um", "y": "0.3 um", "x": "0.3 um"}
DATA = np.random.default_rng(3).integers(1, 1000, (2, 3, 8, 9, 10), np.uint16)


@pytest.fixture(params=["x.zarr", "x.h5", "x.tif"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of five axes of voxels, in each format."""
    address = str(tmp_path / request.param)
    volume = nb.create(address, shape=DATA.shape, dtype="uint16", voxel_size=SIZE, chunks=(1, 1, 4, 4, 4))
    volume.write(volume.domain, DATA)
    volume.close()
    return address


def stack(name: str, data: Array, size: tuple[float, ...] | None = (1.0, 1.0, 1.0), **facts: Any) -> MemoryVolume:
    return MemoryVolume.of(name, data, voxel_size=size, **facts)


def test_a_place_along_time_and_channels(url: str) -> None:
    one = nb.open(f"{url}?t=1&c=2")
    assert (one.axes, one.shape) == ("zyx", (8, 9, 10))
    assert one.voxel_size == pytest.approx((0.6, 0.3, 0.3))
    assert np.array_equal(one[...], DATA[1, 2])
    assert np.array_equal(nb.open(url, c=1)[{"t": 0, "z": 3}], DATA[0, 1, 3])
    assert np.array_equal(nb.open({"url": url, "t": 1})[:, 2:4], DATA[1][:, 2:4])
    assert nb.open(url, t=0, c=0).url == f"{nb.open(url).url}?c=0&t=0"
    with pytest.raises(PlanError, match="c=3 is not there; write a number from 0 to 2"):
        nb.open(url, c=3)
    with pytest.raises(PlanError, match="c=0 selects along an axis that the volume lacks"):
        view(one, {"c": 0})


def test_a_channel_by_its_name(tmp_path: Path) -> None:
    from ndbatch.remotes.places.keyvalue import place
    from ndbatch.remotes.zarr.nodes import read_node, update_attributes

    path = tmp_path / "named.zarr"
    nb.create(str(path), shape=(3, 4, 5, 6), dtype="uint8", axes="czyx").write(
        Box((1, 0, 0, 0), (2, 4, 5, 6)), np.ones((1, 4, 5, 6), "uint8")
    )
    node = read_node(place(parse(str(path))), parse(str(path)))
    assert node is not None
    shown = {"channels": [{"label": "DAPI"}, {"label": "GFP"}, {"label": "far red"}]}
    update_attributes(node, {**node.attributes, "ome": {**node.attributes["ome"], "omero": shown}})
    assert nb.open(str(path)).channels == ("DAPI", "GFP", "far red")
    assert nb.open(f"{path}?c=GFP")[...].all()
    assert not nb.open(str(path), c="far red")[...].any()
    assert nb.open(str(path), crop={"c": (1, 3)}).channels == ("GFP", "far red")
    with pytest.raises(PlanError, match="or a name: DAPI, GFP, far red"):
        nb.open(str(path), c="RFP")


@pytest.mark.parametrize("form", ["ome", "imagej"])
def test_a_channel_by_its_name_in_tiff(tmp_path: Path, form: str) -> None:
    import tifffile

    path, data = tmp_path / "named.tif", DATA[0, :, 0]
    named = (
        {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP", "Cy5"]}}
        if form == "ome"
        else {"axes": "CYX", "Labels": ["DAPI", "GFP", "Cy5"]}
    )
    tifffile.imwrite(path, data, ome=form == "ome", imagej=form == "imagej", metadata=named, photometric="minisblack")
    assert nb.open(path).channels == ("DAPI", "GFP", "Cy5")
    assert np.array_equal(nb.open(f"{path}?c=GFP")[...], data[1])


def test_all_together_is_numpy(url: str) -> None:
    options: dict[str, Any] = {
        "t": 1, "c": 2, "transpose": "zxy", "flip": ["z", "x"], "crop": {"z": (2, 5)}, "pad": {"y": [2, 3]}, "fill": 7,
        "translate": {"z": -9}, "dtype": "float32",
    }  # fmt: skip
    turned = DATA[1, 2].transpose(0, 2, 1)[::-1, :, ::-1][2:5]
    expected = np.pad(turned, ((0, 0), (2, 3), (0, 0)), constant_values=7).astype("float32")
    seen = nb.open(url, **options)
    assert seen.offset == (-7, -2, 0)
    assert np.array_equal(seen[...], expected)
    for again in (nb.open(seen.url), pickle.loads(pickle.dumps(seen)), open_volume(parse(seen.url))):
        assert again.spec == seen.spec
        assert again.identity() == seen.identity()
        assert np.array_equal(again[...], expected)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_box_is_a_part_of_the_whole(data: st.DataObject) -> None:
    stack("any", DATA[0, 0], (0.6, 0.3, 0.3), offset=(5, 0, -3))
    options = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "flip": st.sampled_from(["z", "y,x", "z,y,x"]),
                "transpose": st.sampled_from(["xyz", "yxz", "zxy"]),
                "pad": st.just("z:1:2,x:0:3"),
                "translate": st.just("y:-4"),
                "resample": st.sampled_from(["nearest", "linear"]),
            },
        )
    )
    if "resample" in options:
        options["grid"] = data.draw(
            st.sampled_from(["z:0.31,y:0.47,x:0.2", "z:1.2,y:0.3,x:0.9", "z:-3:9:0.6,y:0:5:1,x:-5:60:0.1"])
        )
    seen = view(open_volume("memory://any"), options)
    whole = seen[...]
    start = [data.draw(st.integers(a, b - 1)) for a, b in zip(seen.domain.start, seen.domain.stop, strict=True)]
    stop = [data.draw(st.integers(a + 1, b)) for a, b in zip(start, seen.domain.stop, strict=True)]
    box = Box(tuple(start), tuple(stop))
    assert np.array_equal(seen.read(box), whole[box.slices(seen.offset)])


def test_reading_a_box_reads_what_it_needs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stack("little", np.zeros((40, 40, 40), np.uint8))
    boxes: list[Box] = []
    read = MemoryVolume._read

    def recorded(self: MemoryVolume, box: Box) -> Array:
        boxes.append(box)
        return read(self, box)

    monkeypatch.setattr(MemoryVolume, "_read", recorded)
    seen = nb.open("memory://little", flip="z", transpose="xyz", resample="linear", grid={"z": 2, "y": 2, "x": 2})
    lazy = seen.dask({"z": 5, "y": 5, "x": 5})
    assert boxes == []
    lazy[0:5, 5:10, 15:20].compute(scheduler="synchronous")
    # Ten voxels along each axis; z of the view is x of the source, from its far end.
    assert boxes == [Box((30, 10, 30), (40, 20, 40))]
    nb.open("memory://little", pad={"z": 3})[-3:0]
    assert len(boxes) == 1


class TestResample:
    """Sampling another grid: positions by hand, values by scipy."""

    def test_nearest_by_whole_factors(self) -> None:
        fine = np.arange(4 * 6 * 8).reshape(4, 6, 8).astype(np.uint32)
        stack("fine", fine, (0.29, 0.29, 0.29), kind="labels")
        coarse = nb.open("memory://fine", resample="nearest", grid={"z": 0.29, "y": 0.58, "x": 0.87})
        # The centre of two voxels is the border between them: the upper one; of three, the middle one.
        # The last column of three is half outside; its centre, 7.5 voxels, is inside.
        assert np.array_equal(coarse[...], fine[:, 1::2, 1::3])

    def test_up_and_back_is_the_same(self) -> None:
        labels = np.random.default_rng(0).integers(0, 2**40, (5, 6, 7)).astype(np.uint64)
        stack("coarse", labels, (1.0, 0.5, 0.5), kind="labels", offset=(2, -1, 0))
        fine = nb.open("memory://coarse", resample="nearest", grid={"z": 0.25, "y": 0.1, "x": 0.5})
        assert fine.shape == (20, 30, 7)
        assert fine.offset == (8, -5, 0)
        assert np.array_equal(fine[...], labels.repeat(4, 0).repeat(5, 1))
        stack("repeated", fine[...], fine.voxel_size, kind="labels", offset=fine.offset)
        assert np.array_equal(
            nb.open("memory://repeated", resample="nearest", like=nb.open("memory://coarse"))[...], labels
        )

    def test_linear_is_scipy(self) -> None:
        image = np.random.default_rng(0).random((6, 9, 11))
        stack("smooth", image, (0.7, 0.3, 0.4))
        grid = {"z": (0, 10, 0.4), "y": (0, 9, 0.3), "x": (1, 6, 0.65)}
        seen = nb.open("memory://smooth", resample="linear", grid=grid)
        axes = [
            (np.arange(a, b) + 0.5) * s / old - 0.5
            for (a, b, s), old in zip(grid.values(), (0.7, 0.3, 0.4), strict=True)
        ]
        expected = ndimage.map_coordinates(image, np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")
        np.testing.assert_allclose(seen[...], expected, rtol=1e-12)

    def test_integers_are_rounded_and_the_outside_is_filled(self) -> None:
        stack("two", np.array([[[0, 3]]], np.uint8))
        seen = nb.open("memory://two", resample="linear", grid={"z": 1, "y": 1, "x": (-1, 5, 0.5)}, fill=9)
        assert seen[...].ravel().tolist() == [9, 0, 1, 2, 3, 9]

    def test_time_and_channels_stay(self) -> None:
        MemoryVolume.of("five", DATA, voxel_size=(1, 1, 0.6, 0.3, 0.3))
        seen = nb.open("memory://five", resample="nearest", grid={"z": 0.6, "y": 0.3, "x": 0.1})
        assert np.array_equal(seen[...], DATA.repeat(3, -1))

    def test_memory_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = np.random.default_rng(0).integers(0, 255, (160, 200, 200), np.uint8)
        volume = stack("large", data)
        sizes: list[int] = []
        read = MemoryVolume._read

        def recorded(self: MemoryVolume, box: Box) -> Array:
            sizes.append(box.size)
            return read(self, box)

        monkeypatch.setattr(MemoryVolume, "_read", recorded)
        seen = view(volume, {"resample": "nearest", "grid": {"z": 4, "y": 4, "x": 5}})
        assert np.array_equal(seen[...], data[2::4, 2::4, 2::5])
        assert max(sizes) <= PIECE < data.size

    def test_like_another_volume(self) -> None:
        fine = stack("like-fine", np.zeros((20, 20, 20), np.uint8), (0.5, 0.5, 0.5), offset=(4, 0, 0))
        coarse = stack("like-coarse", np.ones((6, 5, 5), np.uint8), (2.0, 2.0, 2.0))
        seen = nb.open("memory://like-coarse", resample="nearest", like=fine)
        assert (seen.domain, seen.voxel_size) == (fine.domain, fine.voxel_size)
        assert seen[...].all()
        assert nb.open(seen.url).spec == seen.spec
        assert coarse.domain != seen.domain

    @pytest.mark.parametrize(
        ("new", "old", "expected"),
        [(0.58, 0.29, (2, 1)), (0.1, 0.3, (1, 3)), (0.26, 0.29, (26, 29)), (1.0, 1.0, (1, 1))],
    )
    def test_ratios_are_those_that_were_meant(self, new: float, old: float, expected: tuple[int, int]) -> None:
        assert ratio(new, old).as_integer_ratio() == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flip": "t"}, "'t' is not one of z, y, x"),
        ({"transpose": "xy"}, "must name each of z, y, x once"),
        ({"crop": {"z": (0, 99)}}, r"\[0, 99\) is not inside the volume, which is \[0, 8\); pad adds"),
        ({"crop": {"z": (3, 3)}}, "is not inside"),
        ({"crop": {"q": (0, 1)}}, "crop names 'q'; the volume's axes are"),
        ({"crop": {"z": 3}}, "is not 2 numbers"),
        ({"crop": {"z": (0.5, 3)}}, "0.5 is not a whole number"),
        ({"pad": {"z": -1}}, "pad adds 0 or more"),
        ({"pad": {"c": 1}}, "pad adds 0 or more voxels along z, y, x"),
        ({"fill": 3}, "fill goes with pad or resample"),
        ({"pad": {"z": 1}, "fill": 70000}, "70000.0 does not fit uint16"),
        ({"pad": {"z": 1}, "fill": 0.5}, "fill=0.5 is not a value of uint16"),
        ({"dtype": "complex64"}, "not a type of voxel"),
        ({"resample": "cubic"}, "use nearest or linear"),
        ({"resample": "nearest"}, "add grid"),
        ({"grid": {"z": 1}}, "grid goes with resample"),
        ({"resample": "nearest", "grid": {"z": 1, "y": 1}}, "grid must name z, y, x"),
        ({"resample": "nearest", "grid": {"z": 1, "y": 1, "x": 0}}, "not a voxel size above 0"),
        ({"resample": "nearest", "grid": {"z": 1, "y": 1, "x": (5, 5, 1)}}, "neither a voxel size nor"),
        ({"resample": "linear", "grid": {"z": 1, "y": 1, "x": 1}, "kind": "labels"}, "labels cannot be interpolated"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    MemoryVolume.of("five", DATA, voxel_size=(1, 1, 0.6, 0.3, 0.3))
    with pytest.raises(PlanError, match=words):
        nb.open("memory://five", **options)


def test_resampling_needs_voxel_sizes() -> None:
    stack("unknown", DATA[0, 0], None)
    known = stack("known", DATA[0, 0])
    with pytest.raises(PlanError, match="which the volume does not tell; add voxel_size"):
        nb.open("memory://unknown", resample="nearest", like=known)
    with pytest.raises(PlanError, match="the volume to resample like has no voxel size"):
        nb.open("memory://known", resample="nearest", like=nb.open("memory://unknown"))


def test_what_was_told_of_the_file_comes_first() -> None:
    stack("told", DATA[0, 0], None)
    seen = nb.open(
        "memory://told", voxel_size=SIZE, offset={"z": 100}, crop={"z": ("60.6 um", "61.8 um")}, kind="labels"
    )
    assert (seen.offset, seen.shape, seen.kind) == ((101, 0, 0), (2, 9, 10), "labels")
    assert np.array_equal(seen[...], DATA[0, 0, 1:3])


def test_a_cast_that_loses_is_an_error() -> None:
    stack("wide", np.full((2, 2, 2), 300, np.uint16))
    with pytest.raises(StepError, match="300 does not fit uint8"):
        nb.open("memory://wide", dtype="uint8")[...]


def test_a_view_is_never_written() -> None:
    seen = stack("still", DATA[0, 0].copy())
    flipped = view(seen, {"flip": "z"})
    with pytest.raises(RemoteError, match="cannot be written"):
        flipped.write(flipped.domain, flipped[...])
    for action in (View.open, View.delete, lambda address: View.create(address, seen.spec)):
        with pytest.raises(PlanError, match="use the address of the volume itself"):
            action(flipped.address)
    assert not View.exists(flipped.address)


def test_identity_covers_voxels_and_options() -> None:
    volume = stack("identity", DATA[0, 0].copy())

    def of(**options: Any) -> str:
        return nb.open("memory://identity", **options).identity()

    ids = [of(), of(flip="z"), of(flip="y"), of(pad={"z": 1}), of(pad={"z": 1}, fill=1), of(flip="z", voxel_size=SIZE)]
    assert len(set(ids)) == len(ids)
    assert of(flip="z") == ids[1]
    volume.write(volume.domain, volume[...] + 1)
    assert of(flip="z") != ids[1]


def test_overrides_of_a_view_travel() -> None:
    stack("moved", DATA[0, 0])
    seen: Volume = nb.open("memory://moved", flip="z").override(offset=(10, 0, 0))
    again = pickle.loads(pickle.dumps(seen))
    assert isinstance(again, View)
    assert not isinstance(again.geometry, Resample)
    assert np.array_equal(again[10:12], DATA[0, 0, ::-1][:2])
    assert isinstance(again.origin, MemoryVolume)
