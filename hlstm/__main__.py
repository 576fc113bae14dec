"""Runs the command line: python -m hlstm."""

import sys

from .cli import main

sys.exit(main())
