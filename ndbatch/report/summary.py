"""summary.json: how a run went, for programs; and the same in words, for the terminal.

The journal is the source of every outcome. events.jsonl adds bytes, voxels and the time each stage took; where it is lost, those
are missing and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndbatch.errors import NdbatchError
from ndbatch.events import Counts
from ndbatch.report.bottleneck import Times, verdict
from ndbatch.report.eventlog import plain, read_events, seconds_of
from ndbatch.report.tables import Table, local_path
from ndbatch.report.timings import Timings, timings
from ndbatch.report.words import count, duration, facts, nbytes, scaled

if TYPE_CHECKING:
    from ndbatch.journal import Journal

EVENTS = "events.jsonl"
FORMAT = 1
TOLD_FAILURES = 20


@dataclass
class Traffic:
    """What events.jsonl says of a stage, all sessions together."""

    voxels: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    retried: int = 0
    fresh: int = 0
    """Blocks done in the last session."""
    fresh_seconds: float = 0.0
    """Seconds of the last session up to its last event."""


def summarise(directory: Path) -> dict[str, Any]:
    """Return how the run in `directory` went, JSON types only; JournalError where no run was begun there."""
    from ndbatch.journal import Journal

    with Journal.read(directory) as journal:
        return summary_of(journal)


def summary_of(journal: Journal) -> dict[str, Any]:
    """Return how the run of `journal` went, JSON types only."""
    document, directory = journal.document, journal.directory
    traffic = stage_traffic(directory)
    counts = settled_counts(journal)
    found = journal.facts()
    stages = [
        _stage(journal, stage, outcome, traffic.get(stage["index"], Traffic()), found.get(stage["index"], {}))
        for stage, outcome in zip(document.get("stages", []), counts, strict=True)
    ]
    overall = sum(counts, Counts())
    times = Times(**{name: sum(s["times"][name] for s in stages) for name in Times.__dataclass_fields__})
    judged = verdict(times)
    sessions = journal.sessions()
    failures = journal.failures()
    result = {
        "format": FORMAT,
        "name": document.get("name"),
        "status": journal.status,
        "directory": str(directory),
        "fingerprint": document.get("fingerprint"),
        "started": sessions[0]["started"] if sessions else None,
        "ended": sessions[-1]["ended"] if sessions else None,
        "seconds": sum(worked(sessions, directory)),
        "sessions": len(sessions),
        "counts": asdict(overall),
        "balanced": overall.balanced,
        "stages": stages,
        "times": asdict(times),
        "waited_for": {"kind": judged.kind, "sentence": judged.sentence, "advice": judged.advice},
        "failures": {
            "total": len(failures),
            "kinds": dict(sorted(Counter(f.kind for f in failures).items())),
            "first": [
                {"stage": f.stage, "block": f.block, "box": f.box, "kind": f.kind, "error": f.error}
                for f in failures[:TOLD_FAILURES]
            ],
        },
        "outputs": {name: _output(entry, directory) for name, entry in document.get("outputs", {}).items()},
        "warnings": list(document.get("warnings", [])),
    }
    return dict(plain(result))


def settled_counts(journal: Journal) -> list[Counts]:
    """Return the blocks of each stage by outcome; in a run that ended with failures, what is pending was given up (orphaned)."""
    counts: list[Counts] = journal.counts()
    if journal.status != "failed":
        return counts
    return [replace(c, orphaned=c.orphaned + c.pending, pending=0) for c in counts]


def stage_traffic(directory: Path) -> dict[int, Traffic]:
    """Return, by stage, what events.jsonl in `directory` adds up to. Reads the file line by line."""
    stages: dict[int, Traffic] = {}
    begun: dict[int, float] = {}
    for event in read_events(directory / EVENTS):
        kind, index, now = event["type"], event.get("stage"), seconds_of(event["time"])
        if kind == "RunStarted":
            begun.clear()
            for traffic in stages.values():
                traffic.fresh, traffic.fresh_seconds = 0, 0.0
        if not isinstance(index, int):
            continue
        stage = stages.setdefault(index, Traffic())
        if kind == "StageStarted":
            begun[index] = now
        elif kind == "BlockRetried":
            stage.retried += 1
        elif kind == "BlocksDone":
            stage.voxels += event["voxels"]
            stage.bytes_read += event["bytes_read"]
            stage.bytes_written += event["bytes_written"]
            stage.fresh += event["blocks"]
        if index in begun and kind in ("BlocksDone", "BlockFailed", "StageEnded"):
            stage.seconds += max(now - begun[index], 0.0)
            stage.fresh_seconds += max(now - begun[index], 0.0)
            begun[index] = now
    return stages


def worked(sessions: Sequence[Mapping[str, Any]], directory: Path) -> list[float]:
    """Return the seconds of each session; one that was killed, or still goes on, counts until its last event."""
    starts = [float(session["started"]) for session in sessions]
    ends = [session["ended"] for session in sessions]
    last, place = list(starts), 0
    if None in ends:
        for event in read_events(directory / EVENTS):
            now = seconds_of(event["time"])
            if event["type"] == "RunStarted":  # the nearest, not the last before it: the clock may have been set back
                place = min(range(len(starts)), key=lambda i: abs(starts[i] - now))
            last[place] = max(last[place], now)
    return [max((float(e) if e is not None else f) - s, 0.0) for s, e, f in zip(starts, ends, last, strict=True)]


def in_words(summary: dict[str, Any]) -> list[str]:
    """Return the summary as lines for a terminal: outcome, findings, outputs, what the run waited for."""
    counts = summary["counts"]
    done = counts["done"] + counts["skipped"]
    lines = [f"{summary['name']}: {summary['status']} in {duration(summary['seconds'])}, "
             f"{done:,} of {count(counts['planned'], 'block')} done"]  # fmt: skip
    lines += [f"  {counts[key]:,} blocks {words}" for key, words in _OUTCOMES if counts[key]]
    lines += [f"  {name}: {told}" for name, told in facts(*(stage["facts"] for stage in summary["stages"]))]
    for name, output in summary["outputs"].items():
        rows = f" ({count(output['rows'], 'row')})" if output.get("rows") is not None else ""
        lines.append(f"  {name}: {output['url']}{rows}")
    for failure in summary["failures"]["first"][:3]:
        lines.append(f"  block {failure['block']} ({failure['box']}): {failure['kind']}: {_line(failure['error'])}")
    if summary["waited_for"]["kind"] != "nothing":
        lines.append(f"  {summary['waited_for']['sentence']}")
    lines += [f"  warning: {warning}" for warning in summary["warnings"]]
    return lines


_OUTCOMES = (
    ("failed", "failed"),
    ("orphaned", "not tried because of failures before them"),
    ("running", "running"),
    ("pending", "left; the same command continues"),
)


def stage_timings(journal: Journal, stage: Mapping[str, Any]) -> Timings | None:
    """Return the timings of the blocks of `stage` (an entry of the plan) that are done; None where there are none."""
    return timings(journal.batches(stage["index"]), stage["blocks"])


def _stage(
    journal: Journal, stage: dict[str, Any], counts: Counts, seen: Traffic, found: dict[str, Any]
) -> dict[str, Any]:
    """Return the summary of one stage."""
    times = stage_timings(journal, stage)
    seconds = seen.seconds
    return {
        "index": stage["index"],
        "name": stage["name"],
        "what": stage.get("what", []),
        "counts": asdict(counts),
        "seconds": seconds,
        "voxels": seen.voxels,
        "bytes_read": seen.bytes_read,
        "bytes_written": seen.bytes_written,
        "voxels_per_second": seen.voxels / seconds if seconds > 0 else None,
        "bytes_per_second": (seen.bytes_read + seen.bytes_written) / seconds if seconds > 0 else None,
        "retried": seen.retried,
        "times": asdict(times.totals if times else Times()),
        "seconds_per_block": times.document() if times else None,
        "facts": found,
    }


def _output(entry: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Return what is known of an output; a table with its rows where it exists."""
    result = {"type": entry["type"], "url": entry["url"], "step": entry.get("step")}
    if entry["type"] != "table":
        return {**result, "shape": entry.get("shape"), "dtype": entry.get("dtype"), "kind": entry.get("kind")}
    try:
        table = open_table(entry["url"], directory)
    except NdbatchError as error:
        return {**result, "rows": None, "columns": [], "problem": str(error)}
    return {**result, "rows": table.rows, "columns": list(table.columns)}


def open_table(url: str, directory: Path) -> Table:
    """Open the table `url` of the run in `directory`, also where the whole run directory was moved since."""
    path = local_path(url, directory)
    moved = directory / path.name
    return Table.open(moved if not path.exists() and moved.exists() else path)


def rate_words(seen: Traffic) -> str:
    """Return voxels and bytes a second of a stage, in words; empty where nothing is known."""
    if seen.seconds <= 0 or not seen.voxels:
        return ""
    moved = seen.bytes_read + seen.bytes_written
    return f"{scaled(seen.voxels / seen.seconds, 'voxel')}/s, {nbytes(moved / seen.seconds)}/s"


def _line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no message"
