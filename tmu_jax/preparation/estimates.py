"""Means over images with their 95 % intervals, where the same image may be drawn in several repeats."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tmu_jax.statistics import proportion

Z = 1.959963984540054
"""Half width of a 95 % interval in standard errors."""


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def estimate(values: Sequence[np.ndarray], images: Sequence[np.ndarray]) -> Estimate:
    """The mean over all images of all repeats, and its interval: over images, or over repeats where it is wider.

    What repeats say of one image counts as one answer, as clusters do (Liang and Zeger 1986): to forget the same images
    once more makes nothing surer of others.

    Args:
      values: of each repeat, float[n].
      images: which ones those are, int[n] of each repeat.

    Returns:
      Of no images 0, without an interval.
    """
    found, rows = np.concatenate(values).astype(np.float64), np.concatenate(images)
    if not len(found):
        return Estimate(0.0, 0.0, 0.0)
    mean = float(found.mean())
    of_image = np.bincount(np.unique(rows, return_inverse=True)[1], found - mean)
    count = len(of_image)
    error = math.sqrt(float(np.sum(of_image**2)) * count / (count - 1)) / len(found) if count > 1 else 0.0
    if len(values) > 1:
        of_repeat = np.array([part.mean() for part in values])
        error = max(error, float(of_repeat.std(ddof=1)) / math.sqrt(len(values)))
    return Estimate(mean, mean - Z * error, mean + Z * error)


def percentage(values: Sequence[np.ndarray], images: Sequence[np.ndarray]) -> Estimate:
    """The same of shares in percent; never surer than so many images can make one (Clopper and Pearson 1934)."""
    found, count = estimate(values, images), len(np.unique(np.concatenate(images)))
    exact = proportion(round(found.value / 100 * count), count)
    return Estimate(found.value, max(0.0, min(found.low, exact.low)), min(100.0, max(found.high, exact.high)))
