"""Conjugate gradients over trees in the form of the parameters, with a matrix that is known by its products alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax.tree_utils as trees

_ENOUGH = 1e-6
"""Of the right side: a residual below this ends the iterations."""


class Solution(NamedTuple):
    """What they came to.

    Attributes:
      vector: in the form of the right side.
      iterations: how many were taken.
      left: the residual's length, in that of the right side.
    """

    vector: Any
    iterations: int
    left: float


def solve(
    product: Callable[[Any], Any], right: Any, iterations: int, report: Callable[[int], None] = lambda done: None
) -> Solution:
    """Solves A x = right for a symmetric, positive A, from x = 0.

    Args:
      product: A times a vector.
      right: the right side.
      iterations: at most.
      report: called with the iterations done.

    Raises:
      FloatingPointError: for a right side that is not finite.
    """
    vector, residual, direction = trees.tree_zeros_like(right), right, right
    start = size = trees.tree_norm(right, squared=True)
    if not jnp.isfinite(start):
        raise FloatingPointError("the gradients are not finite; look whether the model's outputs on these images are")
    done = 0
    while done < iterations and size > _ENOUGH**2 * start:
        vector, residual, direction, size = improved(vector, residual, direction, size, product(direction))
        done += 1
        report(done)
    return Solution(vector, done, float(jnp.sqrt(size / jnp.where(start > 0, start, 1))))


@jax.jit
def improved(
    vector: Any, residual: Any, direction: Any, size: jax.Array, product: Any
) -> tuple[Any, Any, Any, jax.Array]:
    """One iteration: vector, residual and next direction, trees of one form, and the residual's squared length."""
    rate = size / trees.tree_vdot(direction, product)
    vector = trees.tree_add_scale(vector, rate, direction)
    residual = trees.tree_add_scale(residual, -rate, product)
    new_size = trees.tree_norm(residual, squared=True)
    return vector, residual, trees.tree_add_scale(residual, new_size / size, direction), new_size
