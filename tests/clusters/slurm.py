"""A Slurm of one node, from the distribution's packages, in a folder: its own munged, slurmctld and slurmd, its own ports.

Nothing of the machine's configuration is read or changed; two of them can run side by side. `python -m
tests.clusters.slurm FOLDER` starts one, prints the SLURM_CONF to export, and stops it when standard input closes.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
UP_WITHIN = 30.0
"""Seconds that the daemons get to answer; they take about two."""
CONFIGURATION = """
ClusterName=ndbatch
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={munge}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MinJobAge=300
KillWait=3
OverTimeLimit=0
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime={longest} State=UP
PartitionName=closed Nodes={host} MaxTime=INFINITE State=DOWN
"""


def absent() -> str:
    """Return why no Slurm can be started here, or nothing."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "only root may start slurmctld and slurmd"


class OneNodeSlurm:
    """A context manager: the daemons run inside it, with `cpus` made-up cores and `memory` MB."""

    def __init__(self, folder: Path, cpus: int = 4, memory: int = 8000, longest: str = "60") -> None:
        self.folder, self.cpus, self.memory, self.longest = folder, cpus, memory, longest
        self.configuration = folder / "slurm.conf"
        self._processes: list[subprocess.Popen[bytes]] = []
        # A socket's name may not be longer than 107 bytes, and munged wants every folder above it safe from others.
        self._socket = Path(tempfile.mkdtemp(prefix="ndbatch-munge-", dir="/run"))

    @property
    def environment(self) -> dict[str, str]:
        """The variable that makes sbatch and the others talk to this Slurm."""
        return {"SLURM_CONF": str(self.configuration)}

    def __enter__(self) -> Self:
        try:
            self._munged()
            self._slurm()
            self._wait()
        except BaseException:
            self.close()
            raise
        return self

    def _munged(self) -> None:
        user = pwd.getpwnam("munge")
        os.chown(self._socket, user.pw_uid, user.pw_gid)
        self._socket.chmod(0o755)
        key = self._socket / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        os.chown(key, user.pw_uid, user.pw_gid)
        at = {
            "--socket": "socket",
            "--key-file": "key",
            "--pid-file": "pid",
            "--seed-file": "seed",
            "--log-file": "log",
        }
        options = [f"{option}={self._socket / name}" for option, name in at.items()]
        self._start(["munged", "--foreground", "--num-threads=2", *options], user=user.pw_uid, group=user.pw_gid)
        self._until(lambda: (self._socket / "socket").exists(), "munged")

    def _slurm(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        host = socket.gethostname().split(".")[0]
        ports = _free_ports(2)
        self.configuration.write_text(
            CONFIGURATION.format(
                host=host,
                controller=ports[0],
                daemon=ports[1],
                munge=self._socket / "socket",
                folder=self.folder,
                cpus=self.cpus,
                memory=self.memory,
                longest=self.longest,
            )
        )
        self._start(["slurmctld", "-D", "-i", "-f", str(self.configuration)])
        self._start(["slurmd", "-D", "-N", host, "-f", str(self.configuration)])

    def _wait(self) -> None:
        self._until(lambda: "idle" in self.call("sinfo", "-h", "-p", "main", "-o", "%T"), "slurmctld and slurmd")

    def _until(self, true: object, who: str) -> None:
        assert callable(true)
        deadline = time.monotonic() + UP_WITHIN
        while not true():
            if time.monotonic() > deadline or any(p.poll() is not None for p in self._processes):
                logs = "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log")))
                raise RuntimeError(f"{who} did not come up:\n{logs}")
            time.sleep(0.1)

    def _start(self, command: Sequence[str], user: int | None = None, group: int | None = None) -> None:
        quiet = subprocess.DEVNULL
        program = str(shutil.which(command[0], path=_path()))
        self._processes.append(
            subprocess.Popen(
                [program, *command[1:]], stdin=quiet, stdout=quiet, stderr=quiet, user=user, group=group, cwd="/"
            )
        )

    def call(self, *command: str) -> str:
        """Run a command of Slurm against this one; return what it prints, or nothing where it fails."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=180, check=False
        )
        return done.stdout if done.returncode == 0 else ""

    def jobs(self, state: str = "RUNNING") -> list[str]:
        """Return the ids of the jobs in `state`, the oldest first."""
        return self.call("squeue", "-h", "-t", state, "-S", "i", "-o", "%i").split()

    def close(self) -> None:
        """Cancel what is left in the queue and stop the daemons, the last one first."""
        if len(self._processes) == 3:
            for job in self.call("squeue", "-h", "-o", "%i").split():
                self.call("scancel", "--full", job)
            deadline = time.monotonic() + 10
            while self.call("squeue", "-h", "-o", "%i").split() and time.monotonic() < deadline:
                time.sleep(0.1)
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(timeout=180)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        shutil.rmtree(self._socket, ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [entry.getsockname()[1] for entry in sockets]
    for entry in sockets:
        entry.close()
    return ports


def main() -> None:
    """Start one in the folder named on the command line, until standard input closes."""
    with OneNodeSlurm(Path(sys.argv[1])) as slurm:
        print(f"export SLURM_CONF={slurm.configuration}", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
