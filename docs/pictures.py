"""The examples of docs/steps: read from the pages, run, and drawn: `python docs/pictures.py [STEP ...]`.

A page begins with what its picture shows: `picture:` with a volume (or a table: x and y are columns), or a list of them, drawn
side by side. `over` draws the outlines of labels over an image, `z` chooses the slice.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import ndbatch as nb
from ndbatch.geometry import Box
from ndbatch.remotes.base import Volume
from ndbatch.report.pictures import Rgb, sight
from ndbatch.report.planes import Limits
from ndbatch.runner import Result

DOCS = Path(__file__).parent
ROOT = DOCS.parent
STEPS = DOCS / "steps"
PICTURES = DOCS / "images" / "steps"
SIDE = 256
"""Pixels of a panel, each way at most: pages load quickly, and a picture stays below 60 kB."""
COLOURS = 80
_HEAD = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_EXAMPLE = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """What a page of docs/steps says in a form that can be run."""

    kind: str
    panels: list[dict[str, Any]]
    examples: list[dict[str, Any]]


def read(kind: str) -> Page:
    """Return the page of a step; ValueError where it has no example."""
    text = (STEPS / f"{kind}.md").read_text(encoding="utf-8")
    head = _HEAD.match(text)
    shown = (yaml.safe_load(head[1]) if head else {}).get("picture", [])
    examples = [yaml.safe_load(part) for part in _EXAMPLE.findall(text)]
    whole = [example for example in examples if isinstance(example, dict) and "steps" in example]
    if not whole:
        raise ValueError(f"docs/steps/{kind}.md has no whole configuration as an example")
    return Page(kind, shown if isinstance(shown, list) else [shown], whole)


def pages() -> list[str]:
    """Return the steps that have a page, in the order of the alphabet."""
    return sorted(page.stem for page in STEPS.glob("*.md") if page.stem != "index")


def run(example: Mapping[str, Any], folder: Path) -> Result:
    """Run an example as `ndbatch run` would in the root of the repository, in this process, with its results in `folder`."""
    config = {**example, "directory": str(folder), "cluster": {"kind": "inline"}}
    config["inputs"] = {name: _from_root(entry) for name, entry in example["inputs"].items()}
    return nb.run(config, report=False)


def _from_root(entry: Any) -> Any:
    """Return an input with its path taken from the root of the repository."""
    url = entry if isinstance(entry, str) else entry["url"]
    found = url if "://" in url or url.startswith("/") else str(ROOT / url)
    return found if isinstance(entry, str) else {**entry, "url": found}


def draw(page: Page, folder: Path) -> Rgb:
    """Run the first example of a page and return its panels side by side, (rows, columns, 3)."""
    example = page.examples[0]
    result = run(example, folder)
    if result.status != "done":
        raise ValueError(f"the example of {page.kind} ended {result.status}")
    shown = page.panels or [{"volume": name} for name in [*example["inputs"], *result.outputs]]
    return _joined([_panel(panel, example, result) for panel in shown])


def _panel(panel: Mapping[str, Any], example: Mapping[str, Any], result: Result) -> Rgb:
    if "table" in panel:
        return _plot(panel, result)
    below = _volume(panel.get("over", panel["volume"]), example, result)
    above = _volume(panel["volume"], example, result) if "over" in panel else None
    at = {axis: int(panel[axis]) for axis in "tczyx" if axis in panel}
    axis = panel.get("axis", "z" if "z" in below.axes else below.axes[0])
    part = _region(example, below) if panel.get("over", panel["volume"]) in example["inputs"] else None
    limits = Limits(pixels=SIDE, voxels=2**24)
    seen = sight(below, above, axis, at or None, panel.get("project"), part, limits)
    rgb = seen.picture().rgb
    step = max(1, -(-max(rgb.shape[:2]) // SIDE))
    return rgb[::step, ::step]


def _region(example: Mapping[str, Any], volume: Volume) -> Box:
    """Return the part of an input that an example works on."""
    ends = {axis: (a, b) for axis, a, b in zip(volume.axes, volume.domain.start, volume.domain.stop, strict=True)}
    ends |= {axis: (int(a), int(b)) for axis, (a, b) in example.get("region", {}).items()}
    return Box(tuple(ends[axis][0] for axis in volume.axes), tuple(ends[axis][1] for axis in volume.axes))


def _volume(name: str, example: Mapping[str, Any], result: Result) -> Volume:
    """Open an input or output of an example."""
    if name in result.outputs:
        return nb.open(result.outputs[name], base=result.directory)
    entry = _from_root(example["inputs"][name])
    return nb.open(entry)


def _plot(panel: Mapping[str, Any], result: Result) -> Rgb:
    """Return a table as points (x and y) or as bars (x alone)."""
    import matplotlib as mpl
    import pandas as pd

    mpl.use("Agg")
    from matplotlib import pyplot

    path = Path(result.outputs[panel["table"]])
    path = path if path.is_absolute() else result.directory / path
    rows = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    figure, axes = pyplot.subplots(figsize=(SIDE / 75, SIDE / 75), dpi=75, layout="constrained")
    x = rows[panel["x"]]
    if "y" in panel:
        axes.plot(x, rows[panel["y"]], panel.get("marker", "o"), markersize=4, color="teal")
        axes.set_ylabel(panel["y"])
    else:
        axes.hist(x, bins=int(panel.get("bins", 12)), color="teal")
        axes.set_ylabel("rows")
    axes.set_xlabel(panel["x"])
    figure.canvas.draw()
    rgb: Rgb = np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy()
    pyplot.close(figure)
    return rgb


def _joined(panels: list[Rgb]) -> Rgb:
    """Return panels in a row, on white."""
    tallest = max(panel.shape[0] for panel in panels)
    parts: list[Rgb] = []
    for panel in panels:
        whole = np.full((tallest, panel.shape[1], 3), 255, np.uint8)
        top = (tallest - panel.shape[0]) // 2
        whole[top : top + panel.shape[0]] = panel
        parts += [whole, np.full((tallest, 6, 3), 255, np.uint8)]
    return np.concatenate(parts[:-1], axis=1)


def save(rgb: Rgb, path: Path) -> int:
    """Write a PNG of few colours, or of 64 greys where there are no colours, and return its bytes."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    if (rgb == rgb[:, :, :1]).all():
        picture = Image.fromarray(rgb[:, :, 0] // 4 * 4 + rgb[:, :, 0] // 64)
    else:
        picture = Image.fromarray(rgb).quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(path, "PNG", optimize=True)
    return path.stat().st_size


if __name__ == "__main__":
    for kind in sys.argv[1:] or pages():
        with tempfile.TemporaryDirectory() as folder:
            size = save(draw(read(kind), Path(folder) / "run"), PICTURES / f"{kind}.png")
        print(f"{kind}: {size} bytes")
