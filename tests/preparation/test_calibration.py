"""Planted distributions are recovered, a shift meets its count, and no image judges itself."""

import dataclasses

import numpy as np
import pytest
import scipy.special

from tmu_jax.evaluation.metrics import auc
from tmu_jax.preparation.calibration import (
    bank_features,
    fit_calibration,
    log_odds,
    share_out,
    sharpen,
    shift_to_count,
)

NUM, CLASSES, SHARPENING = 6_000, 5, 1.7


def planted(seed=0, num=NUM):
    """Answers of two models, labels, and gold's softmax, whose rest is their mean answer sharpened."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=num)
    logits = rng.normal(0, 1.5, (num, 2, CLASSES))
    logits[np.arange(num), :, labels] += 2
    answers = scipy.special.log_softmax(logits, axis=-1).astype(np.float32)
    true = scipy.special.expit(1.3 * bank_features(answers, labels)[:, 0] + 0.4)
    gold = share_out(true, answers, labels, SHARPENING)
    return answers, labels, gold, true


def test_a_planted_distribution_is_recovered():
    answers, labels, gold, _true = planted()
    calibration = fit_calibration(answers, labels, gold)
    assert calibration.rest == pytest.approx(SHARPENING, rel=0.04)
    others = planted(seed=1)
    found = calibration.predict(others[0], others[1])
    np.testing.assert_allclose(found.targets.sum(1), 1, rtol=1e-5)
    plain = dataclasses.replace(calibration, sharpening=1.0).predict(others[0], others[1])
    assert np.abs(plain.targets[np.arange(NUM), others[1]] - others[3]).mean() < 0.005
    assert np.abs(plain.targets - others[2]).mean() < 0.01


def test_the_sharpening_is_what_brings_the_shifted_targets_nearest_to_gold():
    """Against a grid: gold is sure of one class drawn from the planted distribution, so a sharper target is nearer."""
    answers, labels, gold, _ = planted(num=2000)
    rng = np.random.default_rng(3)
    outcome = np.eye(CLASSES)[[rng.choice(CLASSES, p=row / row.sum()) for row in gold]]
    found = fit_calibration(answers, labels, outcome)
    unsharpened = sharpen(found.heldout.targets, 1 / found.sharpening)
    wrong = round(float(np.sum(1 - found.heldout.probability)))

    def distance(exponent):
        return np.linalg.norm(shift_to_count(sharpen(unsharpened, exponent), labels, wrong) - outcome, axis=1).mean()

    assert distance(found.sharpening) <= min(distance(exponent) for exponent in np.arange(0.5, 8, 0.25)) + 2e-3
    assert distance(found.sharpening) < distance(1.0) - 1e-3
    np.testing.assert_allclose(sharpen(gold, 1.0), gold, rtol=1e-5)
    np.testing.assert_allclose(sharpen(np.array([[0.8, 0.2]]), 2.0), [[0.64 / 0.68, 0.04 / 0.68]], rtol=1e-6)


def test_rounding_in_the_answers_is_rounding_in_what_is_fitted():
    """As one device and several round otherwise; where the sharpening was sought in float32 it moved by 1e-4."""
    answers, labels, gold, _ = planted(num=80)
    rng = np.random.default_rng(0)
    gold = 0.7 * np.eye(CLASSES)[[rng.choice(CLASSES, p=row / row.sum()) for row in gold]] + 0.3 * gold
    rounded = (answers * (1 + 1e-6 * rng.standard_normal(answers.shape))).astype(np.float32)
    one, other = (fit_calibration(given, labels, gold) for given in (answers, rounded))
    assert other.sharpening == pytest.approx(one.sharpening, abs=1e-5)
    assert other.rest == pytest.approx(one.rest, abs=1e-5)
    np.testing.assert_allclose(other.heldout.targets, one.heldout.targets, atol=1e-5)
    np.testing.assert_allclose(other.heldout.probability, one.heldout.probability, atol=1e-5)


def test_the_probability_of_being_right_is_calibrated():
    answers, labels, gold, true = planted()
    rng = np.random.default_rng(7)
    drawn = np.array([rng.choice(CLASSES, p=row / row.sum()) for row in gold])
    outcome = np.eye(CLASSES)[drawn]  # a gold that is sure of what it drew: right with probability `true`
    found = fit_calibration(answers, labels, outcome)
    assert np.abs(found.heldout.probability - true).mean() < 0.03
    np.testing.assert_array_equal(found.heldout_right, drawn == labels)
    assert found.heldout.probability.sum() == pytest.approx((drawn == labels).sum(), rel=0.04)


def test_no_image_judges_itself():
    """A feature that is each image's own lets a fit learn every answer by heart; the cross-fit must not."""
    answers, labels, _, _ = planted(num=60)
    answers = np.broadcast_to(answers[:1], answers.shape)
    labels = np.broadcast_to(labels[:1], labels.shape)
    rng = np.random.default_rng(0)
    right = rng.random(60) < 0.5
    gold = np.eye(CLASSES)[np.where(right, labels, (labels + 1) % CLASSES)]
    own = 100 * np.eye(60)
    calibration = fit_calibration(answers, labels, gold, own)
    assert auc(calibration.predict(answers, labels, own).probability, right) == 1
    assert auc(calibration.heldout.probability, right) < 0.65


