"""The two ends of the scale: the original model untouched, and the gold model retrained without D_f."""

import dataclasses

import jax

from tmu_jax.data import ForgetProblem
from tmu_jax.training import Progress, TrainedModel, train
from tmu_jax.unlearning.method import UnlearnedModel


def _as_unlearned(
    name: str, model: TrainedModel, problem: ForgetProblem, original: TrainedModel, parts: dict[str, float]
) -> UnlearnedModel:
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(TrainedModel)}
    return UnlearnedModel(
        **fields, method=name, original=original, forget_indices=problem.forget.indices, seconds_by_part=parts
    )


def original(problem: ForgetProblem, original: TrainedModel, key: jax.Array) -> UnlearnedModel:
    """Nothing is done: the row that every method must beat."""
    untouched = dataclasses.replace(original, seconds=0.0, compile_seconds=0.0)
    return _as_unlearned("original", untouched, problem, original, {})


def retrain(
    problem: ForgetProblem, original: TrainedModel, key: jax.Array, *, progress: Progress | None = None
) -> UnlearnedModel:
    """The gold model: the same architecture and recipe from a fresh initialisation, on D_r alone."""
    gold = train(original.module, problem.retain, key=key, recipe=original.recipe, progress=progress)
    return _as_unlearned("retrain", gold, problem, original, {"retraining": gold.seconds})
