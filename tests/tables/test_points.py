"""Tables of points: every format there and back, files of other programs, and refusals in a sentence."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from ndbatch.errors import Corrupt, NotFound, PlanError, StepError
from ndbatch.tables import TABLE_ENDINGS, coordinates, read_points, table_ending, write_batches, write_points

DATA = Path(__file__).parents[2].parent / "shared/data/cells_whole_brain/reference_cells.xml"


def points(count: int = 50) -> pa.Table:
    rng = np.random.default_rng(3)
    return pa.table({axis: rng.uniform(-3, 900, count) for axis in "zyx"} | {"type": rng.integers(1, 3, count)})


@pytest.mark.parametrize("ending", TABLE_ENDINGS)
def test_there_and_back(ending: str, tmp_path: Path) -> None:
    table, path = points(), tmp_path / f"cells{ending}"
    write_points(path, table)
    got = read_points(path)
    if ending in (".xml", ".yml", ".yaml"):
        table = table.take(np.argsort(table["type"].to_numpy(), kind="stable")) if ending == ".xml" else table
        np.testing.assert_array_equal(coordinates(got), np.floor(coordinates(table) + 0.5))
        assert got["type"].equals(table["type"])
    else:
        np.testing.assert_array_equal(coordinates(got), coordinates(table))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", TABLE_ENDINGS)
def test_no_points(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"none{ending}"
    write_points(path, points(0))
    assert read_points(path).num_rows == 0


def test_cellcounter_as_brainglobe_reads_it(tmp_path: Path) -> None:
    """The elements that brainglobe-utils looks for, one group for each type, nearest voxels."""
    path = tmp_path / "cells.xml"
    write_points(path, pa.table({"z": [1.5, 0.4, 2.0], "y": [3.0, 4.0, 5.0], "x": [6.49, 7.5, 8.0], "type": [2, 1, 2]}))
    groups = ElementTree.parse(path).getroot().find("Marker_Data").findall("Marker_Type")  # type: ignore[union-attr]
    assert [group.findtext("Type") for group in groups] == ["1", "2"]
    found = [[m.findtext(f"Marker{a}") for a in "ZYX"] for group in groups for m in group.findall("Marker")]
    assert found == [["0", "4", "8"], ["2", "3", "6"], ["2", "5", "8"]]


def test_yaml_as_brainglobe_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "cells.yml"
    write_points(path, pa.table({"z": [1], "y": [2], "x": [3]}))
    document = yaml.safe_load(path.read_text())
    assert document["CellCounter_Marker_File"] is True
    assert document["num_candidates"] == 1
    assert document["candidate_cells"] == [{"x": 3, "y": 2, "z": 1, "type": 2, "metadata": {}}]


def test_napari_csv_is_told_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "layer.csv"
    path.write_text("index,axis-0,axis-1,axis-2\n0.0,1.5,2.5,3.5\n1.0,4.0,5.0,6.0\n")
    assert read_points(path).to_pydict() == {"z": [1.5, 4.0], "y": [2.5, 5.0], "x": [3.5, 6.0]}
    write_points(tmp_path / "again.napari.csv", read_points(path))
    assert (tmp_path / "again.napari.csv").read_text() == path.read_text()


@pytest.mark.skipif(not DATA.exists(), reason="the reference cells of cellfinder are not there")
def test_reference_cells_of_cellfinder(tmp_path: Path) -> None:
    table = read_points(DATA)
    assert table.num_rows == DATA.read_text().count("<Marker>") == 56
    assert table.slice(0, 1).to_pydict() == {"z": [10], "y": [308], "x": [132], "type": [2]}
    write_points(tmp_path / "cells.xml", table)
    assert read_points(tmp_path / "cells.xml").equals(table.take(np.argsort(table["type"].to_numpy(), kind="stable")))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.xml", "<CellCounter_Marker_File><Marker_Data>", "not CellCounter XML"),
        ("a.xml", "<kml/>", "root is kml"),
        ("a.xml", "<CellCounter_Marker_File><Marker_Type><Marker/></Marker_Type></CellCounter_Marker_File>", "no Type"),
        ("a.yml", "cells: []", "candidate_cells"),
        ("a.yml", "a: [", "candidate_cells"),
        ("a.parquet", "PAR1", "cannot be read as parquet"),
    ],
)
def test_damage_is_told(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(Corrupt, match=said):
        read_points(tmp_path / name)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="must end in"):
        table_ending("cells.txt")
    with pytest.raises(NotFound, match="no such file"):
        read_points(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_text("label,voxels\n1,2\n")
    with pytest.raises(PlanError, match="it has label, voxels"):
        read_points(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("z,y,x\n1,2,south\n")
    with pytest.raises(PlanError, match="column x holds string"):
        read_points(tmp_path / "a.csv")
    with pytest.raises(PlanError, match=r"cells\.xml: points need the columns z, y and x"):
        write_points(tmp_path / "cells.xml", pa.table({"y_um": [1.0], "x_um": [1.0]}))
    parquet.write_table(
        pa.table({"y": [1.0], "x": [None]}, pa.schema({"y": "float64", "x": "float64"})), tmp_path / "a.parquet"
    )
    with pytest.raises(PlanError, match="no finite place"):
        read_points(tmp_path / "a.parquet")


def test_rows_as_they_come(tmp_path: Path) -> None:
    """Batches of one table stream into one element; other columns in a later batch are refused."""
    batches = points(40).drop_columns("type").to_batches(max_chunksize=7)
    assert write_batches(tmp_path / "a.xml", ".xml", batches) == 40
    assert (tmp_path / "a.xml").read_text().count("<Marker_Type>") == 1
    with pytest.raises(StepError, match="different columns"):
        write_batches(tmp_path / "b.csv", ".csv", [batches[0], batches[1].select(["z", "y"])])
