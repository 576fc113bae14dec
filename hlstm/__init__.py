"""A deep LSTM from raw tensor operations, exported from the chapters."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .text import (
        read_plays,
        clean_play,
        fetch_tinyshakespeare,
        load_corpus,
        Vocabulary,
        one_hot,
        train_val_split,
        streams,
        windows,
        witten_bell,
    )
    from .gates import (
        Gates,
        gate_activations,
        update_state,
    )
    from .cell import (
        State,
        LSTMCell,
        set_forget_bias_,
    )
    from .backward import (
        step_backward,
        LSTMFunction,
    )
    from .stack import (
        unroll,
        LSTM,
        DeepRNN,
    )
    from .dropout import (
        InvertedDropout,
    )
    from .clipping import (
        NonFiniteGradientError,
        grad_norm,
        clip_grad_norm_,
    )
    from .training import (
        TrainConfig,
        pick_device,
        learning_rate_at,
        evaluate,
        History,
        TrainingError,
        train_step,
        Trainer,
    )
    from .checkpoint import (
        SCHEMA,
        CheckpointError,
        write_file,
        save_model,
        read_file,
        load_model,
        load_pretrained,
    )
    from .resume import (
        load_run,
        run_info,
        TrainingInterrupted,
    )
    from .sampling import (
        entropy,
        boltzmann,
        draw,
        keep_top_k,
        keep_top_p,
        next_character,
        generate_ids,
        stream_text,
        generate_text,
    )
    from .quantise import (
        Int8,
        quantise_rows,
        dequantise_rows,
        save_int8,
        load_int8,
    )
    from .engine import (
        run_layer,
    )
    from .coding import (
        coding_table,
        ArithmeticEncoder,
        ArithmeticDecoder,
        compress,
        decompress,
    )

_MODULES = ('text', 'gates', 'cell', 'backward', 'stack', 'dropout', 'clipping', 'training', 'checkpoint', 'resume', 'sampling', 'quantise', 'engine', 'cli', 'coding')
_HOMES = {
    "read_plays": "text",
    "clean_play": "text",
    "fetch_tinyshakespeare": "text",
    "load_corpus": "text",
    "Vocabulary": "text",
    "one_hot": "text",
    "train_val_split": "text",
    "streams": "text",
    "windows": "text",
    "witten_bell": "text",
    "Gates": "gates",
    "gate_activations": "gates",
    "update_state": "gates",
    "State": "cell",
    "LSTMCell": "cell",
    "set_forget_bias_": "cell",
    "step_backward": "backward",
    "LSTMFunction": "backward",
    "unroll": "stack",
    "LSTM": "stack",
    "DeepRNN": "stack",
    "InvertedDropout": "dropout",
    "NonFiniteGradientError": "clipping",
    "grad_norm": "clipping",
    "clip_grad_norm_": "clipping",
    "TrainConfig": "training",
    "pick_device": "training",
    "learning_rate_at": "training",
    "evaluate": "training",
    "History": "training",
    "TrainingError": "training",
    "train_step": "training",
    "Trainer": "training",
    "SCHEMA": "checkpoint",
    "CheckpointError": "checkpoint",
    "write_file": "checkpoint",
    "save_model": "checkpoint",
    "read_file": "checkpoint",
    "load_model": "checkpoint",
    "load_pretrained": "checkpoint",
    "load_run": "resume",
    "run_info": "resume",
    "TrainingInterrupted": "resume",
    "entropy": "sampling",
    "boltzmann": "sampling",
    "draw": "sampling",
    "keep_top_k": "sampling",
    "keep_top_p": "sampling",
    "next_character": "sampling",
    "generate_ids": "sampling",
    "stream_text": "sampling",
    "generate_text": "sampling",
    "Int8": "quantise",
    "quantise_rows": "quantise",
    "dequantise_rows": "quantise",
    "save_int8": "quantise",
    "load_int8": "quantise",
    "run_layer": "engine",
    "coding_table": "coding",
    "ArithmeticEncoder": "coding",
    "ArithmeticDecoder": "coding",
    "compress": "coding",
    "decompress": "coding",
}
__all__ = [
    "read_plays",
    "clean_play",
    "fetch_tinyshakespeare",
    "load_corpus",
    "Vocabulary",
    "one_hot",
    "train_val_split",
    "streams",
    "windows",
    "witten_bell",
    "Gates",
    "gate_activations",
    "update_state",
    "State",
    "LSTMCell",
    "set_forget_bias_",
    "step_backward",
    "LSTMFunction",
    "unroll",
    "LSTM",
    "DeepRNN",
    "InvertedDropout",
    "NonFiniteGradientError",
    "grad_norm",
    "clip_grad_norm_",
    "TrainConfig",
    "pick_device",
    "learning_rate_at",
    "evaluate",
    "History",
    "TrainingError",
    "train_step",
    "Trainer",
    "SCHEMA",
    "CheckpointError",
    "write_file",
    "save_model",
    "read_file",
    "load_model",
    "load_pretrained",
    "load_run",
    "run_info",
    "TrainingInterrupted",
    "entropy",
    "boltzmann",
    "draw",
    "keep_top_k",
    "keep_top_p",
    "next_character",
    "generate_ids",
    "stream_text",
    "generate_text",
    "Int8",
    "quantise_rows",
    "dequantise_rows",
    "save_int8",
    "load_int8",
    "run_layer",
    "coding_table",
    "ArithmeticEncoder",
    "ArithmeticDecoder",
    "compress",
    "decompress",
]

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


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *__all__})
