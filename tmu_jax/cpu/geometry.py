"""What a fast convolution is made for: everything about it but its arrays, and whether there is a fast one at all."""

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from tmu_jax.cpu import native

NHWC = ("NHWC", "HWIO", "NHWC")
# What a chunk of images is transformed into takes 8 MiB: more leaves the cache. Where channels and features are equally
# many, each of Winograd's products then has 2^17 results; XLA computes smaller ones on one core alone.
_CHUNK_FLOATS = 2**21
# Numbers in the patch of one pixel, past which a block of patches leaves the cache and memory for it becomes a burden.
_LARGEST_PATCH = 2**16
_TOO_LARGE = 2**31


class Geometry(NamedTuple):
    """All of a convolution but its arrays; hashable, so that one set of compiled functions serves equal layers.

    `is_compiled` says that on a CPU it is left to `native`, else it is to the products in `plain`.
    """

    size: tuple[int, int]
    channels: int
    features: int
    kernel_size: int
    stride: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    precision: Any
    chunk_floats: int
    is_compiled: bool

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        height, width = (
            (size + low + high - self.kernel_size) // self.stride + 1
            for size, (low, high) in zip(self.size, self.padding, strict=True)
        )
        return height, width

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        return self.kernel_size, self.kernel_size, self.channels, self.features

    @property
    def is_apart(self) -> bool:
        """Whether no two windows overlap."""
        return self.kernel_size <= self.stride

    @property
    def floats(self) -> int:
        """Numbers an image is transformed into, 4 for each pixel and channel where input and output are alike."""
        return 2 * math.prod(self.out_size) * (self.channels + self.features)


def fast_geometry(
    images: Any, kernel: Any, strides: Any, padding: Any, dimension_numbers: Any, precision: Any
) -> Geometry | None:
    """The geometry of a convolution that has a fast path here, else `None`: then it is lax's, whose errors it has too.

    Args:
        images: the first argument of a convolution that is neither dilated nor grouped, whatever was given.
        kernel: its second argument.
        strides: as lax takes them, like what follows.
        padding: string or (low, high) pairs.
        dimension_numbers: the meaning of the axes.
        precision: of the products.
    """
    is_ours = native.is_wanted() and all(_is_ours(array) for array in (images, kernel))
    if not is_ours or not _is_channels_last(images.shape, kernel.shape, dimension_numbers):
        return None
    (_, height, width, channels), (window, window_width, kernel_channels, features) = images.shape, kernel.shape
    steps = _integers(strides)
    if window != window_width or channels != kernel_channels or len(steps) != 2 or steps[0] != steps[1]:
        return None
    if isinstance(padding, str):
        is_known = padding in ("SAME", "SAME_LOWER", "VALID") and steps[0] > 0
        padding = lax.padtype_to_pads((height, width), (window, window), steps, padding) if is_known else ()
    pads = tuple(_integers(pair) for pair in padding) if isinstance(padding, tuple | list) else ()
    if [len(pair) for pair in pads] != [2, 2] or not _is_precision(precision):
        return None
    (top, bottom), (left, right) = pads
    geometry = Geometry(
        size=(height, width),
        channels=channels,
        features=features,
        kernel_size=window,
        stride=steps[0],
        padding=((top, bottom), (left, right)),
        precision=precision,
        chunk_floats=_CHUNK_FLOATS,
        is_compiled=False,
    )
    if not _fits(geometry):
        return None
    geometry = geometry._replace(is_compiled=native.is_available())
    return geometry if geometry.is_compiled or _has_products(geometry) else None


def _is_ours(array: Any) -> bool:
    """Whether this is float32[a, b, c, d] in the memory of one program, none of its sizes zero.

    Arrays that differ from device to device inside `jax.shard_map` are not, nor are those of a mesh with explicit axes.
    """
    if not isinstance(array, jax.Array) and type(array) is not np.ndarray:
        return False
    if array.dtype != np.float32 or array.ndim != 4:
        return False
    if not all(isinstance(size, int) and 0 < size < _TOO_LARGE for size in array.shape):
        return False
    kind = jax.typeof(array)
    is_explicit = jax.sharding.AxisType.Explicit in kind.sharding.mesh.axis_types
    return not is_explicit and not kind.manual_axis_type.varying


def _is_channels_last(images: tuple[int, ...], kernel: tuple[int, ...], dimension_numbers: Any) -> bool:
    if dimension_numbers == NHWC:
        return True
    numbers = lax.conv_dimension_numbers(images, kernel, dimension_numbers)
    return numbers == lax.conv_dimension_numbers(images, kernel, NHWC)


def _integers(values: Sequence[Any]) -> tuple[int, ...]:
    """The values as Python's integers; none where one of them is something else."""
    try:
        return tuple(operator.index(value) for value in values)
    except TypeError:
        return ()


def _is_precision(value: Any) -> bool:
    """Whether this is a precision that means nothing on a CPU, where all are float32: not one of a product's inputs."""
    if isinstance(value, str):
        try:
            lax.Precision(value)
        except ValueError:
            return False
    return value is None or isinstance(value, str | lax.Precision)


def _fits(geometry: Geometry) -> bool:
    """Whether there are outputs, all windows reach the images, and patches are of a size to be held."""
    window, pads = geometry.kernel_size, geometry.padding[0] + geometry.padding[1]
    if not 0 < geometry.stride <= min(geometry.size) + window or min(geometry.out_size) < 1:
        return False
    if window**2 * max(geometry.channels, geometry.features) > _LARGEST_PATCH:
        return False
    return not any(pads) if geometry.is_apart else all(0 <= pad < window for pad in pads)


def _has_products(geometry: Geometry) -> bool:
    return geometry.is_apart or (geometry.kernel_size == 3 and geometry.stride <= 2)
