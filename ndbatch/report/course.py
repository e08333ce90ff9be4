"""How a run went: what it waited for, its stages, the time per block, the slowest blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ndbatch.errors import MissingExtra
from ndbatch.geometry import Grid
from ndbatch.report import figures
from ndbatch.report.bottleneck import Times
from ndbatch.report.markup import Content, Markup, element, joined, table
from ndbatch.report.summary import stage_timings
from ndbatch.report.timings import Timings, slowest_rows
from ndbatch.report.words import duration, facts, nbytes, percent, scaled

if TYPE_CHECKING:
    from ndbatch.journal import Journal

_PARTS = (
    ("compute", "computing"),
    ("waited", "waiting for inputs"),
    ("stalled", "waiting for results to be stored"),
)
_WORK = (("read", "reading"), ("compute", "computing"), ("write", "writing"))

FEW = 4
"""Blocks below which a trend would mean nothing."""


def course(journal: Journal, summary: dict[str, Any]) -> Markup:
    """Return the section on how the run went."""
    if not summary["stages"]:
        return Markup()
    parts: list[Content] = [element("h2", "How the run went"), _waited(summary), _stages(summary)]
    for stage in journal.document["stages"]:
        found = stage_timings(journal, stage)
        if found is not None:
            title = f"Time per block, {stage['name']}" if len(summary["stages"]) > 1 else "Time per block"
            parts.append(_blocks(title, found, Grid.described(stage["grid"]), journal.document["axes"]))
    return joined(parts)


def _waited(summary: dict[str, Any]) -> Markup:
    """Return the verdict with two bars: the work there was, and what computing threads did all the time."""
    times, judged = Times(**summary["times"]), summary["waited_for"]
    if judged["kind"] == "nothing":
        return element("p", judged["sentence"])
    return joined(
        (
            element("p", element("b", judged["sentence"]), " ", judged["advice"]),
            element("p", "Where the computing threads were, all workers together:", class_="soft"),
            *_bar(times, _PARTS),
            element("p", "The work, of which reading and writing go on beside computing:", class_="soft"),
            *_bar(times, _WORK),
        )
    )


def _bar(times: Times, parts: tuple[tuple[str, str], ...]) -> tuple[Markup, Markup]:
    """Return a bar of the shares of `parts`, and its key with seconds."""
    whole = sum(getattr(times, name) for name, _ in parts) or 1.0
    pieces, keys = [], []
    for name, words in parts:
        seconds = getattr(times, name)
        pieces.append(element("i", class_=name, style=f"width:{seconds / whole * 100:.2f}%"))
        told = f"{words} {duration(seconds)} ({percent(seconds / whole)})"
        keys.append(element("span", element("i", class_=name), told))
    return element("div", *pieces, class_="bar"), element("div", *keys, class_="key")


def _stages(summary: dict[str, Any]) -> Markup:
    """Return one line for each stage, with what it found out below its name."""
    head = ("stage", "blocks", "failed", "read", "written", "time", "voxels/s", "bytes/s", "a block", "tried again")
    rows: list[list[Content]] = []
    for stage in summary["stages"]:
        counts, per_block = stage["counts"], stage["seconds_per_block"]
        told = ", ".join(f"{name} {fact}" for name, fact in facts(stage["facts"]))
        name = joined((stage["name"], element("div", told, class_="soft") if told else None))
        done = counts["done"] + counts["skipped"]
        rows.append(
            [
                name,
                f"{done:,}" if done == counts["planned"] else f"{done:,} of {counts['planned']:,}",
                f"{counts['failed']:,}",
                nbytes(stage["bytes_read"]),
                nbytes(stage["bytes_written"]),
                duration(stage["seconds"]),
                scaled(stage["voxels_per_second"], "").strip() if stage["voxels_per_second"] else "",
                nbytes(stage["bytes_per_second"]) if stage["bytes_per_second"] else "",
                duration(per_block["mean"]) if per_block else "",
                f"{stage['retried']:,}",
            ]
        )
    return table(head, rows, numeric=range(1, len(head)))


def _blocks(title: str, found: Timings, grid: Grid, axes: str) -> Markup:
    """Return the time per block of a stage, and its slowest blocks."""
    if found.blocks < FEW:
        return joined((element("h3", title), element("p", _trend(found)), _slowest(found, grid, axes)))
    try:
        chart: Content = element("div", Markup(figures.time_per_block(found, title)), class_="wide")
    except MissingExtra as error:
        chart = element("p", str(error), class_="soft")
    return joined((element("h3", title), element("p", _trend(found)), chart, _slowest(found, grid, axes)))


def _trend(found: Timings) -> str:
    """Return mean and slope in words."""
    mean, median, longest = (duration(seconds) for seconds in (found.mean, found.median, found.longest))
    if found.blocks < FEW:
        return f"{mean} in the mean, {longest} at most."
    words = f"{mean} in the mean, {median} in the median, {longest} at most"
    change = abs(found.drift)
    if change < 0.02:
        return f"{words}; the time per block stayed the same from the first block to the last."
    return (
        f"{words}; along the fitted line it {'grew' if found.drift > 0 else 'fell'} by {percent(change)} of the mean from "
        f"the first block to the last ({found.slope:+.2g} s a block)."
    )


def _slowest(found: Timings, grid: Grid, axes: str) -> Markup:
    """Return the slowest blocks with their places, folded."""
    rows: list[list[Content]] = []
    for block in slowest_rows(found):
        number = block["block"]
        place = grid[number].core.describe(axes) if number < len(grid) else ""
        seconds = [duration(block[name]) for name in ("seconds", "read", "compute", "write")]
        rows.append([str(number), place, *seconds, str(block["worker"]), str(block["attempt"])])
    head = ("block", "place (voxels)", "time", "reading", "computing", "writing", "worker", "attempt")
    return element("details", element("summary", "Slowest blocks"), table(head, rows, numeric=(0, 2, 3, 4, 5, 6, 7)))
