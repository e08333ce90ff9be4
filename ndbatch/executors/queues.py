"""What a queue says of its jobs, in its own words: why they wait, and why they ended.

Each queue is asked by its own commands, for many jobs at once and never more than a few times a minute; a command that is
absent, slow or fails says nothing, and nothing is made up. The formats are those of the commands' manual pages: squeue(1)
and sacct(1) of Slurm, bjobs(1) of LSF, qstat(1B) of PBS with -F json, qstat(1) and qacct(1) of Grid Engine, condor_q(1).
"""

from __future__ import annotations

import json
import re
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

State = Literal["waiting", "running", "ended"]
Cause = Literal["", "memory", "walltime", "cancelled", "node"]
"""Why a job ended: it took too much memory, reached its walltime, was cancelled or preempted, or its machine went away."""
ANSWER_WITHIN = 20.0
"""Seconds a queue's command gets."""
_NO_MEMORY = re.compile(
    r"exceeded (job |step )?memory limit|oom[-_ ]?kill|out[ -]of[ -]memory|TERM_MEMLIMIT|memory limit exceeded", re.I
)


@dataclass(frozen=True)
class Standing:
    """Where a job stands; `words` are the queue's own."""

    state: State
    words: str = ""
    cause: Cause = ""


class Queue(ABC):
    """Asks one kind of queue. Job ids are texts, as the submit command printed them."""

    @abstractmethod
    def ask(self, jobs: Sequence[str]) -> dict[str, Standing]:
        """Return where each of `jobs` stands; those that the queue does not know are left out."""


class Slurm(Queue):
    """Slurm, by squeue while it remembers the job and by sacct after that."""

    _CAUSES: Mapping[str, Cause] = {
        "OUT_OF_MEMORY": "memory",
        "TIMEOUT": "walltime",
        "DEADLINE": "walltime",
        "CANCELLED": "cancelled",
        "PREEMPTED": "cancelled",
        "REVOKED": "cancelled",
        "NODE_FAIL": "node",
        "BOOT_FAIL": "node",
    }

    def ask(self, jobs: Sequence[str]) -> dict[str, Standing]:
        """Return where each of `jobs` stands."""
        lines = said("squeue", "--noheader", "--states=all", f"--jobs={','.join(jobs)}", "--format=%i|%T|%r")
        found = {job: self._standing(state, reason) for job, state, reason in _fields(lines, 3)}
        missing = [job for job in jobs if job not in found]
        if missing:
            fields = "JobIDRaw,State,ExitCode,MaxRSS,ReqMem"
            lines = said("sacct", "--noheader", "--parsable2", f"--jobs={','.join(missing)}", f"--format={fields}")
            for job, state, code, used, asked in _fields(lines, 5):
                if job in missing:
                    more = f", exit code {code}, {used or 'unknown'} of {asked} used" if code else ""
                    standing = self._standing(state, "")
                    found[job] = replace(standing, words=standing.words + more)
        return found

    def _standing(self, state: str, reason: str) -> Standing:
        plain = state.split()[0].rstrip("+") if state else ""
        words = f"{plain} ({reason})" if reason and reason != "None" else state
        if plain in ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED"):
            return Standing("waiting", words)
        if plain in ("RUNNING", "COMPLETING", "STAGE_OUT"):
            return Standing("running", words)
        return Standing("ended", words, self._CAUSES.get(plain, ""))


class Lsf(Queue):
    """LSF, by bjobs."""

    def ask(self, jobs: Sequence[str]) -> dict[str, Standing]:
        """Return where each of `jobs` stands."""
        wanted = "jobid stat exit_reason pend_reason delimiter='|'"
        found = {}
        for job, state, ended, waits in _fields(said("bjobs", "-a", "-noheader", "-o", wanted, *jobs), 4):
            if state in ("PEND", "PSUSP", "WAIT"):
                found[job] = Standing("waiting", f"{state}: {waits}")
            elif state in ("RUN", "USUSP", "SSUSP"):
                found[job] = Standing("running", state)
            else:
                cause: Cause = "memory" if "MEMLIMIT" in ended else "walltime" if "RUNLIMIT" in ended else ""
                cause = "cancelled" if re.search("TERM_OWNER|TERM_ADMIN|TERM_PREEMPT", ended) else cause
                found[job] = Standing("ended", f"{state}: {ended}", cause)
        return found


