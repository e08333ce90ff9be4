"""A script that is imported once more for one of its functions must not act once more: no new volumes, no runs.

Workers import the running script to find a function that is defined in it. Where the script has no main guard, all its
lines run again. Its import ends, quietly, where it would create or write a volume or start a run: what stands above is
there, and nothing that other workers have written is undone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_here = threading.local()


class _Acts(BaseException):
    """Ends the import of a script. Not an Exception, so that the script does not handle it."""


@contextmanager
def without_acting() -> Iterator[list[str]]:
    """Import a script in this context, in this thread: it ends where `about_to_act` is called; the list then says why."""
    before, ended = getattr(_here, "importing", False), list[str]()
    _here.importing = True
    try:
        yield ended
    except _Acts as acts:
        ended.append(str(acts))
    finally:
        _here.importing = before


def about_to_act(what: str) -> None:
    """Say that a volume is about to be created or written, or a run begun; ends the import of a script."""
    if getattr(_here, "importing", False):
        raise _Acts(what)
