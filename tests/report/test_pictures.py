from pathlib import Path

import numpy as np
import pytest

from ndbatch.errors import PlanError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array, ArraySpec, Kind
from ndbatch.report.pictures import colours, draw, look, png, round_length, sight, slice_picture, write_png
from ndbatch.report.planes import Held, Limits, contrast_of, gather, window


class Watched(Held):
    """Counts what is read of an array that pretends to be stored in chunks."""

    def __init__(self, array: Array, chunks: tuple[int, ...], axes: str = "zyx") -> None:
        super().__init__(array, ArraySpec(array.shape, array.dtype, axes, chunks, offset=(5, 0, 0)[: array.ndim]))
        object.__setattr__(self, "boxes", [])

    def read(self, box: Box) -> Array:
        self.boxes.append(box)  # type: ignore[attr-defined]
        return super().read(box)

    @property
    def largest(self) -> int:
        return max(box.size for box in self.boxes)  # type: ignore[attr-defined]


@pytest.fixture
def voxels() -> Array:
    return np.random.default_rng(1).integers(0, 1000, (20, 50, 70)).astype(np.int16)


def held(array: Array, kind: Kind = Kind.IMAGE, voxel: tuple[float, ...] | None = None) -> Held:
    return Held.of(array, Box.of_shape(array.shape), voxel_size=voxel, kind=kind)


@pytest.mark.parametrize("chunks", [(4, 16, 16), (20, 50, 70), (1, 50, 70), (3, 7, 11)])
@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_planes_equal_numpy_for_every_chunking(voxels: Array, chunks: tuple[int, ...], axis: str) -> None:
    volume = Watched(voxels - 500, chunks)
    number = "zyx".index(axis)
    position = volume.spec.domain.start[number] + 9
    view = window(volume.spec, axis, position)
    assert np.array_equal(gather(volume, view), np.take(voxels - 500, 9, number))
    whole = window(volume.spec, axis, project="max")
    assert np.array_equal(gather(volume, whole, "max"), (voxels - 500).max(number))
    mean = window(volume.spec, axis, project="mean")
    assert np.allclose(gather(volume, mean, "mean"), (voxels - 500).mean(number))


def test_only_the_slab_is_read(voxels: Array) -> None:
    volume = Watched(voxels, (4, 16, 16))
    gather(volume, window(volume.spec, "z", 12))
    assert sum(box.size for box in volume.boxes) == 50 * 70  # type: ignore[attr-defined]


def test_large_planes_are_strided_and_say_so(voxels: Array) -> None:
    volume = Watched(voxels, (4, 16, 16))
    view = window(volume.spec, "z", 10, limits=Limits(pixels=20))
    assert view.stride == 4
    assert np.array_equal(gather(volume, view), voxels[5, ::4, ::4])
    assert "one voxel in 4" in view.words


def test_huge_requests_show_the_middle_and_say_so(voxels: Array) -> None:
    volume = Watched(voxels, (4, 16, 16))
    view = window(volume.spec, "z", project="max", limits=Limits(pixels=16, voxels=16 * 16 * 3))
    assert view.shape == (16, 16)
    assert "the middle 16 x 16 voxels" in view.words
    assert "maximum over z = 13 to 15" in view.words
    assert np.array_equal(gather(volume, view, "max"), voxels[8:11, 17:33, 27:43].max(0))


def test_memory_is_bounded_by_tiles(monkeypatch: pytest.MonkeyPatch, voxels: Array) -> None:
    monkeypatch.setattr("ndbatch.report.planes.TILE_VOXELS", 500)
    volume = Watched(voxels, (20, 50, 70))
    assert np.array_equal(gather(volume, window(volume.spec, project="max"), "max"), voxels.max(0))
    assert volume.largest <= 4 * 500


def test_labels_of_a_smaller_region_are_zero_outside(voxels: Array) -> None:
    part = Held.of(np.full((20, 10, 10), 3, np.uint8), Box((0, 20, 30), (20, 30, 40)), kind=Kind.LABELS)
    objects = sight(held(voxels), part, position=4).objects
    assert objects is not None
    assert objects.shape == (50, 70)
    assert objects.sum() == 300
    assert (objects[20:30, 30:40] == 3).all()


