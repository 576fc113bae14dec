"""What every measured result says about where it comes from."""

import os
import platform
import time
from typing import Any

import numpy as np
import torch

import hlstm


def provenance() -> dict[str, Any]:
    """The machine, the threads, the versions and the day."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "hlstm": hlstm.__version__,
        },
        "date": time.strftime("%Y-%m-%d"),
    }
