"""The three floors that any method must beat, computed from labels without any unlearning."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tmu_jax.evaluation.metrics import agreement, checked_flags, correct, forget_gap


class Floor(NamedTuple):
    """What is reached without an unlearning run; a method that is no better has learnt nothing."""

    forget_accuracy: float  # percent
    forget_gap: float  # points
    agreement: float  # percent


def floor_gold_gold(gold_logits: ArrayLike, second_gold_logits: ArrayLike, labels: ArrayLike) -> Floor:
    """A second gold model against the first: the noise between two honest answers.

    Args:
        gold_logits: float[n, classes], on the forget set.
        second_gold_logits: float[n, classes], of a gold model with another seed.
        labels: int[n].

    Returns:
        The floor.

    Raises:
        ValueError: as `correct`.
    """
    gold, second = correct(gold_logits, labels), correct(second_gold_logits, labels)
    second_accuracy = 100.0 * float(np.mean(second))
    return Floor(second_accuracy, forget_gap(second_accuracy, 100.0 * float(np.mean(gold))), agreement(second, gold))


def floor_majority(gold_correct: ArrayLike) -> Floor:
    """Every sample is predicted easy.

    Args:
        gold_correct: bool[n], of the gold model on the forget set.

    Returns:
        The floor: forget accuracy 100, and agreement the gold's forget accuracy.

    Raises:
        ValueError: if `gold_correct` is not a boolean vector of at least one sample.
    """
    gold_accuracy = 100.0 * float(np.mean(checked_flags("gold_correct", gold_correct)))
    return Floor(100.0, forget_gap(100.0, gold_accuracy), gold_accuracy)


def floor_count_matched(
    original_heldout_accuracy: ArrayLike, gold_forget_accuracy: ArrayLike, num_forget: ArrayLike | None = None
) -> Floor:
    """A random share of the samples is predicted easy, as many as the original model gets right on held-out images.

    Args:
        original_heldout_accuracy: percent, of the original model on all held-out images of the forget class; or
            [classes], one for each forget class.
        gold_forget_accuracy: percent, of the gold model on the forget set; or [classes].
        num_forget: [classes], the number of forgotten images of each class, by which they count; equal by default.

    Returns:
        The floor, with the expected agreement a g + (1 - a)(1 - g). With several classes the share is drawn in each
        class; the gap is that of the accuracies on all of the forget set.

    Raises:
        ValueError: if the shapes differ, an accuracy lies outside 0..100, or the numbers are not all positive.
    """
    share, gold = (np.atleast_1d(np.asarray(a, np.float64)) for a in (original_heldout_accuracy, gold_forget_accuracy))
    counts = np.ones_like(share) if num_forget is None else np.atleast_1d(np.asarray(num_forget, np.float64))
    if share.ndim != 1 or not share.shape == gold.shape == counts.shape or share.size == 0:
        raise ValueError(
            "original_heldout_accuracy, gold_forget_accuracy and num_forget must have one entry for each class, "
            f"got shapes {share.shape}, {gold.shape} and {counts.shape}"
        )
    for name, percent in (("original_heldout_accuracy", share), ("gold_forget_accuracy", gold)):
        if not np.all((percent >= 0) & (percent <= 100)):
            raise ValueError(f"{name} must be percent, 0..100, got {percent}")
    if not np.all(counts > 0):
        raise ValueError(f"num_forget must be positive, got {counts}")
    expected = (share * gold + (100.0 - share) * (100.0 - gold)) / 100.0
    mean_share, mean_gold, mean_expected = (float(np.average(x, weights=counts)) for x in (share, gold, expected))
    return Floor(mean_share, forget_gap(mean_share, mean_gold), mean_expected)
