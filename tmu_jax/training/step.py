"""One compiled training step for every training and every unlearning method.

    loss = sum_i weight[i] * cross_entropy(target[i], logits[i]) / batch size

Each row of the image pool has a target distribution and a weight (positive: learn; negative: ascend, bounded). Images,
targets and weights stay on the device; many steps run in one call.
"""

import functools
import math
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from tmu_jax.training.images import normalize, random_flip_and_crop
from tmu_jax.training.module import apply
from tmu_jax.training.recipe import Normalization


class TrainState(NamedTuple):
    """What a training step changes: one frozen pytree."""

    params: Any
    batch_stats: Any
    opt_state: Any
    step: jax.Array


def weighted_cross_entropy(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """The one loss: the sum of weight · cross-entropy(target, logits), over the batch size.

    Where the weight is negative (gradient ascent) the cross-entropy counts up to log(classes), the loss of a uniform
    guess, and has no gradient beyond it: so the ascent ends.

    Args:
      logits: float32[n, classes].
      targets: float32[n, classes], a distribution each.
      weights: float32[n].

    Returns:
      float32[].
    """
    chex.assert_rank([logits, targets, weights], [2, 2, 1])
    chex.assert_equal_shape([logits, targets])
    cross_entropy = optax.softmax_cross_entropy(logits, targets)
    bounded = jnp.minimum(cross_entropy, math.log(logits.shape[-1]))
    return jnp.mean(weights * jnp.where(weights < 0, bounded, cross_entropy))


def make_optimizer(name: str, weight_decay: jax.Array | float) -> optax.GradientTransformation:
    """Gradient to update, before the learning rate: SGD with momentum 0.9 or Adam, weight decay in the gradient."""
    core = optax.trace(decay=0.9) if name == "sgd" else optax.scale_by_adam()
    return optax.chain(optax.add_decayed_weights(weight_decay), core)


def train_step(
    state: TrainState,
    images: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    learning_rate: jax.Array,
    weight_decay: jax.Array,
    *,
    module: nn.Module,
    optimizer: str,
) -> tuple[TrainState, jax.Array]:
    """One step on one batch. Pure.

    Args:
      state: parameters, batch statistics, optimiser state, step.
      images: float32[n, h, w, c], normalised.
      targets: float32[n, classes].
      weights: float32[n].
      learning_rate: float32[].
      weight_decay: float32[].
      module: the classifier (static).
      optimizer: "sgd" or "adam" (static).

    Returns:
      The next state and the loss, float32[].
    """
    chex.assert_equal_shape_prefix([images, targets, weights], 1)

    def loss_fn(params: Any, images: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        (logits, _), updates = apply(module, variables, images, train=True)
        return weighted_cross_entropy(logits, targets, weights), updates.get("batch_stats", {})

    loss_and_gradient = jax.value_and_grad(loss_fn, has_aux=True)
    size = microbatch_size(module, len(images))
    if size is not None:
        loss_and_gradient = optax.microbatching.microbatch(
            loss_and_gradient, (1, 2, 3), size, optax.microbatching.AccumulationType.MEAN
        )
    (loss, batch_stats), gradient = loss_and_gradient(state.params, images, targets, weights)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an integer power
        updates, opt_state = make_optimizer(optimizer, weight_decay).update(gradient, state.opt_state, state.params)
    params = jax.tree.map(lambda param, update: param - learning_rate * update, state.params, updates)
    return TrainState(params, batch_stats, opt_state, state.step + 1), loss


def microbatch_size(module: nn.Module, batch_size: int) -> int | None:
    """How many images of a batch a step takes at a time; None: all of them.

    A module says by an attribute `microbatch` that it mixes no images, and of how many a CPU's cache holds the
    activations. It cannot be seen from its variables: one that normalises over the batch without keeping statistics
    would silently train something else.
    """
    size = getattr(module, "microbatch", None)
    return size if size is not None and jax.default_backend() == "cpu" and batch_size % size == 0 else None


@functools.partial(jax.jit, static_argnames=("module", "optimizer", "augment"), donate_argnames=("state",))
def train_steps(
    state: TrainState,
    pool_images: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    normalization: Normalization,
    indices: jax.Array,
    learning_rates: jax.Array,
    num_steps: jax.Array,
    weight_decay: jax.Array,
    key: jax.Array,
    *,
    module: nn.Module,
    optimizer: str,
    augment: bool,
) -> tuple[TrainState, jax.Array]:
    """The first `num_steps` of the given steps in one compiled loop; `state` is donated.

    Args:
      state: where to start.
      pool_images: uint8[p, h, w, c], 0..255.
      targets: float32[p, classes].
      weights: float32[p].
      normalization: of the pixels.
      indices: int32[steps, batch], rows of the pool.
      learning_rates: float32[steps].
      num_steps: int32[], at most `steps`; dynamic, so that one program serves every length.
      weight_decay: float32[].
      key: of the augmentation; folded with the step.
      module: the classifier (static).
      optimizer: "sgd" or "adam" (static).
      augment: flip and crop (static).

    Returns:
      The state and the loss of each step, float32[steps] (0 beyond `num_steps`).
    """
    chex.assert_rank([pool_images, targets, weights, indices], [4, 2, 1, 2])

    def body(i: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
        state, losses = carry
        rows = indices[i]
        images = pool_images[rows].astype(jnp.float32) / 255
        if augment:
            images = random_flip_and_crop(jax.random.fold_in(key, state.step), images)
        state, loss = train_step(
            state,
            normalize(images, normalization),
            targets[rows],
            weights[rows],
            learning_rates[i],
            weight_decay,
            module=module,
            optimizer=optimizer,
        )
        return state, losses.at[i].set(loss)

    return jax.lax.fori_loop(0, num_steps, body, (state, jnp.zeros(len(indices), jnp.float32)))
