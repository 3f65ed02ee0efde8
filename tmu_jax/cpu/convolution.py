"""Two-dimensional convolutions that are fast on a CPU, inside loops too.

XLA's own CPU convolution computes the weight gradient of a 3x3 layer slowly, and anything convolutional inside
`lax.scan` or `lax.fori_loop` about fifty times slower than outside. Two ways have neither fault: compiled code that
XLA calls (`native`, square windows), and, where there is no C++ compiler, XLA's matrix products (`products.py`, 3x3
kernels of stride 1 and 2, and windows that do not overlap). Other shapes and dtypes, and every platform but the CPU,
use `jax.lax.conv_general_dilated`.

References:
    Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308 (2015), section 4.1.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from tmu_jax.cpu import native, products
from tmu_jax.cpu.mapped import mapped, product

# What a chunk of images is transformed into takes 8 MiB: more leaves the cache. Where channels and features are equally
# many, each of Winograd's products then has 2^17 results; XLA computes smaller ones on one core alone.
_CHUNK_FLOATS = 2**21
_NHWC = ("NHWC", "HWIO", "NHWC")


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
    module with `fast_convolutions`. The result and both gradients agree with lax's to about 5e-6 relative. It may be
    differentiated once, in reverse mode. Under `vmap`, images that share a kernel are folded into one batch; mapped
    kernels run one after another.

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
    general = (lhs_dilation, rhs_dilation, feature_group_count, batch_group_count, preferred_element_type, out_sharding)
    geometry = None
    if _is_plain(lhs, rhs, *general) and _is_channels_last(lhs, rhs, dimension_numbers):
        geometry = _geometry(lhs, rhs, tuple(window_strides), padding, precision)
    if geometry is not None:
        return _convolution(geometry)(lhs, rhs)
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


def _is_plain(
    lhs: Array,
    rhs: Array,
    lhs_dilation: Sequence[int] | None,
    rhs_dilation: Sequence[int] | None,
    feature_group_count: int,
    batch_group_count: int,
    preferred_element_type: DTypeLike | None,
    out_sharding: Any,
) -> bool:
    dilated = any(dilation != 1 for dilations in (lhs_dilation, rhs_dilation) for dilation in dilations or ())
    grouped = feature_group_count != 1 or batch_group_count != 1
    wanted = preferred_element_type is None or jnp.dtype(preferred_element_type) == jnp.float32
    float32 = wanted and lhs.dtype == rhs.dtype == jnp.float32
    return float32 and not dilated and not grouped and out_sharding is None


def _is_channels_last(lhs: Array, rhs: Array, dimension_numbers: Any) -> bool:
    if lhs.ndim != 4 or rhs.ndim != 4:
        return False
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    return numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)


def _geometry(
    images: Array, kernel: Array, strides: tuple[int, ...], padding: Any, precision: Any
) -> products.Geometry | None:
    """The geometry of a convolution that has a fast path, else `None`."""
    (_, height, width, channels), (window, window_width, kernel_channels, features) = images.shape, kernel.shape
    square = window == window_width and len(strides) == 2 and strides[0] == strides[1]
    if not square or channels != kernel_channels or 0 in images.shape + kernel.shape:
        return None
    if isinstance(padding, str):
        padding = lax.padtype_to_pads((height, width), kernel.shape[:2], strides, padding)
    (top, bottom), (left, right) = padding
    pads = ((int(top), int(bottom)), (int(left), int(right)))
    stride = int(strides[0])
    is_compiled = native.is_used(images, kernel)
    geometry = products.Geometry(
        (height, width), channels, features, window, stride, pads, precision, _CHUNK_FLOATS, is_compiled
    )
    if min(geometry.out_size) < 1:
        return None
    if window <= stride:
        has_path = pads == ((0, 0), (0, 0))
    else:
        is_inside = all(0 <= pad < window for pad in pads[0] + pads[1])
        has_path = is_inside and (is_compiled or (window == 3 and stride <= 2))
    return geometry if has_path else None


@functools.cache
def _convolution(geometry: products.Geometry) -> Callable[[Array, Array], Array]:
    """The differentiable convolution of images and a kernel at `geometry`."""

    def library(images: Array, kernel: Array) -> Array:
        strides = (geometry.stride, geometry.stride)
        return lax.conv_general_dilated(
            images, kernel, strides, geometry.padding, dimension_numbers=_NHWC, precision=geometry.precision
        )

    def library_input_gradient(cotangent: Array, kernel: Array) -> Array:
        images = jax.ShapeDtypeStruct((cotangent.shape[0], *geometry.size, geometry.channels), kernel.dtype)
        return jax.linear_transpose(lambda images: library(images, kernel), images)(cotangent)[0]

    def library_weight_gradient(images: Array, cotangent: Array) -> Array:
        kernel = jax.ShapeDtypeStruct(products.kernel_shape(geometry), images.dtype)
        return jax.linear_transpose(lambda kernel: library(images, kernel), kernel)(cotangent)[0]

    forward = mapped(_on_cpu("forward", geometry), library, shares_second=True)
    input_gradient = mapped(_on_cpu("input_gradient", geometry), library_input_gradient, shares_second=True)
    weight_gradient = mapped(_on_cpu("weight_gradient", geometry), library_weight_gradient, shares_second=False)
    return product(forward, input_gradient, weight_gradient)


def _on_cpu(function: str, geometry: products.Geometry) -> Callable[[Array, Array], Array]:
    """What computes this function of a convolution: compiled code or products, which share its name."""
    # Where windows lie apart the input gradient is one product in XLA too, and zeros that it need not write.
    apart = function == "input_gradient" and geometry.kernel_size <= geometry.stride
    if apart or not geometry.is_compiled:
        return functools.partial(getattr(products, function), geometry=geometry)
    (top, _), (left, _) = geometry.padding
    of_images = {
        "forward": (*geometry.out_size, geometry.features),
        "input_gradient": (*geometry.size, geometry.channels),
    }

    def call(first: Array, second: Array) -> Array:
        if function in of_images:
            shape: tuple[int, ...] = (first.shape[0], *of_images[function])
        else:
            shape = products.kernel_shape(geometry)
        return native.call(function, shape, stride=geometry.stride, top=top, left=left)(first, second)

    return call
