"""Train the network that comes with the package, and write down how.

`make weights` runs this. It writes `hlstm/weights/shakespeare.safetensors` and, beside the
other measured results, `hlstm/results/weights.json`.
"""

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import hlstm
from benchmarks.provenance import provenance

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "hlstm" / "weights" / "shakespeare.safetensors"
RESULT = ROOT / "hlstm" / "results" / "weights.json"
SEED = 0
CONFIG = hlstm.TrainConfig(
    batch_size=32,
    sequence_length=64,
    steps=5000,
    learning_rate=1e-2,
    warmup_steps=100,
    weight_decay=0.01,
    precision="float32",
    eval_every=500,
    seed=SEED,
)
# The committed network began with columns drawn as in PyTorch.
SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "num_layers": 2,
    "dropout": 0.0,
    "column_bound": None,
    "forget_bias": 1.0,
}


def split_by_play(text: str) -> tuple[str, list[str]]:
    """Return the whole plays before the last tenth of the corpus, and the other names.

    A play in both parts would tell the network the names of people it is judged on.
    """
    plays, train_text = hlstm.corpus.read_plays(), ""
    names = list(plays)
    while names:
        longer = train_text + hlstm.corpus.clean_play(plays[names[0]]) + "\n"
        if len(longer) > int(0.9 * len(text)):
            break
        train_text, names = longer, names[1:]
    assert text.startswith(train_text)
    return train_text, names


def main() -> None:
    """Train, save in half precision, evaluate what was saved, and report."""
    text = hlstm.load_corpus("shakespeare")
    vocab = hlstm.Vocabulary.from_text(text)
    train_text, held_out = split_by_play(text)
    train_ids = vocab.encode(train_text)
    val_ids = vocab.encode(text[len(train_text) :])
    torch.manual_seed(SEED)
    net = hlstm.DeepRNN(vocab, **SIZES)
    history = hlstm.Trainer(net, CONFIG).fit(train_ids, val_ids)
    WEIGHTS.parent.mkdir(exist_ok=True)
    net.half().save(WEIGHTS)
    saved = hlstm.load_model(WEIGHTS, dtype=torch.float32)
    result = {
        "command": "make weights",
        "corpus": "shakespeare",
        "held_out": held_out,
        "corpus_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "weights_sha256": hashlib.sha256(WEIGHTS.read_bytes()).hexdigest(),
        "seed": SEED,
        "sizes": SIZES,
        "parameters": sum(p.numel() for p in saved.parameters()),
        "config": asdict(CONFIG),
        "trainer": "hlstm.Trainer",
        "val_step": history.val_step,
        "val_loss": [round(loss, 4) for loss in history.val_loss],
        "val_loss_saved": round(hlstm.evaluate(saved, val_ids), 4),
        "unit": "nats per character, 32 contiguous streams over the held-out plays",
        "seconds": round(history.seconds),
        **provenance(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    json.dump(result, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
