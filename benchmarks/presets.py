"""What do the presets of `hlstm train` give on tinyshakespeare, and how long do they take?

`make presets` runs this: the program itself, as a user does, for three seeds each. It
measures what `hlstm/results/presets.json` lacks, and keeps each run as soon as it is
measured. A run that was interrupted goes on from its last checkpoint. To measure something
again, delete its entry.

    python -m benchmarks.presets --only minute        one preset
    python -m benchmarks.presets --only best/0        one run
"""

import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import tyro

import hlstm
from benchmarks.provenance import provenance
from benchmarks.runner import read_json, write_json
from hlstm.recipes import PRESETS
from hlstm.runs import run_info

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "hlstm" / "results" / "presets.json"
BUILD = ROOT / "_build" / "presets"
CORPUS = "tinyshakespeare"
SEEDS = (0, 1, 2)


def train(name: str, seed: int, steps: int | None = None) -> Path:
    """Run the program, or go on with its run; return the folder."""
    folder = BUILD / f"{name}-{seed}"
    options = ["--resume"]
    if not (folder / "corpus.json").exists():
        options = [CORPUS, "--preset", name, "--seed", str(seed)]
        options += [] if steps is None else ["--steps", str(steps)]
    program = [sys.executable, "-m", "hlstm", "train", *options, "--out", str(folder)]
    print(*program[3:], flush=True)
    subprocess.run(program, check=True)
    return folder


def measure_run(name: str, seed: int, steps: int | None) -> dict[str, object]:
    """Train with the program, and read the held-out tenth in one piece, streaming."""
    folder = train(name, seed, steps)
    net, info = hlstm.load_run(folder), run_info(folder)
    ids = net.vocab.encode(hlstm.load_corpus(CORPUS))
    loss = hlstm.evaluate(net, hlstm.train_val_split(ids)[1], batch_size=1)
    shutil.rmtree(folder)
    preset = PRESETS[name]
    return {
        "preset": name,
        "seed": seed,
        "network": preset.network,
        "config": asdict(preset.config),
        "parameters": sum(p.numel() for p in net.parameters()),
        "loss": loss,
        "seconds": info["seconds"],
        **provenance(),
    }


def main(only: str = "", result: Path = RESULT, steps: int | None = None) -> None:
    """Measure what is missing.

    Parameters
    ----------
    only
        Measure only runs whose name, PRESET/SEED, begins like this.
    result
        Where the results are kept.
    steps
        Only to try the program: another number of steps for every preset.
    """
    os.chdir(ROOT)
    results = read_json(result, {"runs": {}})
    results["loss"] = "streaming, last tenth of tinyshakespeare, nats per character"
    results["seconds"] = "of the run, its evaluations included"
    for name, preset in PRESETS.items():
        wanted = {"network": preset.network, "config": asdict(preset.config)}
        for seed in SEEDS:
            key = f"{name}/{seed}"
            known = results["runs"].get(key, {})
            same = all(known.get(k) == value for k, value in wanted.items())
            if key.startswith(only) and not same:
                results["runs"][key] = measure_run(name, seed, steps)
                write_json(result, results)
                run = results["runs"][key]
                print(f"{key}: {run['loss']:.4f} in {run['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
