"""Generated images for tests and first runs, of which some are hard for the reasons that photographs are.

An image is made in four steps:

* A *texture* is a random wave pattern with a direction, a scale and colours of its own.
* A class has many *kinds* of object, of frequencies by Zipf's law. The texture of a kind is in part its class's, which
  a network learns as the rule, and in part its own, which it can learn only from that kind's images, rare or many.
* A *background* is a texture too. All classes share the backgrounds.
* An image is a view of an object plus one of a background, the stronger of the two, plus pixel noise. Views are
  shifted, recoloured and partly hidden.

So nothing marks an image as hard. Whether a network gets it right unseen depends on how well its object stands out from
its background, and on which objects and backgrounds happened to meet in the images that the network learnt from.
Training and test images are independent draws of one distribution.

Measured by `python -m experiments.cifar10 --preset quick --dataset synthetic --seeds 0 1 2 --methods original retrain
twin` (CPU with two cores, Python 3.11, jax 0.10.2, flax 0.12.8, optax 0.2.8; percent, over the 200 forgotten images),
beside the same network on CIFAR-10:

    seed                                        0     1     2   mean  CIFAR-10
    the gold model's forget accuracy         83.5  81.0  86.5   83.7        82
    a second gold model's agreement with it  88.5  87.0  90.0   88.5        87
    the predictor's AUC                      80.1  86.9  83.6   83.5        82
    agreement of the untouched original      83.5  81.0  86.5   83.7        82
    agreement after unlearning by `twin`     83.5  84.0  85.5   84.3        83

200 images make a standard error of about 2.5 points in an agreement and of 4 in the AUC, so seeds differ by as much.
The constants below are the third of three settings that were tried with this command: 30 and 40 kinds, with backgrounds
of 0.66 and 0.64, had one figure each outside of 75-90, 82-92 and 75-88, what was asked of the first three rows.
"""

import numpy as np

from tmu_jax.data.checks import check_integer, check_share
from tmu_jax.data.types import Dataset

NUM_CLASSES = 10
NUM_TRAIN, NUM_TEST = 5000, 2500
IMAGE_SIZE = 32

