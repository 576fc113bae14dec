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
    """A callback that measures the training steps of a run, and nothing between them.

    Parameters
    ----------
    clock
        In seconds. That of the processor: a run on one thread takes as many on a quiet
        machine, and other programs beside it add little.

    Attributes
    ----------
    timed_steps : int
        Steps that were measured: those without an evaluation or a checkpoint beside them.
    seconds : float
        Of all steps, when the run has ended.
    """

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self.clock, self.timed_steps, self.seconds = clock, 0, 0.0
        self._total, self._mark, self._between = 0.0, 0.0, None

    def on_fit_start(self, trainer: Any) -> None:
        """Start the first step."""
        self._between = self._others(trainer)
        self._mark = self.clock()

    def on_step_end(self, trainer: Any) -> None:
        """Count the step, and start the next one."""
        others = self._others(trainer)
        if others == self._between:
            self._total += self.clock() - self._mark
            self.timed_steps += 1
        self._mark, self._between = self.clock(), others

    def on_fit_end(self, trainer: Any) -> None:
        """Say how long all steps took."""
        self.seconds = self.at(trainer.config.steps)

    def at(self, step: int) -> float:
        """Return the seconds up to a step, at the mean speed of those that were measured."""
        return self._total / max(1, self.timed_steps) * step

    def _others(self, trainer: Any) -> Any:
        """Return what an evaluation and a checkpoint change."""
        return len(trainer.history.val_step), trainer.checkpoint


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
