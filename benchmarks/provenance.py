"""What every measured result says about where it comes from."""

import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hlstm


def processor() -> str:
    """The name of the processor, as Linux says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1] for line in lines if line.startswith("model name"))
    return next(names, platform.processor()).strip()


def provenance() -> dict[str, Any]:
    """The processor, the machine, the threads, the versions and the day."""
    return {
        "processor": processor(),
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
