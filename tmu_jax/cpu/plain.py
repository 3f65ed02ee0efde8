"""The matrix products that a convolution becomes on a CPU: forward, input gradient and weight gradient.

The batch is cut into chunks whose transformed images stay in the cache. `Geometry` says all of a convolution but its
arrays, and each of the three functions chooses the products from it:

| kernel, stride | products |
|---|---|
| 3x3, stride 1 | Winograd's F(2x2, 3x3): 16 products of transformed tiles, 2.25 times fewer multiplications |
| 3x3, stride 2 or few input channels | one product of patches |
| p x p, stride at least p, no padding (1x1, patches of a vision transformer) | one product |

References:
    Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308 (2015), section 4.1.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from tmu_jax.cpu.geometry import Geometry

_FEW_CHANNELS = 8

# G of F(2, 3) in the paper's equation 11, and its two-dimensional form for kernels flattened to 9 positions.
_KERNEL_ROWS = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
_KERNEL_TRANSFORM = np.kron(_KERNEL_ROWS, _KERNEL_ROWS)


def forward(images: Array, kernel: Array, *, geometry: Geometry) -> Array:
    if geometry.is_apart:
        return jnp.matmul(_tiles(images, geometry), kernel.reshape(-1, geometry.features))
    if _takes_patches(geometry):
        flat = kernel.reshape(-1, geometry.features)
        # Patches that are smaller than the result need no chunks, whose results would be copied to their place.
        is_small = 9 * geometry.channels <= geometry.features
        wanted = images.shape[0] if is_small else _chunk_of_patches(geometry)
        return _map_chunks(lambda part: jnp.matmul(_patches(part, geometry), flat), images, wanted)
    return _winograd(images, kernel, geometry)


def input_gradient(cotangent: Array, kernel: Array, *, geometry: Geometry) -> Array:
    flat = kernel.reshape(-1, geometry.features).T
    if geometry.is_apart:
        return _untiles(jnp.matmul(cotangent, flat), geometry)
    if _takes_patches(geometry):
        return _map_chunks(
            lambda part: _unpatches(jnp.matmul(part, flat), geometry), cotangent, _chunk_of_patches(geometry)
        )
    (top, bottom), (left, right) = geometry.padding
    backwards = geometry._replace(
        size=geometry.out_size,
        channels=geometry.features,
        features=geometry.channels,
        padding=((2 - top, 2 - bottom), (2 - left, 2 - right)),
    )
    return _winograd(cotangent, kernel[::-1, ::-1].swapaxes(2, 3), backwards)


def weight_gradient(images: Array, cotangent: Array, *, geometry: Geometry) -> Array:
    shape = geometry.kernel_shape
    if geometry.is_apart:
        return _outer(_tiles(images, geometry), cotangent).reshape(shape)
    if _takes_patches(geometry):
        return _sum_chunks(
            lambda images, cotangent: _outer(_patches(images, geometry), cotangent),
            images,
            cotangent,
            _num_chunks(images.shape[0], _chunk_of_patches(geometry), more=True),
        ).reshape(shape)
    # Two transformed arrays are read together, so chunks are half as large, unless the sum itself, which is read and
    # written with every chunk, is not small beside them.
    wanted = max(geometry.chunk_floats / 2, 64 * geometry.channels * geometry.features) / geometry.floats
    transformed = _sum_chunks(
        lambda images, cotangent: _winograd_weight_gradient(images, cotangent, geometry),
        images,
        cotangent,
        _num_chunks(images.shape[0], wanted, more=False),
    )
    return jnp.matmul(_KERNEL_TRANSFORM.T, transformed.reshape(16, -1)).reshape(shape)


def _takes_patches(geometry: Geometry) -> bool:
    """Whether a 3x3 kernel is multiplied with patches."""
    return geometry.stride == 2 or geometry.channels < _FEW_CHANNELS


def _chunk_of_patches(geometry: Geometry) -> float:
    """Images whose patches are worth multiplying together: a quarter of a chunk, for they are read only once."""
    return geometry.chunk_floats / 4 / (9 * geometry.channels * math.prod(geometry.out_size))


def _outer(first: Array, second: Array) -> Array:
    """Sum over images and positions of the outer product of their channels."""
    return jnp.matmul(first.reshape(-1, first.shape[-1]).T, second.reshape(-1, second.shape[-1]))


def _num_chunks(num_images: int, wanted: float, more: bool) -> tuple[int, int]:
    """How many chunks, and how many images in each.

    Chunks of equal size need no padding: the size is the divisor of `num_images` next to the one that is wanted, above
    it or below, unless that is more than a factor of two away.
    """
    divisors = [size for size in range(1, num_images + 1) if num_images % size == 0]
    near = [size for size in divisors if (wanted <= size < 2 * wanted if more else wanted / 2 < size <= wanted)]
    equal = near[:1] if more else near[-1:]
    size = equal[0] if equal else -(-num_images // math.ceil(num_images / wanted))
    return -(-num_images // size), size


def _chunks(images: Array, num_chunks: int, size: int) -> Array:
    missing = num_chunks * size - images.shape[0]
    if missing:
        images = jnp.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
    return images.reshape(num_chunks, size, *images.shape[1:])


def _map_chunks(function: Callable[[Array], Array], images: Array, wanted: float) -> Array:
    """`function` of all images, computed chunk after chunk.

    XLA splits a product over the cores once its result is large enough: chunks are rather too large than too small.
    """
    num_chunks, size = _num_chunks(images.shape[0], wanted, more=True)
    if num_chunks == 1:
        return function(images)
    results = lax.map(function, _chunks(images, num_chunks, size))
    return results.reshape(-1, *results.shape[2:])[: images.shape[0]]


def _sum_chunks(
    gradient: Callable[[Array, Array], Array], images: Array, cotangent: Array, chunks: tuple[int, int]
) -> Array:
    """The sum of `gradient` over chunks: it is bilinear, so images that fill up the last chunk add nothing."""
    if chunks[0] == 1:
        return gradient(images, cotangent)

    def add(total: Array, parts: tuple[Array, Array]) -> tuple[Array, None]:
        return total + gradient(*parts), None

    parts = (_chunks(images, *chunks), _chunks(cotangent, *chunks))
    start = jax.eval_shape(lambda: gradient(parts[0][0], parts[1][0]))
    # Two chunks in one turn: a product of few results runs on one core, two of them side by side.
    return lax.scan(add, jnp.zeros(start.shape, start.dtype), parts, unroll=2)[0]


def _pad(images: Array, rows: tuple[int, int], columns: tuple[int, int]) -> Array:
    return jnp.pad(images, ((0, 0), rows, columns, (0, 0)))


# --- Windows that do not overlap: one matrix product.


def _tiles(images: Array, geometry: Geometry) -> Array:
    """Windows [n, out height, out width, window * window * channels] of a convolution whose windows are apart."""
    (height, width), window, stride = geometry.out_size, geometry.kernel_size, geometry.stride
    if window == 1:
        return images[:, ::stride, ::stride]
    # A last window may end before its stride does.
    gap = (0, stride - window)
    images = _pad(images, gap, gap)[:, : height * stride, : width * stride]
    windows = images.reshape(-1, height, stride, width, stride, geometry.channels)[:, :, :window, :, :window]
    return windows.swapaxes(2, 3).reshape(-1, height, width, window * window * geometry.channels)


def _untiles(windows: Array, geometry: Geometry) -> Array:
    """Transpose of `_tiles`: puts each window back in its place."""
    (height, width), window, stride = geometry.out_size, geometry.kernel_size, geometry.stride
    windows = windows.reshape(windows.shape[0], height, width, window, window, -1).swapaxes(2, 3)
    gap = (0, stride - window)
    windows = jnp.pad(windows, ((0, 0), (0, 0), gap, (0, 0), gap, (0, 0)))
    images = windows.reshape(windows.shape[0], height * stride, width * stride, -1)
    rows, columns = ((0, max(0, size - length)) for size, length in zip(geometry.size, images.shape[1:3], strict=True))
    return _pad(images, rows, columns)[:, : geometry.size[0], : geometry.size[1]]


# --- Stride 2 or few channels: one product of patches.


def _patches(images: Array, geometry: Geometry) -> Array:
    """Windows [n, out height, out width, 9 * channels]."""
    height, width = geometry.out_size
    if geometry.stride == 2:
        # Two neighbouring columns are one piece of memory; a kernel's row meets a pair and the first of the next one.
        rows_and_columns = (
            (low, 2 * length + 2 - size - low)
            for size, length, (low, _) in zip(geometry.size, geometry.out_size, geometry.padding, strict=True)
        )
        images = _pad(images, *rows_and_columns)
        pairs = images.reshape(-1, height + 1, 2, width + 1, 2 * geometry.channels)
        rows = [pairs[:, row // 2 : row // 2 + height, row % 2] for row in range(3)]
        pieces = [part for row in rows for part in (row[:, :, :-1], row[:, :, 1:, : geometry.channels])]
    else:
        # Columns first: then the pieces of the larger array are three times as long.
        images = _pad(images, *geometry.padding)
        images = jnp.concatenate([images[:, :, column : column + width] for column in range(3)], axis=-1)
        pieces = [images[:, row : row + height] for row in range(3)]
    return jnp.concatenate(pieces, axis=-1)


def _unpatches(patches: Array, geometry: Geometry) -> Array:
    """Transpose of `_patches`: adds each window to its place."""
    images = jax.ShapeDtypeStruct((patches.shape[0], *geometry.size, geometry.channels), patches.dtype)
    return jax.linear_transpose(lambda images: _patches(images, geometry), images)(patches)[0]


# --- Stride 1: Winograd's F(2x2, 3x3). Tiles of 4x4 pixels, two apart, each give 2x2 outputs.


def _tile_padding(geometry: Geometry) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding that also makes the numbers of output rows and columns even."""
    rows, columns = (
        (low, high + length % 2) for length, (low, high) in zip(geometry.out_size, geometry.padding, strict=True)
    )
    return rows, columns


