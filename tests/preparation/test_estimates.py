"""Intervals of a rehearsal: an image that comes again is the same image."""

import numpy as np
import pytest

from tmu_jax.preparation.estimates import Z, estimate, percentage
from tmu_jax.statistics import proportion

VALUES = np.random.default_rng(3).normal(size=30)
IMAGES = np.arange(30)


def test_of_one_repeat_it_is_the_standard_error_of_a_mean():
    found = estimate([VALUES], [IMAGES])
    assert found.value == pytest.approx(VALUES.mean())
    assert found.high - found.value == pytest.approx(Z * VALUES.std(ddof=1) / np.sqrt(30))
    assert found.value - found.low == pytest.approx(found.high - found.value)


@pytest.mark.parametrize("repeats", [2, 16])
def test_the_same_images_once_more_make_nothing_surer(repeats):
    once, again = estimate([VALUES], [IMAGES]), estimate([VALUES] * repeats, [IMAGES] * repeats)
    assert again == pytest.approx(once)
    shares = 100.0 * (VALUES > 0)
    assert percentage([shares] * repeats, [IMAGES] * repeats) == pytest.approx(percentage([shares], [IMAGES]))


def test_answers_on_one_image_are_averaged_first():
    """Two repeats of the same images that differ by noise alone: the error is that of the images' means."""
    other = VALUES + 0.01 * np.random.default_rng(4).normal(size=30)
    order = np.random.default_rng(5).permutation(30)
    found = estimate([VALUES, other[order]], [IMAGES, IMAGES[order]])
    means = (VALUES + other) / 2
    assert found.high - found.value == pytest.approx(Z * means.std(ddof=1) / np.sqrt(30))


def test_other_images_make_it_surer_unless_the_repeats_spread():
    halves = estimate([VALUES[:15], VALUES[15:]], [IMAGES[:15], IMAGES[15:]])
    spread = abs(VALUES[:15].mean() - VALUES[15:].mean()) / 2
    plain = VALUES.std(ddof=1) / np.sqrt(30)
    assert halves.high - halves.value == pytest.approx(Z * max(plain, spread))
    apart = estimate([VALUES[:15], VALUES[15:] + 50], [IMAGES[:15], IMAGES[15:]])
    assert apart.high - apart.value > Z * 20


def test_of_no_image_nothing_is_said():
    assert estimate([np.zeros(0)], [np.zeros(0, int)]) == (0, 0, 0)


def test_a_share_is_never_surer_than_its_images_can_make_it():
    """Ten of ten are no certainty, and the interval ends where shares do."""
    all_right = percentage([np.full(10, 100.0)], [np.arange(10)])
    assert (all_right.value, all_right.high) == (100, 100)
    assert all_right.low == pytest.approx(100 * 0.025 ** (1 / 10))
    most = percentage([np.array([100.0] * 19 + [0.0])], [np.arange(20)])
    exact = proportion(19, 20)
    assert (most.value, most.high) == (95, 100)
    assert most.low == pytest.approx(min(exact.low, 95 - Z * np.std([100.0] * 19 + [0.0], ddof=1) / np.sqrt(20)))
