"""Many short runs, two at a time, each kept as soon as it is measured."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch


class Stopwatch:
    """A callback that measures the training steps of a run, and no evaluation.

    In seconds of the processor: a run on one thread takes as many on a quiet machine, and
    other programs beside it add little.

    Attributes
    ----------
    seconds : float
        Of all steps, when the run has ended. A step with an evaluation beside it counts
        as the mean of those without.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._total, self._steps, self._evaluated = 0.0, 0, False

    def on_fit_start(self, trainer: Any) -> None:
        """Start the first step."""
        self._mark = time.process_time()

    def on_evaluation(self, trainer: Any) -> None:
        """Leave this step out."""
        self._evaluated = True

    def on_step_end(self, trainer: Any) -> None:
        """Count the step, and start the next one."""
        if not self._evaluated:
            self._total += time.process_time() - self._mark
            self._steps += 1
        self._mark, self._evaluated = time.process_time(), False

    def on_fit_end(self, trainer: Any) -> None:
        """Say how long all steps took."""
        self.seconds = self._total / self._steps * trainer.config.steps


def read_json(path: Path, empty: dict[str, Any]) -> dict[str, Any]:
    """Return what a file of results holds, or what it begins with."""
    found = json.loads(path.read_text("utf-8")) if path.exists() else empty
    return {**empty, **found}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write results in one piece: a power cut must not cost what took hours."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(rounded(value), indent=1) + "\n", "utf-8")
    os.replace(temporary, path)


def rounded(value: Any) -> Any:
    """Floats with five digits after the point."""
    if isinstance(value, Mapping):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


def in_processes(
    measure: Callable[..., Any], jobs: Mapping[str, tuple[Any, ...]], processes: int = 2
) -> Iterator[tuple[str, Any]]:
    """Run named jobs in processes of one thread each; yield each result when it is there."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        waiting = {pool.submit(measure, *job): name for name, job in jobs.items()}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)
