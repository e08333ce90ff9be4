"""The main job again and again through a bad network, with kill -9 at random: nothing grows, nothing is left, no byte differs.

    python benchmarks/soak.py [--minutes 30] [--faults 0.05] [--kill-every 30] [--seed 1] [--samples FILE]

Source and target are `ndbatch serve` behind `ndbatch.testing.chaos`: a twentieth of all requests meet a fault, of ten kinds.
One driver process runs the job on `processes`, on a dask cluster that runs all the time, and on one of its own, in turn;
workers are killed at random moments. Between them the job is given as a command, its driver is killed, and the same command is
given until it is done. Every result is compared with an undisturbed run's. Prints what each process had and whether it grew;
exits 1 where anything is wrong.

With the rights for it, the soak has a /tmp and a /dev/shm of its own, so that whatever is left there is its own.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from soak_site import SHORT_HISTORY, SOON, TOKEN, Site, configuration, contents, killing, remove
from soak_watch import MIB, Sample, Slope, Watch, files, pooled, slope

from ndbatch.testing.chaos import Chaos, Faults, chaos_proxy

KINDS = ("processes", "cluster", "processes, driver killed", "own dask cluster", "processes", "cluster, driver killed")
"""The turns."""
PER_BLOCKS, PER_HOUR = 1.0, 20.0
"""MiB that a process may grow by in 1000 blocks and in an hour. Growth beyond both is a leak."""
BLOCKS_A_RUN = 24
"""Of a command, which tells none."""
COUNTED = 3
"""Descriptors, threads or children that a process may have more at the end."""
WARM = 300.0
"""Seconds in which every kind of run is done a few times, and processes fill their caches: growth there is not judged."""
ENOUGH = 12
"""Samples between runs after that from which on a process is judged: two rounds of turns."""
PRIVATE = "NDBATCH_SOAK_PRIVATE"


@dataclass
class Soak:
    """A soak that goes on, and what was wrong so far."""

    site: Site
    watch: Watch
    chaos: Chaos
    kill_every: float
    wrong: list[str] = field(default_factory=list)
    expected: dict[str, str] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)
    runs: Counter[str] = field(default_factory=Counter)
    again: list[str] = field(default_factory=list)
    """Runs that were not done at once though their driver lived, with the reason."""
    names: dict[str, set[str]] = field(default_factory=dict)
    """Files that are there before the first run, by place; those of an undisturbed run."""

    @property
    def places(self) -> dict[str, Path]:
        """Folders where nothing may be left between two runs."""
        own = {"/dev/shm": Path("/dev/shm"), "/tmp": Path("/tmp")} if os.environ.get(PRIVATE) else {}
        return {"temporary folder": self.site.top / "tmp", "folder of the service": self.site.served, **own}

    def left(self, place: str) -> set[str]:
        """Return the names in a place: of /tmp without the soak's own folder, of semaphores of living processes how many."""
        found = {n for n in files(self.places[place]) if place != "/tmp" or not n.startswith(self.site.top.name)}
        named = {n for n in found if n.startswith("sem.mp-")}
        return found - named | {f"semaphore {number}" for number in range(len(named))}

    def run(self, number: int, turn: str) -> None:
        """Let one run happen, and look at what it made and left."""
        kind = turn.partition(",")[0]
        folder, name = self.site.top / f"run{number}", f"labels{number}"
        folder.mkdir()
        job = folder / "job.yaml"
        clusters: dict[str, dict[str, object]] = {
            "cluster": {"kind": "dask", "address": self.site.address},
            "own dask cluster": {"kind": "dask", "workers": 2},
        }
        cluster = clusters.get(kind, {"kind": "processes", "workers": 2})
        target = f"ndstore://{self.chaos.url.removeprefix('http://')}/soak/{name}"
        source = f"ndstore://{self.chaos.url.removeprefix('http://')}/cells3d/nuclei"
        job.write_text(yaml.safe_dump(configuration(source, target, cluster)))
        if turn.endswith("driver killed"):
            self.commanded(job, kind)
        else:
            self.driven(job, kind)
        self.runs[turn] += 1
        self.compare(folder / "runs/soak", name, f"run {number} ({turn})")
        remove(f"ndstore://{self.site.url}/soak/{name}")
        shutil.rmtree(folder)
        self.look_around(f"run {number} ({turn})")
        time.sleep(1)  # what is on its way out ends
        self.watch.look(self.watch.rest)

    def driven(self, job: Path, kind: str) -> None:
        """Run by the driver that lives on."""
        with killing(lambda: self.site.victims(self.site.driver.pid, kind), self.kill_every, self.killed):
            for _ in range(4):
                answer = self.site.drive(job)
                self.watch.blocks += answer["blocks"]
                if answer["status"] == "done":
                    return
                self.again.append(f"{kind}: {answer['error'] or failures(job.parent / 'runs/soak')}")
        self.wrong.append(f"{kind}: not done after four attempts: {self.again[-1]}")

    def commanded(self, job: Path, kind: str) -> None:
        """Run by the command line; kill the driver, look that its workers go, and give the same command again."""
        command = ("-m", "ndbatch", "run", str(job), "--quiet")
        process = self.site.start(*command)
        time.sleep(random.uniform(2, 12))
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        if process.poll() is None:
            process.kill()
            self.killed.append("driver")
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=SOON)
        self.wrong += [f"{kind}: {' '.join(p.cmdline())} outlives its driver" for p in alive]
        for _ in range(4):
            process = self.site.start(*command)
            pid = process.pid
            with killing(lambda pid=pid: self.site.victims(pid, kind), self.kill_every, self.killed):  # type: ignore[misc]
                if process.wait() == 0:
                    self.watch.blocks += BLOCKS_A_RUN
                    return
            self.again.append(f"{kind}: exit code {process.returncode}: {failures(job.parent / 'runs/soak')}")
        self.wrong.append(f"{kind}: the same command did not end after its driver was killed: {self.again[-1]}")

    def compare(self, run: Path, name: str, what: str) -> None:
        """Compare the results with those of the undisturbed run, which the first one is."""
        found, named = contents(self.site, run, name), files(run)
        if not self.expected:
            self.expected, self.names["run"] = found, named
        differing = sorted(n for n in {*found, *self.expected} if found.get(n) != self.expected.get(n))
        if differing:
            self.wrong.append(f"{what}: {len(differing)} files differ from the undisturbed run's: {differing[:5]}")
        if more := sorted(named - self.names["run"]):
            self.wrong.append(f"{what}: left in the run directory: {more[:5]}")

    def look_around(self, what: str) -> None:
        """Note what is left where nothing may be left."""
        for place in self.places:
            found = self.left(place)
            if more := sorted(found - self.names.setdefault(place, found)):
                self.wrong.append(f"{what}: left in the {place}: {len(more)}, such as {more[:3]}")
                self.names[place] |= found  # told once


