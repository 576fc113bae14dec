"""Measure the engines of chapter 20 beside PyTorch's LSTM, and this machine beside both.

`make bench` runs this, in at most ten minutes. All tasks of a table take turns, in an order
that changes from round to round, and a time is the median of a task's rounds. It writes
`hlstm/results/speed.json` after each part, so that an interruption loses little.
"""

import ast
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hlstm
from hlstm.engine import pick_engine
from hlstm.kernel import call, library, scratch
from hlstm.sampling import generate_ids
from hlstm.text import windows
from hlstm.training import train_step

ROOT = Path(__file__).parent.parent
CHAPTER = ROOT / "chapters" / "20_speed.ipynb"
RESULT = ROOT / "hlstm" / "results" / "speed.json"
THREADS = 2
SYMBOLS = 65
# (T, B, H), and the seconds that a table of the shape may take
SHAPES = {
    (64, 32, 128): 15,
    (64, 64, 256): 25,
    (64, 64, 512): 50,
    (128, 32, 1024): 110,
}
LADDER = (64, 64, 256)
RUNGS = """four_gates one_product hoisted gathered by_hand
compiled_steps compiled halved""".split()
FLAGS = "avx2 fma f16c avx512f avx512bw avx512_bf16 amx_bf16 asimd bf16 sve".split()
Task = Callable[[], object]
Result = dict[str, Any]


def chapter() -> SimpleNamespace:
    """Return the functions and classes that the cells of chapter 20 define."""
    names = dict(vars(hlstm.kernel)) | dict(vars(hlstm.engine))
    names["FUSED"] = "fused"  # what is measured here is the compiled engine
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    body: list[ast.stmt]
    for cell in nbformat.read(CHAPTER, 4).cells:
        if cell.cell_type != "code" or cell.source.startswith(
            ("#| export", "#| default_exp", "%%", "# Where hlstm")
        ):
            continue
        body = [node for node in ast.parse(cell.source).body if isinstance(node, kinds)]
        exec(compile(ast.Module(body, []), f"{CHAPTER.name} {cell.id}", "exec"), names)
    names["RUNGS"] = {name: names[name] for name in RUNGS}
    return SimpleNamespace(**names)


def take_turns(
    tasks: dict[str, Task], budget: float, least: int = 3
) -> dict[str, list[float]]:
    """Run the tasks in turn for `budget` seconds; return the seconds of each one's runs."""
    order = list(tasks)
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(times[order[0]]) < least:
        random.shuffle(order)
        for name in order:
            began = time.perf_counter()
            tasks[name]()
            times[name].append(time.perf_counter() - began)
    return times


def medians(tasks: dict[str, Task], budget: float) -> dict[str, float]:
    """Return the median of each task's seconds."""
    times = take_turns(tasks, budget)
    return {name: statistics.median(each) for name, each in times.items()}


def spread(seconds: list[float]) -> float:
    """Return the distance of the quartiles as a share of the median."""
    low, middle, high = statistics.quantiles(seconds, n=4)
    return round((high - low) / middle, 3)


# The layers


def layer_tasks(T: int, B: int, H: int, half: bool, train: bool) -> dict[str, Task]:
    """Return what runs a window of two layers, for each engine and `nn.LSTM`."""
    theirs, ours = nn.LSTM(SYMBOLS, H, 2), hlstm.LSTM(SYMBOLS, H, 2)
    ours.load_state_dict(theirs.state_dict())
    ids = torch.randint(SYMBOLS, (T, B))
    vectors = F.one_hot(ids, SYMBOLS).float()

    def precision() -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if half else nullcontext()

    def run(engine: str) -> None:
        net = theirs if engine == "nn.LSTM" else ours
        for p in net.parameters():
            p.grad = None
        ours.engine = "auto" if net is theirs else engine
        with precision(), torch.set_grad_enabled(train):
            out = theirs(vectors) if net is theirs else ours(ids)
        if train:
            out[0].float().sum().backward()

    engines = ["nn.LSTM", "fused", "torch", "auto"] + ["reference"] * (not half)
    return {name: partial(run, name) for name in engines}


