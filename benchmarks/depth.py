"""What does depth buy, once each depth has its own learning rate?

`make depth` runs this, in half an hour on one free core. Networks of one, two and
three layers, at an equal number of parameters and at equal width, are trained on
tinyshakespeare. One seed tries all learning rates. Three others run with the best of them and
with half of it, for a rate that one seed survives may be too large for the next; the lower
mean counts. It measures what `hlstm/results/depth.json` lacks, and keeps each run as soon as
it is measured.
"""

import math
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import tyro

import hlstm
from benchmarks.defaults import corpus, default_network, measure_run
from benchmarks.runner import in_processes, read_json, write_json

RESULT = Path(__file__).parent.parent / "hlstm" / "results" / "depth.json"
STEPS = 1500
RATES = (0.01, 0.02, 0.04, 0.08, 0.16)
TUNING_SEED, SEEDS = 0, (1, 2, 3)
# L and H. The last row says whether what the second gains is due to depth or to size.
GROUPS: dict[str, tuple[tuple[int, int], ...]] = {
    "108,000 parameters": ((1, 128), (2, 82), (3, 65)),
    "equal width": ((1, 128), (2, 128), (3, 128)),
    "240,000 parameters": ((1, 207), (2, 128)),
}
Job = tuple[dict[str, Any], hlstm.TrainConfig]


def shapes() -> list[tuple[int, int]]:
    """Each pair of L and H once."""
    return list(dict.fromkeys(shape for group in GROUPS.values() for shape in group))


def job(layers: int, width: int, rate: float, seed: int, steps: int = STEPS) -> Job:
    """Options of network and training of a run; all others are the defaults."""
    network = {**default_network(), "num_layers": layers, "hidden_size": width}
    config = hlstm.TrainConfig(steps=steps, eval_every=0)
    return network, replace(config, learning_rate=rate, seed=seed)


def name_of(layers: int, width: int, rate: float, seed: int) -> str:
    """The name of a run."""
    return f"{layers}x{width}/{rate}/{seed}"


def best_rate(runs: dict[str, Any], layers: int, width: int) -> float:
    """The rate with the lowest loss for the seed that tries all."""
    return min(
        RATES, key=lambda rate: runs[name_of(layers, width, rate, TUNING_SEED)]["loss"]
    )


def final_rates(runs: dict[str, Any], layers: int, width: int) -> tuple[float, ...]:
    """That rate, and half of it."""
    best = best_rate(runs, layers, width)
    return tuple(rate for rate in (best, best / 2) if rate in RATES)


def plan(runs: dict[str, Any] | None = None, steps: int = STEPS) -> dict[str, Job]:
    """The runs that try all rates, or with their results those that follow."""
    rates: dict[tuple[int, int], tuple[float, ...]] = dict.fromkeys(shapes(), RATES)
    seeds: tuple[int, ...] = (TUNING_SEED,)
    if runs is not None:
        seeds, rates = SEEDS, {s: final_rates(runs, *s) for s in shapes()}
    return {
        name_of(*shape, rate, seed): job(*shape, rate, seed, steps)
        for shape in shapes()
        for rate in rates[shape]
        for seed in seeds
    }


def final_losses(
    runs: dict[str, Any], layers: int, width: int
) -> tuple[float, list[float]]:
    """The rate that counts, and its losses, one for each of the three seeds."""
    found = {
        rate: [runs[name_of(layers, width, rate, seed)]["loss"] for seed in SEEDS]
        for rate in final_rates(runs, layers, width)
    }
    rate = min(found, key=lambda rate: mean(found[rate]))
    return rate, found[rate]


def print_table(runs: dict[str, Any]) -> None:
    """Print what each depth reaches, and what the search has seen."""
    for group, members in GROUPS.items():
        print(group)
        for layers, width in members:
            rate, found = final_losses(runs, layers, width)
            tried = (runs[name_of(layers, width, r, TUNING_SEED)] for r in RATES)
            print(
                f"  L = {layers}, H = {width:3}, rate {rate}: {mean(found):.4f} from",
                *(f"{loss:.4f}" for loss in found),
                "after",
                *(f"{run['loss']:.4f}" for run in tried),
            )


def measure_missing(
    results: dict[str, Any], jobs: dict[str, Job], result: Path, processes: int
) -> None:
    """Measure the runs that are not there, or were measured otherwise, and keep each."""
    missing = {}
    for name, (network, config) in jobs.items():
        known = results["runs"].get(name, {"network": None, "config": None})
        if (known["network"], known["config"]) != (network, asdict(config)):
            missing[name] = network, config
    for name, run in in_processes(measure_run, missing, processes):
        results["runs"][name] = run
        results["runs"] = dict(sorted(results["runs"].items()))
        write_json(result, results)
        print(f"{name}: {run['loss']:.4f} in {run['seconds']:.0f} s", flush=True)


def main(steps: int = STEPS, result: Path = RESULT, processes: int = 1) -> None:
    """Measure what is missing, and print the table.

    Parameters
    ----------
    steps
        Of each run.
    result
        Where the results are kept.
    processes
        How many runs go on at a time, on one thread each.
    """
    results = read_json(result, {"command": "make depth", "corpus": {}, "runs": {}})
    results |= {"corpus": corpus()[-1]}
    measure_missing(results, plan(steps=steps), result, processes)
    measure_missing(results, plan(results["runs"], steps), result, processes)
    print_table(results["runs"])
    total = math.fsum(run["seconds"] for run in results["runs"].values())
    print(f"{total / 60:.0f} minutes of one core")


if __name__ == "__main__":
    tyro.cli(main)
