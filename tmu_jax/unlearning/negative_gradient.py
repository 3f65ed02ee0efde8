"""Negative gradient (NegGrad+): descend on the retain set and ascend, boundedly, on the forget set."""

import jax
import numpy as np

from tmu_jax.data import ForgetProblem
from tmu_jax.training import Recipe, Stream, TrainedModel
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.ranges import Range
from tmu_jax.unlearning.relabelling import Relabelling, equal_weights, true_targets

RECIPE = Recipe(epochs=5, batch_size=128, learning_rate=0.01, schedule="cosine")


def ascend_on(problem: ForgetProblem, retain: np.ndarray, forget: np.ndarray, alpha: float) -> Relabelling:
    """α·mean CE(retain) − (1−α)·mean CE(forget): half of every batch is drawn from each set.

    Args:
      problem: the request.
      retain: int32, rows of the pool to learn; an epoch is a pass over them.
      forget: int32, rows to ascend on, cycled; with none, every batch is drawn from `retain`.
      alpha: weight of the retain term, in (0, 1).

    Returns:
      The relabelling; weights are 2α and −2(1−α), since each half is divided by the whole batch size.

    References:
      Kurmanji et al., Towards Unbounded Machine Unlearning, 2023 (arXiv 2302.09880), for the joint form.
    """
    if not len(forget):
        return Relabelling(Stream((retain,)), true_targets(problem), equal_weights(problem))
    weights = np.full(len(problem.pool.labels), 2 * alpha, np.float32)
    weights[forget] = -2 * (1 - alpha)
    return Relabelling(Stream((retain, forget), (0.5, 0.5)), true_targets(problem), weights)


def check(alpha: float) -> None:
    """Raises ValueError where alpha is no weight of two terms."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha} must lie between 0 and 1")


def check_recipe(recipe: Recipe) -> None:
    """Raises ValueError where a batch has no halves."""
    if recipe.batch_size % 2:
        raise ValueError(f"batch_size={recipe.batch_size} must be even: half of a batch is drawn from each set")


def relabel(problem: ForgetProblem, original: TrainedModel, key: jax.Array, alpha: float) -> Relabelling:
    """Descends on D_r and ascends on D_f."""
    return ascend_on(problem, problem.retain.indices, problem.forget.indices, alpha)


negative_gradient = Method(
    "negative_gradient",
    relabel,
    RECIPE,
    options={"alpha": 0.95},
    ranges={
        "alpha": Range(0.8, 0.999),
        "learning_rate": Range(0.001, 0.1, "log"),
        "epochs": Range(1, 3, "whole"),
    },
    check=check,
    check_recipe=check_recipe,
    draws=lambda problem, alpha: 2 * len(problem.retain),
)
