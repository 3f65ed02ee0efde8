"""Two-dimensional convolutions that are fast on a CPU, inside loops too.

XLA's own CPU convolution computes the weight gradient of a 3x3 layer slowly, and anything convolutional inside
`lax.scan` or `lax.fori_loop` about fifty times slower than outside. Two ways have neither fault: compiled code that
XLA calls (`native`, square windows), and, where there is no C++ compiler, XLA's matrix products (`plain`, 3x3 kernels
of stride 1 and 2, and windows that do not overlap). Whatever else is asked for, and every platform but the CPU, is
`jax.lax.conv_general_dilated` with nothing around it.

References:
    Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308 (2015), section 4.1.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from tmu_jax.cpu import primitives
from tmu_jax.cpu.geometry import fast_geometry


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: Any = None,
) -> Array:
    """Convolves as `jax.lax.conv_general_dilated` does, on a CPU by compiled code or matrix products.

    Hand it to a layer, `nn.Conv(..., conv_general_dilated=conv_general_dilated)`, or put it under the layers of a
    module with `fast_convolutions`. The result and both gradients agree with lax's to about 5e-6 relative to the
    largest value; a number that is not finite spoils not only the windows it is in but those of the tile around it,
    4x4 outputs or 2x2. It may be differentiated forwards, backwards and repeatedly. Under `vmap`, images that share a
    kernel are folded into one batch; mapped kernels run one after another.

    Args:
        lhs: images, float32[n, height, width, channels] for the fast path.
        rhs: kernel, float32[kernel height, kernel width, channels, features] for the fast path.
        window_strides: steps of the window.
        padding: "SAME", "SAME_LOWER", "VALID" or (low, high) pairs.
        lhs_dilation: dilation of the images; `None` is no dilation.
        rhs_dilation: dilation of the kernel; `None` is no dilation.
        dimension_numbers: the meaning of the axes, as lax takes it; the fast path needs ("NHWC", "HWIO", "NHWC").
        feature_group_count: number of groups of channels.
        batch_group_count: number of groups of images.
        precision: precision of the products, as lax takes it.
        preferred_element_type: dtype of the result; `None` is the dtype of the inputs.
        out_sharding: sharding of the result, as lax takes it.

    Returns:
        Images [n, out height, out width, features] in the layout of `dimension_numbers`.
    """
    is_plain = (
        _is_undilated(lhs_dilation)
        and _is_undilated(rhs_dilation)
        and _is_one(feature_group_count)
        and _is_one(batch_group_count)
        and _is_float32(preferred_element_type)
        and out_sharding is None
    )
    if is_plain:
        geometry = fast_geometry(lhs, rhs, window_strides, padding, dimension_numbers, precision)
        if geometry is not None:
            return primitives.forward(lhs, rhs, geometry)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )


@contextlib.contextmanager
def fast_convolutions() -> Iterator[None]:
    """Puts `conv_general_dilated` under every two-dimensional `nn.Conv` that is called inside the context.

    Parameters and outputs stay as they are. A layer that names its own `conv_general_dilated` keeps it. The context
    acts while a function is traced: enter it inside the function that is compiled (or around its first call), for a
    function compiled outside stays as it was compiled.
    """

    def intercept(
        call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        if not (isinstance(module, nn.Conv) and context.method_name == "__call__" and _is_replaceable(module)):
            return call(*args, **kwargs)
        # A bound module is frozen, and a copy of it would not own its parameters: lend it the function for this call.
        object.__setattr__(module, "conv_general_dilated", conv_general_dilated)
        try:
            return call(*args, **kwargs)
        finally:
            object.__setattr__(module, "conv_general_dilated", None)

    with nn.intercept_methods(intercept):
        yield


def _is_replaceable(layer: nn.Conv) -> bool:
    two_dimensional = not isinstance(layer.kernel_size, int) and len(layer.kernel_size) == 2
    return two_dimensional and layer.conv_general_dilated is None and layer.conv_general_dilated_cls is None


def _is_undilated(dilation: Any) -> bool:
    return dilation is None or (
        isinstance(dilation, tuple | list) and len(dilation) == 2 and all(map(_is_one, dilation))
    )


def _is_one(value: Any) -> bool:
    return isinstance(value, int | np.integer) and value == 1


def _is_float32(dtype: Any) -> bool:
    return dtype is None or dtype is np.float32 or dtype is jnp.float32 or dtype is np.dtype(np.float32)
