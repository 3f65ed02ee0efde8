"""Readouts against SciPy, scikit-learn and hand-made cases; floors against their formulas and simulation."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score

from tmu_jax.evaluation import metrics
from tmu_jax.evaluation.floors import floor_count_matched, floor_gold_gold, floor_majority
from tmu_jax.evaluation.readouts import predictor_quality
from tmu_jax.evaluation.readouts import readouts as compute_readouts


@pytest.fixture
def pair():
    """Logits of two models and labels, 50 samples of 7 classes."""
    rng = np.random.default_rng(0)
    first, second = 3 * rng.normal(size=(2, 50, 7))
    return first.astype(np.float32), second.astype(np.float32), rng.integers(0, 7, 50)


def softmax(logits):
    return scipy.special.softmax(np.asarray(logits, np.float64), axis=-1)


def test_accuracy_and_correct_equal_sklearn(pair):
    logits, _, labels = pair
    np.testing.assert_array_equal(metrics.correct(jnp.asarray(logits), jnp.asarray(labels)), logits.argmax(1) == labels)
    assert metrics.accuracy(logits, labels) == pytest.approx(100 * accuracy_score(labels, logits.argmax(1)))


def test_correct_needs_the_largest_logit_and_not_a_large_one():
    logits = np.float32([[-3, -2, -5], [0.9, 0.8, 0.7], [0.2, 0.9, 3.0]])
    np.testing.assert_array_equal(metrics.correct(logits, np.array([1, 1, 2])), [True, False, True])


def test_forget_gap_and_agreement_by_hand():
    assert metrics.forget_gap(80.0, 86.5) == metrics.forget_gap(86.5, 80.0) == 6.5
    first, second = np.array([True, True, False, False]), np.array([True, False, False, True])
    assert metrics.agreement(first, second) == 50.0
    assert metrics.agreement(first, first) == 100.0
    # Both wrong is agreement; equal accuracy is not.
    assert metrics.agreement(np.array([False, False]), np.array([False, False])) == 100.0
    assert metrics.agreement(np.array([True, False]), np.array([False, True])) == 0.0


def test_activation_distance_is_of_softmax_outputs(pair):
    first, second, _ = pair
    expected = np.linalg.norm(softmax(first) - softmax(second), axis=1).mean()
    assert metrics.activation_distance(first, second) == pytest.approx(expected, rel=1e-12)
    certain = np.float32([[1e4, -1e4], [-1e4, 1e4]])
    assert metrics.activation_distance(certain, certain[::-1]) == pytest.approx(np.sqrt(2))
    assert metrics.activation_distance(first, first + 5) == pytest.approx(0, abs=1e-6)


def test_kl_has_gold_first_and_is_not_divided_by_the_classes(pair):
    gold, unlearned, _ = pair
    expected = scipy.stats.entropy(softmax(gold), softmax(unlearned), axis=-1).mean()
    swapped = scipy.stats.entropy(softmax(unlearned), softmax(gold), axis=-1).mean()
    assert metrics.kl_divergence(gold, unlearned) == pytest.approx(expected, rel=1e-12)
    assert metrics.kl_divergence(unlearned, gold) == pytest.approx(swapped, rel=1e-12)
    assert abs(expected - swapped) > 0.01
    # A sure gold against a uniform guess: log(classes); the other way round the uniform guess pays for each class.
    sure, uniform = np.float32([[1e4, 0, 0, 0]]), np.zeros((1, 4), np.float32)
    assert metrics.kl_divergence(sure, uniform) == pytest.approx(np.log(4))
    assert metrics.kl_divergence(uniform, sure) == pytest.approx(0.75e4 - np.log(4))


def test_js_equals_scipy_and_is_symmetric(pair):
    first, second, _ = pair
    expected = (jensenshannon(softmax(first), softmax(second), axis=-1) ** 2).mean()
    assert metrics.js_divergence(first, second) == pytest.approx(expected, rel=1e-12)
    assert metrics.js_divergence(second, first) == pytest.approx(expected, rel=1e-12)
    assert metrics.js_divergence(first, first) == pytest.approx(0, abs=1e-15)


def test_divergences_of_extreme_logits_are_finite():
    rng = np.random.default_rng(1)
    first, second = (1e4 * rng.choice([-1.0, 1.0], size=(2, 40, 6))).astype(np.float32)
    for value in (metrics.kl_divergence(first, second), metrics.js_divergence(first, second)):
        assert np.isfinite(value)
    # KL of p = (1/2, 1/2, 0) from q = (0, 1, 0), with log q = -2e4 in place of -inf.
    p, q = np.float32([[1e4, 1e4, -1e4]]), np.float32([[-1e4, 1e4, -1e4]])
    assert metrics.kl_divergence(p, q) == pytest.approx(1e4 - np.log(2))
    opposite = metrics.js_divergence(np.float32([[1e4, -1e4]]), np.float32([[-1e4, 1e4]]))
    assert opposite == pytest.approx(np.log(2))


def test_brier_score_and_auc_equal_sklearn():
    rng = np.random.default_rng(3)
    # Rounding makes ties.
    probability, labels = rng.uniform(size=200).round(1), rng.uniform(size=200) < 0.8
    assert metrics.brier_score(probability, labels) == pytest.approx(brier_score_loss(labels, probability))
    assert metrics.auc(probability, labels) == pytest.approx(roc_auc_score(labels, probability))
    # The definition itself: pairs in order, ties half.
    pairs = probability[labels][:, None] - probability[~labels][None, :]
    assert metrics.auc(probability, labels) == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
    assert metrics.auc(probability, np.ones(200, bool)) is None


def test_predictor_quality_by_hand():
    probability = np.float32([0.9, 0.8, 0.4, 0.6, 0.1])
    labels = np.array([True, True, True, False, False])
    quality = predictor_quality(probability, probability >= 0.5, labels)
    assert quality.accuracy == pytest.approx(60)
    assert quality.auc == pytest.approx(100 * 5 / 6)
    assert quality.brier == pytest.approx((0.01 + 0.04 + 0.36 + 0.36 + 0.01) / 5)
    assert quality.predicted_hard == pytest.approx(40)
    assert quality.hard == pytest.approx(40)
    assert predictor_quality(probability, labels, np.ones(5, bool)).auc is None


def test_gold_gold_floor(pair):
    gold, second, labels = pair
    gold = gold + 6 * np.eye(7)[labels]
    floor = floor_gold_gold(gold, second, labels)
    gold_right, second_right = gold.argmax(1) == labels, second.argmax(1) == labels
    assert floor.forget_accuracy == pytest.approx(100 * second_right.mean())
    assert floor.forget_gap == pytest.approx(100 * abs(second_right.mean() - gold_right.mean()))
    assert floor.agreement == pytest.approx(100 * (second_right == gold_right).mean())
    assert floor_gold_gold(gold, gold, labels)[1:] == (0.0, 100.0)


def test_majority_floor_is_the_agreement_of_all_easy():
    gold_correct = np.arange(100) < 87
    floor = floor_majority(gold_correct)
    assert floor == pytest.approx((100, 13, 87))
    assert floor.agreement == pytest.approx(metrics.agreement(np.ones(100, bool), gold_correct))


def test_count_matched_floor_is_the_mean_of_random_labels():
    rng = np.random.default_rng(4)
    gold_correct = np.arange(100) < 80
    floor = floor_count_matched(90.0, 80.0)
    assert floor == pytest.approx((90, 10, 74))
    drawn = rng.permuted(np.tile(np.arange(100) < 90, (4000, 1)), axis=1)
    assert floor.agreement == pytest.approx(100 * (drawn == gold_correct).mean(), abs=0.3)


def test_count_matched_floor_over_classes():
    """By hand: 10 images at a = 100, g = 50 and 30 images at a = 60, g = 70."""
    floor = floor_count_matched([100, 60], [50, 70], num_forget=[10, 30])
    assert floor == pytest.approx((70, 5, (10 * 50 + 30 * (42 + 12)) / 40))
    assert floor_count_matched([100, 60], [50, 70]) == pytest.approx((80, 20, 52))


def test_readouts_are_the_single_functions(pair):
    logits, gold, labels = pair
    readouts = compute_readouts(
        test=(logits[:20], labels[:20]),
        forget=(jnp.asarray(logits), jnp.asarray(labels)),
        retain=(logits[20:], labels[20:]),
        gold_forget_logits=jnp.asarray(gold),
    )
    assert dataclasses.asdict(readouts) == pytest.approx(
        {
            "test_accuracy": 100 * np.mean(logits[:20].argmax(1) == labels[:20]),
            "forget_accuracy": 100 * np.mean(logits.argmax(1) == labels),
            "retain_accuracy": 100 * np.mean(logits[20:].argmax(1) == labels[20:]),
            "forget_gap": 100 * abs(np.mean(logits.argmax(1) == labels) - np.mean(gold.argmax(1) == labels)),
            "agreement": 100 * np.mean((logits.argmax(1) == labels) == (gold.argmax(1) == labels)),
            "activation_distance": np.linalg.norm(softmax(logits) - softmax(gold), axis=1).mean(),
            "kl": scipy.stats.entropy(softmax(gold), softmax(logits), axis=-1).mean(),
            "js": (jensenshannon(softmax(gold), softmax(logits), axis=-1) ** 2).mean(),
            "membership_auc": metrics.membership_auc(logits, labels, logits[:20], labels[:20]),
        }
    )


def test_membership_is_how_often_a_forgotten_image_has_the_larger_margin(pair):
    """Counted pair by pair, ties half; a model that is sure of D_f alone gives it away."""
    logits, _, labels = pair
    others = np.where(np.eye(logits.shape[1], dtype=bool)[labels], -np.inf, logits).max(1)
    margins = logits[np.arange(len(labels)), labels] - others
    np.testing.assert_allclose(metrics.margins(logits, labels), margins)
    forgotten, test = margins[:20, None], margins[None, 20:]
    counted = 100 * np.mean((forgotten > test) + 0.5 * (forgotten == test))
    assert metrics.membership_auc(logits[:20], labels[:20], logits[20:], labels[20:]) == pytest.approx(counted)
    sure = 50 * np.eye(logits.shape[1])[labels]
    assert metrics.membership_auc(sure, labels, 0 * sure, labels) == 100
    assert metrics.membership_auc(logits, labels, logits, labels) == 50


def test_readouts_without_gold_and_of_gold_itself(pair):
    logits, _, labels = pair
    sets = {"test": (logits, labels), "forget": (logits, labels), "retain": (logits, labels)}
    without = compute_readouts(**sets)
    assert without.forget_accuracy == without.test_accuracy == metrics.accuracy(logits, labels)
    assert {without.forget_gap, without.agreement, without.activation_distance, without.kl, without.js} == {None}
    same = compute_readouts(**sets, gold_forget_logits=logits)
    values = (same.forget_gap, same.agreement, same.activation_distance, same.kl, same.js)
    assert values == pytest.approx((0, 100, 0, 0, 0), abs=1e-12)


def test_half_precision_logits_are_taken():
    logits = jnp.asarray([[1.0, 2.0], [3.0, 0.5]], jnp.bfloat16)
    assert metrics.accuracy(logits, np.array([1, 1])) == 50.0
    assert metrics.kl_divergence(logits, logits) == 0.0


def bad_calls():
    logits, flags = np.zeros((3, 2)), np.array([True, False, True])
    return [
        (lambda: metrics.accuracy(np.zeros((0, 2)), np.zeros(0, int)), "at least one sample"),
        (lambda: metrics.accuracy(np.full((3, 2), np.nan), np.zeros(3, int)), "logits must be finite, 6 values"),
        (lambda: metrics.accuracy(logits, np.array([0, 1, 2])), "labels must lie in 0..1, got 0..2"),
        (lambda: metrics.accuracy(logits, np.zeros(3)), "labels must be integers"),
        (lambda: metrics.accuracy(logits, np.zeros(2, int)), "labels must be integers of shape"),
        (lambda: metrics.agreement(flags, flags[:2]), "equally long, got 3 and 2"),
        (lambda: metrics.agreement(flags, np.ones(3)), "correct_b must be a boolean vector"),
        (lambda: metrics.kl_divergence(logits, np.zeros((3, 4))), "equal shapes"),
        (lambda: metrics.brier_score(np.float64([0.5, 1.5]), np.array([0, 1])), "probability must lie in 0..1"),
        (lambda: metrics.brier_score(np.float64([0.5, 0.5]), np.array([0, 2])), "labels must be 0 or 1"),
        (lambda: metrics.auc(np.float64([0.5, np.nan]), np.array([0, 1])), "scores must be finite"),
        (lambda: metrics.auc(np.float64([0.5]), np.array([0, 1])), "equally long"),
        (lambda: floor_count_matched(101.0, 50.0), "original_heldout_accuracy must be percent"),
        (lambda: floor_count_matched([50.0, 50.0], [50.0]), "one entry for each class"),
        (lambda: floor_count_matched(50.0, 50.0, 0), "num_forget must be positive"),
    ]


@pytest.mark.parametrize("number", range(len(bad_calls())))
def test_bad_arguments_are_named(number):
    call, message = bad_calls()[number]
    with pytest.raises(ValueError, match=message):
        call()
