"""`ndbatch status`: where a run is, also while it goes on in another terminal or after it was killed."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from ndbatch.events import Counts
from ndbatch.report.summary import Traffic, rate_words, settled_counts, stage_traffic, worked
from ndbatch.report.words import count, duration, facts, percent

if TYPE_CHECKING:
    from ndbatch.journal import Journal

_MEANING = {
    "planned": "planned, not started",
    "running": "running",
    "done": "done",
    "failed": "ended with failed blocks; ndbatch retry tries those again",
    "ended": "ended with an error; the same command says it again, or goes on",
    "interrupted": "interrupted; the same command continues it",
    "dead": "the process that ran it ended without a word; the same command continues it",
}
TOLD_FAILURES = 5


def status_lines(journal: Journal) -> list[str]:
    """Return the state of a run for a reader.

    Rates and the time left are those of the last session, so that a pause between sessions does not count; times end with
    its last event, so that the reader's clock need not be that of the driver.
    """
    status, document = journal.status, journal.document
    counts, traffic, found = settled_counts(journal), stage_traffic(journal.directory), journal.facts()
    overall = sum(counts, Counts())
    failures = journal.failures()
    if status == "failed" and not failures:
        status = "ended"
    lines = [f"{document.get('name', 'run')}: {_MEANING.get(status, status)}{_who(journal, status)}"]
    lines.append(f"  {_progress(overall)}{_since(journal)}")
    if status == "running" and (dashboard := journal.get("dashboard")):
        lines.append(f"  dashboard: {dashboard}")
    for stage, outcome in zip(document.get("stages", []), counts, strict=True):
        seen = traffic.get(stage["index"], Traffic())
        running = status == "running"
        parts = [_progress(outcome), rate_words(seen), _left(outcome, seen) if running else ""]
        lines.append(f"  [{stage['index'] + 1}/{len(counts)}] {stage['name']}: {', '.join(p for p in parts if p)}")
        lines += [f"      {name}: {told}" for name, told in facts(found.get(stage["index"], {}))]
    for failure in failures[:TOLD_FAILURES]:
        first = failure.error.strip().splitlines()[0] if failure.error.strip() else "no message"
        lines.append(f"  block {failure.block} ({failure.box}): {failure.kind}: {first}")
    if len(failures) > TOLD_FAILURES:
        lines.append(f"  and {len(failures) - TOLD_FAILURES:,} more failed blocks; ndbatch report shows them all")
    return lines


def _progress(counts: Counts) -> str:
    """Return the counts in words, those that are zero left out."""
    done = counts.done + counts.skipped
    share = percent(done / counts.planned) if counts.planned else "100 %"
    parts = [f"{done:,} of {count(counts.planned, 'block')} done ({share})"]
    parts += [f"{counts.failed:,} failed"] if counts.failed else []
    parts += [f"{counts.orphaned:,} not tried"] if counts.orphaned else []
    return ", ".join(parts)


def _left(counts: Counts, seen: Traffic) -> str:
    """Return the time left of a stage at the rate of this session."""
    todo = counts.pending + counts.running
    if not todo or not seen.fresh:
        return ""
    return f"{duration(max(seen.fresh_seconds, 1e-3) / seen.fresh * todo)} left"


def _who(journal: Journal, status: str) -> str:
    """Return which process runs it."""
    holder = journal.holder
    if status != "running" or not holder:
        return ""
    return f" (process {holder.get('pid')} on {holder.get('host')})"


def _since(journal: Journal) -> str:
    """Return when the last session began and how long it lasted."""
    sessions = journal.sessions()
    if not sessions:
        return ""
    last = sessions[-1]
    began = datetime.fromtimestamp(last["started"]).astimezone().strftime("%Y-%m-%d %H:%M")
    several = f", session {len(sessions)}" if len(sessions) > 1 else ""
    if last["ended"] is None and journal.status == "dead":
        return f", started {began}{several}"
    return f", started {began}, {duration(worked(sessions, journal.directory)[-1])}{several}"
