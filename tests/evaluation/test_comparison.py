"""Readouts, floors and predictor quality from hand-made logits with known answers."""

import dataclasses

import jax
import numpy as np
import pytest

import tmu_jax
from tests.tiny import TinyNet, tiny_data
from tmu_jax import evaluation, twin
from tmu_jax.training import Recipe


def logits_for(labels: np.ndarray, right: np.ndarray, num_classes: int = 4) -> np.ndarray:
    """Logits that are right exactly where `right` says."""
    shown = np.where(right, labels, (labels + 1) % num_classes)
    return 4 * np.eye(num_classes, dtype=np.float32)[shown]


@pytest.fixture
def problem():
    return tmu_jax.data.forget_subset(tiny_data(), target_classes=[0, 3], num_forget=10)


def outputs(problem, forget_right, test_right=None):
    n_test = len(problem.test)
    test_right = np.ones(n_test, bool) if test_right is None else test_right
    return evaluation.Outputs(
        test=logits_for(problem.test.labels, test_right),
        forget=logits_for(problem.forget.labels, forget_right),
        retain=logits_for(problem.retain.labels, np.ones(len(problem.retain), bool)),
        heldout=logits_for(problem.heldout.labels, np.ones(len(problem.heldout), bool)),
    )


def test_readouts_by_class_and_over_all(problem):
    # Class 0: gold right on 8 of 10, model on 7, of which 6 in common. Class 3: gold 5, model 5, none in common.
    gold = np.r_[np.arange(10) < 8, np.arange(10) < 5]
    model = np.r_[(np.arange(10) < 6) | (np.arange(10) == 9), np.arange(10) >= 5]
    of_gold, of_model = outputs(problem, gold), outputs(problem, model)
    first, _ = evaluation.compare(problem, of_model, of_gold, 0)
    assert (first.forget_accuracy, first.forget_gap, first.agreement) == pytest.approx((70, 10, 70))
    second, _ = evaluation.compare(problem, of_model, of_gold, 3)
    assert (second.forget_accuracy, second.forget_gap, second.agreement) == pytest.approx((50, 0, 0))
    pooled, _ = evaluation.compare(problem, of_model, of_gold)
    assert (pooled.forget_accuracy, pooled.forget_gap, pooled.agreement) == pytest.approx((60, 5, 35))
    assert pooled.retain_accuracy == 100
    p = np.exp([4, 0, 0, 0]) / np.exp([4, 0, 0, 0]).sum()
    assert pooled.activation_distance == pytest.approx(0.65 * np.sqrt(2) * (p[0] - p[1]), rel=1e-5)


def test_test_accuracy_outside_the_heldout_set(problem):
    right = ~np.isin(problem.test.indices, problem.heldout.indices)
    found, outside = evaluation.compare(problem, outputs(problem, np.ones(20, bool), right))
    assert outside == 100
    assert found.test_accuracy == pytest.approx(100 * right.mean())
    assert found.forget_gap is None


def test_floors_have_their_closed_forms(problem):
    gold = np.r_[np.arange(10) < 8, np.arange(10) < 5]
    second = np.r_[np.arange(10) < 9, np.arange(10) < 5]
    test_right = np.ones(len(problem.test), bool)
    of_class = np.flatnonzero(problem.test.labels == 0)
    test_right[of_class[: len(of_class) // 4]] = False  # the original gets 75 % of class 0's test images
    floors = evaluation.compare_floors(
        problem,
        outputs(problem, gold),
        outputs(problem, np.ones(20, bool), test_right),
        outputs(problem, second),
        target_class=0,
    )
    assert floors["floor_gold_gold"] == pytest.approx((90, 10, 90))
    assert floors["floor_majority"] == pytest.approx((100, 20, 80))
    assert floors["floor_count_matched"] == pytest.approx((75, 5, 100 * (0.75 * 0.8 + 0.25 * 0.2)))


def test_predictor_quality_uses_gold_on_forget_and_the_original_on_heldout(problem):
    gold = np.r_[np.arange(10) < 8, np.arange(10) < 5]
    m = len(problem.heldout)
    known = np.arange(m) % 2 == 0
    prediction = dataclasses.replace(
        twin.all_hard(problem),
        probability=np.r_[np.linspace(1, 0.1, 10), np.linspace(1, 0.1, 10)].astype(np.float32),
        easy=np.r_[np.arange(10) < 6, np.arange(10) < 6],
        heldout_probability=known.astype(np.float32),
        heldout_easy_predicted=known,
        heldout_easy=known,
    )
    on_forget, on_heldout = evaluation.prediction_quality(problem, prediction, outputs(problem, gold), 0)
    assert (on_forget.accuracy, on_forget.auc, on_forget.predicted_hard, on_forget.hard) == pytest.approx(
        (80, 100, 40, 20)
    )
    assert (on_heldout.accuracy, on_heldout.auc, on_heldout.brier) == pytest.approx((100, 100, 0))


def test_evaluate_prints_readouts_and_floors(problem):
    recipe = Recipe(epochs=3, batch_size=20)
    original = tmu_jax.train(TinyNet(), problem.train, recipe=recipe, key=jax.random.key(0))
    gold = tmu_jax.train(TinyNet(), problem.retain, recipe=recipe, key=jax.random.key(1))
    unlearned = tmu_jax.unlearn("finetune", problem, original, key=jax.random.key(2), recipe=recipe)
    found = tmu_jax.evaluate(problem, unlearned, gold=gold, second_gold=gold)
    direct = (tmu_jax.predict(unlearned, problem.test)[0].argmax(-1) == problem.test.labels).mean()
    assert found.readouts.test_accuracy == pytest.approx(100 * direct)
    assert found.floors["floor_gold_gold"].agreement == 100
    text = str(found)
    for word in ("finetune", "forget_gap", "floor_majority", "floor_count_matched", "floor_gold_gold"):
        assert word in text
    alone = tmu_jax.evaluate(problem, unlearned)
    assert alone.readouts.agreement is None
    assert not alone.floors
    with pytest.raises(ValueError, match="target_class=1"):
        tmu_jax.evaluate(problem, unlearned, gold=gold, target_class=1)
