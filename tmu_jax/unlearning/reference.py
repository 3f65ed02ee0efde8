"""The two ends of the scale: the original model untouched, and the gold model retrained without D_f."""

import dataclasses
from typing import Literal

import jax

from tmu_jax.data import ForgetProblem
from tmu_jax.stages import Progress
from tmu_jax.training import TrainedModel, train
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.unlearned import UnlearnedModel, as_unlearned


def as_reference(reference: Literal["original", "gold"], model: TrainedModel) -> UnlearnedModel:
    """The original model as the result of doing nothing, or a gold model as that of retraining."""
    if reference == "original":
        return as_unlearned(dataclasses.replace(model, seconds=0.0, compile_seconds=0.0), method="original")
    return as_unlearned(model, method="retrain", seconds_by_part={"retraining": model.seconds})


def untouched(
    problem: ForgetProblem, original: TrainedModel, key: jax.Array, progress: Progress | None = None
) -> UnlearnedModel:
    """Nothing is done: the row that every method must beat."""
    return as_reference("original", original)


def retrained(
    problem: ForgetProblem, original: TrainedModel, key: jax.Array, progress: Progress | None = None
) -> UnlearnedModel:
    """The gold model: the same architecture and recipe from a fresh initialisation, on D_r alone."""
    original.check_retrainable()
    gold = train(original.module, problem.retain, key=key, recipe=original.training_recipe, progress=progress)
    return as_reference("gold", gold)


original = Method("original", run=untouched, reference="original", draws=lambda problem: 0)
retrain = Method("retrain", run=retrained, reference="gold", draws=lambda problem: len(problem.retain))
