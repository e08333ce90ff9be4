"""What a block costs beside its work: CPU time, driver growth, journal size, resume, status, for runs of no-op blocks.

    python benchmarks/scale.py [--blocks 10000 100000 1000000] [--cluster {processes,dask,standing}] [--workers 2]

Each run is a process of its own. CPU is user + system time of the driver and all its workers, their start included; with
`standing`, of the driver and of a dask scheduler and workers that were started before by their own commands. A second run is
stopped when half of its blocks are done: `resume` is the time from the same call again until the first block of the other half
is back, `status` that of what `ndbatch status` prints then.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ndbatch.config.model import Config

HERE = Path(__file__).parent
EDGE = 100
HALF = 0.5


def measure(blocks: int, kind: str, workers: int) -> dict[str, float]:
    """Run `blocks` no-op blocks in this process and its workers; return the figures."""
    if kind != "standing":
        return _measure(blocks, {"kind": kind, "workers": workers})
    with tempfile.TemporaryDirectory() as folder, _standing(Path(folder), workers) as address:
        return _measure(blocks, {"kind": "dask", "address": address})


def _measure(blocks: int, cluster: dict[str, object]) -> dict[str, float]:
    import psutil

    sys.path.insert(0, str(HERE))
    from noop import Nothing

    import ndbatch as nb
    from ndbatch.config.cluster import Cluster
    from ndbatch.config.model import Config, Input, Output
    from ndbatch.runner import run

    with tempfile.TemporaryDirectory() as folder:
        shape = (blocks // EDGE**2, EDGE, EDGE)
        nb.create(f"{folder}/source.zarr", shape=shape, dtype="uint8", axes="zyx", chunks=shape)
        config = Config(
            name="overhead",
            inputs={"image": Input(url=f"{folder}/source.zarr")},
            steps=(Nothing(),),
            outputs={"nothing": Output(url="nothing.parquet")},
            blocks={"z": 1, "y": 1, "x": 1},
            cluster=Cluster.model_validate(cluster),
            base=Path(folder),
        )
        process = psutil.Process()
        run(config.model_copy(update={"name": "warm", "region": {"z": (0, 1)}}), report=False)
        cpu, wall, before = _cpu(), time.perf_counter(), process.memory_info().rss
        result = run(config, report=False)
        cpu, wall = _cpu() - cpu, time.perf_counter() - wall
        growth = process.memory_info().rss - before
        assert result.counts.done == blocks == result.counts.planned, result
        journal = sum(f.stat().st_size for f in result.directory.glob("journal.sqlite*"))
        again = time.perf_counter()
        assert run(config, report=False).nothing_to_do
        again = time.perf_counter() - again
        resume, status = _halfway(config.model_copy(update={"name": "half"}))
        return {
            "blocks": blocks,
            "cpu_ms": 1e3 * cpu / blocks,
            "wall_ms": 1e3 * wall / blocks,
            "growth_mb": growth / 1e6,
            "journal_bytes": journal / blocks,
            "again_s": again,
            "resume_s": resume,
            "status_s": status,
        }


def _halfway(config: Config) -> tuple[float, float]:
    """Stop a run halfway; return the seconds until it works again when it is called again, and those of its status."""
    from ndbatch.events import BlocksDone, Event
    from ndbatch.journal import Journal
    from ndbatch.report.status import status_lines
    from ndbatch.runner import run

    done, first = 0, 0.0

    def stop(event: Event) -> None:
        nonlocal done
        if isinstance(event, BlocksDone):
            done += event.blocks
            if done >= HALF * total:
                raise KeyboardInterrupt

    def watch(event: Event) -> None:
        nonlocal first
        if isinstance(event, BlocksDone) and not first:
            first = time.perf_counter()

    from ndbatch.plan.make import make_plan

    total = make_plan(config).tasks
    stopped = run(config, observers=(stop,), report=False)
    assert stopped.status == "interrupted", stopped
    begun = time.perf_counter()
    with Journal.read(config.run_directory) as journal:
        assert status_lines(journal)
    status, begun = time.perf_counter() - begun, time.perf_counter()
    finished = run(config, observers=(watch,), report=False)
    assert finished.counts.done + finished.counts.skipped == total, finished
    return first - begun, status


@contextmanager
def _standing(folder: Path, workers: int) -> Iterator[str]:
    """Start a dask scheduler and workers of one thread; yield the address once all of them are there."""
    from distributed import Client

    told = folder / "scheduler.json"
    here = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
    own = ["--scheduler-file", str(told), "--local-directory", str(folder), "--nthreads", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in (str(HERE), *sys.path) if p)}
    orders = [["scheduler", *here, "--port", "0", "--scheduler-file", str(told)]]
    orders += [["worker", *here, *own] for _ in range(workers)]
    started = []
    try:
        with (folder / "log.txt").open("wb") as log:
            for order in orders:
                command = [sys.executable, "-m", "dask", *order]
                started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
                while not told.exists() and started[0].poll() is None:
                    time.sleep(0.05)
        if not told.exists():
            raise SystemExit(f"the scheduler did not start: {(folder / 'log.txt').read_text()}")
        address = str(json.loads(told.read_text())["address"])
        with Client(address) as client:
            client.wait_for_workers(workers, timeout=60)
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait()


def _cpu() -> float:
    """Return the CPU seconds of this process, of its ended children, and of those that live, with theirs."""
    import psutil

    both = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    alive = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both) + sum(sum(times[:4]) for times in alive)


def main() -> None:
    """Print a table, one row a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--blocks", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="multiples of 10000"
    )
    parser.add_argument("--cluster", choices=("processes", "dask", "standing"), default="processes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.blocks[0], options.cluster, options.workers)))
        return
    print(
        f"{'blocks':>9} {'CPU ms/block':>13} {'wall ms/block':>14} {'driver MB':>10} {'journal B/block':>16} {'again s':>8} "
        f"{'resume s':>9} {'status s':>9}"
    )
    for count in options.blocks:
        command = [sys.executable, __file__, "--one", "--blocks", str(count), "--cluster", options.cluster]
        done = subprocess.run([*command, "--workers", str(options.workers)], capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{count:>9} {row['cpu_ms']:>13.4f} {row['wall_ms']:>14.4f} {row['growth_mb']:>10.1f} "
            f"{row['journal_bytes']:>16.1f} {row['again_s']:>8.2f} {row['resume_s']:>9.2f} {row['status_s']:>9.2f}"
        )


if __name__ == "__main__":
    main()
