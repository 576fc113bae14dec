"""The exercises in code of the chapter on runs, for `hlstm.exercises`."""

import math
from types import SimpleNamespace

from hlstm.exercises import Exercise

callback = Exercise(
    "runs.4",
    "A callback",
    "The newest held-out loss is the last of trainer.history.val_loss. Call trainer.stop with "
    "a reason once it is low enough.",
    gradients=False,
)


@callback.inputs
def some_runs():
    yield [2.0, 1.8, 1.6, 1.4], 1.6
    yield [2.0, 1.5, 1.9], 1.7
    yield [2.0, math.nan, 1.9], 1.0


@callback.probe
def evaluations_before_it_stops(answer, losses, target):
    reasons = []
    trainer = SimpleNamespace(
        history=SimpleNamespace(val_loss=[], loss=[]), stop=reasons.append
    )
    told = answer(target)
    for n, loss in enumerate(losses):
        trainer.history.loss.append(loss - 0.3)  # on text that is learned, it is lower
        trainer.history.val_loss.append(loss)
        told.on_evaluation(trainer)
        if reasons:
            return n, isinstance(reasons[0], str)
    return None


@callback.solution
class StopAtLoss:
    def __init__(self, target):
        self.target = target

    def on_evaluation(self, trainer):
        loss = trainer.history.val_loss[-1]
        if loss <= self.target:
            trainer.stop(f"the held-out loss has reached {loss:.3f}")


@callback.wrong(
    "This looks at the training loss, which is lower and noisier. What counts is the held-out "
    "one, trainer.history.val_loss."
)
class LooksAtTraining(StopAtLoss):
    def on_evaluation(self, trainer):
        if trainer.history.loss[-1] <= self.target:
            trainer.stop("reached")


@callback.wrong(
    "The run ends at once: stop while the loss is at or below the target, not above it."
)
class ComparesTheOtherWay(StopAtLoss):
    def on_evaluation(self, trainer):
        if not trainer.history.val_loss[-1] <= self.target:
            trainer.stop("reached")


@callback.wrong("A loss that is just the target has reached it: compare with <=.")
class StrictlyBelow(StopAtLoss):
    def on_evaluation(self, trainer):
        if trainer.history.val_loss[-1] < self.target:
            trainer.stop("reached")
