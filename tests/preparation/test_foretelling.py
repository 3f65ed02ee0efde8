"""What a method learns from its own rehearsal: from which model, on which images, and what it then says of D_f."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
import scipy.special

from tests.preparation.made import KEY, gathered_rows
from tmu_jax import METHODS, forget, rehearse, unlearn
from tmu_jax.preparation.calibration import bank_features, fit_calibration, shift_to_count
from tmu_jax.preparation.foretelling import InRehearsal, InRequest
from tmu_jax.training import predict
from tmu_jax.unlearning import rewarm, soft_twin

ROWS = np.arange(12)
METHOD = "rewarm_rehearsed"


@pytest.fixture(scope="module")
def rehearsed(ready):
    return rehearse(ready, METHOD, size=20)


@pytest.fixture(scope="module")
def found(ready):
    return forget(ready, ROWS, method=METHOD)


def as_answers(logits):
    return scipy.special.log_softmax(np.asarray(logits, np.float64), axis=1)[:, None]


def fitted(ready, answers):
    """How M_o's answers follow from a model's and the bank's, fitted by hand."""
    heldout = ready.heldout
    gold = scipy.special.softmax(np.asarray(predict(ready.original, heldout)[0], np.float64), axis=1)
    features = bank_features(ready.bank.answers(heldout.indices), heldout.labels)
    return fit_calibration(as_answers(answers), heldout.labels, gold, features)


def test_a_request_is_told_by_the_rewarmed_model_as_the_rehearsal_taught(ready, rehearsed):
    """Of the model shown, not of the one in service; from its answers and the bank's."""
    problem = ready.problem(ROWS)
    shown = ready.twin
    found = InRequest(ready, rehearsed.answers)(shown, problem)
    features = bank_features(ready.bank.answers(ROWS), problem.forget.labels)
    calibration = fitted(ready, rehearsed.answers)
    expected = calibration.predict(as_answers(predict(shown, problem.forget)[0]), problem.forget.labels, features)
    np.testing.assert_allclose(found.probability, expected.probability, rtol=1e-5)
    wrong = round(float(np.sum(1 - expected.probability)))
    shifted = shift_to_count(expected.targets, problem.forget.labels, wrong)
    np.testing.assert_allclose(found.targets, shifted, atol=1e-6)
    assert np.sum(found.targets.argmax(1) != problem.forget.labels) == wrong


def test_in_a_rehearsal_each_image_is_judged_without_itself(ready):
    """By the cross-fitted numbers of a fit to the answers of the model that was shown."""
    foretell = InRehearsal(ready)
    rows = ready.heldout.indices[5:25]
    found = foretell(ready.twin, ready.twin_problem(rows))
    answers = predict(ready.twin, ready.heldout)[0].astype(np.float16)
    np.testing.assert_array_equal(foretell.answers, answers)
    calibration = fitted(ready, answers)
    np.testing.assert_allclose(found.probability, calibration.heldout.probability[5:25], rtol=1e-5)
    everywhere = calibration.predict(as_answers(answers), ready.heldout.labels, _features(ready)).probability[5:25]
    assert np.abs(found.probability - everywhere).max() > 1e-3


def _features(ready):
    return bank_features(ready.bank.answers(ready.heldout.indices), ready.heldout.labels)


def test_the_rehearsal_learns_from_the_model_that_was_rewarmed(ready, rehearsed, monkeypatch):
    """From its answers after the rewarming and before the settling; they are neither M_t's nor the end's."""
    shown = []
    call = InRehearsal.__call__

    def spy(self, model, problem):
        shown.append(model)
        return call(self, model, problem)

    monkeypatch.setattr(InRehearsal, "__call__", spy)
    again = rehearse(ready, METHOD, size=20)
    np.testing.assert_array_equal(again.answers, rehearsed.answers)
    assert [model.method for model in shown] == ["rewarm"]
    np.testing.assert_array_equal(predict(shown[0], ready.heldout)[0].astype(np.float16), again.answers)
    assert np.abs(predict(ready.twin, ready.heldout)[0] - again.answers).max() > 0.1


