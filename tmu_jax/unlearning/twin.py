"""The twin method: lower the accuracy on the samples predicted hard alone, and keep the easy ones.

References:
  Ji et al., Towards Aligned Data Removal via Twin Machine Unlearning, 2024 (arXiv 2408.11433), Section 4.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from tmu_jax.data import ForgetProblem
from tmu_jax.training import Progress, Recipe, Stream, TrainedModel
from tmu_jax.twin import DEFAULT_SETTINGS, TwinPrediction, TwinSettings, predict_generalization
from tmu_jax.unlearning.method import (
    Relabel,
    Relabelling,
    UnlearnedModel,
    equal_weights,
    unlearn_by_relabelling,
    wrong_targets,
)
from tmu_jax.unlearning.negative_gradient import ascend_on

RECIPE = Recipe(epochs=5, batch_size=64, learning_rate=0.01, schedule="cosine")


def relabel_hard(problem: ForgetProblem, original: TrainedModel, key: jax.Array, *, easy: np.ndarray) -> Relabelling:
    """All images; a wrong label for each forgotten one that is predicted hard (easy: bool[n], as `problem.forget`)."""
    targets = wrong_targets(problem, problem.forget.indices[~easy], key)
    return Relabelling(Stream((problem.train.indices,)), targets, equal_weights(problem))


def ascend_on_hard(
    problem: ForgetProblem, original: TrainedModel, key: jax.Array, *, easy: np.ndarray, alpha: float = 0.95
) -> Relabelling:
    """Negative gradient with predicted hard as forget and predicted easy as retain (easy: bool[n])."""
    retain = np.concatenate([problem.retain.indices, problem.forget.indices[easy]])
    return ascend_on(problem, retain, problem.forget.indices[~easy], alpha)


def unlearn_hard(
    name: str,
    relabel: Relabel,
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    *,
    prediction: TwinPrediction | None = None,
    settings: TwinSettings = DEFAULT_SETTINGS,
    recipe: Recipe = RECIPE,
    progress: Progress | None = None,
    part_progress: Callable[[str], Progress] | None = None,
    **options: Any,
) -> UnlearnedModel:
    """Predicts easy and hard on the twin problem, then unlearns the hard samples by a relabelling.

    Args:
      name: the method's name.
      relabel: makes the relabelling from `easy`, bool[n].
      problem: the request.
      original: M_o, left intact.
      key: a PRNG key.
      prediction: easy/hard labels that are known already; predicted here when None.
      settings: of the twin problem.
      recipe: of the unlearning; its augmentation is the original's.
      progress: called with (steps done, steps in all) of the unlearning.
      part_progress: makes the progress function of each part of the prediction.
      **options: of the relabelling.

    Returns:
      The unlearned model with its prediction; seconds are those of all parts.
    """
    prediction_key, unlearning_key = jax.random.split(key)
    if prediction is None:
        prediction = predict_generalization(problem, original, prediction_key, settings, part_progress)
    unlearned = unlearn_by_relabelling(
        name, relabel, problem, original, unlearning_key,
        recipe=recipe, progress=progress, easy=prediction.easy, **options,
    )  # fmt: skip
    parts = {**prediction.seconds_by_part, **unlearned.seconds_by_part}
    return dataclasses.replace(
        unlearned,
        prediction=prediction,
        seconds_by_part=parts,
        seconds=sum(parts.values()),
        compile_seconds=unlearned.compile_seconds + prediction.compile_seconds,
        notes=prediction.notes,
    )


twin = functools.partial(unlearn_hard, "twin", relabel_hard)
twin_negative_gradient = functools.partial(unlearn_hard, "twin_negative_gradient", ascend_on_hard)
