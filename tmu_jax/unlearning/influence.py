"""Influence unlearning: one Newton step from D to D_r, by conjugate gradients.

    θ = θ_o + scale · (H + damping · I)⁻¹ b,   b = |D_f| / |D| · (∇ mean loss on D_f − ∇ mean loss on D_r)

b is how the gradient changes as each image's weight goes from 1/|D| to 1/|D_r|, or to 0. H is the Gauss-Newton matrix
Jᵀ (diag p − p pᵀ) J of the mean cross-entropy on D: its Hessian where the network is linear, and never negative, as
conjugate gradients need and a network's Hessian is not. It is used in products with vectors alone, each a pass over
`curvature_images` of D, drawn at random; b is of all of D.

The authors of the unlearning form take the inverse of WoodFisher, from the gradients of some 1,000 images of D_r, one
at a time without a damping of its own; conjugate gradients are those of Koh and Liang, and so is the damping of 0.01.

References:
  Koh and Liang, Understanding Black-box Predictions via Influence Functions, 2017 (arXiv 1703.04730), Sections 3 and
  4.2; Izzo et al., Approximate Data Deletion from Machine Learning Models, 2021 (arXiv 2002.10077); Jia et al., Model
  Sparsity Can Simplify Machine Unlearning, 2023 (arXiv 2304.04934), for b.
"""

from typing import Any

import jax
import jax.numpy as jnp

from tmu_jax import devices
from tmu_jax.data import ForgetProblem
from tmu_jax.stages import Progress, ignore_progress
from tmu_jax.training import TrainedModel
from tmu_jax.unlearning.conjugate import solve
from tmu_jax.unlearning.gradients import Forward, drawn, gradient_sum, sum_over
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.ranges import Range
from tmu_jax.unlearning.unlearned import UnlearnedModel, with_parameters


def curvature_product(forward: Forward, params: Any, labels: jax.Array, weights: jax.Array, vector: Any) -> Any:
    """The Gauss-Newton matrix of a block's summed cross-entropy times a vector of the parameters' form."""
    logits, pushed = jax.jvp(forward, (params,), (vector,))
    _, pull_back = jax.vjp(forward, params)
    probabilities = jax.nn.softmax(logits)
    mean = jnp.sum(probabilities * pushed, axis=-1, keepdims=True)
    (product,) = pull_back(weights[:, None] * probabilities * (pushed - mean))
    return product


def run(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    *,
    progress: Progress | None,
    damping: float,
    iterations: int,
    scale: float,
    curvature_images: int,
) -> UnlearnedModel:
    """Takes the step.

    Args:
      problem: the request.
      original: the model that is to forget.
      key: a PRNG key, of the images that stand for D in the curvature.
      progress: called with (iterations done, iterations in all).
      damping: added to the curvature's diagonal.
      iterations: of conjugate gradients, at most.
      scale: of the step.
      curvature_images: images of D that stand for all of it in the curvature; 0: all.
    """
    forget, retain, train = (len(split) for split in (problem.forget, problem.retain, problem.train))
    of_forget, of_retain = (sum_over(original, split, gradient_sum) for split in (problem.forget, problem.retain))
    right = jax.tree.map(lambda f, r: (f - r * jnp.float32(forget / retain)) / train, of_forget, of_retain)

    curved = drawn(problem.train, curvature_images, key)

    def product(vector: Any) -> Any:
        """(H + damping · I) vector."""
        found = sum_over(original, curved, curvature_product, extra=vector)
        return damped(found, vector, jnp.float32(len(curved)), jnp.float32(damping))

    step = solve(product, right, iterations, lambda done: (progress or ignore_progress)(done, iterations))
    note = (
        f"conjugate gradients ended after {step.iterations} iterations, with {100 * step.left:.2g} percent of the "
        "right side left"
    )
    params = devices.replicate(original.variables["params"])
    params = jax.tree.map(lambda param, leaf: param + jnp.float32(scale) * leaf, params, step.vector)
    return with_parameters(original, params, notes=[note])


@jax.jit
def damped(curvature: Any, vector: Any, num_images: jax.Array, damping: jax.Array) -> Any:
    """The mean of a summed curvature's product with a vector, and damping times the vector, trees of one form."""
    return jax.tree.map(lambda leaf, along: leaf / num_images + damping * along, curvature, vector)


def check(damping: float, iterations: int, scale: float, curvature_images: int) -> None:
    """Raises ValueError for options out of range."""
    for name, value in (("damping", damping), ("scale", scale)):
        if not value > 0:
            raise ValueError(f"{name}={value} must be above 0")
    if iterations < 1 or iterations != int(iterations):
        raise ValueError(f"iterations={iterations} must be a whole number, at least 1")
    if curvature_images < 0 or curvature_images != int(curvature_images):
        raise ValueError(f"curvature_images={curvature_images} must be a whole number of images, 0 (all) or more")


def draws(problem: ForgetProblem, damping: float, iterations: int, scale: float, curvature_images: int) -> float:
    """Images' worth of training steps; a product is a pass forward with its derivative, and one backward: 4/3."""
    curved = min(curvature_images, len(problem.train)) or len(problem.train)
    return len(problem.train) + 4 / 3 * iterations * curved


influence = Method(
    "influence",
    run=run,
    options={"damping": 0.01, "iterations": 20, "scale": 1.0, "curvature_images": 1024},
    ranges={
        "damping": Range(0.001, 10.0, "log"),
        "scale": Range(0.3, 10.0, "log"),
        "iterations": Range(3, 10, "whole"),
    },
    check=check,
    draws=draws,
    version=2,
)