def measure_layers(result: Result) -> None:
    """Time two layers: the four shapes, training and not, float32 and bfloat16."""
    result["layers"] = []
    print(
        "\nTwo layers, one-hot input of 65 symbols; ms, and in brackets nn.LSTM's / its"
    )
    for half, train in ((False, True), (True, True), (False, False)):
        kind = "bfloat16" if half else "float32"
        passes = "forward and backward" if train else "forward"
        print(f"{passes}, {kind}" + (" autocast" if half else ""))
        for (T, B, H), budget in SHAPES.items():
            share = 1 if train and not half else 0.4
            runs = take_turns(layer_tasks(T, B, H, half, train), share * budget)
            times = {name: statistics.median(each) for name, each in runs.items()}
            h, ids = torch.empty(B, H), torch.empty(T, B, dtype=torch.long)
            result["layers"].append(
                {"T": T, "B": B, "H": H, "dtype": kind, "passes": passes}
                | {"ms": {name: round(1e3 * t, 3) for name, t in times.items()}}
                | {"spread": {name: spread(each) for name, each in runs.items()}}
                | {"rounds": len(runs["auto"]), "auto": pick_engine("auto", ids, h, h)}
            )
            cells = [
                f"{name} {1e3 * t:.1f} ({times['nn.LSTM'] / t:.2f})"
                for name, t in times.items()
            ]
            print(f"  T{T} B{B} H{H}: " + ", ".join(cells), flush=True)
        save(result)


# Training and sampling