@pytest.mark.parametrize("right", [True, False])
def test_where_the_original_is_always_right_or_never_the_probability_stays_short_of_certain(right):
    answers, labels, _, _ = planted(num=50)
    gold = np.eye(CLASSES)[labels if right else (labels + 1) % CLASSES]
    found = fit_calibration(answers, labels, gold).predict(answers, labels)
    np.testing.assert_allclose(found.probability, 50.5 / 51 if right else 0.5 / 51)


def test_a_shift_meets_every_count():
    _answers, labels, gold, _ = planted(num=40)
    for count in range(41):
        shifted = shift_to_count(gold, labels, count)
        assert (shifted.argmax(1) != labels).sum() == count
        np.testing.assert_allclose(shifted.sum(1), 1, rtol=1e-5)
    own = np.arange(40), labels
    shifted = shift_to_count(gold, labels, 30).astype(float)
    moved = np.log(shifted[own] / (1 - shifted[own])) - np.log(gold[own] / (1 - gold[own]))
    np.testing.assert_allclose(moved, moved[0], atol=1e-3)  # one number for all, in log-odds
    rest, before = np.array(shifted), np.array(gold)
    rest[own] = before[own] = 0
    np.testing.assert_allclose(rest / rest.sum(1)[:, None], before / before.sum(1)[:, None], atol=1e-5)


def test_a_met_count_shifts_nothing_and_an_impossible_one_is_refused():
    _answers, labels, gold, _ = planted(num=30)
    wrong = int((gold.argmax(1) != labels).sum())
    np.testing.assert_array_equal(shift_to_count(gold, labels, wrong), gold.astype(np.float32))
    for count in (-1, 31):
        with pytest.raises(ValueError, match=f"num_wrong={count} must lie in 0..30"):
            shift_to_count(gold, labels, count)


def test_log_odds_are_those_of_the_softmax():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (20, 5)).astype(np.float32), rng.integers(5, size=20)
    true = scipy.special.softmax(logits.astype(np.float64), axis=1)[np.arange(20), labels]
    np.testing.assert_allclose(log_odds(logits, labels), scipy.special.logit(true), rtol=1e-9)
    certain = np.array([[0.0, 500.0, 0.0]])
    np.testing.assert_allclose(log_odds(certain, np.array([1])), 500 - np.log(2))
    np.testing.assert_allclose(log_odds(certain, np.array([0])), -500)


def test_features_of_certain_models_are_finite():
    answers = np.full((3, 2, 4), -np.inf, np.float32)
    answers[:, :, 1] = 0
    found = bank_features(answers, np.array([0, 1, 2]))
    assert found.shape == (3, 5)
    assert np.isfinite(found).all()
    assert bank_features(answers[:, :1], np.array([0, 1, 2])).shape == (3, 4)


def test_one_image_is_too_few():
    answers, labels, gold, _ = planted(num=1)
    with pytest.raises(ValueError, match="at least 2"):
        fit_calibration(answers, labels, gold)
