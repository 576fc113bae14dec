"""How well do small networks predict tinyshakespeare, and what made the difference?

`make quality` runs this. It measures what `hlstm/results/quality.json` lacks, adds it to
the file as soon as it is measured, and prints the tables. A run that was interrupted goes
on from its last two minutes. To measure something again, delete its entry.

    python -m benchmarks.quality all                        what is missing
    python -m benchmarks.quality all --only headline/0      one run, or one section
    python -m benchmarks.quality attempt NAME --recipe.epochs 5 ...   a recipe of your own
"""

import bz2
import copy
import gzip
import hashlib
import json
import lzma
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

import hlstm
from benchmarks.provenance import provenance
from benchmarks.recipe import Recipe, start_run, train
from hlstm.ngrams import witten_bell

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "hlstm" / "results" / "quality.json"
BUILD = ROOT / "_build" / "quality"  # weights, and runs that are not finished
CORES = os.cpu_count() or 1

HEADLINE = Recipe(
    hidden_size=384,
    epochs=32,
    batch_size=32,
    sequence_length=64,
    learning_rate=4e-3,
    warmup_steps=200,
    weight_decay=0.1,
    precision="bfloat16",
    dropout_between=0.4,
    dropout_output=0.5,
    weight_drop=0.3,
    column_bound=1.0,
    reset=0.01,
    ema=0.999,
)
QUICK = Recipe(
    hidden_size=192,
    epochs=0.7,
    batch_size=16,
    sequence_length=64,
    learning_rate=1e-2,
    warmup_steps=30,
    precision="bfloat16",
    column_bound=1.5,
)
LONGER = replace(
    QUICK,
    hidden_size=256,
    epochs=5,
    batch_size=32,
    learning_rate=6e-3,
    weight_decay=0.1,
    dropout_between=0.2,
    dropout_output=0.2,
    ema=0.99,
)
# A quarter of the headline's parameters, an eighth of its text, and fewer passes: a run
# takes a minute on one core.
SHORT = Recipe(
    hidden_size=192,
    text_share=0.125,
    epochs=20,
    batch_size=32,
    sequence_length=64,
    learning_rate=4e-3,
    warmup_steps=100,
    precision="bfloat16",
    dropout_between=0.3,
    dropout_output=0.3,
    column_bound=1.0,
)
SWITCHES: dict[str, dict[str, Any]] = {
    "the short recipe": {},
    "no dropout": {"dropout_between": 0.0, "dropout_output": 0.0},
    "dropout between layers only": {"dropout_output": 0.0},
    "dropout before the head only": {"dropout_between": 0.0},
    "twice the dropout": {"dropout_between": 0.6, "dropout_output": 0.6},
    "dropout of input characters": {"dropout_input": 0.1},
    "locked masks": {"locked": True},
    "weight-dropped recurrence": {"weight_drop": 0.3},
    # Its loop over time is that of the reference, which has float32 alone.
    "zoneout": {"zoneout": 0.05, "precision": "float32"},
    "forget bias 0": {"forget_bias": 0.0},
    "columns drawn as in PyTorch": {"column_bound": 0.0},
    "tied head": {"tied": True},
    "fixed stream offsets": {"random_offsets": False},
    "state never carried": {"carry": False},
    "state reset at times": {"reset": 0.02},
    "windows of 128": {"sequence_length": 128, "batch_size": 16},
    "averaged weights": {"ema": 0.998},
    "label smoothing": {"label_smoothing": 0.05},
    "no weight decay": {"weight_decay": 0.0},
    "ten times the weight decay": {"weight_decay": 0.1},
    "float32": {"precision": "float32"},
}


def plan() -> dict[str, tuple[Recipe, int]]:
    """Every run by its name, `group/variant/seed`, with recipe and seed."""
    runs = {f"headline/{seed}": (HEADLINE, seed) for seed in range(3)}
    for name, recipe in {"20 seconds": QUICK, "3 minutes": LONGER}.items():
        runs |= {f"quick/{name}/{seed}": (recipe, seed) for seed in range(3)}
    for name, changed in SWITCHES.items():
        recipe = replace(SHORT, **changed)
        runs |= {f"ablation/{name}/{seed}": (recipe, seed) for seed in range(2)}
    return runs


# Protocols


def windowed_loss(net: hlstm.DeepRNN, ids: Tensor, length: int = 256) -> float:
    """Mean loss where each window of `length` characters starts from a zero state.

    Every character but the first is predicted once; the last window is shorter.
    """
    total, whole = 0.0, (len(ids) - 1) // length * length
    pieces = [*ids[:whole].view(-1, length).split(64), ids[None, whole:-1]]
    targets = [*ids[1 : whole + 1].view(-1, length).split(64), ids[None, whole + 1 :]]
    with torch.no_grad():
        for inputs, wanted in zip(pieces, targets, strict=True):
            if inputs.numel():
                logits, _ = net(inputs)
                total += F.cross_entropy(logits.mT, wanted, reduction="sum").item()
    return total / (len(ids) - 1)


