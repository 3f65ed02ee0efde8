"""NTK forgetting: the shift that retraining without D_f would have made, were the network linear in its parameters.

Around θ_o the logits are f(θ_o) + J w. Ridge regression of what is left to learn, r = softmax f(θ_o) − y of each image,
has on a set S the solution

    w_S = −J_Sᵀ (J_S J_Sᵀ + |S| ridge I)⁻¹ r_S = −(J_Sᵀ J_S + |S| ridge I)⁻¹ J_Sᵀ r_S ,

in which J_S J_Sᵀ is the NTK matrix of S, [|S| classes, |S| classes]. The parameters move by the difference,

    θ = θ_o + scale · (w_{D_r} − w_D) .

Neither J nor the NTK matrix is ever there: the second form is solved by conjugate gradients, whose matrix is applied by
one derivative forward and one backward over the images (`kernel_product`). Written for the difference itself it is

    (J_rᵀ J_r + |D_r| ridge I) (w_{D_r} − w_D) = J_fᵀ (r_f + J_f w_D) + |D_f| ridge w_D ,

the first solution's own equation taken off; so iterations that end early leave no shift where nothing is forgotten.

This is the form of the authors' code, with its residual for the cross-entropy, and a ridge that is its weight decay.
The code builds J by one backward pass for each logit of each image, and inverts the NTK matrix, which bounds it to some
hundred images. It then multiplies the shift by an estimate of how far a retraining moves, from the angle between the
shift and what the linear model misses of the way from the *initial* parameters; a finished model does not carry those,
so the factor is an option here, `scale`. The retained images may be fewer than all, `retained`, drawn by the key; the
noise that the text adds on top is that of `fisher`, and `noise` is its α.

References:
  Golatkar, Achille and Soatto, Forgetting Outside the Box: Scrubbing Deep Networks of Information Accessible from
  Input-Output Observations, 2020 (arXiv 2003.02960), the closed form of the linearised network's shift.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax.tree_utils as trees

from tmu_jax import devices
from tmu_jax.data import ForgetProblem, Split
from tmu_jax.stages import Progress, ignore_progress
from tmu_jax.training import TrainedModel
from tmu_jax.unlearning import fisher
from tmu_jax.unlearning.conjugate import Solution, solve
from tmu_jax.unlearning.gradients import Forward, drawn, gradient_sum, sum_over
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.unlearned import UnlearnedModel, with_parameters


def kernel_product(forward: Forward, params: Any, labels: jax.Array, weights: jax.Array, vector: Any) -> Any:
    """Jᵀ J of a block's logits times a vector of the parameters' form."""
    _, pushed = jax.jvp(forward, (params,), (vector,))
    _, pull_back = jax.vjp(forward, params)
    (product,) = pull_back(weights[:, None] * pushed)
    return product


def run(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    *,
    progress: Progress | None,
    ridge: float,
    iterations: int,
    scale: float,
    retained: int,
    noise: float,
) -> UnlearnedModel:
    """Moves the parameters by the shift.

    Args:
      problem: the request.
      original: the model that is to forget.
      key: a PRNG key, of the retained images that are drawn and of the noise.
      progress: called with (iterations done, iterations in all).
      ridge: of the regression, for an image.
      iterations: of conjugate gradients, at most, for each of the two systems.
      scale: of the shift.
      retained: images of D_r that stand for all of it; 0: all.
      noise: α of the noise of `fisher` afterwards; 0: none.
    """
    draw_key, noise_key = jax.random.split(key)
    forget, retain = problem.forget, drawn(problem.retain, retained, draw_key)
    report = progress or ignore_progress

    def product(data: Split, vector: Any) -> Any:
        """(JᵀJ + |S| ridge) vector."""
        return add_ridge(sum_over(original, data, kernel_product, extra=vector), vector, jnp.float32(ridge * len(data)))

    both = Split(problem.pool, np.concatenate([retain.indices, forget.indices]))
    # The gradient of the summed cross-entropy is Jᵀ r.
    of_forget, of_retain = (sum_over(original, split, gradient_sum) for split in (forget, retain))
    whole = solve(
        lambda vector: product(both, vector),
        jax.tree.map(lambda f, r: -(f + r), of_forget, of_retain),
        iterations,
        lambda done: report(done, 2 * iterations),
    )
    right = jax.tree.map(jnp.add, of_forget, product(forget, whole.vector))
    shift = solve(
        lambda vector: product(retain, vector),
        right,
        iterations,
        lambda done: report(iterations + done, 2 * iterations),
    )
    params = devices.replicate(original.variables["params"])
    params = jax.tree.map(lambda param, leaf: param + jnp.float32(scale) * leaf, params, shift.vector)
    notes = [said("D", whole), said("D_r", shift)]
    found = with_parameters(original, params, notes)
    if noise == 0:
        return found
    with_noise = fisher.run(problem, found, noise_key, progress=None, alpha=noise, power=0.5, most=1000.0)
    return with_parameters(original, with_noise.variables["params"], notes)


@jax.jit
def add_ridge(product: Any, vector: Any, ridge: jax.Array) -> Any:
    """Product + ridge · vector."""
    return trees.tree_add_scale(product, ridge, vector)


def said(of: str, solution: Solution) -> str:
    """How far conjugate gradients came."""
    return (
        f"conjugate gradients of {of} ended after {solution.iterations} iterations, with "
        f"{100 * solution.left:.2g} percent of the right side left"
    )


def check(ridge: float, iterations: int, scale: float, retained: int, noise: float) -> None:
    """Raises ValueError for options out of range."""
    for name, value in (("ridge", ridge), ("scale", scale)):
        if not value > 0:
            raise ValueError(f"{name}={value} must be above 0")
    if iterations < 1 or iterations != int(iterations):
        raise ValueError(f"iterations={iterations} must be a whole number, at least 1")
    if retained < 0 or retained != int(retained):
        raise ValueError(f"retained={retained} must be a whole number of images, 0 (all) or more")
    if not noise >= 0:
        raise ValueError(f"noise={noise} must be 0 or more")


def draws(problem: ForgetProblem, ridge: float, iterations: int, scale: float, retained: int, noise: float) -> float:
    """Images' worth of training steps; a product is a pass forward with its derivative, and one backward."""
    kept = min(retained, len(problem.retain)) or len(problem.retain)
    of_noise = fisher.fisher.draws(problem, **fisher.fisher.options) if noise else 0.0
    return (1 + 8 / 3 * iterations) * kept + (7 / 3 + 4 / 3 * iterations) * len(problem.forget) + of_noise


ntk = Method(
    "ntk",
    run=run,
    options={"ridge": 5e-4, "iterations": 20, "scale": 1.0, "retained": 0, "noise": 0.0},
    check=check,
    draws=draws,
    version=2,
)
