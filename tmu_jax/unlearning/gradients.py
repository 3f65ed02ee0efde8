"""Sums over images of what derivatives give, by the model as it predicts: importances, saliencies, curvatures."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tmu_jax import devices
from tmu_jax.data import Split
from tmu_jax.stages import Progress
from tmu_jax.training import (
    Blocks,
    ModuleLike,
    Normalization,
    TrainedModel,
    Variables,
    apply,
    but_frozen,
    in_calls,
    normalize,
    unit_pixels,
)

Forward = Callable[[Any], jax.Array]
"""Parameters to the logits float32[n, classes] of one block of images."""

OfBlock = Callable[[Forward, Any, jax.Array, jax.Array, Any], Any]
"""Called as `of_block(forward, params, labels int32[n], weights float32[n], extra)`; returns a tree in the form of the
parameters. Weights are 1, and 0 for the images that fill up the last block. A program is compiled for it."""

_IMAGES_PER_CALL = 1024
_IMAGES_PER_BLOCK = 64


def sum_over(
    model: TrainedModel,
    data: Split,
    of_block: OfBlock,
    *,
    size: int = _IMAGES_PER_BLOCK,
    extra: Any = None,
    progress: Progress | None = None,
) -> Any:
    """The sum over blocks of images of what each gives; 0 for frozen parameters, and where there are no images.

    Args:
      model: the classifier, in evaluation mode: its statistics stay, nothing is dropped.
      data: the images; one after another they fill blocks.
      of_block: what a block gives.
      size: images in a block.
      extra: arrays that `of_block` takes.
      progress: called with (images done, images in all).

    Returns:
      In the form of the parameters.
    """
    params = devices.replicate(model.variables["params"])
    total = jax.tree.map(jnp.zeros_like, params)
    if not len(data):
        return total
    variables, normalization, total, extra = devices.replicate((model.variables, model.normalization, total, extra))
    blocks = Blocks(size, max(1, _IMAGES_PER_CALL // size))
    calls, counts = zip(*blocks.split(data.indices), strict=True)
    done = 0
    for rows, count, call in zip(calls, counts, in_calls(data.pool, calls), strict=True):
        weights = (np.arange(rows.size) < count).astype(np.float32).reshape(rows.shape)
        total = add_blocks(
            total,
            variables,
            normalization,
            call.images,
            call.rows,
            devices.split(data.pool.labels[rows], 1),
            devices.split(weights, 1),
            blocks.num_blocks(count),
            extra,
            module=model.module,
            of_block=of_block,
        )
        done += count
        if progress is not None:
            jax.block_until_ready(total)
            progress(done, len(data))
    return but_frozen(model.module, total, lambda leaf, param: jnp.zeros_like(leaf), params)


@functools.partial(jax.jit, static_argnames=("module", "of_block"))
def add_blocks(
    total: Any,
    variables: Variables,
    normalization: Normalization,
    images: jax.Array,
    rows: jax.Array | None,
    labels: jax.Array,
    weights: jax.Array,
    num_blocks: jax.Array,
    extra: Any,
    *,
    module: ModuleLike,
    of_block: OfBlock,
) -> Any:
    """`total` and what the first blocks give, of rows int32[blocks, size], see `Call`; labels and weights alike."""
    batches = jnp.asarray(images if rows is None else rows)
    others = {name: collection for name, collection in variables.items() if name != "params"}

    def body(i: jax.Array, total: Any) -> Any:
        pixels = normalize(unit_pixels(images, batches[i]), normalization)

        def forward(params: Any) -> jax.Array:
            (logits, _), _ = apply(module, {"params": params, **others}, pixels, train=False)
            return jnp.asarray(logits)

        return jax.tree.map(jnp.add, total, of_block(forward, variables["params"], labels[i], weights[i], extra))

    return jax.lax.fori_loop(0, num_blocks, body, total)


def drawn(data: Split, count: int, key: jax.Array) -> Split:
    """So many of the images, ascending; all of them for 0, or where there are no more."""
    if not 0 < count < len(data):
        return data
    return Split(data.pool, np.sort(np.asarray(jax.random.permutation(key, data.indices))[:count]))


def mean_loss(forward: Forward, params: Any, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean cross-entropy of a block with the labels, without the images that fill it up."""
    losses = optax.softmax_cross_entropy_with_integer_labels(forward(params), labels)
    return jnp.sum(weights * losses) / jnp.sum(weights)


def gradient_sum(forward: Forward, params: Any, labels: jax.Array, weights: jax.Array, extra: Any) -> Any:
    """The gradient of the summed cross-entropy of a block."""
    return jax.grad(lambda params: jnp.sum(weights) * mean_loss(forward, params, labels, weights))(params)


def squared_gradient(forward: Forward, params: Any, labels: jax.Array, weights: jax.Array, extra: Any) -> Any:
    """The squares of the gradient of a block's mean cross-entropy; of blocks of one image the empirical Fisher's."""
    gradient = jax.grad(lambda params: mean_loss(forward, params, labels, weights))(params)
    return jax.tree.map(jnp.square, gradient)


def num_blocks(num_images: int, size: int) -> int:
    """Blocks that so many images fill."""
    return math.ceil(num_images / size)
