"""Products with a dense layer's kernel that are fast on a CPU: by compiled code, where it can be had."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from tmu_jax.cpu import native
from tmu_jax.cpu.mapped import mapped, product

# A product of fewer rows or columns is not worth a call.
_LEAST = 32
# Rows of a kernel that compiled code takes together in its gradient.
_ROWS_TOGETHER = 8


def dot_general(
    lhs: Array,
    rhs: Array,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: Any = None,
) -> Array:
    """Multiplies as `jax.lax.dot_general` does, on a CPU by compiled code.

    Hand it to a layer: `nn.Dense(..., dot_general=dot_general)`. Compiled code takes float32 inputs whose last axes are
    contracted with the kernel's first ones, where there are at least 32 rows, columns and contracted numbers, these a
    multiple of eight; all else is lax's. It may be differentiated once, in reverse mode.

    Args:
        lhs: inputs, [..., contracted axes].
        rhs: kernel, [contracted axes, ...].
        dimension_numbers: contracted and batch axes, as lax takes them.
        precision: precision of the product, as lax takes it; compiled code computes in float32.
        preferred_element_type: dtype of the result; `None` is the dtype of the inputs.
        out_sharding: sharding of the result, as lax takes it.

    Returns:
        The axes of the inputs that are not contracted, then those of the kernel.
    """
    (of_lhs, of_rhs), batch = dimension_numbers
    count = len(of_lhs)
    plain = (
        tuple(of_lhs) == tuple(range(lhs.ndim - count, lhs.ndim))
        and tuple(of_rhs) == tuple(range(count))
        and not any(map(len, batch))
        and lhs.dtype == rhs.dtype == jnp.float32
        and (preferred_element_type is None or jnp.dtype(preferred_element_type) == jnp.float32)
        and out_sharding is None
    )
    inner, outputs = math.prod(rhs.shape[:count]), math.prod(rhs.shape[count:])
    rows = math.prod(lhs.shape[: lhs.ndim - count])
    worth_it = min(rows, inner, outputs) >= _LEAST and inner % _ROWS_TOGETHER == 0
    if plain and worth_it and native.is_used(lhs, rhs, group=native.ATTENTION):
        result = _dense(precision)(lhs.reshape(rows, inner), rhs.reshape(inner, outputs))
        return result.reshape(*lhs.shape[: lhs.ndim - count], *rhs.shape[count:])
    options = {} if out_sharding is None else {"out_sharding": out_sharding}
    return lax.dot_general(lhs, rhs, dimension_numbers, precision, preferred_element_type, **options)


@functools.cache
def _dense(precision: Any) -> Callable[[Array, Array], Array]:
    """The differentiable product of rows [n, inputs] and a kernel [inputs, outputs]."""

    def call(function: str, shape: Callable[[Array, Array], tuple[int, int]]) -> Callable[[Array, Array], Array]:
        return lambda first, second: native.call(function, shape(first, second))(first, second)

    def library(axis: int, other: int) -> Callable[[Array, Array], Array]:
        return lambda first, second: lax.dot_general(first, second, (((axis,), (other,)), ((), ())), precision)

    forward = mapped(
        call("dense", lambda rows, kernel: (len(rows), kernel.shape[1])), library(1, 0), shares_second=True
    )
    input_gradient = mapped(
        call("dense_input_gradient", lambda cotangent, kernel: (len(cotangent), len(kernel))),
        library(1, 1),
        shares_second=True,
    )
    weight_gradient = mapped(
        call("dense_weight_gradient", lambda rows, cotangent: (rows.shape[1], cotangent.shape[1])),
        library(0, 0),
        shares_second=False,
    )
    return product(forward, input_gradient, weight_gradient)
