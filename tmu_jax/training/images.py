"""Images and labels as the training step takes them: on the device, normalised, augmented."""

import weakref

import chex
import jax
import jax.numpy as jnp
import numpy as np

from tmu_jax import devices
from tmu_jax.data import Pool, Split
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


def one_hot(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Labels int32[n] as float32[n, num_classes]."""
    return np.eye(num_classes, dtype=np.float32)[labels]


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
    counts = [np.bincount(data.images[..., c].ravel(), minlength=256) for c in range(data.pool.images.shape[-1])]
    levels = np.arange(256) / 255
    mean = np.array([count @ levels / count.sum() for count in counts])
    variance = np.array([count @ (levels - m) ** 2 / count.sum() for count, m in zip(counts, mean, strict=True)])
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return Normalization(mean.astype(np.float32), std.astype(np.float32))
