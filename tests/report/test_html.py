import base64
import io
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ndbatch.report.html import write_report

Make = Callable[..., Path]
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """What a browser would see of a report: balanced elements, texts, addresses, ids, pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.images: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
                self.addresses.append(value or "")
            if (tag, name) == ("img", "src"):
                self.images.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    @property
    def pictures(self) -> list[np.ndarray]:
        prefix = "data:image/png;base64,"
        found = [a.removeprefix(prefix) for a in self.images if a.startswith(prefix)]
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(p)))) for p in found]


def report(directory: Path) -> Page:
    path = write_report(directory)
    assert path == directory / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_a_done_run(run_directory: Make) -> None:
    page = report(run_directory())
    for words in ("count-nuclei", "done", "5 cells", "labels over image", "maximum over z = 0 to 23", "equivalent diameter",
                  "intensity mean", "All rows", "The run waited for reading", "Time per block, nuclei + measure",
                  "Slowest blocks", "y: [32, 64]", "Provenance", "threshold", "the last block is small",
                  "name: count-nuclei"):  # fmt: skip
        assert words in page.text, words
    assert len(page.pictures) == 6
    assert "abc123" not in page.text, "secrets in the configuration are masked"


def test_nothing_is_loaded_from_elsewhere(run_directory: Make) -> None:
    directory = run_directory()
    page = report(directory)
    assert all(a.startswith(("data:", "#")) for a in page.addresses)
    text = (directory / "report.html").read_text()
    assert "<script" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids)), "ids are unique over all charts"


def test_pictures_show_the_objects_outlined(run_directory: Make) -> None:
    middle = report(run_directory()).pictures[2]
    coloured = (middle.max(-1).astype(int) - middle.min(-1)) > 60
    assert 200 < coloured.sum() < coloured.size / 10, "outlines, not areas"
    inside = middle[middle.min(-1) > 150]
    assert len(inside) > 1000, "bright objects show within"


def test_a_failed_run_shows_its_errors_escaped_and_tracebacks_folded(run_directory: Make) -> None:
    directory = run_directory("failed", failed=[1, 2])
    page = report(directory)
    assert "Failed blocks (2)" in page.text
    assert "<b>bad & worse</b> value" in page.text
    assert "Block 2 (z: [0, 24], y: [0, 32]), tried 4 times: StepError" in page.text
    text = (directory / "report.html").read_text()
    assert "<b>bad" not in text
    assert "<details><summary>traceback</summary><pre>Traceback\n  &lt;here&gt;</pre></details>" in text


@pytest.mark.parametrize("status", ["interrupted", "dead"])
def test_a_run_that_was_cut_short(run_directory: Make, status: str) -> None:
    page = report(run_directory(status))
    assert "The same command continues" in page.text
    assert "6 / 8 blocks done" in page.text


def test_a_run_without_tables_and_one_without_labels(run_directory: Make) -> None:
    assert len(report(run_directory("done", table=False)).pictures) == 6
    page = report(run_directory("failed", labels=False))
    assert len(page.pictures) == 6
    assert "over image" not in page.text


def test_a_run_that_did_nothing_yet(run_directory: Make) -> None:
    directory = run_directory()
    for name in ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "events.jsonl", "provenance.json"):
        (directory / name).unlink(missing_ok=True)
    import json

    from ndbatch.journal import Journal

    with Journal.write(directory) as journal:
        journal.begin(json.loads((directory / "plan.json").read_text()))
        journal.end("interrupted")
    assert "No block was computed" in report(directory).text


def test_what_is_gone_or_damaged_is_said_in_its_place(run_directory: Make) -> None:
    directory = run_directory()
    (directory / "image.tif").unlink()
    (directory / "cells.parquet").write_bytes(b"PAR1 nonsense")
    (directory / "provenance.json").write_text("{")
    page = report(directory)
    assert "No picture could be made" in page.text
    assert "cannot be read as a table" in page.text


def test_charts_are_left_out_with_the_command_where_matplotlib_is_absent(
    run_directory: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    page = report(run_directory())
    assert 'pip install "ndbatch[report]"' in page.text
    assert len(page.pictures) == 6


def test_the_same_run_gives_the_same_bytes(run_directory: Make) -> None:
    directory = run_directory()
    first = write_report(directory).read_bytes()
    assert write_report(directory).read_bytes() == first


def test_many_objects_and_blocks_stay_small(run_directory: Make, make_receipts: Callable[..., np.ndarray]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory = run_directory()
    rng = np.random.default_rng(0)
    number = 200_000
    columns = {"label": np.arange(number), "voxels": rng.integers(50, 5000, number)}
    columns |= {axis: rng.random(number) * extent for axis, extent in zip("zyx", (24, 64, 80), strict=True)}
    pq.write_table(pa.table(columns), directory / "cells.parquet")
    page = report(directory)
    assert "200,000 cells" in page.text
    assert "objects a cell" in page.text
    assert (directory / "report.html").stat().st_size < 3_000_000


@pytest.mark.skipif(shutil.which("chromium") is None, reason="the browser chromium is not installed")
def test_a_real_browser_shows_it_without_complaint(run_directory: Make, tmp_path: Path) -> None:
    path = write_report(run_directory("failed", failed=[1]))
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr", "--v=0", "--window-size=1300,3000", f"--screenshot={tmp_path / 'page.png'}",
        path.as_uri(),
    ]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stderr
    assert "CONSOLE" not in told, told
    shown = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    assert shown.shape[:2] == (3000, 1300)
    rows = (shown != shown[0, 0]).any((1, 2))
    assert rows.mean() > 0.5, "the page is filled"
