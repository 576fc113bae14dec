"""Starts the command line: hlstm, or python -m hlstm."""

import os
import signal
import sys


def fill_closed_streams() -> bool:
    """Put the null device where a stream is closed, so that no file takes its place.

    Returns whether somebody may read stdout.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    read = sys.stdout is not None
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)
    return read


def start() -> int:
    """Import `hlstm.cli` and run its `main`; return the exit code."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual:
        # While PyTorch loads, Ctrl-C as an exception would be swallowed, or crash.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    if not fill_closed_streams():
        print("hlstm: stdout is closed, and results go there", file=sys.stderr)
        return 1
    from hlstm.cli import main

    if usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return main()


if __name__ == "__main__":
    sys.exit(start())
