"""Recipes: what is trained, and how, as options of the library.

A recipe is a table of three parts: options of `hlstm.DeepRNN`, a `hlstm.TrainConfig`, and
extras, which are ideas that were tried and are no option (`benchmarks.extras`).
"""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

import hlstm
from hlstm.recipes import PRESETS

NETWORK = {
    name: parameter.default
    for name, parameter in inspect.signature(hlstm.DeepRNN).parameters.items()
    if name not in ("vocab", "engine")
}
# What decides how often a run is looked at and kept, and nothing about its weights.
APART = ("seed", "eval_every", "save_every", "keep_checkpoints")
CONFIG = [each.name for each in fields(hlstm.TrainConfig) if each.name not in APART]
EXTRAS = {
    "text_share": 1.0,  # of the training text, its end
    "drop_characters": 0.0,  # of the input: the gathered column is zero
    "zoneout": 0.0,
    "label_smoothing": 0.0,
    "fixed_offsets": False,  # each pass starts at the first character
}


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how. What is left out is as the library has it."""

    network: Mapping[str, Any]
    config: hlstm.TrainConfig
    extras: Mapping[str, Any] = field(default_factory=dict)

    def change(self, **changed: Any) -> Self:
        """Return the recipe with other options, each of whatever part it belongs to."""
        if unknown := changed.keys() - {*NETWORK, *CONFIG, *EXTRAS}:
            raise ValueError(f"no options of a recipe: {', '.join(sorted(unknown))}")

        def part(names: Any) -> dict[str, Any]:
            return {name: value for name, value in changed.items() if name in names}

        return replace(
            self,
            network={**self.network, **part(NETWORK)},
            config=replace(self.config, **part(CONFIG)),
            extras={**self.extras, **part(EXTRAS)},
        )

    def options(self) -> dict[str, dict[str, Any]]:
        """Return every option with its value, as results keep it."""
        network = {**NETWORK, **self.network}
        if network["dropout_head"] is None:
            network["dropout_head"] = network["dropout"]
        config = asdict(self.config)
        return {
            "network": network,
            "config": {name: config[name] for name in CONFIG},
            "extras": {**EXTRAS, **self.extras},
        }


def preset(name: str) -> Recipe:
    """Return a preset of the library, in bfloat16 on every machine."""
    found = PRESETS[name]
    return Recipe(found.network, replace(found.config, precision="bfloat16"))


HEADLINE, MINUTE, QUICK = (preset(name) for name in ("best", "minute", "quick"))
# A quarter of the headline's parameters, an eighth of its text, and 20 passes over it: a
# run takes a minute on one core.
SHORT = Recipe(
    {
        "hidden_size": 192,
        "num_layers": 2,
        "dropout": 0.3,
        "column_bound": 1.0,
        "forget_bias": 1.0,
    },
    hlstm.TrainConfig(
        batch_size=32,
        sequence_length=64,
        steps=1240,
        learning_rate=4e-3,
        warmup_steps=100,
        weight_decay=0.01,
        precision="bfloat16",
    ),
    {"text_share": 0.125},
)
SWITCHES: dict[str, dict[str, Any]] = {
    "the short recipe": {},
    "no dropout": {"dropout": 0.0},
    "dropout between layers only": {"dropout_head": 0.0},
    "dropout before the head only": {"dropout": 0.0, "dropout_head": 0.3},
    "twice the dropout": {"dropout": 0.6},
    "dropout of input characters": {"drop_characters": 0.1},
    "locked masks": {"locked": True},
    "weight-dropped recurrence": {"weight_drop": 0.3},
    # Its loop over time is that of the reference, which has float32 alone.
    "zoneout": {"zoneout": 0.05, "precision": "float32"},
    "forget bias 0": {"forget_bias": 0.0},
    "columns drawn as in PyTorch": {"column_bound": None},
    "tied head": {"tied": True},
    "fixed stream offsets": {"fixed_offsets": True},
    "state never carried": {"reset": 1.0},
    "state reset at times": {"reset": 0.02},
    "windows of 128": {"sequence_length": 128, "batch_size": 16},
    "averaged weights": {"ema": 0.998},
    "label smoothing": {"label_smoothing": 0.05},
    "no weight decay": {"weight_decay": 0.0},
    "ten times the weight decay": {"weight_decay": 0.1},
    "float32": {"precision": "float32"},
}


def plan() -> dict[str, tuple[Recipe, int]]:
    """Return every run by its name, `group/variant/seed`, with recipe and seed."""
    runs = {f"headline/{seed}": (HEADLINE, seed) for seed in range(3)}
    for name, recipe in {"20 seconds": MINUTE, "3 minutes": QUICK}.items():
        runs |= {f"quick/{name}/{seed}": (recipe, seed) for seed in range(3)}
    for name, changed in SWITCHES.items():
        recipe = SHORT.change(**changed)
        runs |= {f"ablation/{name}/{seed}": (recipe, seed) for seed in range(2)}
    return runs
