"""Selective synaptic dampening: parameters that matter more to D_f than to all of D are made smaller, and no more.

    θ_i ← min(λ F_D,i / F_f,i, 1) · θ_i   where   F_f,i > α F_D,i

F is the diagonal of the Fisher information: the mean over images of the squared derivative of log p(label). Since D_f
is part of D, F_D,i is at least |D_f| / |D| of F_f,i: of a D_f that is more than 1/α of D no parameter is selected.

The authors' code squares the gradient of the mean loss of 128 images, which is no Fisher information and is smaller the
more images there are to cancel each other: of a request of fewer images it is compared with that of 128. `group` is
that number; 1 is the paper's formula.

References:
  Foster et al., Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening, 2024 (arXiv
  2308.07707): α = 10 and λ = 1, as its code has them for random forgetting by
  every network.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tmu_jax import devices
from tmu_jax.data import ForgetProblem
from tmu_jax.stages import Progress
from tmu_jax.training import TrainedModel
from tmu_jax.unlearning.gradients import num_blocks, squared_gradient, sum_over
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.ranges import Range
from tmu_jax.unlearning.unlearned import UnlearnedModel, with_parameters


def run(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    *,
    progress: Progress | None,
    alpha: float,
    dampening: float,
    group: int,
) -> UnlearnedModel:
    """Dampens; nothing is drawn and nothing trained.

    Args:
      problem: the request.
      original: the model that is to forget.
      key: not used.
      progress: called with (images done, images in all), of D_f and then of D_r.
      alpha: how many times more a parameter must matter to D_f than to D to be selected.
      dampening: λ, of the factor by which it is made smaller.
      group: images whose mean loss is differentiated and squared.
    """
    forgotten = sum_over(original, problem.forget, squared_gradient, size=group, progress=progress)
    retained = sum_over(original, problem.retain, squared_gradient, size=group, progress=progress)
    of_forgotten = num_blocks(len(problem.forget), group)
    of_all = of_forgotten + num_blocks(len(problem.retain), group)
    params, selected = dampened(
        devices.replicate(original.variables["params"]),
        jax.tree.map(lambda one: one / of_forgotten, forgotten),
        jax.tree.map(lambda one, other: (one + other) / of_all, forgotten, retained),
        jnp.float32(alpha),
        jnp.float32(dampening),
    )
    count, size = int(selected), sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    note = f"{count:,} of {size:,} parameters were dampened"
    if alpha * of_forgotten >= of_all:
        note += f": alpha={alpha:g} can select none where a request is 1/{alpha:g} of the training images or more"
    return with_parameters(original, params, notes=(note,))


@jax.jit
def dampened(params: Any, forgotten: Any, every: Any, alpha: jax.Array, dampening: jax.Array) -> tuple[Any, jax.Array]:
    """Parameters after dampening, and how many were selected; by their importance to D_f and to all of D."""
    selected = jax.tree.map(lambda f, d: f > alpha * d, forgotten, every)

    def dampen(param: jax.Array, chosen: jax.Array, f: jax.Array, d: jax.Array) -> jax.Array:
        factor = jnp.minimum(dampening * d / jnp.where(chosen, f, 1), 1)
        return jnp.where(chosen, factor * param, param)

    count = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(selected))
    return jax.tree.map(dampen, params, selected, forgotten, every), jnp.asarray(count)


def check(alpha: float, dampening: float, group: int) -> None:
    """Raises ValueError for options out of range."""
    for name, value in (("alpha", alpha), ("dampening", dampening)):
        if not value > 0:
            raise ValueError(f"{name}={value} must be above 0")
    if group < 1 or group != int(group):
        raise ValueError(f"group={group} must be a whole number of images, at least 1")


ssd = Method(
    "ssd",
    run=run,
    options={"alpha": 10.0, "dampening": 1.0, "group": 1},
    ranges={"alpha": Range(1.0, 100.0, "log"), "dampening": Range(0.1, 10.0, "log")},
    check=check,
    draws=lambda problem, alpha, dampening, group: len(problem.train),
)