def failures(run: Path) -> str:
    """Return why blocks of a run failed, in short."""
    from ndbatch.errors import NdbatchError
    from ndbatch.journal import Journal

    try:
        with Journal.read(run) as journal:
            return "; ".join(sorted({failure.error[:200] for failure in journal.failures()})) or "no block failed"
    except NdbatchError as error:
        return str(error)


@dataclass(frozen=True)
class Row:
    """A line of the table: what the processes of a role had, and how it grew."""

    role: str
    processes: int
    samples: int
    first: Sample
    last: Sample
    peak: int
    by_blocks: Slope | None
    by_hour: Slope | None
    watched: bool

    def complaints(self) -> list[str]:
        """Return what is wrong with it."""
        found = []
        if (
            self.watched
            and self.by_blocks
            and self.by_hour
            and self.by_blocks.grows(PER_BLOCKS)
            and self.by_hour.grows(PER_HOUR)
        ):
            found.append(
                f"{self.role}: memory grows by {said(self.by_blocks)} MiB in 1000 blocks, {said(self.by_hour)} in an hour"
            )
        for name in ("descriptors", "threads", "children"):
            before, after = getattr(self.first, name), getattr(self.last, name)
            if self.watched and after > before + COUNTED:
                found.append(f"{self.role}: {name} grew from {before} to {after}")
        return found

    def cells(self) -> list[str]:
        """Return the cells of the line."""
        first, last = self.first, self.last
        counts = [f"{getattr(first, n)} - {getattr(last, n)}" for n in ("descriptors", "threads", "children")]
        memory = f"{first.memory / MIB:.0f} - {last.memory / MIB:.0f}, at most {self.peak / MIB:.0f}"
        return [
            self.role,
            str(self.processes),
            str(self.samples),
            memory,
            said(self.by_blocks),
            said(self.by_hour),
            *counts,
        ]


