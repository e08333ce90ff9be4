"""Bars on a terminal: one for the run, one for each stage."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ndbatch.report.tally import StageTally, Tally
from ndbatch.report.words import duration, nbytes, scaled

SHOWN_STAGES = 12
"""Bars of stages shown at a time; the oldest ended ones give way."""


class PipeConsole(Console):
    """A console for which a closed pipe is an OSError to the caller (rich would end the process)."""

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError."""
        raise BrokenPipeError("the terminal or pipe that progress is shown on was closed")


class LiveBars:
    """A rich display of a `Tally`, redrawn by rich's own thread a few times a second."""

    def __init__(self, console: Console, tally: Tally) -> None:
        self._display = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}", markup=False),
            console=console,
            refresh_per_second=4,
        )
        self._run = self._display.add_task("all blocks", total=tally.blocks, words="")
        self._stages: dict[int, TaskID] = {}
        self._display.start()

    def update(self, tally: Tally, now: float) -> None:
        """Show `tally` as it is at `now`."""
        self._display.update(self._run, completed=tally.settled, total=tally.blocks, words=_run_words(tally, now))
        for index, stage in tally.stages.items():
            if index not in self._stages:
                self._stages[index] = self._display.add_task(tally.title(index), total=stage.blocks, words="")
                for old in sorted(self._stages)[:-SHOWN_STAGES]:
                    self._display.update(self._stages[old], visible=False)
            self._display.update(
                self._stages[index], completed=stage.settled, total=stage.blocks, words=_stage_words(stage, now)
            )

    def stop(self) -> None:
        """Draw once more and give the terminal back."""
        self._display.stop()


def _run_words(tally: Tally, now: float) -> str:
    left = tally.left(now)
    parts = [f"{tally.failed:,} failed" if tally.failed else ""]
    parts.append(f"{duration(left)} left" if left is not None and tally.settled < tally.blocks else "")
    return ", ".join(part for part in parts if part)


def _stage_words(stage: StageTally, now: float) -> str:
    seconds = stage.seconds(now)
    parts = [f"{scaled(stage.voxels / seconds, 'voxel')}/s"] if stage.voxels else []
    moved = stage.bytes_read + stage.bytes_written
    parts += [f"{nbytes(moved / seconds)}/s"] if moved else []
    parts += [f"{stage.failed:,} failed"] if stage.failed else []
    left = stage.left(now)
    if stage.ended is not None:
        parts.append(f"in {duration(seconds)}")
    elif left is not None:
        parts.append(f"{duration(left)} left")
    return ", ".join(parts)
