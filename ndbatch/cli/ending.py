"""What a run says when it is over: the result in words, where things are, what to do next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndbatch.cli.arguments import command
from ndbatch.report.words import count, duration, named_facts, value

if TYPE_CHECKING:
    from ndbatch.config.model import Config
    from ndbatch.journal import Failure
    from ndbatch.runner import Result
    from ndbatch.verify import CheckReport

DAMAGED_TOLD = 10
"""Damaged blocks that are told one by one."""
TOLD = 3
"""Failed blocks of each kind that are told one by one."""


def ending_document(result: Result) -> dict[str, Any]:
    """Return the outcome of a run for a program: the summary, and what only this session knows."""
    from ndbatch.report.summary import summarise

    return {
        **summarise(result.directory),
        "exit_code": result.exit_code,
        "nothing_to_do": result.nothing_to_do,
        **({} if result.checked is None else {"checked": checked_document(result.checked)}),
        "session": {"seconds": result.seconds, "counts": asdict(result.counts)},
        "report": None if result.report is None else str(result.report),
    }


def ending(result: Result, config: Config, path: Path, overrides: Sequence[str]) -> list[str]:
    """Return the outcome of a run as lines for a reader. `path` and `overrides` are what the command was given."""
    from ndbatch.journal import Journal

    with Journal.read(result.directory) as journal:
        found, failures, document = journal.facts(), journal.failures(), journal.document
    lines = [] if result.checked is None else [*checked_lines(result.checked), *_mending(result.checked)]
    lines.append(f"{result.name}: {_outcome(result)}")
    lines += _findings(found)
    if result.status == "done":
        width = max(map(len, [*result.outputs, "report"]))
        for name, url in result.outputs.items():
            lines.append(f"  {name:<{width}}  {url}{_rows(result, name)}")
            entry = document["outputs"][name]
            if "objects" in entry:
                lines.append(f"  {'':<{width}}  {entry['objects']} ({entry['object_type']} objects)")
        lines += [f"  {'report':<{width}}  {result.report}"] if result.report else []
        lines += [f"Look at it:  {look}" for look in _looks(document, result.name)]
        return lines
    lines += _failures(failures)
    if result.report:
        lines.append(f"Everything about them:  {result.report}")
    if result.status == "failed":
        lines.append(f"Try them again:  {command('retry', path, overrides=overrides)}")
    else:
        lines.append(f"Go on:  {command('run', path, overrides=overrides)}")
    return lines


def checked_document(found: CheckReport) -> dict[str, Any]:
    """Return what a check found, for a program."""
    return {**asdict(found), "directory": str(found.directory), "ok": found.ok}


def checked_lines(found: CheckReport) -> list[str]:
    """Return what a check found, as lines for a reader."""
    many = len(found.mismatches)
    verdict = "all as they were written" if not many else f"{many:,} not as they were written"
    lines = [f"{found.directory}: {count(found.blocks, 'block')} read again, {verdict}"]
    for mismatch in found.mismatches[:DAMAGED_TOLD]:
        block = "all blocks" if mismatch.block < 0 else f"block {mismatch.block} ({mismatch.box})"
        lines.append(f"  stage {mismatch.stage + 1}, {block}: {mismatch.reason}")
    lines += [f"  and {many - DAMAGED_TOLD:,} more"] if many > DAMAGED_TOLD else []
    return [*lines, *(f"  table {table.name} ({table.path}): {table.reason}" for table in found.tables)]


def _mending(found: CheckReport) -> list[str]:
    return [] if found.ok else ["what was damaged has been taken back, to be made anew"]


def _findings(found: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Return what the stages found out, numbers of things before thresholds and the like."""
    told = named_facts(*found.values())
    told.sort(key=lambda entry: not isinstance(entry[1], int))
    return [f"  {name}: {value(fact)}" for name, fact in told]


def _outcome(result: Result) -> str:
    """Return the first line: what happened to the blocks."""
    counts = result.counts
    kept = counts.done + counts.skipped
    if result.nothing_to_do:
        return f"everything was done before ({count(kept, 'block')}); --fresh starts over"
    if result.status == "done":
        before = f", {counts.skipped:,} of them before" if counts.skipped else ""
        return f"done, {count(counts.planned, 'block')} in {duration(result.seconds)}{before}"
    if result.status == "failed":
        left = f", {counts.orphaned:,} not tried because of that" if counts.orphaned else ""
        return f"{count(counts.failed, 'block')} failed{left}; {kept:,} of {counts.planned:,} are done and kept"
    return f"interrupted; {kept:,} of {count(counts.planned, 'block')} are done and kept"


def _rows(result: Result, name: str) -> str:
    return f" ({count(result.rows[name], 'row')})" if name in result.rows else ""


def _failures(failures: Sequence[Failure]) -> Iterator[str]:
    """Yield the failed blocks, the first few of each kind."""
    for kind, number in Counter(failure.kind for failure in failures).most_common():
        yield f"  {kind}: {count(number, 'block')}"
        for failure in [f for f in failures if f.kind == kind][:TOLD]:
            said = (failure.error.strip().splitlines() or ["no message"])[0]
            yield f"    block {failure.block} ({failure.box}): {said}"
        if number > TOLD:
            yield f"    and {number - TOLD:,} more"


def _looks(document: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield the command that shows what was made: labels over the first image, or the volume itself."""
    images = [entry["url"] for entry in document["inputs"].values() if entry["kind"] != "labels"]
    for made, entry in document["outputs"].items():
        if entry["type"] != "volume":
            continue
        if entry["kind"] == "labels" and images:
            yield command("show", images[0], "--labels", entry["url"], "--output", f"{name}.png")
        else:
            yield command("show", entry["url"], "--output", f"{name}-{made}.png")
        return
