"""A deep LSTM from raw tensor operations, exported from the chapters."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .corpus import load_corpus
    from .text import Vocabulary
    from .text import one_hot
    from .text import train_val_split
    from .cell import LSTMCell
    from .stack import LSTM
    from .network import DeepRNN
    from .cell import set_forget_bias_
    from .dropout import InvertedDropout
    from .clipping import clip_grad_norm_
    from .sampling import boltzmann
    from .training import TrainConfig
    from .trainer import Trainer
    from .training import evaluate
    from .checkpoint import load_model
    from .checkpoint import load_pretrained
    from .runs import load_run
    from .recipes import suggest
    from .quantise import save_int8
    from .quantise import load_int8
    from .compression import compress
    from .compression import decompress
    from .exercises import check

_MODULES = ('text', 'ngrams', 'gates', 'cell', 'backward', 'layer', 'stack', 'network', 'dropout', 'clipping', 'training', 'device', 'sampling', 'probes', 'inspect', 'pictures', 'checkpoint', 'files', 'snapshot', 'runs', 'callbacks', 'trainer', 'recipes', 'quantise', 'engine', 'kernel', 'compression', 'console', 'cli_texts', 'cli_ask', 'cli_train', 'cli', 'corpus', 'checks', 'doctor', 'exercises')
_HOMES = {
    "load_corpus": "corpus",
    "Vocabulary": "text",
    "one_hot": "text",
    "train_val_split": "text",
    "LSTMCell": "cell",
    "LSTM": "stack",
    "DeepRNN": "network",
    "set_forget_bias_": "cell",
    "InvertedDropout": "dropout",
    "clip_grad_norm_": "clipping",
    "boltzmann": "sampling",
    "TrainConfig": "training",
    "Trainer": "trainer",
    "evaluate": "training",
    "load_model": "checkpoint",
    "load_pretrained": "checkpoint",
    "load_run": "runs",
    "suggest": "recipes",
    "save_int8": "quantise",
    "load_int8": "quantise",
    "compress": "compression",
    "decompress": "compression",
    "check": "exercises",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import what is asked for now: PyTorch takes seconds, and may not be needed."""
        if name in _MODULES:
            return import_module(f".{name}", __name__)
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value


__all__ = [
    "load_corpus",
    "Vocabulary",
    "one_hot",
    "train_val_split",
    "LSTMCell",
    "LSTM",
    "DeepRNN",
    "set_forget_bias_",
    "InvertedDropout",
    "clip_grad_norm_",
    "boltzmann",
    "TrainConfig",
    "Trainer",
    "evaluate",
    "load_model",
    "load_pretrained",
    "load_run",
    "suggest",
    "save_int8",
    "load_int8",
    "compress",
    "decompress",
    "check",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *__all__})
