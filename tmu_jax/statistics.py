"""Statistics in closed forms, so that whoever has the counts and scores finds the same figures.

One statistic does for membership, for accuracy, for a probe and for the draw of a request: how often a forgotten image
scores above a held-out one *of its own class*, ties counting half. A model that saw neither cannot tell them apart
where both were drawn alike, so what it may come to by chance is known exactly, whatever the model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

UNLIKE = 15.0
"""Points of AUC above 50 from which two sets count as drawn otherwise, where chance reaches less."""
ERRORS = 3.0
"""Standard errors that chance is taken to reach."""


class Interval(NamedTuple):
    """A figure with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Separation(NamedTuple):
    """How well a score tells forgotten from held-out images of the same class.

    Attributes:
      auc: percent, and its 95 % interval (DeLong et al. 1988, within classes).
      chance: standard deviation in points of what images that are drawn alike come to, around 50.
      forgotten: how many forgotten images could be compared: those of a class with held-out images.
      heldout: with how many.
    """

    auc: Interval
    chance: float
    forgotten: int
    heldout: int


def separation(
    forgotten: ArrayLike, heldout: ArrayLike, forgotten_strata: ArrayLike, heldout_strata: ArrayLike
) -> Separation | None:
    """The area under the ROC curve within strata, each weighted by its share of the forgotten images.

    Args:
      forgotten: float[n], a score.
      heldout: float[m].
      forgotten_strata: int[n], classes; only images of one stratum are compared.
      heldout_strata: int[m].

    Returns:
      The separation; None where no stratum has both.

    References:
      Hanley & McNeil 1982 for the chance of equal sets, here with ties; DeLong et al. 1988 for the interval.
    """
    forgotten, heldout = np.asarray(forgotten, np.float64), np.asarray(heldout, np.float64)
    forgotten_strata, heldout_strata = np.asarray(forgotten_strata), np.asarray(heldout_strata)
    shared = np.intersect1d(forgotten_strata, heldout_strata)
    parts = [(forgotten[forgotten_strata == c], heldout[heldout_strata == c]) for c in shared]
    total, compared = sum(len(own) for own, _ in parts), sum(len(others) for _, others in parts)
    if not total:
        return None
    area = chance = spread = 0.0
    placements = []
    for own, others in parts:
        share, m = len(own) / total, len(others)
        above = _share_below(others, own)
        placements.append(above)
        area += share * above.mean()
        chance += share**2 * _null_variance(own, others)
        of_others = 1 - _share_below(own, others)
        spread += share**2 * (of_others.var(ddof=1) if m > 1 else 0.25) / m
    area = round(area, 12)  # Of ties alone it is one half, and chance is exactly 0: no rounding may lie beyond that.
    everywhere = np.concatenate(placements)
    spread += (everywhere.var(ddof=1) if total > 1 else 0.25) / total
    return Separation(_around(area, np.sqrt(spread)), 100 * float(np.sqrt(chance)), total, compared)


def together(parts: Sequence[Separation]) -> Separation | None:
    """The mean of separations, each weighted by its forgotten images; None of none.

    A mean's standard deviation is at most the mean of the standard deviations, however the parts hang together; folds
    of a cross-validation, whose probes were fitted on one another's images, do (Bengio & Grandvalet 2004).
    """
    if not parts:
        return None
    weights = [part.forgotten for part in parts]
    columns = zip(*(part.auc for part in parts), strict=True)
    auc = Interval(*(float(np.average(column, weights=weights)) for column in columns))
    chance = float(np.average([part.chance for part in parts], weights=weights))
    return Separation(auc, chance, sum(weights), sum(part.heldout for part in parts))


def _share_below(scores: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The share of `scores` below each point, those equal to it counting half."""
    ordered = np.sort(scores)
    return (np.searchsorted(ordered, points, "left") + np.searchsorted(ordered, points, "right")) / (2 * len(scores))


def _null_variance(own: np.ndarray, others: np.ndarray) -> float:
    """Variance of an AUC over all ways to share out these scores (Mann & Whitney 1947, with ties)."""
    n, m = len(own), len(others)
    ties = np.unique(np.concatenate([own, others]), return_counts=True)[1].astype(np.float64)
    size = n + m
    return float((size + 1 - np.sum(ties**3 - ties) / (size * (size - 1))) / (12 * n * m))


def _around(share: float, error: float) -> Interval:
    half = stats.norm.ppf(0.975) * error
    return Interval(100 * float(share), 100 * max(0.0, float(share - half)), 100 * min(1.0, float(share + half)))


class Detected(NamedTuple):
    """The share of forgotten images that are found at a low share of false alarms.

    Attributes:
      rate: percent found, with its 95 % interval (Clopper & Pearson 1934), the threshold taken as given.
      false_rate: percent of held-out images above the threshold, at most 1; each class weighted as among the forgotten.
    """

    rate: Interval
    false_rate: float


def detected(
    forgotten: ArrayLike, heldout: ArrayLike, forgotten_classes: ArrayLike, heldout_classes: ArrayLike
) -> Detected | None:
    """TPR at 1 % FPR, the threshold the lowest one that no more than 1 % of the held-out images pass.

    Carlini et al. 2022 (arXiv 2112.03570): what an attack finds for sure, which an AUC does not show. With fewer than a
    hundred held-out images none of them may pass.

    Args:
      forgotten: float[n], a score.
      heldout: float[m].
      forgotten_classes: int[n]; images of classes without held-out ones are left out.
      heldout_classes: int[m].
    """
    forgotten, heldout = np.asarray(forgotten, np.float64), np.asarray(heldout, np.float64)
    forgotten_classes, heldout_classes = np.asarray(forgotten_classes), np.asarray(heldout_classes)
    comparable = np.isin(forgotten_classes, heldout_classes)
    if not comparable.any():
        return None
    own, own_classes = forgotten[comparable], forgotten_classes[comparable]
    weights = np.zeros(len(heldout))
    for c in np.unique(own_classes):
        weights[heldout_classes == c] = np.mean(own_classes == c) / np.sum(heldout_classes == c)
    thresholds, place = np.unique(heldout[weights > 0], return_inverse=True)
    at = np.bincount(place, weights[weights > 0])
    above = np.append(np.cumsum(at[::-1])[::-1][1:], 0.0)
    first = int(np.argmax(above <= 0.01 + 1e-12))
    found = int(np.sum(own > thresholds[first]))
    return Detected(proportion(found, len(own)), 100 * float(above[first]))


def proportion(count: int, of: int) -> Interval:
    """A share in percent with its exact 95 % interval (Clopper & Pearson 1934)."""
    if not of:
        return Interval(0.0, 0.0, 100.0)
    low = stats.beta.ppf(0.025, count, of - count + 1) if count else 0.0
    high = stats.beta.ppf(0.975, count + 1, of - count) if count < of else 1.0
    return Interval(100 * count / of, 100 * float(low), 100 * float(high))


def mean(values: ArrayLike) -> Interval:
    """A mean with its 95 % interval by the spread of the values."""
    array = np.asarray(values, np.float64)
    error = array.std(ddof=1) / np.sqrt(len(array)) if len(array) > 1 else 0.0
    half = float(stats.norm.ppf(0.975) * error)
    return Interval(float(array.mean()), float(array.mean()) - half, float(array.mean()) + half)


def quantile(level: float) -> float:
    """Standard deviations of a normal distribution that lie below a probability."""
    return float(stats.norm.ppf(level))
