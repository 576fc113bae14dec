"""What loss do networks of four sizes reach, on three lengths of text, in a given time?

`make suggest` runs this, in at most half an hour on two cores of a fast machine. It
measures what `hlstm/results/suggest.json` lacks, and keeps each run as soon as it is
measured, so that it can be interrupted. To measure something again, delete its entry.
"""

import functools
import hashlib
import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

import hlstm
from benchmarks.provenance import provenance
from benchmarks.runner import Stopwatch, in_processes, read_json, write_json
from benchmarks.weights import split_by_play
from hlstm.recipes import network_options, training_config

RESULT = Path(__file__).parent.parent / "hlstm" / "results" / "suggest.json"
SIZES = (512, 256, 128, 64)
BUDGETS = (56.0, 14.0, 4.0)  # seconds of one core
DROPOUT = {100_000: (0.0, 0.3), 1_000_000: (0.0, 0.2), 4_000_000: (0.0,)}
HELD_OUT = 40_000  # characters


@functools.cache
def corpus() -> tuple[hlstm.Vocabulary, Tensor, Tensor, dict[str, Any]]:
    """The vocabulary of the plays, what is learned from, what is held out, and a record.

    The held-out part is the begin of a play that no run learns from.
    """
    text = hlstm.load_corpus("shakespeare")
    train_text, names = split_by_play(text)
    held_out = text[len(train_text) :][:HELD_OUT]
    vocab = hlstm.Vocabulary.from_text(text)
    record = {
        "name": "shakespeare",
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "held_out": {
            "play": names[0],
            "begin": len(train_text),
            "characters": HELD_OUT,
        },
        "loss": "lowest of ten evaluations on the held-out part, nats per character",
        "last_loss": "at the end of the run",
        "seconds": "of one core, for the training steps",
    }
    return vocab, vocab.encode(train_text), vocab.encode(held_out), record


def recipe() -> dict[str, Any]:
    """How networks are built and trained; dropout and steps come in."""
    return {
        str(size): {
            "network": network_options(size, 0.0),
            "config": asdict(training_config(size, 1000)),
        }
        for size in SIZES
    }


def measure_size(size: int) -> float:
    """Characters a second that a network of a size learns from, here and now."""
    return float(measure_run(size, 0.0, 1_000_000, 20_000 // size)["speed"])


def measure_run(
    size: int, dropout: float, characters: int, steps: int
) -> dict[str, Any]:
    """Train on the first characters of the plays, and measure."""
    vocab, train_ids, held_out, _ = corpus()
    config, watch = training_config(size, steps), Stopwatch()
    torch.manual_seed(0)
    net = hlstm.DeepRNN(vocab, **network_options(size, dropout))
    trainer = hlstm.Trainer(net, config, callbacks=(watch,), progress=False)
    history = trainer.fit(train_ids[:characters], held_out)
    read = steps * config.batch_size * config.sequence_length
    return {
        "hidden_size": size,
        "dropout": dropout,
        "characters": characters,
        "steps": steps,
        "loss": min(history.val_loss),
        "last_loss": history.val_loss[-1],
        "seconds": watch.seconds,
        "speed": round(read / watch.seconds),
        **provenance(),
    }


def steps_of(speed: float, seconds: float, size: int) -> int:
    """How many steps a speed allows; at least as many that not all are evaluated."""
    config = training_config(size, steps=1)
    return max(20, round(seconds * speed / config.batch_size / config.sequence_length))


def main(
    budgets: tuple[float, ...] = BUDGETS, result: Path = RESULT, processes: int = 2
) -> None:
    """Measure what is missing.

    Parameters
    ----------
    budgets
        Seconds of one core that runs take.
    result
        Where the results are kept.
    processes
        How many runs go on at a time, on one thread each.
    """
    results = read_json(result, {"corpus": {}, "recipe": {}, "speeds": {}, "runs": []})
    results["corpus"] = corpus()[-1]
    if results["runs"] and results["recipe"] != recipe():
        raise SystemExit(
            f"{result} was measured with another recipe; move it away to start afresh"
        )
    results["recipe"] = recipe()
    # As in the runs, no process computes alone.
    for size in SIZES:
        if str(size) not in results["speeds"]:
            jobs = {f"process {k}": (size,) for k in range(processes)}
            speeds = [speed for _, speed in in_processes(measure_size, jobs, processes)]
            results["speeds"][str(size)] = round(sum(speeds) / len(speeds))
            write_json(result, results)
            print(size, results["speeds"][str(size)], "characters a second", flush=True)
    keys = ("hidden_size", "dropout", "characters", "steps")
    known = {tuple(run[key] for key in keys) for run in results["runs"]}
    missing = {}
    for budget, size in itertools.product(sorted(budgets, reverse=True), SIZES):
        steps = steps_of(results["speeds"][str(size)], budget, size)
        for characters, rates in DROPOUT.items():
            for job in ((size, dropout, characters, steps) for dropout in rates):
                if job not in known:
                    missing[" ".join(map(str, job))] = job
    for name, run in in_processes(measure_run, missing, processes):
        results["runs"].append(run)
        results["runs"].sort(key=lambda run: [run[key] for key in keys])
        write_json(result, results)
        print(f"{name}: {run['loss']:.4f} in {run['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
