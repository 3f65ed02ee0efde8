"""How an unlearned model does, and how near its answers are to gold's.

Everything here runs on the host in float64 NumPy, from logits that were computed before: the arrays are small, the
results accurate, and nothing is compiled. Accuracies and agreements are in percent, gaps in points, divergences in
nats. "Correct" always means that the largest logit is the label's.
"""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score


def correct(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Whether each sample is classified correctly.

    Args:
        logits: float[n, classes], finite, n at least 1.
        labels: int[n], 0..classes-1.

    Returns:
        bool[n].

    Raises:
        ValueError: if the shapes do not fit, a logit is not finite or a label out of range.
    """
    logits = _checked_logits("logits", logits)
    labels = np.asarray(labels)
    if labels.shape != logits.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers of shape {logits.shape[:1]}, got {labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"labels must lie in 0..{logits.shape[1] - 1}, got {labels.min()}..{labels.max()}")
    return np.argmax(logits, axis=1) == labels


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Percent of the samples that are classified correctly; arguments and errors as `correct`."""
    return 100.0 * float(np.mean(correct(logits, labels)))


def forget_gap(forget_accuracy: float, gold_forget_accuracy: float) -> float:
    """Distance in points between two forget accuracies in percent: 0 where unlearning met gold."""
    return abs(forget_accuracy - gold_forget_accuracy)


def agreement(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """Percent of the samples on which both models are right or both are wrong.

    Args:
        correct_a: bool[n], from `correct`.
        correct_b: bool[n], of the other model on the same samples.

    Returns:
        0..100.

    Raises:
        ValueError: if the two are not boolean vectors of one length, at least 1.
    """
    correct_a, correct_b = checked_flags("correct_a", correct_a), checked_flags("correct_b", correct_b)
    if correct_a.shape != correct_b.shape:
        raise ValueError(f"correct_a and correct_b must be equally long, got {correct_a.size} and {correct_b.size}")
    return 100.0 * float(np.mean(correct_a == correct_b))


def activation_distance(logits_a: ArrayLike, logits_b: ArrayLike) -> float:
    """Mean Euclidean distance between the softmax outputs of two models, 0 to the square root of 2.

    Arguments and errors as `activation_distances`.
    """
    return float(np.mean(activation_distances(logits_a, logits_b)))


def activation_distances(logits_a: ArrayLike, logits_b: ArrayLike) -> np.ndarray:
    """Euclidean distance between the softmax outputs of two models on each sample.

    Args:
        logits_a: float[n, classes].
        logits_b: float[n, classes], of the other model on the same samples.

    Returns:
        float64[n], 0 to the square root of 2.

    Raises:
        ValueError: if the shapes differ or a logit is not finite.
    """
    log_a, log_b = _paired_log_softmax(logits_a, logits_b)
    return np.linalg.norm(np.exp(log_a) - np.exp(log_b), axis=1)


def kl_divergence(gold_logits: ArrayLike, unlearned_logits: ArrayLike) -> float:
    """Mean over the samples of KL(gold || unlearned), finite for all finite logits.

    Args:
        gold_logits: float[n, classes], of the model to be matched; its distribution does the weighting.
        unlearned_logits: float[n, classes].

    Returns:
        The divergence in nats. It sums over the classes and is not divided by their number.

    Raises:
        ValueError: if the shapes differ or a logit is not finite.
    """
    log_gold, log_unlearned = _paired_log_softmax(gold_logits, unlearned_logits)
    return float(np.mean(_kl_from_logs(log_gold, log_unlearned)))


def js_divergence(logits_a: ArrayLike, logits_b: ArrayLike) -> float:
    """Mean over the samples of the Jensen-Shannon divergence, symmetric, 0 to log 2 nats.

    Args:
        logits_a: float[n, classes].
        logits_b: float[n, classes].

    Returns:
        The mean of (KL(a || m) + KL(b || m)) / 2, where m is the mean of the two distributions.

    Raises:
        ValueError: if the shapes differ or a logit is not finite.
    """
    log_a, log_b = _paired_log_softmax(logits_a, logits_b)
    log_mean = np.logaddexp(log_a, log_b) - np.log(2.0)
    return float(np.mean(_kl_from_logs(log_a, log_mean) + _kl_from_logs(log_b, log_mean)) / 2.0)


def brier_score(probability: ArrayLike, labels: ArrayLike) -> float:
    """Mean squared distance between a probability and what happened.

    Args:
        probability: float[n], 0..1, of the label being 1.
        labels: bool[n], or 0 and 1.

    Returns:
        0..1, 0 the best.

    Raises:
        ValueError: if a probability lies outside 0..1, a label is neither 0 nor 1, or the lengths differ.
    """
    probability, happened = _checked_scores("probability", probability, labels)
    if probability.min() < 0 or probability.max() > 1:
        raise ValueError(f"probability must lie in 0..1, got {probability.min()}..{probability.max()}")
    return float(np.mean(np.square(probability - happened)))


def auc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Area under the ROC curve, 0..1: how often a positive sample scores above a negative one, ties counting half.

    Args:
        scores: float[n], higher for label 1.
        labels: bool[n], or 0 and 1.

    Returns:
        The area, or None where all labels are the same and there is none.

    Raises:
        ValueError: if a score is not finite, a label is neither 0 nor 1, or the lengths differ.
    """
    scores, positive = _checked_scores("scores", scores, labels)
    return float(roc_auc_score(positive, scores)) if positive.min() != positive.max() else None


def margins(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """How far the true class's logit lies above the largest other one, float64[n]; arguments as `correct`."""
    correct(logits, labels)
    values, own = np.array(logits, np.float64), (np.arange(len(np.asarray(labels))), np.asarray(labels))
    true = values[own].copy()
    values[own] = -np.inf
    return true - values.max(1)


def membership_auc(
    forget_logits: ArrayLike, forget_labels: ArrayLike, test_logits: ArrayLike, test_labels: ArrayLike
) -> float:
    """How well the margin tells forgotten images from test images, in percent.

    Around 50 where a model never saw either and both have the same classes: images of an easy class have large margins
    by themselves, so of other requests only gold's own figure says what to expect.

    Args:
        forget_logits: float[n, classes], of the model on D_f.
        forget_labels: int[n].
        test_logits: float[m, classes], on images that it never saw.
        test_labels: int[m].

    Returns:
        The area under the ROC curve, 0..100, above 50 where forgotten images have the larger margins.

    Raises:
        ValueError: as `correct`.
    """
    forgotten, unseen = margins(forget_logits, forget_labels), margins(test_logits, test_labels)
    area = auc(np.concatenate([forgotten, unseen]), np.repeat([True, False], [len(forgotten), len(unseen)]))
    assert area is not None
    return 100.0 * area


def _kl_from_logs(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    # Rounding alone can take a divergence below 0.
    return np.maximum(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1), 0.0)


def _paired_log_softmax(logits_a: ArrayLike, logits_b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = _checked_logits("the first logits", logits_a), _checked_logits("the second logits", logits_b)
    if a.shape != b.shape:
        raise ValueError(f"logits must have equal shapes, got {a.shape} and {b.shape}")
    return _log_softmax(a), _log_softmax(b)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - np.max(logits, axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def _checked_logits(name: str, logits: ArrayLike) -> np.ndarray:
    values = np.asarray(logits).astype(np.float64)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"{name} must have shape [samples, classes] with at least one sample, got {values.shape}")
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{name} must be finite, {int(np.sum(~np.isfinite(values)))} values are not")
    return values


def checked_flags(name: str, flags: ArrayLike) -> np.ndarray:
    values = np.asarray(flags)
    if values.ndim != 1 or values.size == 0 or values.dtype != np.bool_:
        raise ValueError(f"{name} must be a boolean vector of at least one sample, got {values.dtype} {values.shape}")
    return values


def _checked_scores(name: str, scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    values, happened = np.asarray(scores).astype(np.float64), np.asarray(labels).astype(np.float64)
    if values.ndim != 1 or values.shape != happened.shape or values.size == 0:
        raise ValueError(f"{name} and labels must be equally long vectors, got {values.shape} and {happened.shape}")
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{name} must be finite")
    if not np.all((happened == 0) | (happened == 1)):
        raise ValueError("labels must be 0 or 1")
    return values, happened
