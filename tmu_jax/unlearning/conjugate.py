"""Conjugate gradients over trees in the form of the parameters, with a matrix that is known by its products alone.

Every residual is made orthogonal to those before it, as it would be but for rounding. In float32 what rounding leaves
grows from one iteration to the next, and two orders of summing (other devices, other blocks) part ways. The price is
memory: one more tree for each iteration.
"""

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
    done, before = 0, []
    while done < iterations and size > _ENOUGH**2 * start:
        before.append(residual)
        vector, residual = improved(vector, residual, direction, size, product(direction))
        for earlier in before:
            residual = orthogonal(residual, earlier)
        direction, size = turned(residual, direction, size)
        done += 1
        report(done)
    return Solution(vector, done, float(jnp.sqrt(size / jnp.where(start > 0, start, 1))))


@jax.jit
def improved(vector: Any, residual: Any, direction: Any, size: jax.Array, product: Any) -> tuple[Any, Any]:
    """The vector and its residual after a step along the direction; `size` is the residual's squared length."""
    rate = size / trees.tree_vdot(direction, product)
    return trees.tree_add_scale(vector, rate, direction), trees.tree_add_scale(residual, -rate, product)


@jax.jit
def orthogonal(residual: Any, earlier: Any) -> Any:
    """A residual without its part along an earlier one."""
    part = trees.tree_vdot(residual, earlier) / trees.tree_norm(earlier, squared=True)
    return trees.tree_add_scale(residual, -part, earlier)


@jax.jit
def turned(residual: Any, direction: Any, size: jax.Array) -> tuple[Any, jax.Array]:
    """The next direction, and the residual's squared length, which was `size` before the step."""
    new_size = trees.tree_norm(residual, squared=True)
    return trees.tree_add_scale(residual, new_size / size, direction), new_size
