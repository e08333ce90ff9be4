"""A run far larger than this machine, simulated: the real engine and the real journal, with workers that only wait.

    python benchmarks/petascale.py [--workers 2000] [--blocks 100000000] [--simulate 200000] [--seconds 3.4]

Time is simulated: a worker holds a batch for as long as its blocks would take (log-normal around `--seconds` a block), is killed
now and then, and comes back after `--restart` seconds. What the driver does for a batch, deciding and writing the journal, is
done for real; the CPU time that it takes is what it takes in the simulation too, one batch after another, beside `--scheduler`
milliseconds of dask's scheduler, which is another process. A cubic millimetre at 4 x 4 x 40 nm is 250 000 x 250 000 x 25 000
voxels: 9.5e7 blocks of 64 x 512 x 512.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ndbatch import engine
from ndbatch.journal import RECEIPT, Entry, Journal
from ndbatch.ranges import Ranges

HOUR = 3600.0
BLOCK = (64, 512, 512)
CHUNK = (32, 128, 128)
HALO = (4, 32, 32)
"""What a block reads beside its core: a filter of 32 voxels in the plane; with chunks of this shape and one shard a block."""

COLUMNS = (
    "workers", "blocks/s", "all blocks", "workers busy", "driver, a batch", "driver busy", "scheduler busy", "chunks read",
    "shards written", "journal", "lost to kills",
)  # fmt: skip


@dataclass
class Figures:
    """What came of a simulation."""

    batches: int = 0
    blocks: int = 0
    kills: int = 0
    lost_seconds: float = 0.0
    """Seconds of workers: work done twice, and waiting for a restart."""
    busy_seconds: float = 0.0
    """Seconds of workers on blocks that counted."""
    driver_seconds: float = 0.0
    scheduler_seconds: float = 0.0
    seconds: float = 0.0
    journal_bytes: int = 0
    repeats: int = field(default=0)


def simulate(options: argparse.Namespace, folder: Path) -> Figures:
    """Run the stage in simulated time until `options.simulate` blocks are done."""
    chance = random.Random(0)
    figures, now, driver, scheduler = Figures(), 0.0, 0.0, 0.0
    state = engine.begin(
        options.blocks, Ranges(), Ranges(), engine.Policy(workers=options.workers, batch_seconds=options.batch)
    )
    waiting: list[tuple[int, Ranges]] = []
    idle = options.workers
    ends: list[tuple[float, int, float, bool]] = []
    """When a worker's batch ends, its ticket, how long it took, and whether the worker was killed."""
    sent: dict[int, Ranges] = {}
    with Journal.write(folder) as journal:
        journal.begin({"name": "petascale"})
        while figures.blocks < options.simulate:
            begun = time.process_time()
            state, actions = engine.decide(state, engine.Room(2 * options.workers - len(state.flight), now))
            spent = time.process_time() - begun
            for action in actions:
                if isinstance(action, engine.Submit):
                    waiting.append((action.ticket, action.blocks))
            scheduler = max(scheduler, now) + options.scheduler / 1e3 * len(actions)
            figures.scheduler_seconds += options.scheduler / 1e3 * len(actions)
            while idle and waiting:
                ticket, blocks = waiting.pop(0)
                sent[ticket] = blocks
                length = sum(options.seconds * math.exp(chance.gauss(-0.08, 0.4)) for _ in range(len(blocks)))
                death = chance.expovariate(1 / (options.mtbf * HOUR))
                idle -= 1
                heapq.heappush(
                    ends, (max(now, scheduler) + min(length, death), ticket, min(length, death), death < length)
                )
            end, ticket, length, killed = heapq.heappop(ends)
            if ticket < 0:  # a worker is back
                now, idle = max(now, end), idle + 1
                continue
            blocks = sent.pop(ticket)
            now = max(end, driver)
            begun = time.process_time() - spent
            if killed:
                figures.kills += 1
                figures.lost_seconds += length + options.restart
                state, actions = engine.decide(state, engine.Lost(ticket, "WorkerKilled", "simulated", now))
                heapq.heappush(ends, (now + options.restart, -1, 0.0, False))
            else:
                receipts = np.zeros(len(blocks), RECEIPT)
                receipts["block"] = list(blocks)
                receipts["compute"] = length / len(blocks)
                state, actions = engine.decide(state, engine.Returned(ticket, blocks, now, length))
                journal.record(Entry(0, receipts))
                figures.batches, figures.blocks = figures.batches + 1, figures.blocks + len(blocks)
                figures.busy_seconds += length
                idle += 1
            spent = time.process_time() - begun
            driver = now + spent
            figures.driver_seconds += spent
    figures.seconds = now
    figures.journal_bytes = sum(file.stat().st_size for file in folder.glob("journal.sqlite*"))
    return figures


def told(figures: Figures, options: argparse.Namespace) -> str:
    """Return the figures for a reader, carried over to all blocks."""
    rate = figures.blocks / figures.seconds
    reads = math.prod(-(-(n + 2 * h) // c) + (1 if h else 0) for n, h, c in zip(BLOCK, HALO, CHUNK, strict=True))
    voxels = math.prod(n + 2 * h for n, h in zip(BLOCK, HALO, strict=True))
    cells = (
        f"{options.workers}",
        f"{rate:.0f}",
        f"{options.blocks / rate / HOUR:.0f} h",
        f"{100 * figures.busy_seconds / (figures.seconds * options.workers):.0f} %",
        f"{1e3 * figures.driver_seconds / figures.batches:.2f} ms",
        f"{100 * figures.driver_seconds / figures.seconds:.0f} %",
        f"{100 * figures.scheduler_seconds / figures.seconds:.0f} %",
        f"{rate * reads / 1e3:.0f} k/s, {rate * voxels / 1e9:.0f} GB/s",
        f"{rate:.0f}/s, {rate * math.prod(BLOCK) * 8 / 1e9:.0f} GB/s",
        f"{figures.journal_bytes / figures.blocks * options.blocks / 1e9:.1f} GB",
        f"{100 * figures.lost_seconds / (figures.seconds * options.workers):.2f} %",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print a row for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[500, 2000, 8000])
    parser.add_argument("--blocks", type=int, default=100_000_000)
    parser.add_argument("--simulate", type=int, default=100_000, help="blocks that are simulated for each row")
    parser.add_argument("--seconds", type=float, default=3.4, help="of a worker, a block (5 million voxels a second)")
    parser.add_argument("--batch", type=float, default=2.0, help="seconds that a batch should hold a worker")
    parser.add_argument("--mtbf", type=float, default=24.0, help="hours between two deaths of a worker (preemption)")
    parser.add_argument("--restart", type=float, default=120.0, help="seconds until a worker is back")
    parser.add_argument("--scheduler", type=float, default=0.4, help="milliseconds of dask's scheduler a batch")
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for workers in options.workers:
        with tempfile.TemporaryDirectory() as folder:
            one = argparse.Namespace(**{**vars(options), "workers": workers})
            print(told(simulate(one, Path(folder)), one), flush=True)


if __name__ == "__main__":
    main()
