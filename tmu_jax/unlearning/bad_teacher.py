"""Bad teacher: the student follows the original model on retained images and a random network on forgotten ones.

The teachers' outputs do not change, so they are computed once, before the loop; with fixed soft targets the
cross-entropy has the same gradient as KL(teacher ‖ student).

References:
  Chundawat et al., Can Bad Teaching Induce Forgetting?, 2023 (arXiv 2205.08096).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from tmu_jax import devices
from tmu_jax.data import ForgetProblem, Split
from tmu_jax.stages import PASS_WORK
from tmu_jax.training import (
    ModuleLike,
    Normalization,
    Recipe,
    Stream,
    TrainedModel,
    Variables,
    apply,
    in_calls,
    init_variables,
    normalize,
    predict,
    step_keys,
    unit_pixels,
)
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.ranges import Range
from tmu_jax.unlearning.relabelling import Relabelling, equal_weights, true_targets

RECIPE = Recipe(epochs=1, batch_size=256, learning_rate=1e-4, optimizer="adam", weight_decay=0.0, schedule="cosine")


BLOCK = 256


@functools.partial(jax.jit, static_argnames=("module",))
def outputs_of_batch(
    variables: Variables,
    normalization: Normalization,
    images: jax.Array,
    rows: jax.Array | None,
    key: jax.Array,
    *,
    module: ModuleLike,
) -> jax.Array:
    """Softmax outputs for rows int32[n], see `Call`, as in training: by this batch's statistics, with dropout."""
    pixels = normalize(unit_pixels(images, images if rows is None else rows), normalization)
    keys = step_keys(module, variables, pixels, key, 0)
    (logits, _), _ = apply(module, variables, pixels, train=True, keys=keys)
    return jax.nn.softmax(logits)


def random_teacher(problem: ForgetProblem, original: TrainedModel, key: jax.Array) -> np.ndarray:
    """Softmax outputs of a freshly initialised network on the forgotten images.

    A fresh network has no batch statistics to evaluate with: its running ones (mean 0, variance 1) let the activations
    grow from layer to layer, and a deep one would answer with near-certainty. So it uses those of the batch.

    Args:
      problem: the request.
      original: for the architecture and the pixels' normalisation.
      key: a PRNG key.

    Returns:
      float32[n, classes], in the order of `problem.forget`.
    """
    image = jnp.zeros((1, *problem.pool.images.shape[1:]), jnp.float32)
    variables = init_variables(key, image, module=original.module)
    rows = problem.forget.indices
    # The last batch is filled up from the start, so that its statistics are not those of a few images.
    filled = np.resize(rows, -(-len(rows) // BLOCK) * BLOCK)
    variables, normalization, keys = devices.replicate(
        (variables, original.normalization, [jax.random.fold_in(key, i) for i in range(len(filled) // BLOCK)])
    )
    outputs = [
        outputs_of_batch(variables, normalization, *call, key, module=original.module)
        for key, call in zip(keys, in_calls(problem.pool, list(filled.reshape(-1, BLOCK))), strict=True)
    ]
    return np.concatenate([devices.on_host(block) for block in outputs])[: len(rows)]


def check(retain_share: float) -> None:
    """Raises ValueError where the share is none."""
    if not 0 < retain_share <= 1:
        raise ValueError(f"retain_share={retain_share} must be above 0 and at most 1")


def check_request(problem: ForgetProblem, original: TrainedModel) -> None:
    """Raises ValueError where no fresh network like the original can be had."""
    original.check_fresh()


def draws(problem: ForgetProblem, retain_share: float) -> float:
    """Images of an epoch."""
    return retain_share * len(problem.retain) + len(problem.forget)


def draws_once(problem: ForgetProblem, retain_share: float) -> float:
    """The teachers' pass over the images of an epoch."""
    return PASS_WORK * draws(problem, retain_share)


def relabel(problem: ForgetProblem, original: TrainedModel, key: jax.Array, retain_share: float) -> Relabelling:
    """Forgotten images and a random share of the retained ones, with their teachers' softmax as targets."""
    draw_key, teacher_key = jax.random.split(key)
    count = max(1, round(retain_share * len(problem.retain)))
    retained = np.asarray(jax.random.permutation(draw_key, problem.retain.indices))[:count]
    targets = true_targets(problem)
    targets[retained] = scipy.special.softmax(predict(original, Split(problem.pool, retained))[0], axis=1)
    targets[problem.forget.indices] = random_teacher(problem, original, teacher_key)
    stream = Stream((np.concatenate([retained, problem.forget.indices]),))
    return Relabelling(stream, targets, equal_weights(problem))


bad_teacher = Method(
    "bad_teacher",
    relabel,
    RECIPE,
    options={"retain_share": 0.3},
    ranges={
        "retain_share": Range(0.1, 1.0),
        "learning_rate": Range(1e-5, 3e-3, "log"),
        "epochs": Range(1, 5, "whole"),
    },
    check=check,
    check_request=check_request,
    draws=draws,
    draws_once=draws_once,
)
