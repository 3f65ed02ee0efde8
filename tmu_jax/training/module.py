"""Where our compiled programs call a classifier: its convolutions are the fast ones there, a user's own too."""

import functools
import zlib

import jax
import jax.numpy as jnp

from tmu_jax.cpu.convolution import fast_convolutions
from tmu_jax.training.adapter import Keys, ModuleLike, Variables, as_masters
from tmu_jax.training.linen import as_adapter, as_static


def apply(
    module: ModuleLike, variables: Variables, images: jax.Array, *, train: bool, keys: Keys | None = None
) -> tuple[tuple[jax.Array, jax.Array], Variables]:
    """Runs a classifier, with `fast_convolutions` under every `nn.Conv` in it.

    Args:
      module: a Flax module that returns logits or (logits, embedding), or an adapter.
      variables: its "params" and its other collections, such as "batch_stats".
      images: float32[n, h, w, c], normalised.
      train: whether dropout drops, and batch norm uses the statistics of this batch and moves its running ones.
      keys: from `step_keys`; none in evaluation mode.

    Returns:
      ((logits, embedding), the collections that changed): {} in evaluation mode or where there are none.
    """
    with fast_convolutions():
        return as_adapter(module).run(variables, images, train=train, keys=keys or {})


def step_keys(
    module: ModuleLike, variables: Variables, images: jax.Array, key: jax.Array, step: jax.Array | int
) -> Keys:
    """A key for each stream of random numbers that the module draws from in training, folded with the step.

    A module without any leaves no trace of it in the program.
    """
    with fast_convolutions():
        drawn = as_adapter(module).drawn(variables, images)
    return {name: jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), step) for name in drawn}


@functools.partial(jax.jit, static_argnames=("module",))
def init_variables(key: jax.Array, images: jax.Array, *, module: ModuleLike) -> Variables:
    """Fresh variables of a module for images of this shape; an adapter's as they are trained, in float32."""
    adapter = as_adapter(module)
    with fast_convolutions():
        if adapter.preprocess is not None:
            images = adapter.preprocess(images)
        variables = adapter.fresh(key, images)
        return as_masters(variables) if adapter is module else variables


def fresh_bytes(module: ModuleLike, shape: tuple[int, ...]) -> int:
    """How many bytes the variables of a module take, for images of shape [h, w, c]; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    init = functools.partial(init_variables, module=as_static(module))
    fresh = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)), images)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(fresh))
