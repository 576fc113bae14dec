"""A recipe: how a small network learns a small text, one switch for each idea.

`Learner` is the network while it learns; `train` follows a recipe and can be interrupted.
What comes out is a plain `hlstm.DeepRNN`.
"""

import copy
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import hlstm
from hlstm.layer import pick_columns

State = tuple[Tensor, Tensor]
SAVE_EVERY = 120.0  # seconds


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how. A switch that is 0 or False is off."""

    hidden_size: int = 512
    num_layers: int = 2
    text_share: float = 1.0  # of the training text, its end
    epochs: float = 20.0
    batch_size: int = 32
    sequence_length: int = 128
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    max_norm: float = 1.0
    precision: str = "float32"
    dropout_input: float = 0.0  # of whole characters: the gathered column is zero
    dropout_between: float = 0.0
    dropout_output: float = 0.0  # before the head
    locked: bool = False  # one mask for all steps of a window
    weight_drop: float = 0.0  # of recurrent weights, one mask a window
    zoneout: float = 0.0
    forget_bias: float = 1.0
    column_bound: float = 0.0  # the first layer's columns begin within ±this; 0: ±1/√H
    tied: bool = False  # the head's rows are the characters' embeddings
    random_offsets: bool = True  # each epoch starts at another character
    carry: bool = True  # a window starts with the state that the one before left
    reset: float = 0.0  # probability that a stream forgets its state
    ema: float = 0.0  # decay of the averaged weights, which are then evaluated
    label_smoothing: float = 0.0


class Learner(nn.Module):
    """A `DeepRNN` under a recipe; in evaluation mode it computes what the net does."""

    def __init__(self, vocab: hlstm.Vocabulary, recipe: Recipe) -> None:
        super().__init__()
        H, L, V = recipe.hidden_size, recipe.num_layers, len(vocab)
        self.recipe, self.net = recipe, hlstm.DeepRNN(vocab, H, L)
        hlstm.set_forget_bias_(self.net.lstm, recipe.forget_bias)
        columns, bound = (
            self.net.lstm.get_parameter("weight_ih_l0"),
            recipe.column_bound,
        )
        if bound:
            nn.init.uniform_(columns, -bound, bound)
        if recipe.tied:
            # With the head's rows as embeddings E, the columns to gather are P Eᵀ.
            self.projection = nn.Parameter(torch.empty(4 * H, H).uniform_(-1, 1))
            columns.requires_grad_(False)
        # Layers without weights of their own. The first has a column more, of zeros,
        # which stands for a character that was dropped.
        new: dict[str, Any] = {"batch_first": True, "device": "meta"}
        self.layers = (
            hlstm.LSTM(V + 1, H, **new),
            *(hlstm.LSTM(H, H, **new) for _ in range(L - 1)),
        )

    def forward(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Predict each next character: ids (B, T) to logits (B, T, V) and the state."""
        output, state = stack_outputs(self, ids, state)
        return self.net.head(output), state

    def trained(self) -> list[nn.Parameter]:
        """The parameters that the optimiser changes."""
        return [p for p in self.parameters() if p.requires_grad]

    @torch.no_grad()
    def plain(self) -> hlstm.DeepRNN:
        """Return the network, with nothing left of the recipe."""
        if self.recipe.tied:
            columns = self.net.lstm.get_parameter("weight_ih_l0")
            columns.copy_(self.projection @ self.net.head.weight.T)
        return self.net


def drop_and_scale(input: Tensor, p: float, shared_dim: int | None = None) -> Tensor:
    """Return `input` under one mask, as in chapter 10, with p rounded to 1/256.

    One random number of 64 bits serves eight entries: these masks are as large as the
    weights, and drawing them one by one takes a fifth of a step.
    """
    shape = list(input.shape)
    if shared_dim is not None:
        shape[shared_dim] = 1
    count, dropped = math.prod(shape), round(256 * p)
    words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None)
    keep = (words.view(torch.uint8)[:count] >= dropped).view(shape).to(input.dtype)
    return input * keep.mul_(256 / (256 - dropped))


