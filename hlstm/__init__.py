"""A deep LSTM from raw tensor operations, exported from the chapters."""

__version__ = "0.1.0"

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
    keep_top_k,
    keep_top_p,
    next_character,
    generate_ids,
    stream_text,
    generate_text,
)
from .quantise import (
    INT8_KEY,
    Int8,
    quantise_rows,
    dequantise_rows,
    save_int8,
    load_int8,
)

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
    "keep_top_k",
    "keep_top_p",
    "next_character",
    "generate_ids",
    "stream_text",
    "generate_text",
    "INT8_KEY",
    "Int8",
    "quantise_rows",
    "dequantise_rows",
    "save_int8",
    "load_int8",
]
