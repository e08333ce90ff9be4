"""Several processes that answer one port: started, replaced when they die, and stopped together."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType

Answer = Callable[[socket.socket], None]
"""What a process does with the socket, until SIGTERM; picklable."""
SOON = 1.0
"""Seconds before a process that died is replaced, so that one which dies at its start is not started without end."""


def keep_running(answer: Answer, bound: socket.socket, count: int) -> None:
    """Run `answer` in `count` new processes and return when SIGINT or SIGTERM came and all of them have ended by themselves.

    Call it from the main thread. A process that dies is replaced; the others answer meanwhile.
    """
    stop, stopped = socket.socketpair()
    stop.setblocking(False)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        try:
            stop.send(b"x")
        except BlockingIOError:
            return  # asked many times already

    for number in before:
        signal.signal(number, ask)
    running = [_started(answer, bound) for _ in range(count)]
    try:
        while stopped not in wait([stopped, *(process.sentinel for process in running)]):
            alive = [process for process in running if process.is_alive()]
            if not wait([stopped], timeout=SOON):
                running = alive + [_started(answer, bound) for _ in range(count - len(alive))]
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()
        stopped.close()


def _started(answer: Answer, bound: socket.socket) -> BaseProcess:
    """Return a new process that answers; spawned, because libraries with threads of their own do not survive a fork."""
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(answer, bound), name="ndbatch-serve")
    process.start()
    return process


def _run(answer: Answer, bound: socket.socket) -> None:
    """Answer in this process; end with the process that started it, however that one ended."""
    # SIGTERM ends a process that is still starting, and has answered nothing. uvicorn handles both from then on, and raises
    # the signal again when it has answered what it had taken.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer(bound)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
