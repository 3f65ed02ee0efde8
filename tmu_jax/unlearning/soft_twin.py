"""Soft twin: a short fine-tuning of D_f on the outputs that a bank predicts of gold, beside replayed images of D_r."""

import dataclasses

import jax
import numpy as np

from tmu_jax.data import ForgetProblem
from tmu_jax.training import Recipe, Stream, TrainedModel
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.ranges import Range
from tmu_jax.unlearning.relabelling import Relabelling, draw_retained, equal_weights, soft_targets


def fine_tuning(training: Recipe, replay: float, epochs: int, rate: float) -> Recipe:
    """The training's own recipe for `epochs` epochs from `rate` times its learning rate down to 0."""
    return dataclasses.replace(training, epochs=epochs, learning_rate=rate * training.learning_rate, schedule="cosine")


def check(replay: float, epochs: int, rate: float) -> None:
    """Raises ValueError for options out of range."""
    if not replay > 0:
        raise ValueError(f"replay={replay} must be above 0: retained images for each forgotten one")
    if epochs < 1 or epochs != int(epochs):
        raise ValueError(f"epochs={epochs} must be a whole number, at least 1")
    if not rate > 0:
        raise ValueError(f"rate={rate} must be above 0: it multiplies the training's learning rate")


def draws(problem: ForgetProblem, replay: float, epochs: int, rate: float) -> float:
    """Images of all its epochs."""
    return epochs * (len(problem.forget) + min(len(problem.retain), round(replay * len(problem.forget))))


def relabel(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    easy: np.ndarray,
    targets: np.ndarray,
    replay: float,
    epochs: int,
    rate: float,
) -> Relabelling:
    """D_f under its targets (float32[n, classes]), and `replay` retained images with their labels for each of it."""
    retained = draw_retained(problem, max(1, round(replay * len(problem.forget))), key)
    rows = np.concatenate([retained, problem.forget.indices])
    return Relabelling(Stream((rows,)), soft_targets(problem, targets), equal_weights(problem))


soft_twin = Method(
    "soft_twin",
    relabel,
    fine_tuning,
    needs="bank",
    options={"replay": 4.0, "epochs": 6, "rate": 0.05},
    ranges={
        "replay": Range(1.0, 8.0, "log"),
        "epochs": Range(1, 6, "whole"),
        "rate": Range(0.01, 0.5, "log"),
    },
    check=check,
    draws=draws,
)