class Pbs(Queue):
    """PBS (OpenPBS, PBS Pro), by qstat."""

    def ask(self, jobs: Sequence[str]) -> dict[str, Standing]:
        """Return where each of `jobs` stands."""
        found = {}
        for name, entry in _json(said("qstat", "-x", "-f", "-F", "json", *jobs)).get("Jobs", {}).items():
            job = next((j for j in jobs if name == j or name.split(".")[0] == j.split(".")[0]), name)
            state, comment = entry.get("job_state", ""), str(entry.get("comment", ""))
            if state in ("Q", "H", "W", "T", "S", "U"):
                found[job] = Standing("waiting", f"{state}: {comment}")
            elif state in ("R", "E", "B"):
                found[job] = Standing("running", comment)
            else:
                code = entry.get("Exit_status")
                # OpenPBS: -26 is the limit of virtual memory, -27 that of memory, -29 the walltime; 271 is SIGTERM (qdel).
                cause: Cause = "walltime" if code == -29 else "memory" if code in (-26, -27) else ""
                cause = "cancelled" if code == 271 else cause
                found[job] = Standing("ended", f"exit status {code}; {comment}", cause)
        return found


class Sge(Queue):
    """Grid Engine, by qstat while a job is there and by qacct after that."""

    def ask(self, jobs: Sequence[str]) -> dict[str, Standing]:
        """Return where each of `jobs` stands."""
        found = {}
        for line in said("qstat", "-u", "*").splitlines()[2:]:
            words = line.split()
            if len(words) > 4 and words[0] in jobs:
                waits = "q" in words[4] or "E" in words[4]
                found[words[0]] = Standing("waiting" if waits else "running", words[4])
        for job in jobs:
            if job in found and found[job].state == "waiting":
                told = said("qstat", "-j", job)
                why = re.findall(r"(?:scheduling info|error reason[^:]*):\s*(.+)", told)
                found[job] = replace(found[job], words="; ".join([found[job].words, *why]))
            elif job not in found and (told := said("qacct", "-j", job)):
                facts = dict(re.findall(r"^(\w+)\s+(.+?)\s*$", told, re.M))
                end = f"failed {facts.get('failed', '?')}, exit status {facts.get('exit_status', '?')}"
                cause: Cause = "cancelled" if facts.get("failed", "").startswith("100") else ""
                found[job] = Standing("ended", f"{end}, {facts.get('maxvmem', '?')} used", cause)
        return found


class HtCondor(Queue):
    """HTCondor, by condor_q while a job is there and by condor_history after that."""

    _STATES: Mapping[int, State] = {1: "waiting", 2: "running", 5: "waiting", 6: "running", 7: "waiting"}

    def ask(self, jobs: Sequence[str]) -> dict[str, Standing]:
        """Return where each of `jobs` stands."""
        wanted = "-attributes", "ClusterId,ProcId,JobStatus,HoldReason,RemoveReason,LastRejMatchReason,ExitCode"
        found = {}
        for command in ("condor_q", "condor_history"):
            missing = [job for job in jobs if job not in found]
            if not missing:
                break
            for entry in _json(said(command, "-json", *wanted, *missing), []):
                job, state = f"{entry['ClusterId']}.{entry.get('ProcId', 0)}", int(entry.get("JobStatus", 0))
                words = str(
                    entry.get("HoldReason") or entry.get("RemoveReason") or entry.get("LastRejMatchReason") or ""
                )
                cause: Cause = "memory" if _NO_MEMORY.search(words) else "cancelled" if state == 3 else ""
                found[job] = Standing(self._STATES.get(state, "ended"), words or f"JobStatus {state}", cause)
        return found


QUEUES: Mapping[str, type[Queue]] = {"slurm": Slurm, "lsf": Lsf, "pbs": Pbs, "sge": Sge, "htcondor": HtCondor}
"""By the kind of cluster."""


def said(*command: str) -> str:
    """Return what a queue's command prints; nothing where it is absent, fails or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_WITHIN, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def last_words(folder: Path, job: str) -> str:
    """Return the end of what the job wrote to its log files in `folder`, or nothing."""
    text = ""
    for path in sorted(folder.glob(f"*{job.split('.')[0]}*")):
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - 4000))
                text += file.read().decode(errors="replace")
        except OSError:
            continue
    return text


def with_log(standing: Standing, log: str) -> Standing:
    """Return `standing` with the cause that the job's own log names, where the queue names none."""
    if standing.state != "ended" or standing.cause in ("memory", "walltime"):
        return standing
    lines = [line.strip() for line in log.splitlines() if _NO_MEMORY.search(line)]
    return replace(standing, words=f"{standing.words}; {lines[0]}", cause="memory") if lines else standing


def _fields(text: str, number: int) -> Iterator[list[str]]:
    """Yield the lines of `text` that have `number` fields between bars."""
    for line in text.splitlines():
        parts = [part.strip() for part in line.split("|")]
        if len(parts) == number:
            yield parts


def _json(text: str, absent: Any = None) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {} if absent is None else absent
