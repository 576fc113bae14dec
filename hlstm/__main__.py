"""Starts the command line: hlstm, or python -m hlstm."""

import os
import signal
import sys


def start() -> int:
    """Import `hlstm.cli` and run its `main`; return the exit code."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual:
        # While PyTorch loads, Ctrl-C as an exception would be swallowed, or crash.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    from hlstm.cli import main

    if usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return main()


if __name__ == "__main__":
    sys.exit(start())
