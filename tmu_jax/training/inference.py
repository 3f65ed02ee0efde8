"""A classifier's logits and embeddings, block by block."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tmu_jax import devices
from tmu_jax.boundary import checked
from tmu_jax.data import Split
from tmu_jax.training.adapter import ModuleLike, Variables
from tmu_jax.training.images import in_calls, normalize, unit_pixels
from tmu_jax.training.module import apply
from tmu_jax.training.recipe import Normalization, TrainedModel


class Blocks(NamedTuple):
    """How many images an evaluation takes together, and how many times in one call."""

    size: int
    per_call: int

    def split(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Yields the rows of one call after another; without any, one call of none.

        Args:
          rows: int32[n].

        Yields:
          Rows int32[per_call, size], filled up by repeating them, and how many of them, from the first on, are real.
        """
        most = self.size * self.per_call
        for start in range(0, max(len(rows), 1), most):
            part = rows[start : start + most]
            yield np.resize(part, (self.per_call, self.size)), len(part)

    def num_blocks(self, num_rows: int) -> np.int32:
        """Blocks that hold so many rows."""
        return np.int32(-(-num_rows // self.size))


def evaluation_blocks(on_cpu: Blocks, elsewhere: Blocks) -> Blocks:
    """The blocks for this platform: few images on a CPU, where they stay in its cache."""
    return on_cpu if jax.default_backend() == "cpu" else elsewhere


def over_blocks(function: Callable[..., Any], num_blocks: jax.Array, *blocks: jax.Array) -> Any:
    """`function` of the first blocks, one after another in one loop: their memory is taken once.

    Args:
      function: of one block of each array.
      num_blocks: int32[], at most n; dynamic, so that one program serves any number of images.
      *blocks: arrays [n, ...], a block of each in their leading axis.

    Returns:
      What the function returns, stacked, [n, ...]; zeros beyond the first `num_blocks`.
    """
    one = jax.eval_shape(function, *(part[0] for part in blocks))
    start = jax.tree.map(lambda result: jnp.zeros((len(blocks[0]), *result.shape), result.dtype), one)

    def body(i: jax.Array, results: Any) -> Any:
        found = function(*(part[i] for part in blocks))
        return jax.tree.map(lambda every, result: every.at[i].set(result), results, found)

    return jax.lax.fori_loop(0, num_blocks, body, start)


@functools.partial(jax.jit, static_argnames=("module",))
def predict_rows(
    variables: Variables,
    normalization: Normalization,
    images: jax.Array,
    rows: jax.Array | None,
    num_blocks: jax.Array,
    *,
    module: ModuleLike,
) -> tuple[jax.Array, jax.Array]:
    """Logits and embeddings in evaluation mode of rows int32[per_call, size], see `Call` and `over_blocks`."""

    def predict_block(block: jax.Array) -> tuple[jax.Array, jax.Array]:
        pixels = normalize(unit_pixels(images, block), normalization)
        (logits, embeddings), _ = apply(module, variables, pixels, train=False)
        return jnp.asarray(logits), jnp.asarray(embeddings)

    return over_blocks(predict_block, num_blocks, jnp.asarray(images if rows is None else rows))


@checked
def predict(model: TrainedModel, data: Split) -> tuple[np.ndarray, np.ndarray]:
    """Logits and embeddings of a split, in evaluation mode.

    Args:
      model: the classifier.
      data: n images.

    Returns:
      (logits float32[n, classes], embeddings float32[n, d]), in the split's order; empty for an empty split.
    """
    blocks = evaluation_blocks(Blocks(64, 16), Blocks(2000, 1))
    variables, normalization = devices.replicate((model.variables, model.normalization))
    outputs = []
    calls, counts = zip(*blocks.split(data.indices), strict=True)
    for call, count in zip(in_calls(data.pool, calls), counts, strict=True):
        found = predict_rows(variables, normalization, *call, blocks.num_blocks(count), module=model.module)
        outputs.append([first_rows(devices.on_host(part), count) for part in found])
    logits, embeddings = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
    return logits, embeddings


def first_rows(blocks: np.ndarray, count: int) -> np.ndarray:
    """The first `count` rows of blocks [blocks, size, ...], [count, ...]."""
    return blocks.reshape(-1, *blocks.shape[2:])[:count]
