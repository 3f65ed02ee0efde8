"""Fine-tuning on the retain set with a slightly large learning rate: forgetting by drift alone."""

import jax

from tmu_jax.data import ForgetProblem
from tmu_jax.training import Recipe, Stream, TrainedModel
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.ranges import Range
from tmu_jax.unlearning.relabelling import Relabelling, equal_weights, true_targets

RECIPE = Recipe(epochs=5, batch_size=128, learning_rate=0.02, schedule="cosine")


def relabel(problem: ForgetProblem, original: TrainedModel, key: jax.Array) -> Relabelling:
    """Retain images with their labels; forgotten images are not drawn."""
    return Relabelling(Stream((problem.retain.indices,)), true_targets(problem), equal_weights(problem))


finetune = Method(
    "finetune",
    relabel,
    RECIPE,
    ranges={"learning_rate": Range(0.002, 0.2, "log"), "epochs": Range(1, 5, "whole")},
    draws=lambda problem: len(problem.retain),
)
