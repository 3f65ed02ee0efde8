"""Generated images that a small network memorises but does not wholly generalise from, for tests and first runs.

Real image classes have a long tail: common kinds of which a network learns the rule, rare kinds that it can only
memorise. Forgetting is interesting on the second, so the generated classes have a tail too:

* a class is a set of *kinds*, random smooth textures, whose frequencies follow Zipf's law;
* a texture is part the class's own and part the kind's own, but some rare kinds go *astray* and wear the class part of
  another class: whoever has not seen that very kind mistakes it;
* an image is a shifted, recoloured, partly hidden and noisy view of its kind, and some images are blended with an image
  of another class.

Training and test images are independent draws of the same distribution.
"""

import numpy as np

from tmu_jax.data.checks import check_integer, check_share
from tmu_jax.data.types import Dataset

NUM_CLASSES = 10
NUM_TRAIN, NUM_TEST = 5000, 2500
IMAGE_SIZE = 32

KINDS_PER_CLASS = 60
COMMON_KINDS = 8
ZIPF_EXPONENT = 1.1
CLASS_SHARE = 0.45
ASTRAY_FRACTION = 0.5
BLEND_FRACTION = 0.2
BLEND_MAX = 0.45
NOISE = 0.25

_MAX_SHIFT = 4
_CANVAS = IMAGE_SIZE + 2 * _MAX_SHIFT
_COLOUR_JITTER = 0.2
_MAX_HIDDEN = 14
_MEAN_LEVEL, _LEVELS_PER_UNIT = 127.5, 40.0
_BLOCK = 1024


def generate(
    num_train: int = NUM_TRAIN,
    num_test: int = NUM_TEST,
    seed: int = 0,
    *,
    kinds_per_class: int = KINDS_PER_CLASS,
    common_kinds: int = COMMON_KINDS,
    zipf_exponent: float = ZIPF_EXPONENT,
    class_share: float = CLASS_SHARE,
    astray_fraction: float = ASTRAY_FRACTION,
    blend_fraction: float = BLEND_FRACTION,
    blend_max: float = BLEND_MAX,
    noise: float = NOISE,
) -> Dataset:
    """Generates 32x32 RGB images of ten classes.

    Args:
        num_train: the number of training images, 10 or more; the classes are equal to within one image.
        num_test: the number of test images, 10 or more.
        seed: seed of the classes' textures and of all images, 0 or more.
        kinds_per_class: the number of kinds in a class.
        common_kinds: how many of them, the most frequent, never go astray.
        zipf_exponent: the k-th kind has frequency proportional to k to the minus this; 0 makes all equal.
        class_share: the share of a texture's variance that comes from a class part, 0..1; more makes common kinds
            easier and astray ones harder.
        astray_fraction: the share of the other kinds that wear the class part of another class, 0..1; more is harder.
        blend_fraction: the share of images blended with an image of another class, 0..1; more is harder.
        blend_max: the largest weight of the other image in a blend, 0..1.
        noise: standard deviation of the pixel noise, in standard deviations of a texture.

    Returns:
        The data set "synthetic"; the same arguments give the same arrays.

    Raises:
        TypeError: a count or the seed is not an integer.
        ValueError: a count or a fraction out of range.
    """
    num_train = check_integer("num_train", num_train, NUM_CLASSES)
    num_test = check_integer("num_test", num_test, NUM_CLASSES)
    seed = check_integer("seed", seed, 0)
    kinds_per_class = check_integer("kinds_per_class", kinds_per_class, 1)
    common_kinds = check_integer("common_kinds", common_kinds, 0)
    check_share("class_share", class_share)
    check_share("astray_fraction", astray_fraction)
    check_share("blend_fraction", blend_fraction)
    check_share("blend_max", blend_max)
    if not (noise >= 0 and zipf_exponent >= 0):
        raise ValueError(f"noise and zipf_exponent must be 0 or more, got {noise} and {zipf_exponent}")

    textures = _textures(np.random.default_rng([seed, 0]), kinds_per_class, common_kinds, class_share, astray_fraction)
    frequencies = np.arange(1, kinds_per_class + 1) ** -float(zipf_exponent)
    frequencies /= frequencies.sum()

    def draw(count: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, stream])
        labels = rng.permutation(np.arange(count) % NUM_CLASSES).astype(np.int32)
        blocks = [
            _images(rng, textures, labels[start : start + _BLOCK], frequencies, blend_fraction, blend_max, noise)
            for start in range(0, count, _BLOCK)
        ]
        return np.concatenate(blocks), labels

    train_images, train_labels = draw(num_train, 1)
    test_images, test_labels = draw(num_test, 2)
    return Dataset(
        name="synthetic",
        source=f"generated from seed {seed}",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=tuple(f"texture_{c}" for c in range(NUM_CLASSES)),
    )


