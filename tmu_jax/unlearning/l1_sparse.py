"""Fine-tuning with a sparsity penalty: many small parameters go to zero, and with them what only D_f needed.

    L = mean over D_r of CE + γ_e · Σ_i |θ_i|,   γ_e = γ · (1 − e / epochs) in epoch e = 0, 1, ...

The penalty's gradient is γ_e times the sign, so it is a transformation of the gradient, before weight decay and
momentum, and the one loss is left as it is. It is on every parameter, as in the authors' code: biases and the scales of
norms too.

References:
  Jia et al., Model Sparsity Can Simplify Machine Unlearning, 2023 (arXiv 2304.04934), Section 4, with the decreasing γ.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tmu_jax.data import ForgetProblem
from tmu_jax.stages import Progress
from tmu_jax.training import Recipe, Stream, TrainedModel, fit, make_optimizer
from tmu_jax.training.recipe import Optimizer
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.ranges import Range
from tmu_jax.unlearning.relabelling import equal_weights, true_targets
from tmu_jax.unlearning.unlearned import UnlearnedModel, with_variables

RECIPE = Recipe(epochs=10, batch_size=256, learning_rate=0.01, schedule="constant")


class PenaltyState(NamedTuple):
    """Steps that were taken, int32[]."""

    step: jax.Array


def penalty(gamma: float, steps_per_epoch: int, epochs: int) -> optax.GradientTransformation:
    """Adds the gradient of γ_e · Σ |θ|."""

    def update(gradient: Any, state: PenaltyState, params: Any) -> tuple[Any, PenaltyState]:
        epoch = state.step // steps_per_epoch
        now = gamma * jnp.maximum(1 - epoch.astype(jnp.float32) / epochs, 0)
        added = jax.tree.map(lambda leaf, param: leaf + now * jnp.sign(param), gradient, params)
        return added, PenaltyState(state.step + 1)

    return optax.GradientTransformation(lambda params: PenaltyState(jnp.zeros((), jnp.int32)), update)


@functools.lru_cache(maxsize=32)
def penalised(
    optimizer: str | Optimizer, weight_decay: float, gamma: float, steps_per_epoch: int, epochs: int
) -> Optimizer:
    """A recipe's optimiser with the penalty before it; the same function for the same values, so one program."""

    def make(learning_rate: Any) -> optax.GradientTransformation:
        rest = make_optimizer(optimizer, weight_decay, learning_rate)
        scale = optax.identity() if callable(optimizer) else optax.scale(-learning_rate)
        return optax.chain(penalty(gamma, steps_per_epoch, epochs), rest, scale)

    return make


def run(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    *,
    recipe: Recipe,
    progress: Progress | None,
    gamma: float,
) -> UnlearnedModel:
    """Fine-tunes on D_r with the penalty.

    Args:
      problem: the request.
      original: the model that is to forget.
      key: a PRNG key.
      recipe: of the fine-tuning.
      progress: called with (steps done, steps in all).
      gamma: weight of the penalty in the first epoch.
    """
    stream = Stream((problem.retain.indices,))
    steps = stream.steps_per_epoch(recipe.batch_size)
    optimizer = penalised(recipe.optimizer, recipe.weight_decay, gamma, steps, recipe.epochs)
    variables, losses = fit(
        original.module,
        original.variables,
        original.normalization,
        problem.pool,
        stream,
        true_targets(problem),
        equal_weights(problem),
        dataclasses.replace(recipe, optimizer=optimizer),
        key,
        progress=progress,
    )
    return with_variables(original, variables, losses)


def check(gamma: float) -> None:
    """Raises ValueError for a negative penalty."""
    if not gamma >= 0:
        raise ValueError(f"gamma={gamma} must be 0 or more")


l1_sparse = Method(
    "l1_sparse",
    run=run,
    recipe=RECIPE,
    options={"gamma": 1e-4},
    ranges={
        "gamma": Range(1e-6, 1e-3, "log"),
        "learning_rate": Range(0.002, 0.2, "log"),
        "epochs": Range(1, 5, "whole"),
    },
    check=check,
    draws=lambda problem, gamma: len(problem.retain),
)