def test_it_is_a_rewarming_and_then_a_settling(ready, rehearsed, monkeypatch):
    """Equal to the two methods one after the other with the same keys; D_f is drawn in the second alone."""
    problem = ready.problem(ROWS)
    options = METHODS[METHOD].options
    foretell = InRequest(ready, rehearsed.answers)
    with gathered_rows(monkeypatch) as rows:
        whole = METHODS[METHOD].apply(problem, ready.original, KEY, foretell)
    keys = jax.random.split(KEY)
    part = {name: options[name] for name in ("share", "epochs", "peak")}
    warmed = rewarm.rewarm.configured(None, part).apply(problem, ready.original, keys[0])
    part = {"replay": options["replay"], "epochs": options["settling_epochs"], "rate": options["rate"]}
    settling = soft_twin.soft_twin.configured(None, part)
    settled = settling.apply(problem, warmed, keys[1], foretell(warmed, problem))
    chex.assert_trees_all_equal(whole.variables, settled.variables)
    assert whole.original is ready.original
    assert whole.method == METHOD
    assert any("it was trained on them" in note for note in whole.notes)
    assert whole.recipe == ready.original.recipe
    assert not np.isin(rows[0], ROWS).any()
    assert np.isin(ROWS, np.concatenate([part.ravel() for part in rows])).sum() > len(ROWS) / 2
    drawn = sum(part.size for part in rows)
    work = METHODS[METHOD].work(problem)
    assert work - 2 * ready.original.recipe.batch_size * 3 <= drawn <= work + ready.original.recipe.batch_size


def test_a_request_by_name_is_rehearsed_first_and_tells_what_it_expects(ready, found):
    (rehearsal,) = found.prepared.rehearsals
    assert found.rehearsal is rehearsal
    assert rehearsal.options == METHODS[METHOD].options
    assert found.prediction is found.model.prediction
    assert found.expected_accuracy.value == pytest.approx(100 * found.prediction.probability.mean(), rel=1e-5)
    again = forget(found.prepared, np.arange(40, 52), method=METHOD)
    assert again.rehearsal is rehearsal
    assert again.model.original is found.model


def test_what_a_method_foretold_and_then_taught_is_no_judge_of_it(ready, found, bare):
    """The outcome is held against the bank's own prediction, without a bank against held-out accuracy."""
    by_bank = ready.prediction(ready.problem(ROWS)).probability.astype(np.float64)
    assert abs(by_bank.mean() - found.prediction.probability.mean()) > 0.005
    assert f"of gold {100 * by_bank.mean():.0f} % is expected (predicted by the bank)" in found.reason
    reason = forget(bare, ROWS, method=METHOD).reason
    assert "(accuracy on held-out images of their classes)" in reason


def test_no_bank_is_needed(monkeypatch, bare):
    found = forget(bare, ROWS, method=METHOD)
    assert found.prediction.targets.shape == (12, 4)
    assert found.expected_accuracy is not None
    with gathered_rows(monkeypatch) as rows:
        forget(found.prepared, np.arange(40, 52), method=METHOD)
    assert not np.isin(np.concatenate([part.ravel() for part in rows]), ROWS).any()


def test_without_a_rehearsal_there_is_nothing_to_learn_from(ready, bare):
    with pytest.raises(ValueError, match="answers is None"):
        InRequest(ready, None)
    with pytest.raises(ValueError, match=r"learns from its rehearsal; use tmu_jax\.prepare"):
        unlearn(METHOD, ready.problem(ROWS), ready.original, key=KEY)
    with pytest.raises(ValueError, match="no twin model"):
        forget(dataclasses.replace(bare, twin=None), ROWS, method=METHOD)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"settling_epochs": 0}, "settling_epochs=0"),
        ({"epochs": 0}, "^epochs=0"),
        ({"replay": 0.0}, "replay=0.0"),
        ({"rate": -1.0}, "rate=-1.0"),
    ],
)
def test_options_that_cannot_be(options, said):
    with pytest.raises(ValueError, match=said):
        METHODS[METHOD].configured(None, options)


def test_a_whole_class_is_known_to_be_hard(ready, rehearsed):
    rows = np.flatnonzero(ready.train.labels == 1)
    problem = ready.problem(rows)
    found = InRequest(ready, rehearsed.answers)(ready.original, problem)
    assert found.probability.max() == 0
    assert not np.any(found.targets.argmax(1) == 1)
