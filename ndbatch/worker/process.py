"""The main program of a worker process: `python -m ndbatch.worker.process PIPE PAGE NUMBER`.

A thread empties the pipe at all times, so that neither side ever waits for the other with full hands; when the driver
ends, however it ends, the pipe closes and the worker ends at once.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

from ndbatch.worker.batch import BatchRunner, fault_of
from ndbatch.worker.page import Page
from ndbatch.worker.watch import Watch
from ndbatch.worker.work import Batch, BatchResult, Work


class Broken:
    """A stage that cannot be opened here (a missing file, a module that does not import): every block fails with it."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def run(self, batch: Batch, following: Callable[[], Batch | None]) -> BatchResult:
        """Return the same fault for each block of `batch`."""
        return BatchResult(batch.ticket, faults=tuple(fault_of(block, self._error) for block in batch.blocks))

    def close(self) -> None:
        """Nothing is open."""


def main() -> None:
    """Serve the driver until it closes the pipe."""
    pipe, page, number = Connection(int(sys.argv[1])), Page.attach(int(sys.argv[2])), int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; only the driver decides
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, inbox), daemon=True).start()
    watch = Watch(None, lambda used, limit: page.set_verdict("memory"), page.set_memory)
    runner: BatchRunner | Broken | None = None
    ahead: deque[Work | Batch | Exception] = deque()

    def following() -> Batch | None:
        """Take the next message out of the inbox, if there is one; return it if it is a batch."""
        with suppress(queue.Empty):
            ahead.append(unpickled(inbox.get_nowait()))
        return ahead[0] if ahead and isinstance(ahead[0], Batch) else None

    with watch:
        while True:
            message = ahead.popleft() if ahead else unpickled(inbox.get())
            if isinstance(message, Batch):
                assert runner is not None
                # The worker alone decides whether a batch is begun, and answers for each: so neither guesses of the other.
                untouched = BatchResult(message.ticket, untouched=message.blocks)
                pipe.send(untouched if page.draining else runner.run(message, following))
                continue
            if runner is not None:
                runner.close()
            runner = Broken(message) if isinstance(message, Exception) else _opened(message, number, page)
            watch.limit = message.memory_limit if isinstance(message, Work) else None


def _receive(pipe: Connection, inbox: queue.SimpleQueue[bytes]) -> None:
    try:
        while True:
            inbox.put(pipe.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)


def unpickled(data: bytes) -> Work | Batch | Exception:
    """Return the message; work whose volumes or modules do not open here comes back as the error."""
    import pickle

    try:
        message: Work | Batch = pickle.loads(data)
    except Exception as error:
        return error
    return message


def _opened(work: Work, number: int, page: Page) -> BatchRunner:
    return BatchRunner(work, number, lambda block: page.set_block(block, time.monotonic()))


if __name__ == "__main__":
    main()
