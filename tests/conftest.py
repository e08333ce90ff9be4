"""What all tests begin with."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that is no terminal starts commands with `&` so; what a test starts would inherit it, and Ctrl-C would mean nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)
