"""`python -m ndbatch` is the command `ndbatch`, and this is where both begin and end."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; Ctrl-C ends with exit code 3 also while modules are imported and while Python shuts down."""
    try:
        from ndbatch.cli.app import main as command_line

        command_line()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(3) from None
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and said: the exit code stands
        # Where a KeyboardInterrupt has left an exec of text (dataclasses make their methods by one), CPython ends the
        # process by the signal, whatever its exit code, unless such an exec has succeeded since.
        exec("")


if __name__ == "__main__":
    main()
