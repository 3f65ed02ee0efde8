"""Where our compiled programs call a classifier: its convolutions are the fast ones there, a user's own too."""

import functools

import flax.linen as nn
import jax

from tmu_jax.cpu.convolution import fast_convolutions
from tmu_jax.training.recipe import Variables


def apply(
    module: nn.Module, variables: Variables, images: jax.Array, *, train: bool
) -> tuple[tuple[jax.Array, jax.Array], Variables]:
    """Runs a classifier, with `fast_convolutions` under every `nn.Conv` in it.

    Args:
      module: called as `module(images, train) -> (logits, embedding)`.
      variables: its "params" and, where it has batch norm, "batch_stats".
      images: float32[n, h, w, c], normalised.
      train: whether batch norm uses the statistics of this batch, and moves its running ones.

    Returns:
      ((logits, embedding), the collections that changed): {} in evaluation mode or without batch norm.
    """
    with fast_convolutions():
        mutable = ["batch_stats"] if train else []
        (logits, embedding), updates = module.apply(variables, images, train=train, mutable=mutable)
        return (logits, embedding), dict(updates)


@functools.partial(jax.jit, static_argnames=("module",))
def init_variables(key: jax.Array, images: jax.Array, *, module: nn.Module) -> Variables:
    """Fresh variables of a module for images of this shape."""
    with fast_convolutions():
        return dict(module.init(key, images, train=False))
