"""Told before the first block: workers of other versions, and workers that cannot open what the stage works on."""

from __future__ import annotations

from typing import Any

from ndbatch.errors import ClusterError
from ndbatch.executors.onworker import can_open

EXACT = ("ndbatch", "distributed", "dask", "cloudpickle")
"""Packages whose versions must be the same, since what they say to each other may differ between any two."""
MAJOR = ("numpy",)
"""Packages whose first number must be the same."""


def require_same_versions(client: Any, title: str) -> None:
    """Raise ClusterError where the scheduler or a worker runs another Python, dask or ndbatch than this process."""
    found = client.get_versions(packages=["ndbatch"])
    mine = found["client"]["packages"]
    for address, entry in found["workers"].items():
        theirs = (entry or {}).get("packages") or {}
        if not theirs.get("ndbatch"):
            raise ClusterError(f"{title}: the worker at {address} has no ndbatch; install it there: {_command(mine)}")
        differ = [name for name in EXACT if theirs.get(name) != mine.get(name)]
        differ += [name for name in MAJOR if _first(theirs.get(name)) != _first(mine.get(name))]
        if _minor(theirs["python"]) != _minor(mine["python"]):
            differ.insert(0, "python")
        if differ:
            said = ", ".join(f"{name} {theirs.get(name)} (here {mine.get(name)})" for name in differ)
            raise ClusterError(
                f"{title}: the worker at {address} has {said}; use the same environment on both sides, such as {_command(mine)}"
            )


def require_stage_opens(client: Any, stage: str, title: str) -> None:
    """Raise ClusterError where a worker cannot import a function or open a volume of the stage."""
    found = client.run(can_open, stage, on_error="return")
    for address, said in found.items():
        if said and not isinstance(said, OSError):  # that one ended meanwhile, which is not the work's fault
            text = said if isinstance(said, str) else f"{type(said).__name__}: {said}"
            raise ClusterError(
                f"{title}: the worker at {address} cannot open the work: {text}; workers need the same modules and the "
                "same folders as this process (a shared file system, the package installed, cluster: prologue)",
                worker=address,
            )


def _command(mine: dict[str, Any]) -> str:
    return f"pip install ndbatch[dask]=={mine.get('ndbatch')} distributed=={mine.get('distributed')}"


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _first(version: str | None) -> str:
    return (version or "").partition(".")[0]