def _textures(
    rng: np.random.Generator, kinds_per_class: int, common_kinds: int, class_share: float, astray_fraction: float
) -> np.ndarray:
    """One texture for each class and kind: float32[classes, kinds, canvas, canvas, 3], mean 0, variance about 1."""
    class_parts = _smooth_noise(rng, NUM_CLASSES)
    kind_parts = _smooth_noise(rng, NUM_CLASSES * kinds_per_class).reshape(
        NUM_CLASSES, kinds_per_class, *class_parts.shape[1:]
    )
    worn = np.repeat(np.arange(NUM_CLASSES)[:, None], kinds_per_class, axis=1)
    astray = (np.arange(kinds_per_class) >= common_kinds) & (rng.random(worn.shape) < astray_fraction)
    others = (worn + rng.integers(1, NUM_CLASSES, worn.shape)) % NUM_CLASSES
    worn = np.where(astray, others, worn)
    return np.sqrt(np.float32(class_share)) * class_parts[worn] + np.sqrt(np.float32(1 - class_share)) * kind_parts


def _smooth_noise(rng: np.random.Generator, count: int) -> np.ndarray:
    """Textures, each with its own direction, scale and colours: noise filtered around a random wave vector."""
    cycles = np.arange(_CANVAS // 2 + 1, dtype=np.float32)
    y, x = np.meshgrid(np.fft.fftfreq(_CANVAS, 1 / _CANVAS).astype(np.float32), cycles, indexing="ij")
    angle, scale = np.pi * (rng.random(count, np.float32) - 0.5), 1 + 4 * rng.random(count, np.float32)
    centre_y, centre_x = (scale * np.sin(angle))[:, None, None], (scale * np.cos(angle))[:, None, None]
    band = np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / 2)
    noise = rng.standard_normal((count, 3, _CANVAS, _CANVAS), np.float32)
    waves = np.fft.irfft2(np.fft.rfft2(noise) * band[:, None], s=noise.shape[2:])
    mixed = np.einsum("nij,njyx->nyxi", rng.standard_normal((count, 3, 3), np.float32), waves)
    mixed -= mixed.mean(axis=(1, 2, 3), keepdims=True)
    return mixed / mixed.std(axis=(1, 2, 3), keepdims=True)


def _images(
    rng: np.random.Generator,
    textures: np.ndarray,
    labels: np.ndarray,
    frequencies: np.ndarray,
    blend_fraction: float,
    blend_max: float,
    noise: float,
) -> np.ndarray:
    """Images of the given classes: uint8[n, 32, 32, 3]."""
    count = len(labels)
    others = (labels + rng.integers(1, NUM_CLASSES, count)) % NUM_CLASSES
    weights = np.where(rng.random(count) < blend_fraction, rng.uniform(0, blend_max, count), 0)
    weights = weights.astype(np.float32)[:, None, None, None]
    views = (1 - weights) * _views(rng, textures, labels, frequencies)
    views += weights * _views(rng, textures, others, frequencies)
    views += np.float32(noise) * rng.standard_normal(views.shape, dtype=np.float32)
    views *= _LEVELS_PER_UNIT
    views += _MEAN_LEVEL
    return np.clip(np.rint(views), 0, 255).astype(np.uint8)


def _views(rng: np.random.Generator, textures: np.ndarray, labels: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Shifted, recoloured and partly hidden views of random kinds of the classes: float32[n, 32, 32, 3]."""
    count = len(labels)
    kinds = rng.choice(len(frequencies), size=count, p=frequencies)
    top, left = rng.integers(0, 2 * _MAX_SHIFT + 1, size=(2, count))
    windows = np.lib.stride_tricks.sliding_window_view(textures, (IMAGE_SIZE, IMAGE_SIZE), axis=(2, 3))
    views = windows[labels, kinds, top, left].transpose(0, 2, 3, 1)
    gain = 1 + _COLOUR_JITTER * rng.standard_normal((count, 1, 1, 3), dtype=np.float32)
    offset = _COLOUR_JITTER * rng.standard_normal((count, 1, 1, 3), dtype=np.float32)
    views = views * gain + offset
    height, width = rng.integers(0, _MAX_HIDDEN + 1, size=(2, count, 1))
    first_row, first_column = rng.integers(0, IMAGE_SIZE, size=(2, count, 1))
    pixel = np.arange(IMAGE_SIZE)
    rows = (pixel >= first_row) & (pixel < first_row + height)
    columns = (pixel >= first_column) & (pixel < first_column + width)
    return np.where(rows[:, :, None, None] & columns[:, None, :, None], np.float32(0), views)