def _transform_input(images: Array, geometry: Geometry) -> list[Array]:
    """B^T d B of every tile d (the paper's equation 12): 16 arrays [number of tiles, channels]."""

    def lines(first: Array, second: Array, third: Array, fourth: Array) -> tuple[Array, ...]:
        return first - third, second + third, third - second, second - fourth

    images = _pad(images, *_tile_padding(geometry))
    num_images, height, width, channels = images.shape
    pairs = images.reshape(num_images, height // 2, 2, width // 2, 2, channels)
    rows = lines(pairs[:, :-1, 0], pairs[:, :-1, 1], pairs[:, 1:, 0], pairs[:, 1:, 1])
    tiles = [
        tile for row in rows for tile in lines(row[:, :, :-1, 0], row[:, :, :-1, 1], row[:, :, 1:, 0], row[:, :, 1:, 1])
    ]
    return [tile.reshape(-1, channels) for tile in tiles]


def _transform_output(products: list[Array], geometry: Geometry) -> Array:
    """A^T m A of every tile m of products (equation 12): images [n, out height, out width, features]."""

    def lines(first: Array, second: Array, third: Array, fourth: Array) -> tuple[Array, Array]:
        return first + second + third, second - third - fourth

    height, width = geometry.out_size
    features = products[0].shape[-1]
    tiles = [product.reshape(-1, -(-height // 2), -(-width // 2), features) for product in products]
    columns = [lines(*tiles[column::4]) for column in range(4)]
    rows = [jnp.stack(lines(*(column[half] for column in columns)), axis=3) for half in range(2)]
    images = jnp.stack(rows, axis=2).reshape(-1, height + height % 2, width + width % 2, features)
    return images[:, :height, :width]


def _transform_cotangent(cotangent: Array, geometry: Geometry) -> list[Array]:
    """A g A^T of every tile g of 2x2 outputs, the transpose of `_transform_output`."""

    def lines(first: Array, second: Array) -> tuple[Array, ...]:
        return first, first + second, first - second, -second

    height, width = geometry.out_size
    features = cotangent.shape[-1]
    cotangent = _pad(cotangent, (0, height % 2), (0, width % 2))
    pairs = cotangent.reshape(-1, -(-height // 2), 2, -(-width // 2), 2, features)
    rows = lines(pairs[:, :, 0], pairs[:, :, 1])
    return [tile.reshape(-1, features) for row in rows for tile in lines(row[:, :, :, 0], row[:, :, :, 1])]


def _winograd(images: Array, kernel: Array, geometry: Geometry) -> Array:
    transformed = jnp.matmul(_KERNEL_TRANSFORM, kernel.reshape(9, -1))
    transformed = transformed.reshape(16, geometry.channels, geometry.features)

    def convolve(part: Array) -> Array:
        tiles = _transform_input(part, geometry)
        return _transform_output([jnp.matmul(tile, transformed[i]) for i, tile in enumerate(tiles)], geometry)

    return _map_chunks(convolve, images, geometry.chunk_floats / geometry.floats)


def _winograd_weight_gradient(images: Array, cotangent: Array, geometry: Geometry) -> Array:
    """Gradient of the transformed kernel, [16, channels, features]."""
    tiles, others = _transform_input(images, geometry), _transform_cotangent(cotangent, geometry)
    return jnp.stack([_outer(tile, other) for tile, other in zip(tiles, others, strict=True)])