KINDS_PER_CLASS = 35
ZIPF_EXPONENT = 1.1
CLASS_SHARE = 0.45
NUM_BACKGROUNDS = 200
BACKGROUND_SHARE = 0.65
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
    zipf_exponent: float = ZIPF_EXPONENT,
    class_share: float = CLASS_SHARE,
    num_backgrounds: int = NUM_BACKGROUNDS,
    background_share: float = BACKGROUND_SHARE,
    noise: float = NOISE,
) -> Dataset:
    """Generates 32x32 RGB images of ten classes.

    Args:
        num_train: the number of training images, 10 or more; the classes are equal to within one image.
        num_test: the number of test images, 10 or more.
        seed: seed of all textures and images, 0 or more.
        kinds_per_class: the number of kinds in a class; more is harder.
        zipf_exponent: the k-th kind has frequency proportional to k to the minus this; 0 makes all equal.
        class_share: share of an object's variance that its class gives, 0..1; its kind gives the rest. More is easier.
        num_backgrounds: the number of backgrounds, which all classes share, 1 or more; more is harder.
        background_share: the share of an image's variance that its background gives, 0..1; more is harder.
        noise: standard deviation of the pixel noise, in standard deviations of a texture.

    Returns:
        The data set "synthetic"; the same arguments give the same arrays.

    Raises:
        TypeError: a count or the seed is not an integer.
        ValueError: a count or a share out of range.
    """
    num_train = check_integer("num_train", num_train, NUM_CLASSES)
    num_test = check_integer("num_test", num_test, NUM_CLASSES)
    seed = check_integer("seed", seed, 0)
    kinds_per_class = check_integer("kinds_per_class", kinds_per_class, 1)
    num_backgrounds = check_integer("num_backgrounds", num_backgrounds, 1)
    check_share("class_share", class_share)
    check_share("background_share", background_share)
    if not (noise >= 0 and zipf_exponent >= 0):
        raise ValueError(f"noise and zipf_exponent must be 0 or more, got {noise} and {zipf_exponent}")

    objects = _objects(np.random.default_rng([seed, 0]), kinds_per_class, class_share)
    objects *= np.float32(np.sqrt(1 - background_share))
    backgrounds = _textures(np.random.default_rng([seed, 3]), num_backgrounds)
    backgrounds *= np.float32(np.sqrt(background_share))
    frequencies = np.arange(1, kinds_per_class + 1) ** -float(zipf_exponent)
    frequencies /= frequencies.sum()

    def draw(count: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, stream])
        labels = rng.permutation(np.arange(count) % NUM_CLASSES).astype(np.int32)
        blocks = [
            _images(rng, objects, backgrounds, labels[rows], frequencies, noise)
            for rows in (slice(start, start + _BLOCK) for start in range(0, count, _BLOCK))
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


def _objects(rng: np.random.Generator, kinds_per_class: int, class_share: float) -> np.ndarray:
    """Every kind of every class: float32[classes, kinds, canvas, canvas, 3], mean 0, variance about 1."""
    of_class = _textures(rng, NUM_CLASSES)[:, None]
    of_kind = _textures(rng, NUM_CLASSES * kinds_per_class).reshape(NUM_CLASSES, kinds_per_class, *of_class.shape[2:])
    return np.float32(np.sqrt(class_share)) * of_class + np.float32(np.sqrt(1 - class_share)) * of_kind


def _textures(rng: np.random.Generator, count: int) -> np.ndarray:
    """Waves of one direction, scale and set of colours each: float32[n, canvas, canvas, 3], mean 0, variance 1."""
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
    objects: np.ndarray,
    backgrounds: np.ndarray,
    labels: np.ndarray,
    frequencies: np.ndarray,
    noise: float,
) -> np.ndarray:
    """Images of the given classes: uint8[n, 32, 32, 3]."""
    count = len(labels)
    kinds = rng.choice(len(frequencies), size=count, p=frequencies)
    pixels = _views(rng, objects, (labels, kinds))
    pixels += _views(rng, backgrounds, (rng.integers(len(backgrounds), size=count),))
    pixels += np.float32(noise) * rng.standard_normal(pixels.shape, dtype=np.float32)
    pixels *= _LEVELS_PER_UNIT
    pixels += _MEAN_LEVEL
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _views(rng: np.random.Generator, textures: np.ndarray, chosen: tuple[np.ndarray, ...]) -> np.ndarray:
    """Shifted, recoloured and partly hidden views of the chosen textures: float32[n, 32, 32, 3]."""
    count = len(chosen[0])
    top, left = rng.integers(0, 2 * _MAX_SHIFT + 1, size=(2, count))
    windows = np.lib.stride_tricks.sliding_window_view(textures, (IMAGE_SIZE, IMAGE_SIZE), axis=(-3, -2))
    views = windows[*chosen, top, left].transpose(0, 2, 3, 1)
    gain = 1 + _COLOUR_JITTER * rng.standard_normal((count, 1, 1, 3), dtype=np.float32)
    offset = _COLOUR_JITTER * rng.standard_normal((count, 1, 1, 3), dtype=np.float32)
    views = views * gain + offset
    height, width = rng.integers(0, _MAX_HIDDEN + 1, size=(2, count, 1))
    first_row, first_column = rng.integers(0, IMAGE_SIZE, size=(2, count, 1))
    pixel = np.arange(IMAGE_SIZE)
    rows = (pixel >= first_row) & (pixel < first_row + height)
    columns = (pixel >= first_column) & (pixel < first_column + width)
    return np.where(rows[:, :, None, None] & columns[:, None, :, None], np.float32(0), views)
