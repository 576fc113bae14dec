"""Is each default of `DeepRNN` and `TrainConfig` the best of its kind?

`make defaults` runs this, in a quarter of an hour on two cores. One switch at a time is turned
around the defaults, on tinyshakespeare, with two seeds and 400 steps. It measures what
`hlstm/results/defaults.json` lacks, and keeps each run as soon as it is measured.
"""

import functools
import hashlib
import inspect
import math
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import tyro
from torch import Tensor

import hlstm
from benchmarks.provenance import provenance
from benchmarks.runner import Stopwatch, in_processes, read_json, write_json
from hlstm.training import pick_precision

RESULT = Path(__file__).parent.parent / "hlstm" / "results" / "defaults.json"
STEPS = 400
SEEDS = (0, 1)
# What is tried. The default is among the values of its row.
TRAINING: dict[str, tuple[Any, ...]] = {
    "learning_rate": (1e-2, 1.5e-2, 2e-2),
    "batch_size": (16, 32, 64),
    "sequence_length": (32, 64, 128),
    "warmup_steps": (0, 50, 200),
    "weight_decay": (0.0, 0.01, 0.1),
    "max_norm": (0.25, 1.0, 5.0),
    "ema": (0.0, 0.99),
    "reset": (0.0, 0.01),
    "precision": ("float32", "bfloat16"),
}
NETWORK: dict[str, tuple[Any, ...]] = {
    "num_layers": (1, 2, 3),
    "dropout": (0.0, 0.1, 0.2),
    "weight_drop": (0.0, 0.1),
    "tied": (False, True),
    "column_bound": (None, 1.0, 1.7, 2.5),
    "forget_bias": (-1.0, 0.0, 1.0),
}
# At an equal number of characters.
LENGTHS = ("batch_size", "sequence_length")
# What is not tried, or not decided by the loss, and why.
REASONS = {
    "batch_size": "smaller batches make more steps of as many characters, which is worth "
    "most in a run as short as these, and keep two threads or a GPU less busy",
    "sequence_length": "shorter windows make more steps of as many characters, which is "
    "worth most in a run as short as these, and cut the way back sooner",
    "vocab": "the text decides",
    "hidden_size": "a matter of time: see suggest.json",
    "steps": "a matter of time: see suggest.json",
    "dropout_head": "None takes that of dropout",
    "locked": "there is nothing to lock without dropout",
    "engine": "changes the speed, not the loss: see speed.json",
    "accumulate": "changes the memory, not the loss",
    "precision": "auto takes bfloat16 where the processor computes in it, for its speed",
    "eval_every": "changes what is seen of a run, not the run",
    "seed": "none is better than another",
    "save_every": "changes what survives a crash, not the loss",
    "keep_checkpoints": "changes what survives a crash, not the loss",
}


@functools.cache
def corpus() -> tuple[hlstm.Vocabulary, Tensor, Tensor, dict[str, Any]]:
    """The benchmark text, split as in chapter 15, and a record of it."""
    text = hlstm.load_corpus("tinyshakespeare")
    vocab = hlstm.Vocabulary.from_text(text)
    train_ids, val_ids = hlstm.train_val_split(vocab.encode(text))
    record = {
        "name": "tinyshakespeare",
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "train": len(train_ids),
        "val": len(val_ids),
        "loss": "at the end, 32 streams, nats per character",
        "seconds": "of one core, for the training steps",
    }
    return vocab, train_ids, val_ids, record


def default_network() -> dict[str, Any]:
    """What `DeepRNN` takes beside a vocabulary, with its defaults."""
    parameters = inspect.signature(hlstm.DeepRNN).parameters
    return {k: p.default for k, p in parameters.items() if k != "vocab"}


def default_config(steps: int) -> hlstm.TrainConfig:
    """The defaults of `TrainConfig`; only the last of the losses is needed."""
    return hlstm.TrainConfig(steps=steps, eval_every=0)


def default_value(name: str, precision: str) -> str:
    """The default of a switch as a key of its row; `precision` is what "auto" takes."""
    default = {**default_network(), **asdict(default_config(STEPS))}[name]
    return precision if name == "precision" else str(default)