def protocols(net: hlstm.DeepRNN, ids: Tensor) -> dict[str, float]:
    """The loss in nats per character under each protocol, over the whole text.

    `streaming`: one stream from a zero state, every character but the first predicted.
    `windows_256`: see `windowed_loss`. `streams_32`: 32 contiguous streams side by side,
    each from a zero state; fast, and what is measured while a network learns.
    """
    return {
        "streaming": hlstm.evaluate(net, ids, batch_size=1),
        "windows_256": windowed_loss(net, ids),
        "streams_32": hlstm.evaluate(net, ids, batch_size=32),
    }


# Results


class Corpus:
    """The benchmark text, split where nanoGPT splits it."""

    def __init__(self) -> None:
        self.text = hlstm.load_corpus("tinyshakespeare")
        self.vocab = hlstm.Vocabulary.from_text(self.text)
        ids = self.vocab.encode(self.text)
        self.train_ids, self.val_ids = hlstm.train_val_split(ids)
        self.val_text = self.text[len(self.train_ids) :]
        self.sha256 = hashlib.sha256(self.text.encode()).hexdigest()


def read_results() -> dict[str, Any]:
    """What has been measured."""
    if not RESULT.exists():
        return {"runs": {}}
    return json.loads(RESULT.read_text("utf-8"))


def store(section: str, value: Any, run: str | None = None) -> None:
    """Add a section, or a run, to the results."""
    results = read_results()
    if run is None:
        results[section] = value
    else:
        results[section][run] = value
    # A power cut must not cost what took hours.
    temporary = RESULT.with_suffix(".tmp")
    temporary.write_text(json.dumps(rounded(results), indent=1) + "\n", "utf-8")
    os.replace(temporary, RESULT)


def rounded(value: Any) -> Any:
    """Floats with five digits after the point."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


def weights_path(name: str) -> Path:
    """Where a run's network is."""
    return BUILD / f"{name.replace('/', '-').replace(' ', '_')}.safetensors"


def measure_run(
    corpus: Corpus, name: str, recipe: Recipe, seed: int, every_protocol: bool
) -> dict[str, Any]:
    """Follow a recipe, save the network, and measure what was saved."""
    BUILD.mkdir(parents=True, exist_ok=True)
    unfinished = weights_path(name).with_suffix(".run")
    run = start_run(corpus.vocab, recipe, seed)
    protocols(run.learner.net, corpus.val_ids[:100])  # compiles what is compiled once
    train(run, corpus.train_ids, corpus.val_ids, unfinished)
    run.average.plain().save(weights_path(name))
    net = hlstm.load_model(weights_path(name))
    if every_protocol:
        val_loss = protocols(net, corpus.val_ids)
    else:  # as the recipe computes it: zoneout is no plain network
        val_loss = {"streams_32": run.history[-1]["val_loss"]}
    part = corpus.train_ids[-len(corpus.val_ids) :]
    result = {
        "recipe": asdict(recipe),
        "seed": seed,
        "parameters": sum(p.numel() for p in net.parameters()),
        "trained_parameters": sum(p.numel() for p in run.learner.trained()),
        "val_loss": val_loss,
        "train_loss": hlstm.evaluate(net, part),
        "seconds": round(run.seconds, 1),
        "history": run.history,
        "weights_sha256": hashlib.sha256(weights_path(name).read_bytes()).hexdigest(),
        **provenance(),
    }
    unfinished.unlink()
    return result


# What counts, and what does not learn


def ngrams(corpus: Corpus) -> dict[str, Any]:
    """Witten–Bell n-grams: nats per character for n = 1, 2, …"""
    V, found = len(corpus.vocab), {}
    for name, adaptive in {"static": False, "adaptive": True}.items():
        orders = witten_bell(corpus.train_ids, corpus.val_ids, V, 9, adaptive)
        found[name] = [-p.log().mean().item() for p in orders]
    return {**found, **provenance()}


def compressors(corpus: Corpus) -> dict[str, Any]:
    """The validation text in bytes, as it is and after general compressors."""
    data = corpus.val_text.encode()
    return {
        "text": len(data),
        "gzip -9": len(gzip.compress(data, 9)),
        "bzip2 -9": len(bz2.compress(data, 9)),
        "xz -9e": len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)),
        **provenance(),
    }


# Separate lines


def headline_nets() -> list[hlstm.DeepRNN]:
    """The networks of the headline's runs."""
    paths = [weights_path(f"headline/{seed}") for seed in range(3)]
    if gone := [str(path) for path in paths if not path.exists()]:
        raise SystemExit(
            f"missing: {', '.join(gone)}. Delete the entries headline/0 to headline/2 of "
            f"{RESULT} and run again: they train these networks"
        )
    return [hlstm.load_model(path) for path in paths]


def ensemble(corpus: Corpus) -> dict[str, Any]:
    """Streaming loss of the mean of three networks' probabilities."""
    nets, states = headline_nets(), [None] * 3
    total = 0.0
    with torch.no_grad():
        for inputs, targets in hlstm.text.windows(corpus.val_ids, 1, 256):
            outputs = [net(inputs, s) for net, s in zip(nets, states, strict=True)]
            states = [state for _, state in outputs]
            p = torch.stack([logits.softmax(-1) for logits, _ in outputs]).mean(0)
            total -= p.gather(-1, targets[..., None]).log().sum().item()
    return {"streaming": total / (len(corpus.val_ids) - 1), **provenance()}