def said(found: Slope | None) -> str:
    """Return a slope in words."""
    return "-" if found is None else f"{found.rate:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def middle(samples: list[Sample]) -> Sample:
    """Return a sample whose every number is the median of those of `samples`."""
    return Sample(*(type(v)(np.median([getattr(s, n) for s in samples])) for n, v in vars(samples[0]).items()))


def rows(watch: Watch) -> list[Row]:
    """Return a line for each long-lived process, from its samples between runs, and one for all workers of a kind together."""
    result = []
    for (role, pid), samples in sorted(watch.rest.items()):
        late = [s for s in samples if s.seconds > WARM]
        judged = len(late) >= ENOUGH
        warm = late if judged else samples[len(samples) // 4 :]
        if len(samples) < 4 or not lasting(role):
            continue
        memory = [s.memory / MIB for s in warm]
        by_blocks, by_hour = slope([s.blocks for s in warm], memory), slope([s.seconds for s in warm], memory)
        third = max(1, len(warm) // 3)
        peak = max(s.memory for s in watch.series[role, pid])
        result.append(
            Row(
                role, 1, len(samples), middle(warm[:third]), middle(warm[-third:]), peak,
                by_blocks and by_blocks.scaled(1000), by_hour and by_hour.scaled(3600), judged,
            )
        )  # fmt: skip
    return result + [
        row for role in sorted({role for role, _ in watch.series}) if not lasting(role) for row in short(watch, role)
    ]


def lasting(role: str) -> bool:
    """Return whether processes of a role live as long as the soak."""
    return not role.startswith("worker") and not role.endswith("killed")


def short(watch: Watch, role: str) -> list[Row]:
    """Return the line of all workers of a role together, each from when its memory has been filled."""
    found = [samples for (name, _), samples in watch.series.items() if name == role]
    each = [samples[len(samples) // 4 :] for samples in found if len(samples) > 8]
    if not each:
        return []
    by_hour = pooled(([s.seconds for s in one], [s.memory / MIB for s in one]) for one in each)
    first, last = (
        [s for one in each for s in one[: len(one) // 3]],
        [s for one in each for s in one[-(len(one) // 3) :]],
    )
    every = [sample for one in each for sample in one]
    peak = max(s.memory for s in every)
    growth = by_hour and by_hour.scaled(3600)
    return [Row(role, len(each), len(every), middle(first), middle(last), peak, None, growth, False)]


def show(table: list[Row]) -> None:
    """Print the lines as a table."""
    head = [
        "process",
        "of them",
        "samples",
        "PSS, MiB",
        "MiB / 1000 blocks (95 %)",
        "MiB / h (95 %)",
        "descriptors",
        "threads",
        "children",
    ]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in table:
        print(f"| {' | '.join(row.cells())} |")


def soak(top: Path, options: argparse.Namespace) -> list[str]:
    """Run for the time asked for, print the table, and return what was wrong."""
    marker = f"NDBATCH_SOAK={os.getpid()}"
    (top / "tmp").mkdir()
    os.environ[TOKEN] = os.urandom(20).hex()
    environment = {**os.environ, **SHORT_HISTORY, "TMPDIR": str(top / "tmp"), "NDBATCH_SOAK": str(os.getpid())}
    site = Site(top, environment)
    faults = Faults.every(options.faults / 10, seed=options.seed, silence=2, trickle_seconds=1, retry_after=0.5)
    watch = Watch(site.role, marker)
    with ExitStack() as stack:
        stack.callback(site.stop)
        site.start_service()
        if 60 * options.minutes > WARM:  # else no growth is judged
            site.exercise()
        site.start_cluster()
        site.start_driver()
        chaos = stack.enter_context(chaos_proxy(f"http://{site.url}"))
        going = Soak(site, watch, chaos, 1e9)
        going.run(0, "processes")
        going.kill_every, chaos.faults, number = options.kill_every, faults, 0
        stack.enter_context(watch)
        until = time.monotonic() + 60 * options.minutes
        while time.monotonic() < until:
            number += 1
            begun = time.monotonic()
            going.run(number, KINDS[(number - 1) % len(KINDS)])
            print(f"{number:4d}. {KINDS[(number - 1) % len(KINDS)]}: {time.monotonic() - begun:.0f} s", flush=True)
        counts = chaos.counts
    time.sleep(1)
    going.wrong += [f"still there at the end: {' '.join(p.cmdline())}" for p in watch.marked()]
    shared = going.left("/dev/shm") if "/dev/shm" in going.places else ()
    going.wrong += [f"left in /dev/shm at the end: {name}" for name in sorted(shared)]
    going.wrong += [f"nobody asked how it ended: {one}" for one in sorted(watch.unreaped)]
    table = rows(watch)
    show(table)
    killed, asked = Counter(going.killed), sum(counts.values())
    turns = ", ".join(f"{n} {turn}" for turn, n in going.runs.items())
    print(f"{options.minutes:g} minutes, {number} runs ({turns}), {watch.blocks} blocks")
    print(
        f"{asked} requests, {asked - counts['']} with a fault; killed: {killed['worker']} workers, {killed['driver']} drivers"
    )
    for one in going.again:
        print(f"done by the same command again: {one}")
    if options.samples:
        write_samples(options.samples, watch)
    early = sorted({row.role for row in table if lasting(row.role) and not row.watched})
    if early:
        print(f"too few runs to judge growth ({ENOUGH} after {WARM:.0f} s are needed) of: {', '.join(early)}")
    return going.wrong + [one for row in table for one in row.complaints()]


def write_samples(path: Path, watch: Watch) -> None:
    """Write every sample as a line of commas."""
    names = list(Sample.__dataclass_fields__)
    lines = [f"when,role,pid,{','.join(names)}"]
    for when, series in (("running", watch.series), ("rest", watch.rest)):
        for (role, pid), samples in series.items():
            lines += [f"{when},{role},{pid},{','.join(str(getattr(s, n)) for n in names)}" for s in samples]
    path.write_text("\n".join(lines))


def private(arguments: list[str]) -> None:
    """Go on in a mount namespace with an empty /tmp and /dev/shm, where that is allowed and nothing that is needed is in /tmp."""
    here = any(Path(p).resolve().is_relative_to("/tmp") for p in (__file__, sys.executable, sys.prefix))
    may = shutil.which("unshare") and not subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode
    if os.environ.get(PRIVATE) or here or not may:
        return
    script = 'mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs /tmp && exec "$@"'
    os.environ[PRIVATE] = "yes"
    os.execvp("unshare", ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, *arguments])


def main() -> None:
    """Soak, and exit 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--faults", type=float, default=0.05, help="share of requests that meet a fault")
    parser.add_argument(
        "--kill-every", type=float, default=30, help="seconds between two kills of a worker, on average"
    )
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--samples", type=Path, help="a CSV file for every sample")
    options: Any = parser.parse_args()
    private(sys.argv)
    if options.samples and not options.samples.absolute().parent.is_dir():
        parser.error(
            f"--samples: there is no folder {options.samples.absolute().parent} (the soak has a /tmp of its own)"
        )
    random.seed(options.seed)
    where = "its own /tmp and /dev/shm" if os.environ.get(PRIVATE) else "the machine's /tmp, at which it does not look"
    print(f"seed {options.seed}; {where}", flush=True)
    with tempfile.TemporaryDirectory(prefix="ndbatch-soak-") as top:
        wrong = soak(Path(top), options)
    for one in wrong:
        print(f"WRONG: {one}")
    print(
        "nothing that was judged grew, nothing was left, every byte as undisturbed"
        if not wrong
        else f"{len(wrong)} things are wrong"
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