def plan(
    precision: str, steps: int = STEPS
) -> dict[str, tuple[dict[str, Any], hlstm.TrainConfig]]:
    """Each variant by its name, `switch=value`, with options of network and training.

    A value that is the default has no run of its own; `precision` is what "auto" takes.
    """
    network, config = default_network(), default_config(steps)
    found = {"defaults": (network, config)}
    for name, values in {**TRAINING, **NETWORK}.items():
        default = default_value(name, precision)
        for value in (value for value in values if str(value) != default):
            changes: dict[str, Any] = {name: value}
            if name in LENGTHS:
                changes["steps"] = round(steps * getattr(config, name) / value)
            if name in NETWORK:
                found[f"{name}={value}"] = {**network, **changes}, config
            else:
                found[f"{name}={value}"] = network, replace(config, **changes)
    return found


def measure_run(network: dict[str, Any], config: hlstm.TrainConfig) -> dict[str, Any]:
    """Train, and measure at the end."""
    vocab, train_ids, val_ids, _ = corpus()
    torch.manual_seed(config.seed)
    net, watch = hlstm.DeepRNN(vocab, **network), Stopwatch()
    trainer = hlstm.Trainer(net, config, callbacks=(watch,), progress=False)
    history = trainer.fit(train_ids, val_ids)
    return {
        "network": network,
        "config": asdict(config),
        "precision": pick_precision(config.precision, net),
        "loss": history.val_loss[-1],
        "seconds": watch.seconds,
        **provenance(),
    }


def rows(runs: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """The losses by switch and value, one for each seed, the defaults' included."""
    losses: dict[str, list[float]] = {}
    for key, run in sorted(runs.items()):
        losses.setdefault(key.rpartition("/")[0], []).append(run["loss"])
    precision = runs["defaults/0"]["precision"]
    found: dict[str, dict[str, list[float]]] = {}
    for name, values in {**TRAINING, **NETWORK}.items():
        default = default_value(name, precision)
        for value in map(str, values):
            key = "defaults" if value == default else f"{name}={value}"
            if key in losses:
                found.setdefault(name, {})[value] = losses[key]
    return found


def standard_error(runs: dict[str, Any]) -> float:
    """What chance does to a difference from the defaults, the mean of two seeds.

    Estimated over all switches from the differences on each seed, as in equation (15.3).
    """
    pairs = []
    for key in {key.rpartition("/")[0] for key in runs} - {"defaults"}:
        differences = [
            runs[f"{key}/{seed}"]["loss"] - runs[f"defaults/{seed}"]["loss"]
            for seed in SEEDS
            if f"{key}/{seed}" in runs
        ]
        if len(differences) == 2:
            pairs.append((differences[0] - differences[1]) ** 2)
    return math.sqrt(mean(pairs) / 4)


def print_table(runs: dict[str, Any]) -> None:
    """Print each row's losses, and by how much they differ from the defaults."""
    basis = mean(runs[f"defaults/{seed}"]["loss"] for seed in SEEDS)
    print(f"defaults {basis:.4f}, standard error {standard_error(runs):.4f}")
    for name, values in rows(runs).items():
        for value, losses in values.items():
            each = " ".join(f"{loss:.4f}" for loss in losses)
            print(f"{name:16}{value:>9}  {mean(losses) - basis:+.4f}  {each}")


def main(
    steps: int = STEPS, only: str = "", result: Path = RESULT, processes: int = 2
) -> None:
    """Measure what is missing, and print the table.

    Parameters
    ----------
    steps
        Of the defaults; other batches and windows read as many characters.
    only
        Measure only what begins like this; the defaults are measured always.
    result
        Where the results are kept.
    processes
        How many runs go on at a time, on one thread each.
    """
    results = read_json(result, {"corpus": {}, "reasons": {}, "runs": {}})
    precision = pick_precision("auto", hlstm.DeepRNN(corpus()[0], 8))
    results |= {"corpus": corpus()[-1], "reasons": REASONS, "precision": precision}
    missing = {}
    for name, (network, config) in plan(precision, steps).items():
        for seed in SEEDS:
            job = (network, replace(config, seed=seed))
            known = results["runs"].get(f"{name}/{seed}", {})
            same = known and (known["network"], known["config"]) == (
                job[0],
                asdict(job[1]),
            )
            if not same and (name == "defaults" or name.startswith(only)):
                missing[f"{name}/{seed}"] = job
    for name, run in in_processes(measure_run, missing, processes):
        results["runs"][name] = run
        results["runs"] = dict(sorted(results["runs"].items()))
        write_json(result, results)
        print(f"{name}: {run['loss']:.4f} in {run['seconds']:.0f} s", flush=True)
    print_table(results["runs"])


if __name__ == "__main__":
    tyro.cli(main)
