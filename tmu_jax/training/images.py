"""Images and labels as the training step takes them: on the device, normalised, augmented."""

import dataclasses
import weakref
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from tmu_jax import devices
from tmu_jax.data import Pool, Split
from tmu_jax.data.demand import chunks, read_ahead
from tmu_jax.stages import key_for
from tmu_jax.training.recipe import Augment, Normalization


def normalize(images: jax.Array, normalization: Normalization) -> jax.Array:
    """Pixels float32[..., h, w, c] in 0..1 to zero mean and unit variance a channel."""
    mean, std = jnp.asarray(normalization.mean), jnp.asarray(normalization.std)
    shape = (1,) * (images.ndim - 1) + (-1,)
    return (images - mean.reshape(shape)) / std.reshape(shape)


def random_flip_and_crop(key: jax.Array, images: jax.Array, padding: int = 4) -> jax.Array:
    """Flips each image left to right with probability 1/2 and shifts it by up to `padding` pixels, zeros coming in.

    Args:
      key: a PRNG key.
      images: [n, h, w, c].
      padding: largest shift in pixels, in either direction.

    Returns:
      Images of the same shape and dtype.
    """
    chex.assert_rank(images, 4)
    n, height, width, channels = images.shape
    flip_key, shift_key = jax.random.split(key)
    flip = jax.random.bernoulli(flip_key, shape=(n, 1, 1, 1))
    images = jnp.where(flip, images[:, :, ::-1], images)
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    offsets = jax.random.randint(shift_key, (n, 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, offsets)


def augmented(augment: bool | Augment, key: jax.Array, images: jax.Array) -> jax.Array:
    """Images float32[n, h, w, c] in 0..1 as a recipe augments them: flipped and cropped, or by a user's function.

    Raises:
      ValueError: where the function returns other shapes or another dtype.
    """
    if not callable(augment):
        return random_flip_and_crop(key, images)
    changed = augment(key, images)
    if changed.shape != images.shape or changed.dtype != images.dtype:
        raise ValueError(
            f"augment returned {changed.dtype}{list(changed.shape)} for images {images.dtype}{list(images.shape)}; it "
            "must return images of the same shape and dtype"
        )
    return changed


@dataclasses.dataclass(frozen=True)
class NoisyImages:
    """An augmentation (`Recipe.augment`): Gaussian noise on every pixel, after another augmentation.

    The flips and crops of a key are those that it gives without noise; pixels stay within 0..1.

    Attributes:
      deviation: standard deviation, in pixel units 0..1.
      augment: the other one, as a recipe has it.
    """

    deviation: float
    augment: bool | Augment = False

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Images float32[n, h, w, c] in 0..1, with noise."""
        if self.augment:
            images = augmented(self.augment, key, images)
        noise = jax.random.normal(key_for(key, "noise"), images.shape, images.dtype)
        return jnp.clip(images + self.deviation * noise, 0, 1)


def one_hot(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Labels int32[n] as float32[n, num_classes]."""
    return np.eye(num_classes, dtype=np.float32)[labels]


class Call(NamedTuple):
    """The images of one call of a compiled program.

    Attributes:
      images: of the whole pool, uint8[p, h, w, c]; or uint8[..., h, w, c], of the call alone.
      rows: int32[...] of the pool, the last axis divided over the devices; None where the call brings its own images.
    """

    images: jax.Array | np.ndarray
    rows: jax.Array | np.ndarray | None


def in_calls(pool: Pool, calls: Sequence[np.ndarray]) -> Iterator[Call]:
    """The images of calls, one after another: the pool lies on each device, or where it is too large is read ahead.

    Args:
      pool: the images.
      calls: int32[..., n] each, rows of the pool; n images are a batch, which is divided over the devices.
    """
    if is_resident(pool):
        images = device_images(pool)
        for rows in calls:
            yield Call(images, devices.split(rows, rows.ndim - 1))
    else:
        for rows, read in zip(calls, read_ahead(pool.images, calls), strict=True):
            yield Call(devices.split(read, rows.ndim - 1), None)


def is_resident(pool: Pool) -> bool:
    """Whether a pool is kept on each device: where it is in memory and takes at most half of a device's."""
    own = next(device for device in devices.in_use() if device.process_index == jax.process_index())
    limit = (own.memory_stats() or {}).get("bytes_limit")
    return isinstance(pool.images, np.ndarray) and (limit is None or 2 * pool.images.nbytes <= limit)


def unit_pixels(images: jax.Array, batch: jax.Array) -> jax.Array:
    """A batch as float32[n, h, w, c] in 0..1: int32[n] rows of the images, or uint8[n, h, w, c] of its own."""
    return (images[batch] if batch.ndim == 1 else batch).astype(jnp.float32) / 255


_device_images: "weakref.WeakKeyDictionary[Pool, tuple[tuple[jax.Device, ...], jax.Array]]" = (
    weakref.WeakKeyDictionary()
)


def device_images(pool: Pool) -> jax.Array:
    """The pool's images on each device in use, put there once, uint8[p, h, w, c]."""
    held = _device_images.get(pool)
    if held is None or held[0] != devices.in_use():
        held = _device_images[pool] = devices.in_use(), jnp.asarray(devices.replicate(pool.images))
    return held[1]


def pixel_statistics(data: Split) -> Normalization:
    """Per-channel mean and standard deviation of a split's pixels, in units of 0..1 (a constant channel: 1)."""
    counts = np.zeros((data.pool.images.shape[-1], 256), np.int64)
    for images in chunks(data.pool.images, data.indices):
        counts += [np.bincount(images[..., c].ravel(), minlength=256) for c in range(len(counts))]
    levels = np.arange(256) / 255
    mean = np.array([count @ levels / count.sum() for count in counts])
    variance = np.array([count @ (levels - m) ** 2 / count.sum() for count, m in zip(counts, mean, strict=True)])
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return Normalization(mean.astype(np.float32), std.astype(np.float32))
