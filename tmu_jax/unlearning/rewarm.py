"""Rewarm: the training goes on without D_f, once up to its own learning rate and down again.

What is no longer trained on falls back to what generalises, as in a gold model. It needs no twin problem and no bank.
With the outputs that a bank predicts of gold, D_f stays in the stream under them (`rewarm_twin`).
"""

import dataclasses

import jax
import numpy as np

from tmu_jax.data import ForgetProblem
from tmu_jax.training import Recipe, Stream, TrainedModel
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.ranges import Range
from tmu_jax.unlearning.relabelling import Relabelling, draw_retained, equal_weights, soft_targets, true_targets


def cycle(training: Recipe, epochs: int, peak: float, **others: float) -> Recipe:
    """The training's own recipe for `epochs` epochs of one cycle, up to `peak` times its learning rate."""
    return dataclasses.replace(
        training, epochs=epochs, learning_rate=peak * training.learning_rate, schedule="onecycle"
    )


def check(share: float, epochs: int, peak: float, copies: int = 1) -> None:
    """Raises ValueError for options out of range."""
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must be above 0 and at most 1")
    if epochs < 1 or epochs != int(epochs):
        raise ValueError(f"epochs={epochs} must be a whole number, at least 1")
    if not peak > 0:
        raise ValueError(f"peak={peak} must be above 0: it multiplies the training's learning rate")
    if copies < 1 or copies != int(copies):
        raise ValueError(f"copies={copies} must be a whole number, at least 1")


def draws(problem: ForgetProblem, share: float, epochs: int, peak: float, copies: int = 0) -> float:
    """Images of all its epochs."""
    return epochs * (round(share * len(problem.retain)) + copies * len(problem.forget))


def relabel(
    problem: ForgetProblem, original: TrainedModel, key: jax.Array, share: float, epochs: int, peak: float
) -> Relabelling:
    """A random share of the retained images with their labels; forgotten images are not drawn."""
    retained = draw_retained(problem, round(share * len(problem.retain)), key)
    return Relabelling(Stream((retained,)), true_targets(problem), equal_weights(problem))


def relabel_with_targets(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    easy: np.ndarray,
    targets: np.ndarray,
    share: float,
    epochs: int,
    peak: float,
    copies: int,
) -> Relabelling:
    """The same with every forgotten image `copies` times an epoch, under its target (float32[n, classes])."""
    retained = draw_retained(problem, round(share * len(problem.retain)), key)
    rows = np.concatenate([retained, np.tile(problem.forget.indices, copies)])
    return Relabelling(Stream((rows,)), soft_targets(problem, targets), equal_weights(problem))


rewarm = Method(
    "rewarm",
    relabel,
    cycle,
    options={"share": 1.0, "epochs": 1, "peak": 1.0},
    ranges={"share": Range(0.3, 1.0), "epochs": Range(1, 3, "whole"), "peak": Range(0.25, 2.0, "log")},
    check=check,
    draws=draws,
)
rewarm_twin = Method(
    "rewarm_twin",
    relabel_with_targets,
    cycle,
    needs="bank",
    options={"share": 0.5, "epochs": 2, "peak": 0.7, "copies": 2},
    ranges={
        "share": Range(0.3, 1.0),
        "epochs": Range(1, 3, "whole"),
        "peak": Range(0.25, 2.0, "log"),
        "copies": Range(1, 3, "whole"),
    },
    check=check,
    draws=draws,
)
