"""Random labeling: forgotten images get fixed wrong labels, and the model is trained on all of D."""

import jax

from tmu_jax.data import ForgetProblem
from tmu_jax.training import Recipe, Stream, TrainedModel
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.ranges import Range
from tmu_jax.unlearning.relabelling import Relabelling, equal_weights, wrong_targets

RECIPE = Recipe(epochs=5, batch_size=64, learning_rate=0.01, schedule="cosine")


def relabel(problem: ForgetProblem, original: TrainedModel, key: jax.Array) -> Relabelling:
    """All images; one uniform wrong label for each forgotten one."""
    targets = wrong_targets(problem, problem.forget.indices, key)
    return Relabelling(Stream((problem.train.indices,)), targets, equal_weights(problem))


random_labeling = Method(
    "random_labeling",
    relabel,
    RECIPE,
    ranges={"learning_rate": Range(0.0003, 0.1, "log"), "epochs": Range(1, 5, "whole")},
)
