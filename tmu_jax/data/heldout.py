"""Where the held-out images D_test come from, how many there are, and the copies that stand in where too few exist.

D_test makes a second problem, the twin, whose answer is known; for it to resemble the first, Eq. 3 of the paper asks
for |D_f| / |D_r| = |D_test| / |D|.

References:
    Ji et al., "Towards Aligned Data Removal via Twin Machine Unlearning", arXiv:2408.11433, Eq. 3.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from tmu_jax.data.demand import join
from tmu_jax.data.types import Dataset, Pool

HeldoutSource = Literal["test", "train"]
Ratio = Literal["dataset", "class", "all"]
HELDOUT_SOURCES: tuple[str, ...] = get_args(HeldoutSource)
RATIOS: tuple[str, ...] = get_args(Ratio)
MAX_COPIES = 20
CROP_PADDING = 4

# One stream of random numbers for each purpose, so that one draw never shifts another.
TRAIN_STREAM, _TEST_STREAM, _AUGMENT_STREAM = range(3)


def heldout_from_test(
    data: Dataset,
    counts: Mapping[int, int],
    class_sizes: Mapping[int, int],
    seed: int,
    ratio: str,
    removed: np.ndarray,
) -> tuple[Pool, np.ndarray]:
    """D_test from the test images that are not among the removed rows: the pool to use, and row numbers of it."""
    num_train = len(data.train_labels)
    num_left = sum(class_sizes.values())
    pool, rows, extra_images, extra_labels = data.pool, [], [], []
    end = len(pool)
    for c in sorted(counts):
        order = shuffled_class(data.test_labels, c, seed, _TEST_STREAM)
        order = order[~np.isin(num_train + order, removed)]
        size = _size_from_test(c, counts, class_sizes, len(order), num_left, ratio)
        rows.append(num_train + np.sort(order[:size]))
        if size > len(order):
            copies = _augment(
                data.test_images[order], size - len(order), np.random.default_rng([seed, c, _AUGMENT_STREAM])
            )
            extra_images.append(copies)
            extra_labels.append(np.full(len(copies), c, np.int32))
            rows.append(np.arange(end, end + len(copies)))
            end += len(copies)
    if extra_images:
        pool = Pool(join([pool.images, *extra_images]), np.concatenate([pool.labels, *extra_labels]), data.num_classes)
    return pool, np.concatenate(rows)


def _size_from_test(
    c: int, counts: Mapping[int, int], class_sizes: Mapping[int, int], available: int, num_train: int, ratio: str
) -> int:
    """|D_test| of one class by Eq. 3, checked against the test images there are."""
    if available == 0:
        raise ValueError(
            f"heldout_source='test' needs test images of class {c}, but there are none: add some; or use "
            "heldout_source='train', which keeps training images out of a model that is still to be trained"
        )
    if ratio == "all":
        return available
    whole, retained = _ratio_sizes(c, counts, class_sizes, num_train, ratio)
    most = available * (1 + MAX_COPIES)
    if retained == 0 or (size := _eq3(counts[c], whole, retained)) > most:
        wanted = "infinitely many" if retained == 0 else str(size)
        raise ValueError(
            f"ratio={ratio!r} asks for {wanted} held-out images of class {c}, which has {available} test images: "
            f"more than {MAX_COPIES} augmented copies of each; forget fewer images, or use ratio='all'"
            + (" or 'dataset'" if ratio == "class" else "")
        )
    return size


def heldout_sizes_from_train(counts: Mapping[int, int], class_sizes: Mapping[int, int], ratio: str) -> dict[int, int]:
    """How many images of every class are kept out of training so that Eq. 3 holds for what is left.

    Keeping images out makes D smaller, which changes Eq. 3's own number; the map from one to the other is monotone, so
    repeating it from zero climbs to its least fixed point, or past the images there are.
    """
    if ratio == "all":
        raise ValueError("ratio='all' takes every test image of a class and needs heldout_source='test', got 'train'")
    sizes = dict.fromkeys(class_sizes, 0)
    while True:
        left = {c: class_sizes[c] - sizes[c] for c in class_sizes}
        updated = {}
        for c, num_forget in counts.items():
            whole, retained = _ratio_sizes(c, counts, left, sum(left.values()), ratio)
            if retained == 0 or num_forget + (size := _eq3(num_forget, whole, retained)) > class_sizes[c]:
                raise ValueError(
                    f"heldout_source='train' cannot keep enough images of class {c} out of training: it has "
                    f"{class_sizes[c]}, and {num_forget} are forgotten; forget fewer, or use heldout_source='test'"
                )
            updated[c] = size
        # Other classes lose as many, so that the classes stay as balanced as they were (but at most half, if small).
        largest = max(updated.values())
        updated |= {c: min(largest, class_sizes[c] // 2) for c in class_sizes if c not in counts}
        if updated == sizes:
            return sizes
        sizes = updated


def _ratio_sizes(
    c: int, counts: Mapping[int, int], class_sizes: Mapping[int, int], num_train: int, ratio: str
) -> tuple[int, int]:
    """|D| and |D_r| of Eq. 3: of the whole training set, or of one class."""
    if ratio == "class":
        return class_sizes[c], class_sizes[c] - counts[c]
    return num_train, num_train - sum(counts.values())


def _eq3(num_forget: int, whole: int, retained: int) -> int:
    """|D_test| = |D_f| |D| / |D_r|, to the nearest integer (halves up), at least 1; exact at any size."""
    return max(1, (2 * num_forget * whole + retained) // (2 * retained))


def _augment(images: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Flipped and shifted copies, drawn from the images as evenly as the count allows.

    The border is mirrored, not black: a model that was trained without crops has never seen black borders, and D_test
    should look like D_f.

    Args:
        images: uint8[n, height, width, channels].
        count: the number of copies.
        rng: the random numbers.

    Returns:
        uint8[count, height, width, channels].
    """
    height, width = images.shape[1:3]
    border = ((0, 0), (CROP_PADDING, CROP_PADDING), (CROP_PADDING, CROP_PADDING), (0, 0))
    padded = np.pad(images, border, mode="reflect")
    rounds = [rng.permutation(len(images)) for _ in range(-(-count // len(images)))]
    chosen = np.concatenate(rounds)[:count]
    top, left = rng.integers(0, 2 * CROP_PADDING + 1, size=(2, count))
    flipped = rng.random(count) < 0.5
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    copies = windows[chosen, top, left].transpose(0, 2, 3, 1)
    return np.where(flipped[:, None, None, None], copies[:, :, ::-1], copies)


def shuffled_class(labels: np.ndarray, c: int, seed: int, stream: int) -> np.ndarray:
    """The rows of one class in a random order that depends on the seed, the class and the purpose alone."""
    return np.random.default_rng([seed, c, stream]).permutation(np.flatnonzero(labels == c))
