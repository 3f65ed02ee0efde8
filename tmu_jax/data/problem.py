"""Forget requests: which images leave; `heldout` says which unseen images of the same classes stand in for them.

References:
    Ji et al., "Towards Aligned Data Removal via Twin Machine Unlearning", arXiv:2408.11433, Eq. 3.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from tmu_jax.boundary import checked
from tmu_jax.data.checks import check_integer, check_rows
from tmu_jax.data.heldout import (
    CROP_PADDING,
    HELDOUT_SOURCES,
    RATIOS,
    TRAIN_STREAM,
    HeldoutSource,
    Ratio,
    heldout_from_test,
    heldout_sizes_from_train,
    shuffled_class,
)
from tmu_jax.data.types import Dataset, ForgetProblem, Pool, Split


@checked
def forget_subset(
    data: Dataset,
    target_classes: Iterable[int],
    num_forget: int | Literal["all"],
    seed: int = 0,
    heldout_source: HeldoutSource = "test",
    ratio: Ratio = "dataset",
    tuned_share: float = 0.0,
) -> ForgetProblem:
    """A request to forget random training images of each of some classes: the paper's protocol.

    The images drawn from a class depend on the seed, the class and `num_forget` alone, not on the other classes asked
    for, and a smaller request is part of a larger one; the held-out images of a class depend on the seed, the class and
    their number.

    Args:
        data: the data set.
        target_classes: the classes to forget images of.
        num_forget: the number of images of *each* class, or "all" for the whole class.
        seed: seed of the draws, 0 or more.
        heldout_source: "test" takes D_test from the classes' test images (fewer than needed are augmented by flips and
            crops, in extra rows of a new pool); "train" keeps the same share of *every* class out of training.
        ratio: "dataset" sizes D_test by Eq. 3 over the whole training set, "class" over the forget class alone;
            "all" takes all test images of the class.
        tuned_share: share of *every* class's training images that are kept out of training, below 1; the twin model
            is fine-tuned on those of the forget classes (`ForgetProblem.tuned`) in the place of D_test, and D_test,
            from the test images, serves for features and labels alone. They are the last of the draw that begins with
            the forgotten ones, so that those stay the same. 0: none.

    Returns:
        The problem; `forget`, `heldout` and `tuned` are ordered by class, then by row.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a class or a number out of range, or a D_test that cannot be had.
    """
    targets = _check_classes(target_classes, data.num_classes)
    seed = _check_options(seed, heldout_source, ratio)
    class_sizes = _class_sizes(data.train_labels, data.num_classes)
    tuned_sizes = _tuned_sizes(tuned_share, heldout_source, class_sizes)
    counts = {c: _check_num_forget(num_forget, c, class_sizes[c] - tuned_sizes[c]) for c in targets}
    orders = {
        c: shuffled_class(data.train_labels, c, seed, TRAIN_STREAM) for c in range(data.num_classes) if class_sizes[c]
    }
    forget = np.concatenate([np.sort(orders[c][: counts[c]]) for c in targets])
    if not tuned_share:
        return _build(data, forget, counts, orders, seed, heldout_source, ratio)
    kept_out = {c: np.sort(order[len(order) - tuned_sizes[c] :]) for c, order in orders.items()}
    left = {c: order[: len(order) - tuned_sizes[c]] for c, order in orders.items()}
    apart = np.concatenate(list(kept_out.values()))
    found = _build(data, forget, counts, left, seed, heldout_source, ratio, apart)
    tuned = _split(found.pool, np.concatenate([kept_out[c] for c in targets]))
    if not len(tuned):
        raise ValueError(f"tuned_share={tuned_share} of classes {targets} is no image; give a larger share")
    return dataclasses.replace(found, tuned=tuned)


@checked
def forget_rows(data: Dataset, target_class: int, num_forget: int, seed: int = 0) -> np.ndarray:
    """The training rows of one class that `forget_subset` forgets; the whole class where it has no more than that many.

    Args:
        data: the data set.
        target_class: the class.
        num_forget: the number of images.
        seed: seed of the draw, 0 or more.

    Returns:
        int32[min(num_forget, class size)], ascending.
    """
    target_class = check_integer("target_class", target_class, 0, data.num_classes - 1)
    num_forget = check_integer("num_forget", num_forget, 1)
    order = shuffled_class(data.train_labels, target_class, check_integer("seed", seed, 0), TRAIN_STREAM)
    return np.sort(order[:num_forget]).astype(np.int32)


@checked
def forget_indices(
    data: Dataset,
    indices: Sequence[int] | np.ndarray,
    seed: int = 0,
    heldout_source: HeldoutSource = "test",
    ratio: Ratio = "dataset",
    removed: Sequence[int] | np.ndarray = (),
) -> ForgetProblem:
    """A request to forget given training images, of one class or of several.

    Args:
        data: the data set.
        indices: row numbers of `data.train_images`, no two equal: a list or other sequence, or an array [n].
        seed: seed of the draw of held-out images, 0 or more.
        heldout_source: as in `forget_subset`; with "train" the classes that are not in the request give up as many
            images as the class with the most held-out ones.
        ratio: as in `forget_subset`.
        removed: rows of `data.pool` that earlier requests removed, such as `tmu_jax.Ledger.removed` gives: training
            images that are in none of the sets, test images that are not held out.

    Returns:
        The problem; `forget` keeps the order of `indices`, `heldout` is ordered by class, then by row.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: indices out of range or repeated, or a D_test that cannot be had.
    """
    forget = _check_indices(indices, len(data.train_labels))
    seed = _check_options(seed, heldout_source, ratio)
    gone = check_removed(removed, len(data.pool))
    again = forget[np.isin(forget, gone)]
    if len(again):
        raise ValueError(f"indices holds {again[0]}, which is among the removed; an earlier request forgot it")
    classes, sizes = np.unique(data.train_labels[forget], return_counts=True)
    counts = dict(zip(classes.tolist(), sizes.tolist(), strict=True))
    orders = {}
    for c in np.unique(data.train_labels).tolist():
        order = shuffled_class(data.train_labels, c, seed, TRAIN_STREAM)
        order = order[~np.isin(order, gone)]
        asked = np.isin(order, forget)
        if len(order):
            orders[c] = np.concatenate([order[asked], order[~asked]])
    return _build(data, forget, counts, orders, seed, heldout_source, ratio, gone)


def check_removed(removed: Sequence[int] | np.ndarray, num_rows: int) -> np.ndarray:
    """The rows that earlier requests removed, int32[k], ascending, each once.

    Raises:
        TypeError: for what is no sequence of integers.
        ValueError: rows beyond the pool's `num_rows`.
    """
    rows = check_rows("removed", removed, "the data set's pool", num_rows, repeated=True)
    return np.unique(rows).astype(np.int32)


def _build(
    data: Dataset,
    forget: np.ndarray,
    counts: Mapping[int, int],
    orders: Mapping[int, np.ndarray],
    seed: int,
    heldout_source: str,
    ratio: str,
    removed: np.ndarray | None = None,
) -> ForgetProblem:
    """Puts the splits together.

    Args:
        data: the data set.
        forget: int[f], training rows to forget.
        counts: how many of them are of each class.
        orders: the training rows of every class that has any, the forgotten ones first.
        seed: seed of the draws.
        heldout_source: "test" or "train".
        ratio: "dataset", "class" or "all".
        removed: int32[k], rows of the pool that are in none of these sets; of the training rows none is in `orders`.
    """
    num_train = len(data.train_labels)
    removed = np.zeros(0, np.int32) if removed is None else removed
    class_sizes = {c: len(order) for c, order in orders.items()}
    left = np.setdiff1d(np.arange(num_train), removed)
    if len(forget) == len(left):
        raise ValueError(f"the request forgets all {len(left)} training images; at least one must stay")
    pool = data.pool
    if heldout_source == "train":
        sizes = heldout_sizes_from_train(counts, class_sizes, ratio)
        kept_out = {c: np.sort(order[len(order) - sizes[c] :]) for c, order in orders.items()}
        heldout = np.concatenate([kept_out[c] for c in sorted(counts)])
        train = np.setdiff1d(left, np.concatenate(list(kept_out.values())))
    else:
        pool, heldout = heldout_from_test(data, counts, class_sizes, seed, ratio, removed)
        train = left
    retain = np.setdiff1d(train, forget)
    kept_classes = np.unique(data.train_labels[retain])
    whole_classes = tuple(c for c in sorted(counts) if c not in kept_classes)
    return ForgetProblem(
        pool=pool,
        train=_split(pool, train),
        forget=_split(pool, forget),
        retain=_split(pool, retain),
        heldout=_split(pool, heldout),
        test=_split(pool, np.arange(num_train, len(data.pool))),
        target_classes=tuple(sorted(counts)),
        heldout_source=heldout_source,
        ratio=ratio,
        seed=seed,
        whole_classes=whole_classes,
        notes=_notes(data, whole_classes, len(pool) - len(data.pool)),
    )


def _notes(data: Dataset, whole_classes: Sequence[int], num_augmented: int) -> tuple[str, ...]:
    notes = []
    if whole_classes:
        names = ", ".join(f"{c} ({data.class_names[c]})" for c in whole_classes)
        notes.append(
            f"No image of {'class' if len(whole_classes) == 1 else 'classes'} {names} stays in training: a "
            "retrained model never saw the class, so all its images are hard by definition and no predictor is needed."
        )
    if num_augmented:
        notes.append(
            f"The test set has fewer images of the forget classes than Eq. 3 asks for: {num_augmented} held-out images "
            f"are flipped and cropped copies ({CROP_PADDING}-pixel mirrored border) of others."
        )
    return tuple(notes)


def _split(pool: Pool, rows: np.ndarray) -> Split:
    return Split(pool, rows.astype(np.int32))


def _class_sizes(labels: np.ndarray, num_classes: int) -> list[int]:
    return np.bincount(labels, minlength=num_classes).tolist()


def _tuned_sizes(tuned_share: float, heldout_source: str, class_sizes: Sequence[int]) -> list[int]:
    """How many images of each class are kept out of training for the twin model to be tuned on."""
    if not 0 <= tuned_share < 1:
        raise ValueError(f"tuned_share={tuned_share} must be a share of the training images, at least 0 and below 1")
    if tuned_share and heldout_source != "test":
        raise ValueError(
            f"tuned_share={tuned_share} needs heldout_source='test', got {heldout_source!r}: features and labels are "
            "then those of test images"
        )
    return [round(tuned_share * size) for size in class_sizes]


def _check_classes(target_classes: Iterable[int], num_classes: int) -> list[int]:
    is_single = getattr(target_classes, "shape", None) == ()
    if isinstance(target_classes, str) or is_single or not isinstance(target_classes, Iterable):
        raise TypeError(f"target_classes must be a sequence of integers such as [3], got {target_classes!r}")
    classes = [check_integer("a class of target_classes", c, 0, num_classes - 1) for c in target_classes]
    if not classes:
        raise ValueError("target_classes must name at least one class, got none")
    if len(set(classes)) < len(classes):
        raise ValueError(f"target_classes must not repeat a class, got {classes}")
    return sorted(classes)


def _check_num_forget(num_forget: int | str, c: int, class_size: int) -> int:
    if class_size == 0:
        raise ValueError(f"target_classes holds {c}, but there is no training image of class {c}")
    if isinstance(num_forget, str) and num_forget == "all":
        return class_size
    argument = f"num_forget (unless 'all') of the {class_size} training images of class {c}"
    return check_integer(argument, num_forget, 1, class_size)


def _check_indices(indices: Sequence[int] | np.ndarray, num_train: int) -> np.ndarray:
    rows = check_rows("indices", indices, "the training images", num_train)
    if not len(rows):
        raise ValueError("indices must name at least one training image, got none")
    return rows


def _check_options(seed: int, heldout_source: str, ratio: str) -> int:
    if heldout_source not in HELDOUT_SOURCES:
        raise ValueError(f"heldout_source must be one of {HELDOUT_SOURCES}, got {heldout_source!r}")
    if ratio not in RATIOS:
        raise ValueError(f"ratio must be one of {RATIOS}, got {ratio!r}")
    return check_integer("seed", seed, 0)
