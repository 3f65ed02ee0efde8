"""The twin method: lower the accuracy on the samples predicted hard alone, and keep the easy ones.

References:
  Ji et al., Towards Aligned Data Removal via Twin Machine Unlearning, 2024 (arXiv 2408.11433), Section 4.
"""

import jax
import numpy as np

from tmu_jax.data import ForgetProblem
from tmu_jax.training import Recipe, Stream, TrainedModel
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.negative_gradient import ascend_on, check, check_recipe
from tmu_jax.unlearning.relabelling import Relabelling, equal_weights, wrong_targets

RECIPE = Recipe(epochs=5, batch_size=64, learning_rate=0.01, schedule="cosine")


def relabel_hard(problem: ForgetProblem, original: TrainedModel, key: jax.Array, easy: np.ndarray) -> Relabelling:
    """All images; a wrong label for each forgotten one that is predicted hard (easy: bool[n], as `problem.forget`)."""
    targets = wrong_targets(problem, problem.forget.indices[~easy], key)
    return Relabelling(Stream((problem.train.indices,)), targets, equal_weights(problem))


def ascend_on_hard(
    problem: ForgetProblem, original: TrainedModel, key: jax.Array, easy: np.ndarray, alpha: float
) -> Relabelling:
    """Negative gradient with predicted hard as forget and predicted easy as retain (easy: bool[n])."""
    retain = np.concatenate([problem.retain.indices, problem.forget.indices[easy]])
    return ascend_on(problem, retain, problem.forget.indices[~easy], alpha)


twin = Method("twin", relabel_hard, RECIPE, needs="prediction")
twin_negative_gradient = Method(
    "twin_negative_gradient",
    ascend_on_hard,
    RECIPE,
    needs="prediction",
    options={"alpha": 0.95},
    check=check,
    check_recipe=check_recipe,
    draws=lambda problem, alpha: 2 * len(problem.train),
)