def layer_weights(learner: Learner, k: int) -> dict[str, Tensor]:
    """Layer k's weights as they are used in this window, named as for one layer."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    lstm, recipe = learner.net.lstm, learner.recipe
    weights = {f"{name}_l0": getattr(lstm, f"{name}_l{k}") for name in names}
    if learner.training and recipe.weight_drop:
        weights["weight_hh_l0"] = drop_and_scale(
            weights["weight_hh_l0"], recipe.weight_drop
        )
    if k == 0:
        columns = weights["weight_ih_l0"]
        if recipe.tied:
            columns = learner.projection @ learner.net.head.weight.T
        if learner.training:
            columns = columns / (1 - recipe.dropout_input)
        weights["weight_ih_l0"] = F.pad(columns, (0, 1))
    return weights


def drop_characters(ids: Tensor, p: float, unknown: int) -> Tensor:
    """Replace characters by `unknown`, each with probability p."""
    return ids.masked_fill(torch.rand(ids.shape) < p, unknown) if p else ids


def drop_output(learner: Learner, output: Tensor, k: int) -> Tensor:
    """Drop activations of layer k, (B, T, H), while learning."""
    recipe = learner.recipe
    last = k == recipe.num_layers - 1
    p = recipe.dropout_output if last else recipe.dropout_between
    if not (learner.training and p):
        return output
    return drop_and_scale(output, p, 1 if recipe.locked else None)


def stack_outputs(
    learner: Learner, ids: Tensor, state: State | None = None
) -> tuple[Tensor, State]:
    """Run the layers one by one over (B, T) characters, with masks on what they return.

    Returns what the head reads, (B, T, H), and the last state, each (L, B, H).
    """
    recipe, states = learner.recipe, []
    p = recipe.dropout_input if learner.training else 0.0
    output = drop_characters(ids, p, len(learner.net.vocab))
    for k, layer in enumerate(learner.layers):
        weights = layer_weights(learner, k)
        hx = None if state is None else (state[0][k : k + 1], state[1][k : k + 1])
        if recipe.zoneout:
            output, last = zoneout_layer(output, hx, weights, learner)
        else:
            output, last = functional_call(layer, weights, (output, hx))
        output = drop_output(learner, output, k)
        states.append(last)
    h, c = (torch.cat(parts) for parts in zip(*states, strict=True))
    return output, (h, c)


def zoneout_layer(
    input: Tensor, hx: State | None, weights: dict[str, Tensor], learner: Learner
) -> tuple[Tensor, State]:
    """Run one layer in which each unit keeps its old h and c with probability p.

    After Krueger et al. (2017). In evaluation the old value counts p, the new 1 − p: this
    is no plain LSTM. The loop over time is in Python, and slow.
    """
    weight_ih, weight_hh, bias_ih, bias_hh = weights.values()
    if input.dtype == torch.long:
        a_in = pick_columns(input, weight_ih, bias_ih + bias_hh)
    else:
        a_in = F.linear(input, weight_ih, bias_ih + bias_hh)
    zeros = a_in.new_zeros(len(input), weight_hh.shape[1])
    h, c = (zeros, zeros) if hx is None else (hx[0][0], hx[1][0])
    p, hidden = learner.recipe.zoneout, []
    for a in a_in.unbind(1):
        gates = hlstm.gates.gate_activations(torch.addmm(a, h, weight_hh.T))
        new_h, new_c = hlstm.gates.update_state(gates, c)
        new = torch.full((2, *h.shape), 1 - p)
        new = new.bernoulli() if learner.training else new
        h, c = torch.lerp(h, new_h, new[0]), torch.lerp(c, new_c, new[1])
        hidden.append(h)
    return torch.stack(hidden, 1), (h[None], c[None])


def epoch_windows(
    ids: Tensor, recipe: Recipe, seed: int, epoch: int
) -> list[tuple[Tensor, Tensor]]:
    """The windows of one pass over a text, inputs and targets, each (B, T)."""
    start = 0
    if recipe.random_offsets:
        start = random.Random(f"{seed} {epoch}").randrange(len(ids))
    rolled = ids.roll(-start)
    return list(hlstm.text.windows(rolled, recipe.batch_size, recipe.sequence_length))


def reset_some(state: State, p: float) -> State:
    """Zero the state of each stream with probability p."""
    h, c = state
    keep = (torch.rand(1, h.shape[1], 1) >= p).to(h.dtype)
    return h * keep, c * keep


def make_optimizer(learner: Learner) -> torch.optim.AdamW:
    """AdamW; only matrices decay."""
    matrices = [p for p in learner.trained() if p.dim() > 1]
    biases = [p for p in learner.trained() if p.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": learner.recipe.weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, fused=True)


@dataclass
class Run:
    """A run of a recipe with one seed, and where it stands."""

    learner: Learner
    average: Learner
    optimizer: torch.optim.Optimizer
    seed: int
    step: int = 0
    state: State | None = None
    seconds: float = 0.0  # of optimiser steps alone
    losses: list[float] = field(default_factory=list)  # since the last evaluation
    history: list[dict[str, float]] = field(default_factory=list)


def start_run(vocab: hlstm.Vocabulary, recipe: Recipe, seed: int) -> Run:
    """Draw the weights that a seed gives."""
    torch.manual_seed(seed)
    learner = Learner(vocab, recipe)
    average = copy.deepcopy(learner).eval() if recipe.ema else learner
    return Run(learner, average, make_optimizer(learner), seed)


def learn_window(run: Run, inputs: Tensor, targets: Tensor) -> None:
    """Take one optimiser step on one window."""
    learner, recipe = run.learner, run.learner.recipe
    learner.train()
    state = run.state if recipe.carry else None
    if state is not None and recipe.reset:
        state = reset_some(state, recipe.reset)
    half = recipe.precision == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits, (h, c) = learner(inputs, state)
    loss = F.cross_entropy(
        logits.float().flatten(0, 1),
        targets.flatten(),
        label_smoothing=recipe.label_smoothing,
    )
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    hlstm.clip_grad_norm_(learner.trained(), recipe.max_norm)
    run.optimizer.step()
    run.state = h.detach().float(), c.detach().float()
    run.losses.append(loss.item())


@torch.no_grad()
def follow(run: Run) -> None:
    """Move the averaged weights towards the present ones."""
    decay = run.learner.recipe.ema
    if decay:
        # A young average forgets faster: it began with random weights.
        decay = min(decay, (1 + run.step) / (10 + run.step))
        old, new = run.average.trained(), run.learner.trained()
        torch._foreach_lerp_(list(old), list(new), 1 - decay)


def save_run(run: Run, path: Path) -> None:
    """Write all that a run needs to go on."""
    tensors = {"random": torch.get_rng_state()}
    tensors |= {f"learner.{k}": t for k, t in run.learner.state_dict().items()}
    if run.learner.recipe.ema:
        tensors |= {f"average.{k}": t for k, t in run.average.state_dict().items()}
    for k, parts in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{k}.{name}": t for name, t in parts.items()}
    if run.state is not None:
        tensors |= {"h": run.state[0], "c": run.state[1]}
    description = {
        "recipe": asdict(run.learner.recipe),
        "seed": run.seed,
        "step": run.step,
        "seconds": run.seconds,
        "losses": run.losses,
        "history": run.history,
    }
    hlstm.files.save_tensors(path, tensors, description)


def load_run(run: Run, path: Path) -> None:
    """Bring a fresh run to where its file says it stood."""
    tensors, description = hlstm.files.load_tensors(path)
    wanted = {"recipe": asdict(run.learner.recipe), "seed": run.seed}
    if any(description[name] != value for name, value in wanted.items()):
        raise ValueError(f"{path} is of another run: move it away to start afresh")
    parts: dict[str, dict[str, Tensor]] = {"learner": {}, "average": {}}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        owner, _, rest = name.partition(".")
        if owner == "optimizer":
            index, key = rest.split(".")
            moments.setdefault(int(index), {})[key] = tensor
        elif rest:
            parts[owner][rest] = tensor
    run.learner.load_state_dict(parts["learner"])
    if parts["average"]:
        run.average.load_state_dict(parts["average"])
    whole = run.optimizer.state_dict()
    run.optimizer.load_state_dict({**whole, "state": moments})
    torch.set_rng_state(tensors["random"])
    run.state = (tensors["h"], tensors["c"]) if "h" in tensors else None
    for name in ("step", "seconds", "losses", "history"):
        setattr(run, name, description[name])


def evaluate_run(run: Run, val_ids: Tensor) -> None:
    """Measure the held-out loss in 32 streams, and add a line to the history."""
    line = {
        "step": run.step,
        "seconds": round(run.seconds, 1),
        "loss": sum(run.losses) / len(run.losses),
        "val_loss": hlstm.evaluate(run.average, val_ids),
    }
    run.losses.clear()
    run.history.append(line)
    print("  ".join(f"{k} {v:.5g}" for k, v in line.items()), flush=True)


@contextmanager
def timed(run: Run) -> Iterator[None]:
    """Add what the block takes to the run's seconds."""
    began = time.perf_counter()
    yield
    run.seconds += time.perf_counter() - began


