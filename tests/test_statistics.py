"""The closed forms beside SciPy, scikit-learn and counting."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from tmu_jax import statistics
from tmu_jax.statistics import detected, proportion, separation, together

RNG = np.random.default_rng(0)


def drawn(n, m, classes, shift=0.0, digits=1):
    """Scores with ties, and classes."""
    return (
        np.round(RNG.normal(shift, 1, n), digits),
        np.round(RNG.normal(0, 1, m), digits),
        RNG.integers(0, classes, n),
        RNG.integers(0, classes, m),
    )


def test_with_one_class_it_is_the_auc_and_its_chance_mann_and_whitneys():
    own, others, *_ = drawn(40, 90, 1, 0.4)
    found = separation(own, others, np.zeros(40, int), np.zeros(90, int))
    scores, labels = np.concatenate([own, others]), np.repeat([1, 0], [40, 90])
    assert found.auc.value == pytest.approx(100 * roc_auc_score(labels, scores))
    p = scipy.stats.mannwhitneyu(own, others, use_continuity=False, method="asymptotic").pvalue
    assert 2 * scipy.stats.norm.sf(abs(found.auc.value - 50) / found.chance) == pytest.approx(p)
    assert (found.forgotten, found.heldout) == (40, 90)


@pytest.mark.parametrize("classes", range(1, 40))
def test_ties_alone_are_one_half_however_many_classes_they_are_of(classes):
    """Chance is exactly 0 then, so that rounding would lie beyond what it reaches."""
    own, others = np.arange(classes), np.repeat(np.arange(classes), 3)
    found = separation(np.ones(classes), np.ones(3 * classes), own, others)
    assert (found.auc.value, found.chance) == (50, 0)


@pytest.mark.parametrize("digits", [0, 2])
def test_chance_is_what_sharing_out_within_classes_makes(digits):
    """By drawing who is forgotten anew within each class, 500 times."""
    own, others, own_classes, other_classes = drawn(30, 50, 3, digits=digits)
    scores, classes = np.concatenate([own, others]), np.concatenate([own_classes, other_classes])
    found = []
    for _ in range(500):
        order = np.arange(80)
        for c in range(3):
            order[classes == c] = RNG.permutation(order[classes == c])
        shared = scores[order]
        found.append(separation(shared[:30], shared[30:], own_classes, other_classes).auc.value)
    expected = separation(own, others, own_classes, other_classes).chance
    assert np.mean(found) == pytest.approx(50, abs=4 * expected / np.sqrt(500))
    assert np.std(found) == pytest.approx(expected, rel=0.12)


def test_only_images_of_one_class_are_compared():
    """Classes of other levels, and other shares of them, tell nothing; a class without held-out images is left out."""
    own, others = np.array([1.0, 11, 11, 11, 99]), np.array([1.0, 1, 1, 11])
    found = separation(own, others, [0, 1, 1, 1, 2], [0, 0, 0, 1])
    assert found.auc.value == 50
    assert (found.forgotten, found.heldout) == (4, 4)
    assert separation([1.0], [2.0], [0], [1]) is None


def test_the_interval_covers_as_often_as_it_says():
    """Of normal scores one apart the AUC is Phi(1/sqrt 2)."""
    true, inside = 100 * scipy.stats.norm.cdf(1 / np.sqrt(2)), 0
    for _ in range(400):
        found = separation(*drawn(40, 60, 2, 1.0, digits=6)).auc
        inside += found.low <= true <= found.high
    assert 0.9 <= inside / 400 <= 0.98


def test_folds_together_spread_no_more_than_each():
    parts = [separation(*drawn(20, 30, 2)) for _ in range(2)]
    found = together(parts)
    assert found.auc.value == pytest.approx(np.mean([part.auc.value for part in parts]))
    assert found.chance == pytest.approx(np.mean([part.chance for part in parts]))
    assert together([]) is None


def test_what_is_found_at_one_percent_of_false_alarms():
    heldout = np.arange(200.0)
    found = detected([197.0, 197.5, 198.5, 500.0], heldout, [0] * 4, [0] * 200)
    assert found.false_rate == pytest.approx(1.0)  # 198 and 199 lie above 197
    assert found.rate.value == 75
    few = detected([5.0, 9.5], np.arange(10.0), [0, 0], [0] * 10)
    assert (few.false_rate, few.rate.value) == (0, 50)
    assert detected([1.0], [1.0], [0], [1]) is None


def test_false_alarms_are_weighed_by_the_forgotten_images_classes():
    """Class 1 has no forgotten image, so its high scores raise no threshold."""
    heldout, classes = np.concatenate([np.arange(100.0), np.full(100, 1e6)]), np.repeat([0, 1], 100)
    assert detected([98.5, 0.0], heldout, [0, 0], classes).rate.value == 50


@pytest.mark.parametrize(("count", "of"), [(0, 7), (7, 7), (3, 11)])
def test_a_proportion_is_scipys(count, of):
    expected = scipy.stats.binomtest(count, of).proportion_ci(0.95, "exact")
    found = proportion(count, of)
    assert (found.low / 100, found.high / 100) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(100 * count / of)


def test_nothing_counted_is_anything():
    assert proportion(0, 0) == (0, 0, 100)


def test_a_mean_is_students_in_the_large():
    values = RNG.normal(3, 2, 4000)
    found = statistics.mean(values)
    low, high = scipy.stats.t.interval(0.95, 3999, values.mean(), scipy.stats.sem(values))
    assert found == pytest.approx((values.mean(), low, high), rel=1e-3)
