from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from ndbatch.errors import Corrupt, NotFound, PlanError
from ndbatch.report.tables import (
    Table,
    density,
    distribution,
    intensity_quantities,
    local_path,
    plain_column,
    position_columns,
    quantiles,
    size_quantity,
)


@pytest.fixture(params=["parquet", "csv"])
def cells(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Table, pa.Table]:
    """A table of 5000 objects as parquet in small row groups, and as CSV."""
    rng = np.random.default_rng(2)
    rows = pa.table({
        "label": np.arange(5000, dtype=np.uint64),
        "voxels": rng.integers(100, 900, 5000),
        "z": rng.random(5000) * 20, "y": rng.random(5000) * 100, "x": rng.random(5000) * 200,
        "intensity_mean": rng.lognormal(3, 1, 5000),
    })  # fmt: skip
    path = tmp_path / f"cells.{request.param}"
    if request.param == "csv":
        pyarrow.csv.write_csv(rows, path)
    else:
        pq.write_table(rows, path, row_group_size=700)
    return Table.open(path), rows


def test_rows_columns_and_first_rows(cells: tuple[Table, pa.Table]) -> None:
    table, rows = cells
    assert table.rows == 5000
    assert list(table.columns) == rows.column_names
    first = table.head(3)
    assert [row[1] for row in first] == rows["voxels"][:3].to_pylist()


def test_distribution_equals_numpy(cells: tuple[Table, pa.Table]) -> None:
    table, rows = cells
    values = rows["intensity_mean"].to_numpy()
    got = distribution(table, intensity_quantities(table)[0])
    assert got is not None
    assert (got.count, got.low, got.high) == (5000, pytest.approx(values.min()), pytest.approx(values.max()))
    assert got.mean == pytest.approx(values.mean())
    fine = (values.max() - values.min()) / 4096
    assert got.median == pytest.approx(np.median(values), abs=2 * fine)
    assert got.counts.sum() == 5000, "nothing is lost, freak values are in the end bins"
    assert got.edges[-1] < values.max() * 0.9, "one freak object does not flatten the histogram"
    inner = slice(1, -1)
    expected = np.histogram(values, got.edges)[0]
    assert np.abs(got.counts[inner] - expected[inner]).max() <= 2


def test_size_is_the_diameter_of_a_ball_or_disc_of_the_same_content(cells: tuple[Table, pa.Table]) -> None:
    table, rows = cells
    voxels = rows["voxels"].to_numpy()
    ball, disc = size_quantity(table, 3), size_quantity(table, 2)
    assert ball is not None
    assert disc is not None
    assert ball.unit == "voxels"
    assert np.allclose(ball.compute({"voxels": voxels}), 2 * (3 * voxels / (4 * np.pi)) ** (1 / 3))
    assert np.allclose(disc.compute({"voxels": voxels}), 2 * np.sqrt(voxels / np.pi))


def test_density_counts_every_object_once(cells: tuple[Table, pa.Table]) -> None:
    table, rows = cells
    columns = position_columns(table)
    assert columns == {"z": "z", "y": "y", "x": "x"}
    cells_of = density(table, columns, (0, 0), (100, 200))
    assert cells_of.sum() == 5000
    assert cells_of.shape[1] == 2 * cells_of.shape[0]
    left = (rows["x"].to_numpy() < 100).sum()
    assert cells_of[:, : cells_of.shape[1] // 2].sum() == left


def test_quantiles_follow_the_values(cells: tuple[Table, pa.Table]) -> None:
    table, rows = cells
    spread = distribution(table, plain_column("z", "z"))
    assert spread is not None
    assert quantiles(spread, (0.1, 0.5, 0.9)) == pytest.approx(
        np.quantile(rows["z"].to_numpy(), (0.1, 0.5, 0.9)).tolist(), abs=0.3
    )


def write(path: Path, **columns: object) -> Table:
    pq.write_table(pa.table(columns), path)
    return Table.open(path)


def test_constant_missing_and_text_values(tmp_path: Path) -> None:
    table = write(tmp_path / "a.parquet", voxels=[5, 5, None, 5], mean=[float("nan")] * 4, name=list("abcd"))
    size = size_quantity(table)
    assert size is not None
    got = distribution(table, size)
    assert got is not None
    assert got.count == 3
    assert got.low == got.high == pytest.approx(got.median, rel=1e-5)
    assert distribution(table, plain_column("mean", "mean")) is None
    assert distribution(table, plain_column("name", "name")) is None
    assert position_columns(table) == {}


def test_an_empty_table(tmp_path: Path) -> None:
    table = write(tmp_path / "a.parquet", voxels=pa.array([], pa.int64()), z=pa.array([], pa.float64()))
    assert table.rows == 0
    assert table.head(5) == []
    assert distribution(table, plain_column("z", "z")) is None


def test_what_is_no_table_says_so(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(Corrupt, match=r"bad\.parquet"):
        Table.open(tmp_path / "bad.parquet")
    with pytest.raises(NotFound, match=r"none\.parquet"):
        Table.open(tmp_path / "none.parquet")
    with pytest.raises(PlanError, match="local files"):
        local_path("s3://bucket/a.parquet", tmp_path)


def test_ids_and_numbers_of_a_csv_are_as_written(tmp_path: Path) -> None:
    """Ids above 2^63 are whole, and whole numbers may be followed by others, however late."""
    path, rows = tmp_path / "objects.csv", 200_000
    lines = [f"{2**63 + i},{i % 7},{'false' if i % 2 else 'true'},left" for i in range(rows)]
    path.write_text("label,mean,border,side\n" + "\n".join(lines) + f"\n{2**64 - 1},0.25,true,\n")
    table = Table.open(path)
    assert table.rows == rows + 1
    assert table.head(2) == [[2**63, 0, True, "left"], [2**63 + 1, 1, False, "left"]]
    means = np.concatenate([batch["mean"] for batch in table.batches(["mean"])])
    assert means[-1] == 0.25
    assert means[:-1].tolist() == [i % 7 for i in range(rows)]
