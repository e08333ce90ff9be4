import io

import pytest
from rich.console import Console

from ndbatch.events import (
    BlockFailed,
    BlockRetried,
    BlocksDone,
    Counts,
    Event,
    RunEnded,
    RunStarted,
    StageEnded,
    StageStarted,
    Warned,
    WorkerLost,
)
from ndbatch.report.live import PipeConsole
from ndbatch.report.progress import SHOWN_FAILURES, Progress
from ndbatch.report.tally import Tally

START = RunStarted("count-nuclei", "runs/count-nuclei", "processes", 2, ("nuclei", "measure"), 200)


def done(stage: int, blocks: int = 10, voxels: int = 10**6) -> BlocksDone:
    return BlocksDone(stage, blocks, voxels, 2 * voxels, voxels, 0.1, 0.2, 0.1, 0.0, 0.0, 0)


def failed(block: int, error: str = "too dark\nsecond line") -> BlockFailed:
    return BlockFailed(0, block, "z: [0, 4]", 3, "StepError", error)


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def told(events: list[tuple[float, Event]], **options: object) -> list[str]:
    """Return the lines that a plain progress prints when `events` come at those seconds."""
    clock, sink = Clock(), io.StringIO()
    console = Console(file=sink, force_terminal=False, width=400)
    with Progress(console, clock=clock, **options) as progress:  # type: ignore[arg-type]
        for at, event in events:
            clock.now = 100 + at
            progress(event)
    return sink.getvalue().splitlines()


def test_plain_lines_tell_starts_rates_ends_and_what_was_found() -> None:
    lines = told([
        (0, START),
        (0, StageStarted(0, "nuclei", 100, 20, 10**8)),
        (10, done(0, 40, 40_000_000)),
        (20, StageEnded(0, "nuclei", Counts(100, 80, 20), 20.0, {"nuclei": {"nuclei": 17}})),
        (20, RunEnded("done", Counts(200, 180, 20), 20.0)),
    ])  # fmt: skip
    assert lines == [
        "count-nuclei: 200 blocks in 2 stages on 2 workers (processes), in runs/count-nuclei",
        "[1/2] nuclei: 100 blocks, 20 done before",
        "[1/2] nuclei: 60 of 100 blocks (60 %), 4 Mvoxel/s, 8 MB/s read, 4 MB/s written, 10 s left",
        "[1/2] nuclei: 100 blocks done in 20 s, nuclei 17",
        "done after 20 s: 200 blocks of 200 done, 20 of them before",
    ]


def test_plain_lines_are_rate_limited() -> None:
    events = [(0.0, START), (0.0, StageStarted(0, "nuclei", 1000, 0, 1))] + [(i / 100, done(0, 1)) for i in range(1000)]
    assert len(told(events, every=2.5)) == 2 + 3


def test_failures_are_told_at_once_then_counted() -> None:
    events: list[tuple[float, Event]] = [(0, START), (0, StageStarted(0, "nuclei", 100, 0, 1))]
    lines = told(events + [(1, failed(i)) for i in range(50)])
    assert lines[2] == "block 0 (z: [0, 4]) failed after 3 attempts: StepError: too dark"
    assert len(lines) == 2 + SHOWN_FAILURES + 1


def test_quiet_tells_failures_warnings_and_the_end_alone() -> None:
    lines = told([
        (0, START), (0, StageStarted(0, "nuclei", 100, 0, 1)), (9, done(0)), (9, BlockRetried(0, 4, 1, "timeout")),
        (10, failed(7)), (11, WorkerLost(1, "killed")), (12, Warned("no voxel size")),
        (13, StageEnded(0, "nuclei", Counts(100, 10, failed=1, pending=89), 13.0)),
        (13, RunEnded("interrupted", Counts(200, 10, failed=1, pending=189), 13.0)),
    ], mode="quiet")  # fmt: skip
    assert [line.split(":")[0].split(" after")[0] for line in lines] == [
        "block 7 (z", "worker 1 was lost and replaced", "warning", "interrupted",
    ]  # fmt: skip
    assert lines[-1].endswith("10 blocks of 200 done, 1 failed, 189 left; the same command continues")


def test_live_bars_show_blocks_rates_and_failures() -> None:
    sink, clock = io.StringIO(), Clock()
    console = Console(file=sink, force_terminal=True, width=160, legacy_windows=False)
    with Progress(console, mode="live", clock=clock) as progress:
        progress(START)
        progress(StageStarted(0, "nuclei", 100, 20, 10**8))
        clock.now += 4
        progress(done(0, 40, 40_000_000))
        progress(failed(3))
        progress(RunEnded("failed", Counts(200, 199, failed=1), 4.0))
    text = sink.getvalue()
    for part in ("[1/2] nuclei", "61/100", "10 Mvoxel/s", "30 MB/s", "1 failed", "all blocks", "failed after 4 s"):
        assert part in text, part


@pytest.mark.parametrize("terminal", [False, True])
def test_a_closed_pipe_silences_the_display_and_nothing_else(terminal: bool) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    progress = Progress(PipeConsole(file=Closed(), force_terminal=terminal))
    progress(START)
    progress(StageStarted(0, "nuclei", 100, 0, 1))
    progress(done(0))
    progress.close()
    assert progress.tally.stages[0].done == 10, "counting goes on"


def test_markup_in_messages_is_text() -> None:
    assert told([(0, Warned("[bold]x[/bold] [red]"))]) == ["warning: [bold]x[/bold] [red]"]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_tally_counts_stages_that_overlap(order: list[int]) -> None:
    tally = Tally()
    tally.take(START, 0.0)
    for stage in order:
        tally.take(StageStarted(stage, f"s{stage}", 100, 0, 1), 0.0)
    tally.take(done(0, 30), 5.0)
    tally.take(done(1, 20), 10.0)
    assert tally.settled == 50
    assert tally.left(10.0) == pytest.approx(30.0)
    tally.take(StageEnded(1, "s1", Counts(100, 20, orphaned=80), 10.0), 10.0)
    assert tally.stages[1].settled == 100
