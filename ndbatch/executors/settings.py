"""What workers are told before they start, wherever they start: threads of libraries, and dask's own settings."""

from __future__ import annotations

SINGLE_THREADED = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
"""Workers are the parallelism: libraries must not start a thread pool each."""

SETTINGS: dict[str, object] = {
    "distributed.worker.memory.target": False,  # nothing but receipts is ever kept on a worker
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,  # the worker's own watch ends it, and says why
    "distributed.scheduler.unknown-task-duration": "2 s",  # a batch is made to take 1 to 5 s
    "distributed.scheduler.default-task-durations": {},
}
"""Of dask, by its own names."""


def environment() -> dict[str, str]:
    """Return the environment variables of a worker: one thread for each library, and `SETTINGS` as dask reads them."""
    return {**SINGLE_THREADED, **{_variable(name): repr(value) for name, value in SETTINGS.items()}}


def _variable(name: str) -> str:
    return "DASK_" + name.upper().replace(".", "__").replace("-", "_")
