"""Where our compiled programs call a classifier: its convolutions are the fast ones there, a user's own too."""

import functools
import zlib

import jax

from tmu_jax.cpu.convolution import fast_convolutions
from tmu_jax.training.adapter import Keys, ModuleLike, Variables, as_masters
from tmu_jax.training.linen import as_adapter


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
