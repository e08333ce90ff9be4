"""What queues other than Slurm say of jobs: the commands of a site, by programs that print what its manual pages show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ndbatch.executors.queues import QUEUES, Standing

LSF = """11|PEND||New job is waiting for scheduling
12|RUN||
13|EXIT|TERM_MEMLIMIT: job killed after reaching LSF memory usage limit|
14|EXIT|TERM_RUNLIMIT: job killed after reaching LSF run time limit|
15|EXIT|TERM_OWNER: job killed by owner|
"""
PBS = json.dumps(
    {
        "Jobs": {
            "11.site": {"job_state": "Q", "comment": "Not Running: Insufficient amount of resource: ncpus"},
            "12.site": {"job_state": "R", "comment": "Job run at noon"},
            "13.site": {"job_state": "F", "Exit_status": -27, "comment": ""},
            "14.site": {"job_state": "F", "Exit_status": -29, "comment": ""},
            "15.site": {"job_state": "F", "Exit_status": 271, "comment": ""},
        }
    }
)
QSTAT = """job-ID  prior   name       user         state submit/start at     queue   slots ja-task-ID
-----------------------------------------------------------------------------------------
     11 0.00000 dask       me           qw    11/21/2026 14:00:00              1
     12 0.55500 dask       me           r     11/21/2026 14:00:01 all.q@node   1
"""
QACCT = """qname        all.q
failed       100 : assumedly after job
exit_status  137
maxvmem      2.1G
"""
CONDOR = json.dumps(
    [
        {"ClusterId": 11, "ProcId": 0, "JobStatus": 1, "LastRejMatchReason": "no match found"},
        {"ClusterId": 12, "ProcId": 0, "JobStatus": 2},
        {"ClusterId": 13, "ProcId": 0, "JobStatus": 3, "RemoveReason": "memory limit exceeded"},
        {"ClusterId": 15, "ProcId": 0, "JobStatus": 3, "RemoveReason": "via condor_rm by me"},
    ]
)
PROGRAMS = {
    "lsf": {"bjobs": LSF},
    "pbs": {"qstat": PBS},
    "sge": {"qstat": QSTAT, "qacct": QACCT},
    "htcondor": {"condor_q": CONDOR},
}


def site(kind: str, folder: Path) -> None:
    """Make the commands of a site, which print the same whatever they are asked."""
    for name, text in PROGRAMS[kind].items():
        (folder / f"{name}.txt").write_text(text)
        program = folder / name
        program.write_text(f"#!/bin/sh\ncat {folder}/{name}.txt\n")
        program.chmod(0o755)


@pytest.mark.parametrize(
    ("kind", "standings"),
    [
        ("lsf", {"11": ("waiting", "waiting for scheduling", ""), "12": ("running", "", ""),
                 "13": ("ended", "MEMLIMIT", "memory"), "14": ("ended", "RUNLIMIT", "walltime"),
                 "15": ("ended", "OWNER", "cancelled")}),
        ("pbs", {"11": ("waiting", "Insufficient amount", ""), "12": ("running", "", ""),
                 "13": ("ended", "-27", "memory"), "14": ("ended", "-29", "walltime"), "15": ("ended", "271", "cancelled")}),
        ("sge", {"11": ("waiting", "qw", ""), "12": ("running", "r", ""), "15": ("ended", "2.1G used", "cancelled")}),
        ("htcondor", {"11.0": ("waiting", "no match", ""), "12.0": ("running", "", ""),
                      "13.0": ("ended", "memory limit", "memory"), "15.0": ("ended", "condor_rm", "cancelled")}),
    ],
)  # fmt: skip
def test_jobs_of_a_queue_stand_where_it_says(
    kind: str, standings: dict[str, tuple[str, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site(kind, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = QUEUES[kind]().ask(list(standings))
    for job, (state, words, cause) in standings.items():
        assert (found[job].state, found[job].cause) == (state, cause), job
        assert words in found[job].words


@pytest.mark.parametrize("kind", ["lsf", "pbs", "sge", "htcondor", "slurm"])
def test_a_queue_whose_commands_are_absent_says_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    empty: dict[str, Standing] = {}
    assert QUEUES[kind]().ask(["11"]) == empty
