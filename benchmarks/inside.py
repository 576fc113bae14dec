"""Do lower layers hold what was just read, and higher layers longer structure?

`make inside` runs this, in some minutes on one free core. The chapter *Inside* asks it of one
network of two layers; here are three of three layers, each from another seed, and beside
each a network that began as it did and was not trained. It trains what `_build/inside` lacks,
and writes `hlstm/results/inside.json`.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import hlstm
from benchmarks.provenance import provenance
from benchmarks.runner import write_json
from hlstm.inspect import (
    full_memories,
    probe_layers,
    state_after_change,
    untrained_like,
)
from hlstm.training import train

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "hlstm" / "results" / "inside.json"
NETWORKS = ROOT / "_build" / "inside"
SIZES: dict[str, Any] = {"hidden_size": 128, "num_layers": 3}
CONFIG = hlstm.TrainConfig(eval_every=0)
SEEDS = (0, 1, 2)
CHARACTERS = 10_000
STEPS = (1, 2, 4, 8, 16, 32, 64)


def trained(seed: int, vocab: hlstm.Vocabulary, ids: torch.Tensor) -> hlstm.DeepRNN:
    """Return a trained network, from its file if there is one."""
    path = NETWORKS / f"seed-{seed}.safetensors"
    if not path.exists():
        torch.manual_seed(seed)
        net = hlstm.DeepRNN(vocab, **SIZES)
        train(net, ids, replace(CONFIG, seed=seed), progress=False)
        NETWORKS.mkdir(parents=True, exist_ok=True)
        net.save(path)
    return hlstm.load_model(path)


def measure(net: hlstm.DeepRNN, text: str) -> dict[str, Any]:
    """What the layers of a network hold, on text that it has not seen."""
    return {
        "loss": round(hlstm.evaluate(net, net.vocab.encode(text[:100_000])), 4),
        "full": full_memories(net, text[:6000]).sum(1).tolist(),
        "probe": {
            name: [round(score, 4) for score in scores]
            for name, scores in probe_layers(net, text[:CHARACTERS]).items()
        },
        "state": [
            [round(each, 6) for each in layers]
            for layers in state_after_change(net, text, STEPS, places=128).tolist()
        ],
    }


def main() -> None:
    """Train, measure and write."""
    torch.set_num_threads(1)
    text = hlstm.load_corpus("shakespeare")
    vocab = hlstm.Vocabulary.from_text(text)
    ids, held_out = hlstm.train_val_split(vocab.encode(text))
    words = vocab.decode(held_out)
    networks: dict[str, Any] = {}
    for seed in SEEDS:
        net = trained(seed, vocab, ids)
        networks[str(seed)] = {
            "trained": measure(net, words),
            "untrained": measure(untrained_like(net, seed), words),
        }
        print(f"seed {seed}: loss {networks[str(seed)]['trained']['loss']:.3f}")
    result = {
        "command": "make inside",
        "corpus": "shakespeare",
        "sizes": SIZES,
        "config": asdict(CONFIG),
        "characters": CHARACTERS,
        "steps": STEPS,
        "networks": networks,
        "unit": "R² of probes on held-out text; relative change of h; nats",
        **provenance(),
    }
    write_json(RESULT, result)


if __name__ == "__main__":
    main()
