"""The sentence: config -> plan -> read -> step -> write -> journal -> report."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from ndbatch import events
from ndbatch.config.load import from_mapping, load
from ndbatch.config.model import Config
from ndbatch.drive import Driver, Stop, Stopped, total
from ndbatch.errors import JournalError, NdbatchError
from ndbatch.executors import make_executor
from ndbatch.executors.base import Executor
from ndbatch.finish import mark_complete, propagate, tidy, write_staged, write_tables
from ndbatch.importing import about_to_act
from ndbatch.journal import Journal
from ndbatch.journal.faults import storage_errors
from ndbatch.plan.make import make_plan
from ndbatch.plan.model import Plan
from ndbatch.prepare import open_targets, start_over
from ndbatch.report.records import Records
from ndbatch.states import States
from ndbatch.verify import CheckReport
from ndbatch.verify.checking import inspect
from ndbatch.verify.mend import require_mended, take_back
from ndbatch.verify.proof import write_proof

EXIT_CODES = {"done": 0, "failed": 1, "interrupted": 3}


@dataclass(frozen=True)
class Result:
    """What came of a run."""

    name: str
    directory: Path
    status: str
    """done, failed or interrupted."""
    counts: events.Counts
    facts: Mapping[str, Any]
    """What passes found out (thresholds, numbers of objects), by step."""
    outputs: Mapping[str, str]
    """Addresses of what was asked for, by name."""
    rows: Mapping[str, int]
    """Number of rows of each table that was written."""
    seconds: float
    nothing_to_do: bool = False
    """Everything was done by an earlier run."""
    report: Path | None = None
    checked: CheckReport | None = None
    """What was damaged before, where `retry_damaged` was asked for."""
    exit_code: int = field(default=0)


def run(
    config: Config | Mapping[str, Any] | str | Path,
    *,
    fresh: bool = False,
    retry_failed: bool = False,
    retry_damaged: bool = False,
    observers: Sequence[events.Observer] = (),
    report: bool = True,
) -> Result:
    """Do what `config` says (a Config, a mapping, or the path of a YAML file), or go on with what is left of it.

    With `fresh` an earlier run in the same directory, and what it created, is removed first. With `retry_failed` the run
    must have failed blocks. With `retry_damaged` outputs are read again first, and blocks and tables that are not as they
    were written are made anew. Observers are told every event. Without `report` no report.html is made. Raises NdbatchError
    before the first block is touched; failed blocks are not raised but counted in the Result.
    """
    about_to_act("starts a run")
    config = as_config(config)
    plan = _plan(config, fresh=fresh)
    if retry_failed or retry_damaged:
        _require_begun(plan, failures=retry_failed)
    begun = time.monotonic()
    with (
        storage_errors(plan.directory),
        Journal.write(plan.directory) as journal,
        Records(plan.directory, observers) as records,
    ):
        if journal.document:
            journal.verify()
        checked = _take_back(plan, journal) if retry_damaged else None
        journal.begin(plan.document())
        records.begin(plan.document(), plan.config)
        status, counts, rows = _work(plan, journal, records)
        journal.end(status)
        records.publish(events.RunEnded(status, counts, time.monotonic() - begun))
    idle = status == "done" and counts.done == 0
    return Result(
        name=config.name,
        directory=plan.directory,
        status=status,
        counts=counts,
        facts=records.facts,
        outputs={name: entry["url"] for name, entry in plan.document()["outputs"].items()},
        rows=rows,
        seconds=time.monotonic() - begun,
        nothing_to_do=idle and (checked is None or checked.ok),
        checked=checked,
        report=_report(plan, records, status, idle=idle) if report else None,
        exit_code=EXIT_CODES[status],
    )


def _executor(plan: Plan, journal: Journal, records: Records) -> Executor:
    """Start the workers, and tell where they can be watched."""
    config = plan.config
    executor = make_executor(config.cluster, plan.workers, plan.directory, config.time_limit_seconds)
    if executor.dashboard:
        journal.set("dashboard", executor.dashboard)
        records.publish(events.WorkersReady(executor.workers, executor.dashboard))
    return executor


def _report(plan: Plan, records: Records, status: str, *, idle: bool) -> Path | None:
    """Write the report; the one of the run that did the work stays where this one had nothing to do."""
    there = plan.directory / "report.html"
    if idle and there.exists():
        return there
    try:
        with storage_errors(plan.directory):
            return records.report()
    except NdbatchError as error:
        said = f"{plan.config.name} is {status}, but its report cannot be written: {error.message}"
        raise type(error)(said, **error.fields) from None


def as_config(config: Config | Mapping[str, Any] | str | Path) -> Config:
    """Return `config` as a Config: read from a YAML file, or made from a mapping."""
    if isinstance(config, Config):
        return config
    return load(config) if isinstance(config, str | Path) else from_mapping(dict(config), Path.cwd())


def _plan(config: Config, *, fresh: bool) -> Plan:
    """Plan first, remove second: a run that cannot be planned removes nothing."""
    if fresh:
        start_over(make_plan(config, resume=False))
    return make_plan(config)


def _require_begun(plan: Plan, *, failures: bool) -> None:
    if not Journal.exists(plan.directory):
        raise JournalError(f"{plan.directory} holds no run yet; start it with: ndbatch run")
    with Journal.read(plan.directory) as journal:
        if failures and not journal.failures():
            raise JournalError(f"{plan.directory} has no failed blocks (status: {journal.status}); nothing to retry")


def _take_back(plan: Plan, journal: Journal) -> CheckReport:
    """Compare all outputs with the journal, and take back what is damaged."""
    found = inspect(journal, plan.directory)
    take_back(journal, journal.document, plan.directory, found.mismatches, found.tables)
    return found


def _work(plan: Plan, journal: Journal, records: Records) -> tuple[str, events.Counts, dict[str, int]]:
    """Drive the stages and finish; return the status, the blocks by outcome and the rows of tables."""
    journal.clear_failures()
    journal.unset("dashboard")
    counts: dict[int, events.Counts] = {}
    try:
        with ExitStack() as stack, _interruptible() as stop:
            start = cache(lambda: stack.enter_context(_executor(plan, journal, records)))
            volumes = {**plan.sources, **open_targets(plan, journal)}
            driver = Driver(plan, journal, start, volumes, States(plan, journal), records.publish, stop)
            counts = driver.counts
            records.publish(_started(plan))
            for stage in plan.stages:
                driver.run_stage(stage)
        complete = frozenset(index for index, c in counts.items() if c.done + c.skipped == c.planned)
        rows = write_tables(plan, journal, complete)
        if len(complete) < len(plan.stages):
            return "failed", total(counts, plan), rows
        write_staged(plan, journal)
        if not journal.get("complete"):
            propagate(plan, volumes)
            mark_complete(plan, journal, volumes, records.provenance)
            require_mended(journal, journal.document, plan.directory)
            write_proof(journal, plan.directory)
            journal.set("complete", "yes")
        tidy(plan)
        return "done", total(counts, plan), rows
    except KeyboardInterrupt:
        return "interrupted", total(counts, plan), {}
    except Stopped:
        return "failed", total(counts, plan), {}
    except (NdbatchError, OSError):
        journal.end("failed")
        raise


@contextmanager
def _interruptible() -> Iterator[Stop]:
    """Take Ctrl-C as `Stop` says, and SIGTERM as a second one: what came back is kept, and the run can go on later."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, end)}
    if (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):  # a program with a handler of its own knows better
        before[signal.SIGINT] = signal.signal(signal.SIGINT, stop)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _started(plan: Plan) -> events.RunStarted:
    titles = tuple(stage.title(plan.steps) for stage in plan.stages)
    kind = plan.config.cluster.kind
    return events.RunStarted(plan.config.name, str(plan.directory), kind, plan.workers, titles, plan.tasks)
