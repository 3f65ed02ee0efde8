"""Confidence intervals: Student's t over seeds, the bootstrap over forgotten images. Nothing here knows of records."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
# Memory for one draw of indices stays at 20 MB for the 5,000 images of a whole class.
RESAMPLES_A_BATCH = 500


class Estimate(NamedTuple):
    """A figure and its 95 % confidence interval; None where undefined.

    Attributes:
        mean: the figure itself.
        low: lower end of the interval; over images it is absent, never of width 0, where nothing varies among them.
        high: upper end.
        source: what the interval is over, "seeds" (Student t) or "images" (bootstrap); None without an interval.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    source: str | None = None

    @property
    def has_interval(self) -> bool:
        return self.low is not None and self.high is not None


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one value a seed, and its Student-t interval, mean ± t(0.975, n - 1) s / sqrt(n).

    Args:
        values: [n], one for each seed; below two the interval is absent.

    Returns:
        The estimate, symmetrical about the mean; the mean is None where there is no value.
    """
    if not values:
        return Estimate(None)
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half, "seeds")


def resampled_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Means over images drawn anew with replacement; all rows share the drawn images and so stay paired.

    Called once for each class it makes a stratified bootstrap: a statistic of the class means is then taken resample by
    resample, and `over_images` reads its interval.

    Args:
        values: float[rows, n], one column for each image of a class.
        rng: draws the images.

    Returns:
        float[rows, NUM_RESAMPLES], None where a single image leaves nothing to resample.
    """
    num_images = values.shape[1]
    if num_images < 2:
        return None

    def means(drawn: np.ndarray, axis: int) -> np.ndarray:
        # How often each image was drawn: one matrix product then serves every row.
        offsets = np.arange(len(drawn))[:, None] * num_images
        counts = np.bincount((drawn + offsets).ravel(), minlength=drawn.size).reshape(drawn.shape)
        return values @ counts.T / num_images

    found = stats.bootstrap(
        (np.arange(num_images),),
        means,
        n_resamples=NUM_RESAMPLES,
        batch=RESAMPLES_A_BATCH,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=rng,
    )
    return found.bootstrap_distribution


def over_images(figure: float | None, replicates: np.ndarray | None) -> Estimate:
    """A figure with the percentile interval of its bootstrap replicates.

    The interval speaks of other images under the same trained models, not of other trainings. Of a gap, an absolute
    difference, every replicate is at least 0: near 0 the interval cannot reach below it, lies to one side, and may lie
    above the figure itself, since chance moves a small gap more often up than down.

    Args:
        figure: computed from the images as they are.
        replicates: float[NUM_RESAMPLES], the figure's values in the resamples; None where it was not resampled.

    Returns:
        The estimate; an interval of no width is left out, for then nothing varies in the sample.
    """
    if figure is None or replicates is None:
        return Estimate(figure)
    low, high = (float(q) for q in np.quantile(replicates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    rounding = 1e-9 * max(1.0, abs(low))
    return Estimate(figure, low, high, "images") if high - low > rounding else Estimate(figure)
