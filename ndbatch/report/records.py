"""The files of a run beside its results: configuration, plan, provenance, events, summary and report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ndbatch import events
from ndbatch.config.load import dump
from ndbatch.config.model import Config
from ndbatch.journal.salvage import plan_text
from ndbatch.report.atomic import write_text
from ndbatch.report.eventlog import EventLog
from ndbatch.report.provenance import provenance


class Records:
    """Keeps the records of one session in the run directory and passes events on to the observers."""

    def __init__(self, directory: Path, observers: Sequence[events.Observer] = ()) -> None:
        self.directory = directory
        self.facts: dict[str, Any] = {}
        self.provenance: dict[str, Any] = {}
        self._log = EventLog(directory / "events.jsonl")
        self._observers: tuple[events.Observer, ...] = (self._log, self._note, *observers)

    def begin(self, document: Mapping[str, Any], config: Config) -> None:
        """Write config.yaml, plan.json and provenance.json."""
        self.provenance = provenance(document)
        write_text(self.directory / "config.yaml", dump(config))
        write_text(self.directory / "plan.json", plan_text(dict(document)))
        write_text(self.directory / "provenance.json", json.dumps(self.provenance, indent=1))

    def publish(self, event: events.Event) -> None:
        """Tell every observer."""
        for observer in self._observers:
            observer(event)

    def _note(self, event: events.Event) -> None:
        if isinstance(event, events.StageEnded):
            for step, found in event.facts.items():
                self.facts.setdefault(step, {}).update(found)

    def report(self) -> Path:
        """Write summary.json and report.html."""
        from ndbatch.report.html import write_report
        from ndbatch.report.summary import summarise

        write_text(self.directory / "summary.json", json.dumps(summarise(self.directory), indent=1))
        return write_report(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()