class Plain(nn.Module):
    """The usual network of PyTorch's parts, its LSTM as large as `DeepRNN`'s."""

    def __init__(self, V: int, H: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, V)
        self.lstm = nn.LSTM(V, H, 2, batch_first=True)
        self.head = nn.Linear(H, V)

    def forward(
        self, ids: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Score the next characters, in the form that `train_step` asks for."""
        output, state = self.lstm(self.embedding(ids), state)
        return self.head(output), state


def training_task(net: nn.Module, data: list[tuple[Tensor, Tensor]]) -> Task:
    """Return what takes the next training step of a network, its state carried along."""
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    batches, state = itertools.cycle(data), None

    def task() -> None:
        nonlocal state
        state = train_step(net, optimizer, *next(batches), state)[2]

    return task


def measure_training(result: Result) -> None:
    """Time whole training steps on the plays."""
    text = hlstm.load_corpus("shakespeare")[:500_000]
    vocab = hlstm.Vocabulary.from_text(text)
    B, T, result["training"] = 32, 64, []
    print("\nTraining steps of two layers, B = 32, T = 64; characters per second")
    for H in (256, 512):
        data = list(windows(vocab.encode(text), B, T))[:200]
        plain, ours = Plain(len(vocab), H), hlstm.DeepRNN(vocab, H, 2)
        tasks = {
            "plain": training_task(plain, data),
            "DeepRNN": training_task(ours, data),
        }
        times = medians(tasks, 20)
        rates = {name: round(B * T / t) for name, t in times.items()}
        ratio = times["plain"] / times["DeepRNN"]
        result["training"].append(
            {"B": B, "T": T, "H": H, "characters_per_second": rates}
        )
        print(f"  H{H}: {rates}, ratio {ratio:.2f}", flush=True)
        save(result)


def plain_sample(net: Plain, batch: int, length: int) -> None:
    """Sample as one does with `nn.LSTM`, a step at a time."""
    V, state = net.lstm.input_size, None
    ids = torch.zeros(batch, dtype=torch.long)
    with torch.no_grad():
        for _ in range(length):
            vectors = F.one_hot(ids, V).float()[:, None]
            output, state = net.lstm(vectors, state)
            p = torch.softmax(net.head(output[:, 0]) / 0.8, -1)
            ids = torch.multinomial(p, 1)[:, 0]


def measure_sampling(result: Result) -> None:
    """Time the sampling of text on one thread."""
    torch.set_num_threads(1)
    net = hlstm.load_pretrained("shakespeare").float()
    plain, result["sampling"] = Plain(len(net.vocab), 256), []
    print("\nSampling, two layers of 256, one thread; characters per second")
    for batch, length in ((1, 1000), (64, 100)):
        start = torch.zeros(batch, 1, dtype=torch.long)
        tasks: dict[str, Task] = {
            "nn.LSTM": partial(plain_sample, plain, batch, length),
            "generate_ids": partial(generate_ids, net, start, length, seed=0),
        }
        times = medians(tasks, 12)
        rates = {name: round(batch * length / t) for name, t in times.items()}
        ratio = times["nn.LSTM"] / times["generate_ids"]
        result["sampling"].append(
            {"B": batch, "H": 256, "characters_per_second": rates}
        )
        print(f"  batch {batch}: {rates}, ratio {ratio:.2f}", flush=True)
    torch.set_num_threads(THREADS)
    save(result)


# The machine and the ladder


def onednn_linear(n: int, dtype: torch.dtype) -> Task:
    """Return a product of oneDNN with packed weights, n by n by n."""
    a, w = torch.randn(n, n, dtype=dtype), torch.randn(n, n, dtype=dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight(w, n)
    linear = torch.ops.mkldnn._linear_pointwise
    return partial(linear, a, packed, None, "none", [], "")


def own_linear(n: int, dtype: torch.dtype) -> Task:
    """Return the same product in the compiled code of chapter 20, packing included."""
    a, w = torch.randn(n, n, dtype=dtype), torch.randn(n, n, dtype=dtype)
    out, packed = torch.empty(n, n), scratch("bench", n * n, dtype)
    sizes = torch.get_num_threads(), n, n, n
    return lambda: call("linear", dtype, *sizes, a, w, 1, n, None, packed, out)


def measure_machine(result: Result, names: SimpleNamespace) -> None:
    """Time large products and copies: the roofs."""
    n, rates = 2048, {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(n, n, dtype=dtype), torch.randn(n, n, dtype=dtype)
        tasks: dict[str, Task] = {
            "addmm": partial(torch.addmm, a, a, b),
            "oneDNN linear": onednn_linear(n, dtype),
        }
        if library() is not None:
            tasks["ours"] = own_linear(n, dtype)
        times = medians(tasks, 5)
        kind = str(dtype).removeprefix("torch.")
        rates[kind] = {k: round(2 * n**3 / t / 1e9, 1) for k, t in times.items()}
    result["machine"] |= {
        "gflops": rates,
        "near_gbytes": round(names.bandwidth(2**16) / 1e9, 1),
        "far_gbytes": round(names.bandwidth(2**25, 5) / 1e9, 1),
        "call_us": round(1e6 * names.call_cost(), 2),
    }
    print("\nProducts of 2048 by 2048 by 2048, GFLOP/s:", rates)
    print({k: v for k, v in result["machine"].items() if k.endswith(("bytes", "us"))})
    save(result)


def roofs(machine: Result) -> list[float]:
    """Return the best rates in float32 and bfloat16, both bandwidths, seconds a call."""
    rates = [1e9 * max(each.values()) for each in machine["gflops"].values()]
    near, far = 1e9 * machine["near_gbytes"], 1e9 * machine["far_gbytes"]
    return [*rates, near, far, 1e-6 * machine["call_us"]]


def measure_ladder(result: Result, names: SimpleNamespace) -> None:
    """Time each rung of the chapter, and predict it."""
    machine = names.Machine(*roofs(result["machine"]))
    window = names.make_window(*LADDER)
    tasks: dict[str, Task] = {"nn.LSTM": partial(names.train_pytorch, window)}
    tasks |= {n: partial(names.train, rung, window) for n, rung in names.RUNGS.items()}
    times = medians(tasks, 25)
    rungs = {}
    print(f"\nThe ladder, one layer, T, B, H = {LADDER}; forward and backward, ms")
    for name, seconds in times.items():
        rungs[name] = {"ms": round(1e3 * seconds, 3)}
        if name in names.RUNGS:
            lines = names.ledger(name, window)
            guess = names.predict(lines, machine, name == "halved")
            rungs[name] |= {
                "predicted_ms": round(1e3 * guess, 3),
                "calls": len(lines),
                "gflop": round(sum(line.flops for line in lines) / 1e9, 3),
                "mbytes": round(sum(line.bytes for line in lines) / 1e6, 1),
            }
        print(f"  {name}: {rungs[name]}")
    T, B, H = LADDER
    result["ladder"] = {"T": T, "B": B, "H": H, "rungs": rungs}
    save(result)


# The verdicts and the file


def judge(result: Result) -> list[Result]:
    """Compare what was measured with what was asked for."""
    bars: list[tuple[str, float, float]] = []
    for row in result["layers"]:
        if row["passes"] == "forward":
            continue
        ms = row["ms"]
        best = min(t for name, t in ms.items() if name not in ("nn.LSTM", "auto"))
        where = f"T{row['T']} B{row['B']} H{row['H']} {row['dtype']}"
        bars.append((f"fused / nn.LSTM, {where}", ms["nn.LSTM"] / ms["fused"], 1.0))
        bars.append((f"auto / best engine, {where}", best / ms["auto"], 0.98))
        if "reference" in ms and row["H"] >= 256:
            ratio = ms["nn.LSTM"] / ms["reference"]
            bars.append((f"reference / nn.LSTM, {where}", ratio, 0.5))
    for row in result["training"]:
        rate = row["characters_per_second"]
        name = f"training step / plain, H{row['H']}"
        bars.append((name, rate["DeepRNN"] / rate["plain"], 1.1))
    rate = result["sampling"][0]["characters_per_second"]
    bars.append(("sampling, characters per second", rate["generate_ids"], 10_000))
    ratio = rate["generate_ids"] / rate["nn.LSTM"]
    bars.append(("sampling / nn.LSTM step loop", ratio, 5.0))
    return [
        {
            "bar": name,
            "measured": round(value, 3),
            "least": least,
            "met": value >= least,
        }
        for name, value, least in bars
    ]


def describe() -> Result:
    """Return how this run came about."""
    compiler = os.environ.get("CXX", "c++").split()[0]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        run = subprocess.run([compiler, "--version"], capture_output=True, text=True)
        first = run.stdout.splitlines()[0]
    except (OSError, IndexError):
        lines, first = [], "none"
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return {
        "command": "make bench",
        "machine": {
            "cpu": fields.get("model name", platform.processor()),
            "family_model": f"{fields.get('cpu family')}, {fields.get('model')}",
            "flags": [flag for flag in FLAGS if flag in flags],
            "cores": os.cpu_count(),
            "threads": THREADS,
            "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "hlstm": hlstm.__version__,
            "compiler": first,
        },
        "date": time.strftime("%Y-%m-%d"),
    }


def save(result: Result) -> None:
    """Write what is known so far."""
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure everything."""
    began = time.perf_counter()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    random.seed(0)
    names, result = chapter(), describe()
    print(json.dumps(result, indent=1))
    measure_layers(result)
    measure_training(result)
    measure_sampling(result)
    measure_machine(result, names)
    measure_ladder(result, names)
    result["bars"] = judge(result)
    print("\nAsked for, and measured")
    for bar in result["bars"]:
        verdict = "met" if bar["met"] else "NOT met"
        print(f"  {bar['bar']}: {bar['measured']} of {bar['least']}, {verdict}")
    result["seconds"] = round(time.perf_counter() - began)
    save(result)
    print(f"{result['seconds']} seconds; written to {RESULT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