def train(
    run: Run,
    train_ids: Tensor,
    val_ids: Tensor,
    path: Path | None = None,
    evaluations: int = 10,
) -> None:
    """Follow the recipe from where the run stands to its end.

    The run is saved to `path` every two minutes, and goes on from there if it exists.
    """
    recipe, seed = run.learner.recipe, run.seed
    if path is not None and path.exists():
        load_run(run, path)
    train_ids = train_ids[-round(recipe.text_share * len(train_ids)) :]
    each = len(epoch_windows(train_ids, recipe, seed, 0))
    steps, saved = round(each * recipe.epochs), time.perf_counter()
    due = {round(steps * k / evaluations) for k in range(1, evaluations + 1)}
    schedule = hlstm.TrainConfig(
        steps=steps,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
    )
    data = epoch_windows(train_ids, recipe, seed, run.step // each)
    while run.step < steps:
        epoch, window = divmod(run.step, each)
        if window == 0:
            data, run.state = epoch_windows(train_ids, recipe, seed, epoch), None
        for group in run.optimizer.param_groups:
            group["lr"] = hlstm.training.learning_rate_at(run.step, schedule)
        with timed(run):
            learn_window(run, *data[window])
            follow(run)
        run.step += 1
        if run.step in due:
            evaluate_run(run, val_ids)
        if path is not None and time.perf_counter() - saved > SAVE_EVERY:
            save_run(run, path)
            saved = time.perf_counter()
    if path is not None:
        save_run(run, path)
