"""Intervals against closed forms, a table of Student's t, SciPy called directly and the normal approximation."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.report.intervals import (
    NUM_RESAMPLES,
    Estimate,
    over_images,
    over_seeds,
    resampled_means,
)

# Two-sided 95 % points of Student's t for 1, 2, 4 and 9 degrees of freedom, from a printed table.
T_TABLE = {2: 12.706, 3: 4.303, 5: 2.776, 10: 2.262}


def interval_of(row, seed=0):
    """The bootstrap estimate of the mean of one row of values."""
    row = np.asarray(row, float)
    means = resampled_means(row[None], np.random.default_rng(seed))
    return over_images(float(row.mean()), None if means is None else means[0])


@pytest.mark.parametrize("num_seeds", T_TABLE)
def test_interval_over_seeds_is_students(num_seeds):
    values = np.random.default_rng(num_seeds).normal(80, 2, num_seeds)
    half = T_TABLE[num_seeds] * values.std(ddof=1) / math.sqrt(num_seeds)
    found = over_seeds(values.tolist())
    assert found.source == "seeds"
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-4)


def test_interval_over_seeds_by_hand():
    # Mean 5, s = 1, t(0.975, 2) = 4.30265: half a width of 4.30265 / sqrt(3) = 2.48414.
    found = over_seeds([4.0, 5.0, 6.0])
    assert (found.low, found.high) == pytest.approx((2.51586, 7.48414), abs=1e-5)


def test_one_seed_has_no_interval_and_none_has_no_mean():
    assert over_seeds([4.0]) == Estimate(4.0, None, None, None)
    assert not over_seeds([4.0]).has_interval
    assert over_seeds([]) == Estimate(None)


def test_bootstrap_equals_scipys_with_the_same_stream():
    values = np.random.default_rng(0).gamma(2.0, 1.0, 70)
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=NUM_RESAMPLES,
        batch=500,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    found = interval_of(values, seed=5)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert found.source == "images"


def test_bootstrap_of_many_images_is_the_binomials_normal_approximation():
    correct = np.arange(4000) % 5 > 0
    found = interval_of(100.0 * correct)
    half = 1.96 * 100 * math.sqrt(0.8 * 0.2 / 4000)
    assert found.mean == pytest.approx(80.0)
    # The ends of 2,000 resamples scatter by about a twentieth of the half width.
    assert (found.low, found.high) == pytest.approx((80 - half, 80 + half), abs=0.15 * half)


def test_paired_difference_over_images_has_the_closed_forms_width():
    rng = np.random.default_rng(0)
    ours = rng.random(1000) < 0.8
    theirs = ours ^ (rng.random(1000) < 0.1)
    means = resampled_means(np.stack([ours, theirs]).astype(float), np.random.default_rng(1))
    paired = over_images(float(ours.mean() - theirs.mean()), means[0] - means[1])
    differences = ours.astype(float) - theirs
    half = 1.96 * differences.std() / math.sqrt(1000)
    assert (paired.high - paired.low) / 2 == pytest.approx(half, rel=0.1)
    unpaired = 1.96 * math.sqrt((ours.var() + theirs.var()) / 1000)
    assert paired.high - paired.low < 2 * 0.7 * unpaired


def test_rows_share_the_drawn_images():
    values = np.random.default_rng(0).normal(size=(1, 40))
    means = resampled_means(np.concatenate([values, 3 - values]), np.random.default_rng(0))
    assert np.allclose(means[0] + means[1], 3)
    assert means.shape == (2, NUM_RESAMPLES)


def test_order_of_the_images_does_not_matter():
    rng = np.random.default_rng(0)
    values = rng.gamma(1.0, 1.0, 300)
    found, shuffled = interval_of(values), interval_of(rng.permutation(values))
    width = found.high - found.low
    assert (found.low, found.high) == pytest.approx((shuffled.low, shuffled.high), abs=0.15 * width)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).random(50)
    assert interval_of(values) == interval_of(values)
    assert interval_of(values) != interval_of(values, seed=1)


@pytest.mark.parametrize("values", [[100.0], [100.0] * 30, [1 / 3] * 30])
def test_samples_that_say_nothing_have_no_interval(values):
    assert interval_of(values) == Estimate(pytest.approx(values[0]))


def test_interval_of_a_folded_gap_ends_at_zero():
    values = np.random.default_rng(0).permutation(np.repeat([1.0, -1.0], 100))
    means = resampled_means(values[None], np.random.default_rng(0))
    found = over_images(0.0, np.abs(means[0]))
    assert 0 <= found.low < 0.01
    # |N(0, 1 / 200)| has its 97.5 % point at 2.24 standard errors.
    assert found.high == pytest.approx(2.2414 / math.sqrt(200), rel=0.1)
