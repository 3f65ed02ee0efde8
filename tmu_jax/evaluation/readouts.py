"""The readouts of one model beside gold's, and how good predicted labels are."""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tmu_jax.evaluation.metrics import (
    accuracy,
    activation_distance,
    agreement,
    auc,
    brier_score,
    checked_flags,
    correct,
    forget_gap,
    js_divergence,
    kl_divergence,
    membership_auc,
)


class PredictorQuality(NamedTuple):
    """How well generalization labels were predicted, before unlearning."""

    accuracy: float  # percent
    auc: float | None  # percent; None where only one label occurs
    brier: float
    predicted_hard: float  # percent of the samples predicted hard
    hard: float  # percent of the samples that are hard


def predictor_quality(
    probability_easy: ArrayLike, predicted_easy: ArrayLike, labels_easy: ArrayLike
) -> PredictorQuality:
    """Compares predicted generalization labels with the true ones.

    Args:
        probability_easy: float[n], 0..1.
        predicted_easy: bool[n], the decisions made from it.
        labels_easy: bool[n], True where the gold model is right.

    Returns:
        The quality, see `PredictorQuality`.

    Raises:
        ValueError: as `agreement`, `auc` and `brier_score`.
    """
    predicted, labels = checked_flags("predicted_easy", predicted_easy), checked_flags("labels_easy", labels_easy)
    area = auc(probability_easy, labels)
    return PredictorQuality(
        accuracy=agreement(predicted, labels),
        auc=None if area is None else 100.0 * area,
        brier=brier_score(probability_easy, labels),
        predicted_hard=100.0 * float(np.mean(~predicted)),
        hard=100.0 * float(np.mean(~labels)),
    )


@dataclasses.dataclass(frozen=True)
class Readouts:
    """One model's readouts; those that compare with gold are None where there is no gold."""

    test_accuracy: float  # percent
    forget_accuracy: float  # percent
    retain_accuracy: float  # percent
    forget_gap: float | None = None  # points
    agreement: float | None = None  # percent of the forget set
    activation_distance: float | None = None
    kl: float | None = None  # KL(gold || unlearned), nats
    js: float | None = None  # nats
    membership_auc: float | None = None  # percent, of the margin, D_f against test images


def readouts(
    *,
    test: tuple[ArrayLike, ArrayLike],
    forget: tuple[ArrayLike, ArrayLike],
    retain: tuple[ArrayLike, ArrayLike],
    gold_forget_logits: ArrayLike | None = None,
) -> Readouts:
    """All readouts of one unlearned model.

    Args:
        test: its logits float[n, classes] and the labels int[n] of the test set.
        forget: the same of the forget set.
        retain: the same of the retain set.
        gold_forget_logits: float[num_forget, classes], of the gold model on the forget set.

    Returns:
        The readouts.

    Raises:
        ValueError: as `correct`, or if gold's logits have another shape than the unlearned model's.
    """
    forget_logits, forget_labels = forget
    accuracies = {
        "test_accuracy": accuracy(*test),
        "forget_accuracy": accuracy(*forget),
        "retain_accuracy": accuracy(*retain),
    }
    membership = membership_auc(forget_logits, forget_labels, *test)
    if gold_forget_logits is None:
        return Readouts(**accuracies, membership_auc=membership)
    return Readouts(
        **accuracies,
        forget_gap=forget_gap(accuracies["forget_accuracy"], accuracy(gold_forget_logits, forget_labels)),
        agreement=agreement(correct(forget_logits, forget_labels), correct(gold_forget_logits, forget_labels)),
        activation_distance=activation_distance(forget_logits, gold_forget_logits),
        kl=kl_divergence(gold_forget_logits, forget_logits),
        js=js_divergence(gold_forget_logits, forget_logits),
        membership_auc=membership,
    )
