"""How well do small networks predict tinyshakespeare, and what made the difference?

`make quality` runs this. It measures what `hlstm/results/quality.json` lacks, adds it to
the file as soon as it is measured, and prints the tables. A run that was interrupted goes
on from its newest checkpoint. To measure something again, delete its entry.

    python -m benchmarks.quality all                        what is missing
    python -m benchmarks.quality all --only headline/0      one run, or one section
    python -m benchmarks.quality attempt --name mine --changes hidden_size=512 steps=5000
"""

import ast
import bz2
import copy
import gzip
import hashlib
import json
import lzma
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import tyro
from torch import Tensor

import hlstm
from benchmarks.extras import hang_up, trainer_for
from benchmarks.provenance import provenance
from benchmarks.recipe import HEADLINE, Recipe, plan
from benchmarks.runner import Stopwatch, read_json, rounded, write_json
from hlstm.ngrams import witten_bell

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "hlstm" / "results" / "quality.json"
BUILD = ROOT / "_build" / "quality"  # weights, and runs that are not finished
CORES = os.cpu_count() or 1


# Protocols


def protocols(net: hlstm.DeepRNN, ids: Tensor) -> dict[str, float]:
    """The loss in nats per character under each protocol, over the whole text.

    `streaming`: one stream from a zero state, every character but the first predicted.
    `windows_256`: the same characters, but each window of 256 starts from a zero state.
    `streams_32`: 32 contiguous streams side by side, each from a zero state; fast, and what
    is measured while a network learns.
    """
    return {
        "streaming": hlstm.evaluate(net, ids, batch_size=1),
        "windows_256": hlstm.evaluate(net, ids, 64, 256, carry=False),
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
    return read_json(RESULT, {"runs": {}})


def store(section: str, value: Any, run: str | None = None) -> None:
    """Add a section, or a run, to the results."""
    results = read_results()
    if run is None:
        results[section] = value
    else:
        results[section][run] = value
    write_json(RESULT, results)


class Watch(Stopwatch):
    """A stopwatch of the clock on the wall that shows how far a run is."""

    def __init__(self) -> None:
        super().__init__(time.perf_counter)

    def on_evaluation(self, trainer: hlstm.Trainer) -> None:
        """Show the held-out loss."""
        step, loss = trainer.history.val_step[-1], trainer.history.val_loss[-1]
        print(f"step {step} of {trainer.config.steps}: {loss:.4f}", flush=True)


def weights_path(name: str) -> Path:
    """Where a run's network is."""
    return BUILD / f"{name.replace('/', '-').replace(' ', '_')}.safetensors"


def begin_or_resume(
    vocab: hlstm.Vocabulary, recipe: Recipe, seed: int, folder: Path, watch: Watch
) -> hlstm.Trainer:
    """Return the trainer of a run, as it stands in its folder."""
    told = json.dumps({**recipe.options(), "seed": seed}, indent=1)
    note, kind = folder / "recipe.json", trainer_for(recipe.extras)
    folder.mkdir(parents=True, exist_ok=True)
    if note.exists() and note.read_text("utf-8") != told:
        raise ValueError(f"{folder} is of another run: move it away to start afresh")
    if hlstm.runs.checkpoints(folder):
        trainer = kind.resume(folder, callbacks=[watch], progress=False)
    else:
        torch.manual_seed(seed)
        config = replace(recipe.config, seed=seed)
        net = hlstm.DeepRNN(vocab, **recipe.network)
        trainer = kind(net, config, callbacks=[watch], progress=False)
        note.write_text(told, "utf-8")
    hang_up(trainer.net, recipe.extras)
    return trainer


def share(train_ids: Tensor, recipe: Recipe) -> Tensor:
    """Return the part of the training text that a recipe reads: its end."""
    part = recipe.options()["extras"]["text_share"]
    return train_ids[-round(part * len(train_ids)) :]


def story(history: hlstm.training.History, watch: Watch) -> list[dict[str, float]]:
    """Return a line an evaluation: what was learned since the last, and what it gave."""
    lines, before = [], 0
    for step, val_loss in zip(history.val_step, history.val_loss, strict=True):
        lines.append(
            {
                "step": step,
                "seconds": round(watch.at(step), 1),
                "loss": mean(history.loss[before:step]),
                "val_loss": val_loss,
            }
        )
        before = step
    return lines


def measure_run(
    corpus: Corpus, name: str, recipe: Recipe, seed: int, every_protocol: bool
) -> dict[str, Any]:
    """Follow a recipe, save the network, and measure what was saved."""
    path, watch = weights_path(name), Watch()
    folder = path.with_suffix("")
    trainer = begin_or_resume(corpus.vocab, recipe, seed, folder, watch)
    hlstm.evaluate(trainer.net, corpus.val_ids[:100])  # compiles what is compiled once
    history = trainer.fit(share(corpus.train_ids, recipe), corpus.val_ids, folder)
    trainer.judged.save(path)
    # What is judged with a hook, as zoneout is, is no plain network.
    net = hlstm.load_model(path) if every_protocol else trainer.judged
    if every_protocol:
        val_loss = protocols(net, corpus.val_ids)
    else:
        val_loss = {"streams_32": hlstm.evaluate(net, corpus.val_ids)}
    part = corpus.train_ids[-len(corpus.val_ids) :]
    learned = [p.numel() for p in trainer.net.parameters() if p.requires_grad]
    result = {
        "recipe": recipe.options(),
        "seed": seed,
        "trainer": "hlstm.Trainer",
        "parameters": sum(p.numel() for p in net.parameters()),
        "trained_parameters": sum(learned),
        "val_loss": val_loss,
        "train_loss": hlstm.evaluate(net, part),
        "seconds": round(watch.seconds, 1),
        "timed_steps": watch.timed_steps,
        "history": story(history, watch),
        "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        **provenance(),
    }
    shutil.rmtree(folder)
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
        if name.startswith(only) and (known or {}).get("recipe") != recipe.options():
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


def attempt(
    name: str, changes: tuple[str, ...] = (), seed: int = 0, threads: int = CORES
) -> None:
    """Try a recipe; the result goes to _build/quality/attempt-NAME.json.

    Parameters
    ----------
    name
        Of the attempt.
    changes
        Options that differ from the headline's, such as hidden_size=512 or tied=True.
    seed
        Of weights, masks and offsets.
    threads
        Threads to compute with.
    """
    torch.set_num_threads(threads)
    pairs = (change.partition("=") for change in changes)
    recipe = HEADLINE.change(
        **{key: ast.literal_eval(value) for key, _, value in pairs}
    )
    result = measure_run(Corpus(), f"attempt/{name}", recipe, seed, True)
    path = weights_path(f"attempt/{name}").with_suffix(".json")
    write_json(path, result)
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
        kept = {
            k: v
            for k, v in values
            if k not in ("processor", "machine", "versions", "date")
        }
        print(f"{name}: {json.dumps(kept)}")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"all": measure, "attempt": attempt})