def test_channels_and_planes_without_depth() -> None:
    many = np.arange(2 * 3 * 4 * 5, dtype=np.uint16).reshape(2, 3, 4, 5)
    volume = Held.of(many, Box.of_shape(many.shape), "czyx")
    view = window(volume.spec, "z", {"c": 1, "z": 2})
    assert np.array_equal(gather(volume, view), many[1, 2])
    assert view.words == "c = 1, z = 2"
    flat = Held.of(many[0, 0], Box.of_shape((4, 5)), "yx")
    assert np.array_equal(gather(flat, window(flat.spec)), many[0, 0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"axis": "c"}, "axis 'c'"),
        ({"position": 99}, "position z = 99 is outside; z goes from 0 to 19"),
        ({"position": {"t": 0}}, "axis 't'"),
    ],
)
def test_what_the_volume_does_not_have_is_refused(voxels: Array, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        look(held(voxels), **arguments)  # type: ignore[arg-type]


def test_a_mean_of_labels_is_refused(voxels: Array) -> None:
    with pytest.raises(PlanError, match="mean of labels"):
        look(held(voxels, Kind.LABELS), project="mean")


def test_objects_are_outlined_in_their_colours_and_the_image_shows_inside() -> None:
    labels = np.zeros((1, 30, 30), np.uint32)
    labels[0, 5:15, 5:15], labels[0, 5:15, 15:25] = 7, 8
    rgb = slice_picture(held(np.zeros((1, 30, 30), np.uint8)), held(labels, Kind.LABELS))
    scale = rgb.shape[0] // 30
    seven, eight = colours(np.array([7, 8]))
    assert (rgb[5 * scale, 10 * scale] == seven).all()
    assert (rgb[10 * scale, 25 * scale - 1] == eight).all()
    assert (rgb[10 * scale, 15 * scale - 1] == seven).all(), "touching objects are both outlined"
    assert (rgb[10 * scale, 15 * scale] == eight).all()
    assert not rgb[10 * scale, 10 * scale].any()
    assert not rgb[1, 1].any()


def test_colours_are_the_same_everywhere_distinct_and_visible() -> None:
    ids = np.arange(60, dtype=np.uint64)
    table = colours(ids)
    assert not table[0].any()
    assert np.array_equal(colours(ids[::-1]), table[::-1])
    apart = np.abs(table[1:, None].astype(int) - table[None, 1:]).sum(-1) + np.eye(59, dtype=int) * 999
    assert apart.min() >= 6
    assert np.abs(np.diff(table[1:].astype(int), axis=0)).sum(-1).min() > 150, "neighbouring ids differ clearly"
    assert (table[1:] @ np.array([0.2126, 0.7152, 0.0722]) > 100).all(), "none is too dark for a dark image"
    assert colours(np.array([2**64 - 1], np.uint64)).any()


def test_contrast_leaves_out_freak_voxels_and_bears_nan() -> None:
    plane = np.full((100, 100), 100.0)
    plane[:50] = 200
    plane[0, 0], plane[1, 1], plane[2, 2] = 1e9, np.nan, np.inf
    assert contrast_of([plane]) == (100, 200)
    rgb = draw(plane)
    assert rgb[-1, -1, 0] == 0
    assert rgb[rgb.shape[0] // 3, -1, 0] == 255
    assert not draw(np.full((4, 4), np.nan)).any()
    assert not draw(np.full((4, 4), 7)).any()


def test_pixels_are_square_in_micrometres_and_a_bar_is_drawn(voxels: Array) -> None:
    volume = held(voxels, voxel=(1.0, 0.25, 0.25))
    rgb = slice_picture(volume, axis="y")
    assert rgb.shape[0] / rgb.shape[1] == pytest.approx(20 * 1.0 / (70 * 0.25), rel=0.02)
    corner = slice_picture(held(np.zeros_like(voxels), voxel=(1.0, 0.25, 0.25)))
    bar = (corner == 255).all(-1)
    assert bar.any()
    # 70 voxels of 0.25 um are 17.5 um; the largest round length below a quarter of that is 2 um, 8 voxels.
    assert bar.sum(1).max() == pytest.approx(8 * corner.shape[1] / 70, abs=2)
    assert not slice_picture(held(np.zeros_like(voxels))).any(), "no bar where the voxel size is not known"


@pytest.mark.parametrize(("longest", "length"), [(17.5, 10), (5, 5), (0.19, 0.1), (2500, 2000)])
def test_round_length(longest: float, length: float) -> None:
    assert round_length(longest) == pytest.approx(length)


def test_png_is_read_back_by_another_reader(tmp_path: Path, voxels: Array) -> None:
    from matplotlib.image import imread

    rgb = slice_picture(held(voxels))
    path = write_png(tmp_path / "slice.png", rgb)
    assert np.array_equal((imread(path) * 255).round().astype(np.uint8)[..., :3], rgb)
    assert png(rgb) == png(rgb.copy())
    assert [p.name for p in tmp_path.iterdir()] == ["slice.png"]


def test_colours_of_ids_of_64_bits_differ() -> None:
    """In floating point all multiples of 2^40 above 2^53 would have one hue."""
    ids = np.uint64(2**63) + np.uint64(2**40) * np.arange(1, 9, dtype=np.uint64)
    table = colours(ids).astype(int)
    apart = np.abs(table[:, None] - table[None]).sum(-1)
    assert apart[~np.eye(len(ids), dtype=bool)].min() > 30
