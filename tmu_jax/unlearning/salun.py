"""SalUn: random labels, learnt by the parameters alone that the forgotten images' loss depends on most.

    m_i = 1 where |∂ (loss on D_f) / ∂ θ_i| at the original is among the `share` largest, else 0
    θ = m ⊙ (θ_o + Δ) + (1 − m) ⊙ θ_o, with Δ by fine-tuning on wrong labels for D_f and the true ones for D_r

The parameters outside of the mask stay exactly as they were: neither weight decay nor momentum moves them, as the first
releases of the authors' code let them. Those also took a step of the optimiser after each batch of the gradient, so
that only the first was the original's, and sorted the gradients so that the smallest were taken; later releases do
neither. All draw the random labels anew in each epoch, among them the true one. The paper's text has none of this.

References:
  Fan et al., SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image Classification and
  Generation, 2024 (arXiv 2310.12508), Eqs. 3 to 5; half of the parameters, as there. 10 epochs, batches of 256, the
  learning rate and its schedule are the defaults of the authors' program; its README's example (a tenth of CIFAR-10,
  ResNet-18) has the rate 0.013.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tmu_jax.data import ForgetProblem
from tmu_jax.stages import Progress
from tmu_jax.training import Recipe, Stream, TrainedModel, but_frozen, fit
from tmu_jax.unlearning.gradients import gradient_sum, sum_over
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.ranges import Range
from tmu_jax.unlearning.relabelling import equal_weights, wrong_targets
from tmu_jax.unlearning.unlearned import UnlearnedModel, with_variables

RECIPE = Recipe(epochs=10, batch_size=256, learning_rate=0.01, schedule="constant")


def run(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    *,
    recipe: Recipe,
    progress: Progress | None,
    share: float,
) -> UnlearnedModel:
    """Finds the mask and fine-tunes within it, on all of D.

    Args:
      problem: the request.
      original: the model that is to forget.
      key: a PRNG key.
      recipe: of the fine-tuning.
      progress: called with (done, in all): images of the mask's gradient, then steps.
      share: of the parameters, that may move.
    """
    label_key, fit_key = jax.random.split(key)
    mask = salient(original, sum_over(original, problem.forget, gradient_sum, progress=progress), share)
    variables, losses = fit(
        original.module,
        original.variables,
        original.normalization,
        problem.pool,
        Stream((problem.train.indices,)),
        wrong_targets(problem, problem.forget.indices, label_key),
        equal_weights(problem),
        recipe,
        fit_key,
        progress=progress,
        mask=mask,
    )
    return with_variables(original, variables, losses)


def salient(model: TrainedModel, gradient: Any, share: float) -> Any:
    """Where a gradient is among the `share` largest of all that may move, by size; of equal ones the first.

    Args:
      model: says which parameters are frozen, and so neither counted nor chosen.
      gradient: in the form of the parameters.
      share: of them, rounded to a whole number, at least one.

    Returns:
      bool of the parameters' form.
    """
    params = model.variables["params"]
    free = but_frozen(
        model.module,
        jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params),
        lambda leaf, param: jnp.zeros_like(leaf),
        params,
    )
    leaves, structure = jax.tree.flatten(gradient)
    may_move = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(free)])
    size = np.where(may_move, np.concatenate([np.abs(np.ravel(leaf)) for leaf in leaves]), -np.inf)
    chosen = np.zeros(len(size), bool)
    chosen[np.argsort(-size, kind="stable")[: max(1, round(share * int(may_move.sum())))]] = True
    parts = np.split(chosen, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return jax.tree.unflatten(
        structure, [jnp.asarray(part.reshape(leaf.shape)) for part, leaf in zip(parts, leaves, strict=True)]
    )


def check(share: float) -> None:
    """Raises ValueError where the share is none."""
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must be above 0 and at most 1")


salun = Method(
    "salun",
    run=run,
    recipe=RECIPE,
    options={"share": 0.5},
    ranges={
        "share": Range(0.1, 1.0),
        "learning_rate": Range(0.0003, 0.1, "log"),
        "epochs": Range(1, 5, "whole"),
    },
    check=check,
    draws_once=lambda problem, share: len(problem.forget),  # For the mask.
)
