"""Unlearning methods, by name."""

from typing import Any

import jax

from tmu_jax.data import ForgetProblem
from tmu_jax.training import TrainedModel
from tmu_jax.unlearning.bad_teacher import bad_teacher
from tmu_jax.unlearning.finetune import finetune
from tmu_jax.unlearning.method import Method, Relabelling, UnlearnedModel, relabelling_method
from tmu_jax.unlearning.negative_gradient import negative_gradient
from tmu_jax.unlearning.random_labeling import random_labeling
from tmu_jax.unlearning.reference import original, retrain
from tmu_jax.unlearning.twin import twin, twin_negative_gradient

METHODS: dict[str, Method] = {
    "original": original,
    "retrain": retrain,
    "finetune": finetune,
    "negative_gradient": negative_gradient,
    "random_labeling": random_labeling,
    "bad_teacher": bad_teacher,
    "twin": twin,
    "twin_negative_gradient": twin_negative_gradient,
}
"""Methods by name; add your own: `METHODS["mine"] = my_method`."""


def unlearn(
    method: str | Method, problem: ForgetProblem, original: TrainedModel, *, key: jax.Array, **options: Any
) -> UnlearnedModel:
    """Removes a request's images from a trained model.

    Args:
      method: a name in `METHODS`, or a function called as `method(problem, original, key, **options)`.
      problem: the request.
      original: the trained model, left intact.
      key: a PRNG key.
      **options: of the method, such as `recipe=`, `progress=`, `settings=`.

    Returns:
      The unlearned model.

    Raises:
      ValueError: for a name that is no method.
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"method={method!r} is unknown; choose one of {sorted(METHODS)} or give a function")
        method = METHODS[method]
    return method(problem, original, key, **options)


__all__ = ["METHODS", "Method", "Relabelling", "UnlearnedModel", "relabelling_method", "unlearn"]
