"""Charts of the report as inline SVG: text, axes and grid take the colours of the page, light or dark.

matplotlib draws them (extra `report`) through its object interface; no global state of its is left changed. The same
numbers give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndbatch.errors import missing_extra
from ndbatch.report.tables import Distribution
from ndbatch.report.timings import Timings
from ndbatch.report.words import duration, value

INK, FAINT, ACCENT, SECOND = "#010203", "#040506", "#070809", "#0a0b0c"
"""Colours that stand for those of the page while drawing, and are replaced by CSS variables in the SVG."""
_PAGE = {INK: "var(--ink)", FAINT: "var(--rule)", ACCENT: "var(--accent)", SECOND: "var(--second)"}
_SIZE = (4.6, 3.2)


def histogram(spread: Distribution, name: str) -> str:
    """Return the histogram of a quantity over objects, with mean and median marked."""
    figure, axes = _figure(_SIZE)
    edges, counts = spread.edges, spread.counts
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=ACCENT, alpha=0.85, edgecolor="none")
    axes.axvline(spread.median, color=SECOND, linewidth=1.4, label=f"median {value(spread.median)}")
    axes.axvline(spread.mean, color=INK, linewidth=1.1, linestyle=(0, (3, 2)), label=f"mean {value(spread.mean)}")
    axes.set_xlabel(spread.title + (f" ({spread.unit})" if spread.unit else ""))
    axes.set_ylabel("objects")
    _whole_ticks(axes.yaxis)
    _legend(axes)
    return svg(figure, name)


def density_map(cells: NDArray[np.int64], low: Sequence[float], high: Sequence[float], unit: str, name: str) -> str:
    """Return objects a cell over the (y, x) plane between `low` and `high`, both in `unit`."""
    figure, axes = _map(low, high, unit)
    extent = (low[1], high[1], high[0], low[0])
    shown = axes.imshow(cells, extent=extent, cmap="viridis", vmin=0, interpolation="nearest", aspect="equal")
    _colour_bar(figure, axes, shown, "objects a cell", whole=True)
    return svg(figure, name)


def places_map(
    places: Mapping[str, NDArray[np.float64]], low: Sequence[float], high: Sequence[float], unit: str, name: str
) -> str:
    """Return every object as a dot in the (y, x) plane between `low` and `high`, coloured by z where `places` has it."""
    figure, axes = _map(low, high, unit)
    if "z" in places:
        shown = axes.scatter(
            places["x"], places["y"], c=places["z"], s=34, cmap="viridis", edgecolors=INK, linewidths=0.5
        )
        _colour_bar(figure, axes, shown, f"z ({unit})")
    else:
        axes.scatter(places["x"], places["y"], s=34, color=ACCENT, edgecolors=INK, linewidths=0.5)
    axes.set_xlim(low[1], high[1])
    axes.set_ylim(high[0], low[0])
    axes.set_aspect("equal")
    return svg(figure, name)


def time_per_block(found: Timings, name: str) -> str:
    """Return seconds of work over block number, with the mean and the fitted line."""
    figure, axes = _figure((8.6, 2.9))
    number, seconds = found.points
    ends = np.array([number[0], number[-1]])
    fitted = found.mean + found.slope * (ends - found.centre)
    axes.scatter(number, seconds, s=9 if len(number) > 200 else 22, color=ACCENT, alpha=0.6, linewidths=0)
    axes.axhline(found.mean, color=INK, linewidth=1.1, linestyle=(0, (3, 2)), label=f"mean {duration(found.mean)}")
    axes.plot(ends, fitted, color=SECOND, linewidth=1.6, label="fitted line")
    _legend(axes)
    axes.set_ylim(0, float(seconds.max()) * 1.08 or 1.0)
    _whole_ticks(axes.xaxis)
    axes.set_xlabel("block")
    axes.set_ylabel("seconds")
    return svg(figure, name)


def svg(figure: Any, name: str) -> str:
    """Return the figure as an SVG element whose colours and font are the page's; `name` says what it shows, once a page."""
    from matplotlib import rc_context

    sink = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "ndbatch", "font.family": "sans-serif"}):
        nothing = {"Date": None, "Creator": None}
        figure.savefig(sink, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.04, metadata=nothing)
    text = sink.getvalue().decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = _with_own_ids(text, name)
    for stand_in, page in _PAGE.items():
        text = text.replace(stand_in, page)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    return re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
        rf'<svg \1 class="chart" role="img" aria-label="{escape(name)}">',
        text,
        count=1,
    )


def _with_own_ids(text: str, name: str) -> str:
    """Return the SVG without the ids that nothing refers to; `name` makes the others its own on a page of several charts."""
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    own = hashlib.sha256(name.encode()).hexdigest()[:8]
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{own}-{m[1]}"' if m[1] in used else "", text)
    return re.sub(r'(href="|url\()#', rf"\1#{own}-", text)


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    """Return a figure with one plain pair of axes; inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "report", "drawing charts") from None
    figure = Figure(figsize=size)
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.set_facecolor("none")
    return figure, axes


def _map(low: Sequence[float], high: Sequence[float], unit: str) -> tuple[Any, Any]:
    """Return a figure whose height suits a plane of this extent, y downwards."""
    ratio = (high[0] - low[0]) / max(high[1] - low[1], 1e-9)
    figure, axes = _figure((_SIZE[0], float(np.clip(_SIZE[0] * 0.74 * ratio, 1.4, 6.0)) + 0.6))
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
        axes.spines[side].set_color(FAINT)
    axes.set_xlabel(f"x ({unit})")
    axes.set_ylabel(f"y ({unit})")
    return figure, axes


def _colour_bar(figure: Any, axes: Any, shown: Any, words: str, whole: bool = False) -> None:
    bar = figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label(words, color=INK)
    bar.ax.tick_params(colors=INK, labelsize=9)
    bar.outline.set_edgecolor(FAINT)
    if whole:
        _whole_ticks(bar.ax.yaxis)


def _legend(axes: Any) -> None:
    axes.legend(
        frameon=False, fontsize=9, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0
    )


def _whole_ticks(axis: Any) -> None:
    """Let `axis` have ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, nbins=6))