def dynamic_loss(net: hlstm.DeepRNN, ids: Tensor, rate: float, length: int) -> float:
    """Streaming loss of a network that learns from what it has read.

    After each window, and only after it has been predicted, one step of SGD, clipped.
    After Krause et al. (2018), without their decay towards the first weights.
    """
    net, state, total = copy.deepcopy(net), None, 0.0
    optimizer = torch.optim.SGD(net.parameters(), rate)
    for inputs, targets in hlstm.text.windows(ids, 1, length):
        loss, _, state = hlstm.training.train_step(
            net, optimizer, inputs, targets, state
        )
        total += loss * targets.numel()
    return total / (len(ids) - 1)


def dynamic(corpus: Corpus) -> dict[str, Any]:
    """Dynamic evaluation of the headline's first network; every rate that was tried."""
    net, length = headline_nets()[0], 32
    rates = (0.0, 0.03, 0.1, 0.3, 1.0)
    found = {str(r): dynamic_loss(net, corpus.val_ids, r, length) for r in rates}
    return {"window": length, "streaming": found, **provenance()}


def coder(corpus: Corpus) -> dict[str, Any]:
    """The validation text through `hlstm.compress` and back, one character a step."""
    net = headline_nets()[0]
    began = time.perf_counter()
    data = hlstm.compress(net, corpus.val_text)
    packed = time.perf_counter()
    assert hlstm.decompress(net, data) == corpus.val_text
    return {
        "bytes": len(data),
        "streams": 1,
        "compress_seconds": round(packed - began, 1),
        "decompress_seconds": round(time.perf_counter() - packed, 1),
        "model_bytes_float32": weights_path("headline/0").stat().st_size,
        **provenance(),
    }


SECTIONS: dict[str, Callable[[Corpus], dict[str, Any]]] = {
    "ngrams": ngrams,
    "compressors": compressors,
    "ensemble": ensemble,
    "dynamic": dynamic,
    "coder": coder,
}


# Commands


def missing(only: str) -> Iterator[tuple[str, Recipe, int]]:
    """The runs that the results lack, or have under another recipe."""
    for name, (recipe, seed) in plan().items():
        known = read_results()["runs"].get(name)
        if name.startswith(only) and (known or {}).get("recipe") != asdict(recipe):
            yield name, recipe, seed


def measure(only: str = "", threads: int = CORES) -> None:
    """Measure what is missing, and print the tables.

    Parameters
    ----------
    only
        Measure only runs and sections whose name begins like this.
    threads
        Threads to compute with.
    """
    torch.set_num_threads(threads)
    corpus = Corpus()
    sizes = {"train": len(corpus.train_ids), "val": len(corpus.val_ids)}
    store("corpus", {"name": "tinyshakespeare", "sha256": corpus.sha256, **sizes})
    for name, recipe, seed in missing(only):
        print(f"\n{name}", flush=True)
        whole = not name.startswith("ablation/")
        result = measure_run(corpus, name, recipe, seed, whole)
        command = (
            f"python -m benchmarks.quality all --only '{name}' --threads {threads}"
        )
        store("runs", {**result, "command": command}, name)
    for name, section in SECTIONS.items():
        if name.startswith(only) and name not in read_results():
            print(f"\n{name}", flush=True)
            store(name, section(corpus))
    print_tables(read_results())


def attempt(name: str, recipe: Recipe, seed: int = 0, threads: int = CORES) -> None:
    """Try a recipe; the result goes to _build/quality/attempt-NAME.json.

    Parameters
    ----------
    name
        Of the attempt.
    recipe
        What to change in the recipe.
    seed
        Of weights, masks and offsets.
    threads
        Threads to compute with.
    """
    torch.set_num_threads(threads)
    result = measure_run(Corpus(), f"attempt/{name}", recipe, seed, True)
    path = weights_path(f"attempt/{name}").with_suffix(".json")
    path.write_text(json.dumps(rounded(result), indent=1) + "\n", "utf-8")
    print(json.dumps(rounded(result["val_loss"])), path)


# Tables


def spread(values: list[float]) -> str:
    """Mean and, of several values, sample standard deviation."""
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if values[1:] else "")


def print_tables(results: dict[str, Any]) -> None:
    """Print what has been measured: nats per character."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, run in results["runs"].items():
        groups.setdefault(name.rpartition("/")[0], []).append(run)
    for name, runs in groups.items():
        seconds = mean(run["seconds"] for run in runs)
        losses = "  ".join(
            f"{protocol} {spread([run['val_loss'][protocol] for run in runs])}"
            for protocol in runs[0]["val_loss"]
        )
        print(f"{name}: {losses}, {len(runs)} seeds, {seconds:.0f} s each")
    for name in SECTIONS:
        values = results[name].items() if name in results else ()
        kept = {k: v for k, v in values if k not in ("machine", "versions", "date")}
        print(f"{name}: {json.dumps(kept)}")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"all": measure, "attempt": attempt})
