"""Preparing: what is kept, how it is resumed, and what requests see of it."""

import dataclasses

import chex
import jax
import numpy as np
import pandas as pd
import pytest
import scipy.special

import tmu_jax
from tests.preparation.made import CALL, DATA, KEY, RECIPE, gathered_rows, prepared
from tests.tiny import TinyNet
from tmu_jax.data import Pool, Split
from tmu_jax.preparation import building
from tmu_jax.preparation.building import heldout_rows
from tmu_jax.preparation.calibration import fit_calibration, log_odds
from tmu_jax.preparation.knowledge import know_alike
from tmu_jax.stages import given, key_for
from tmu_jax.training import predict


def test_an_old_style_key_is_the_key_that_it_is_and_several_are_refused(monkeypatch, tmp_path):
    """With a folder, too, whose stages are named by the key."""
    names, compute = [], building.compute
    monkeypatch.setattr(building, "compute", lambda stage, *rest: names.append(stage.name) or compute(stage, *rest))
    model = tmu_jax.train(TinyNet(), Split(DATA.pool, np.arange(200, dtype=np.int32)), key=KEY, recipe=RECIPE)
    options = {**CALL, "folds": 0, "recipe": None, "twin_epochs_share": 0.1}
    for number, key in enumerate((jax.random.key(3), jax.random.PRNGKey(3))):
        tmu_jax.prepare(model, DATA, **{**options, "key": key}, folder=tmp_path / str(number))
    assert names[0] == names[1]
    for key in (jax.random.split(KEY), np.float32([1, 2])):
        with pytest.raises((ValueError, TypeError), match="key"):
            tmu_jax.prepare(model, DATA, **{**options, "key": key})


def test_the_draw_of_a_held_out_images_models_goes_by_the_pool(ready):
    """Augmented copies make it longer; the same rows are then answered for by other models."""

    def name(pool):
        rows = Split(pool, ready.train.indices), Split(pool, ready.heldout.indices), Split(pool, ready.test.indices)
        original = given(ready.original, {"original": 1})
        stage = building.preparation_stage(original, RECIPE, *rows, "data", KEY, ready.bank_settings)
        return stage.name

    pool = ready.train.pool
    longer = Pool(np.concatenate([pool.images, pool.images[:3]]), np.concatenate([pool.labels, pool.labels[:3]]), 4)
    assert name(pool) != name(longer)


def same(one, other):
    """Asserts that two preparations hold the same numbers."""
    chex.assert_trees_all_equal(one.model.variables, other.model.variables)
    chex.assert_trees_all_equal(one.twin.variables, other.twin.variables)
    rows = one.train.indices
    np.testing.assert_array_equal(one.bank.answers(rows), other.bank.answers(rows))
    np.testing.assert_array_equal(one.calibration.heldout.targets, other.calibration.heldout.targets)
    problem = one.problem(rows[:30])
    np.testing.assert_array_equal(one.prediction(problem).targets, other.prediction(other.problem(rows[:30])).targets)


def test_heldout_images_are_of_the_test_set_and_of_every_class_alike(ready):
    assert ready.heldout.indices.min() >= 200
    assert len(ready.heldout) == 40
    assert np.bincount(ready.heldout.labels).tolist() == [10, 10, 10, 10]
    assert not np.isin(ready.heldout.indices, ready.train.indices).any()
    given = heldout_rows(DATA, np.array([7, 1, 2, 0, 3]), KEY)
    np.testing.assert_array_equal(given, [200, 201, 202, 203, 207])


def test_the_twin_model_knows_the_heldout_images_and_the_original_does_not(ready):
    known, unknown = (
        float(np.mean(predict(model, ready.heldout)[0].argmax(-1) == ready.heldout.labels))
        for model in (ready.twin, ready.original)
    )
    assert known > unknown


def test_the_calibration_is_of_the_original_on_heldout_images(ready):
    right = predict(ready.original, ready.heldout)[0].argmax(-1) == ready.heldout.labels
    np.testing.assert_array_equal(ready.calibration.heldout_right, right)


def test_the_twin_model_is_trained_as_the_original_was_on_d_and_the_heldout_images(monkeypatch):
    """From scratch, so that M_o, which saw D alone, is a gold model of the rehearsals."""
    with gathered_rows(monkeypatch) as rows:
        again = prepared(folds=0)
    steps = np.concatenate([part[part >= 0] for part in rows], axis=None)
    counts = np.bincount(steps, minlength=len(DATA.pool))
    heldout, train = again.heldout.indices, again.train.indices
    assert set(counts[heldout]) == {RECIPE.epochs}  # the twin model alone
    assert set(counts[train]) == {2 * RECIPE.epochs}  # and M_o
    assert counts.sum() == RECIPE.epochs * (2 * len(train) + len(heldout))
    assert again.twin.recipe == again.original.recipe == RECIPE
    together = Split(DATA.pool, np.concatenate([train, heldout]))
    oracle = tmu_jax.train(TinyNet(), together, recipe=RECIPE, key=key_for(KEY, "twin"))
    chex.assert_trees_all_equal(oracle.variables, again.twin.variables)


def test_a_twin_model_may_be_the_original_warmed_up_again(ready):
    """For a share of the epochs, and it starts from M_o."""
    warmed = prepared(folds=0, twin_epochs_share=0.5)
    assert len(warmed.twin.losses) == RECIPE.epochs // 2
    assert warmed.costs["twin model"] == pytest.approx(0.5 * 240 / 200)
    assert _apart(warmed.twin, warmed.original) < 0.5 * _apart(ready.twin, ready.original)
    chex.assert_trees_all_equal(warmed.original.variables, ready.original.variables)


def _apart(one, other):
    """The distance of two models' parameters, L2."""
    leaves = zip(jax.tree.leaves(one.variables), jax.tree.leaves(other.variables), strict=True)
    return sum(float(np.sum((np.asarray(a) - np.asarray(b)) ** 2)) for a, b in leaves) ** 0.5


def test_costs_are_in_trainings(ready):
    assert len(ready.twin.losses) == RECIPE.epochs
    assert ready.costs["twin model"] == pytest.approx((200 + 40) / 200)
    assert ready.costs["bank"] == pytest.approx(4 * 4 * 100 / (RECIPE.epochs * 200))  # half the epochs on half of D
    assert "a bank of 4 models; cost" in repr(ready)
    assert [line.split()[:-4] for line in str(ready).splitlines()[1:]] == [["twin", "model"], ["bank"]]


def test_a_trained_model_is_taken_as_it_is(ready):
    again = tmu_jax.prepare(ready.original, DATA, **{**CALL, "recipe": None})
    assert again.original is ready.original
    same(again, ready)
    with pytest.raises(ValueError, match="recipe has no use"):
        tmu_jax.prepare(ready.original, DATA, **CALL)


def test_killed_and_resumed_it_equals_what_ran_through(ready, tmp_path):
    """Stopped while the third model of the bank trains; the second run trains that one and the last."""
    begun = []

    def progress(part):
        begun.append(part)

        def report(done, total):
            if begun.count("bank") == 3:
                raise KeyboardInterrupt

        return report

    with pytest.raises(KeyboardInterrupt):
        prepared(folder=tmp_path, progress=progress)
    assert begun == ["original", "twin_model", "bank", "bank", "bank"]
    again = []
    resumed = prepared(folder=tmp_path, progress=lambda part: again.append(part) or (lambda done, total: None))
    assert again == ["bank", "bank", "prepared"]
    same(resumed, ready)


def test_without_a_bank_the_published_features_are_left(ready, bare):
    assert bare.bank is None
    assert "no bank" in repr(bare)
    assert "bank" not in bare.costs
    problem = bare.problem(np.arange(12))
    prediction = bare.prediction(problem)
    assert prediction.probability.shape == (12,)
    assert prediction.targets is None
    assert prediction.original_features.shape == (12, 3)


def test_a_prediction_is_of_the_bank_and_meets_its_own_count(ready):
    problem = ready.problem(np.arange(30))
    prediction = ready.prediction(problem)
    wrong = int((prediction.targets.argmax(-1) != problem.forget.labels).sum())
    assert wrong == round(float(np.sum(1 - prediction.probability.astype(float))))
    np.testing.assert_array_equal(prediction.easy, prediction.probability >= 0.5)
    assert prediction.targets.shape == (30, 4)


def test_a_prediction_rests_on_how_well_images_are_known_to_the_model_that_saw_them(ready):
    """Fitted on M_t's log-odds of held-out images; of D_f it sees M_o's, whatever model is in service by then."""

    def known(model, images):
        return log_odds(predict(model, images)[0], images.labels)[:, None]

    later = ready.after(np.arange(50, 60), ready.twin)
    problem, heldout = later.problem(np.arange(30)), ready.heldout
    gold = scipy.special.softmax(predict(ready.original, heldout)[0], axis=1)
    answers = ready.bank.answers(heldout.indices)
    fit = fit_calibration(answers, heldout.labels, gold, known(ready.twin, heldout))
    np.testing.assert_allclose(ready.calibration.heldout.probability, fit.heldout.probability, rtol=1e-6)
    found, forget = later.prediction(problem), problem.forget
    expected = fit.predict(ready.bank.answers(forget.indices), forget.labels, known(ready.original, forget))
    np.testing.assert_allclose(found.probability, expected.probability, rtol=1e-5)
    np.testing.assert_allclose(found.original_features[:, -1:], known(ready.original, forget), rtol=1e-5)
    rehearsed = ready.twin_prediction(ready.twin_problem(heldout.indices[5:25])).original_features
    np.testing.assert_allclose(rehearsed[:, -1:], known(ready.twin, heldout)[5:25], rtol=1e-5)


def test_where_the_twin_model_knows_otherwise_a_prediction_is_the_banks_alone(ready):
    """It is M_o warmed up again: for long, and it saw D for longer; or briefly, and then it answers on held-out images
    as M_o does, which is what is to be told.
    """
    assert ready.know_alike
    warmed, briefly = (prepared(twin_epochs_share=share, folds=0) for share in (1.0, 0.125))
    assert not warmed.know_alike
    assert not briefly.know_alike
    assert not know_alike(warmed.twin, ready.original, ready.train)
    assert know_alike(briefly.twin, ready.original, ready.train)  # As far as D tells.
    alone = dataclasses.replace(ready, twin=warmed.twin, know_alike=False).calibrated()
    problem, heldout = ready.problem(np.arange(30)), ready.heldout
    gold = scipy.special.softmax(predict(ready.original, heldout)[0], axis=1)
    fit = fit_calibration(ready.bank.answers(heldout.indices), heldout.labels, gold)
    expected = fit.predict(ready.bank.answers(problem.forget.indices), problem.forget.labels)
    np.testing.assert_allclose(alone.prediction(problem).probability, expected.probability, rtol=1e-5)
    assert np.abs(alone.prediction(problem).probability - ready.prediction(problem).probability).max() > 1e-3


def test_the_problem_of_a_request(ready):
    problem = ready.problem([5, 2, 6])  # classes 1, 2 and 2
    np.testing.assert_array_equal(problem.forget.indices, [5, 2, 6])
    assert problem.target_classes == (1, 2)
    assert set(problem.heldout.labels) == {1, 2}
    assert len(problem.retain) == 197
    assert not np.isin(problem.retain.indices, [5, 2, 6]).any()


@pytest.mark.parametrize(
    ("indices", "error", "said"),
    [
        ([], ValueError, "indices is empty"),
        ([1, 1], ValueError, "1 occurs more than once"),
        ([200], ValueError, "holds 200, no row that the model was trained on; they lie in 0..199"),
        ([-1], ValueError, "holds -1"),
        ([0.5], TypeError, "one-dimensional sequence of integers"),
        (np.zeros((2, 2), int), TypeError, "one-dimensional sequence of integers"),
        (np.ones(4, bool), TypeError, "one-dimensional sequence of integers"),
        (pd.DataFrame([1, 2]), TypeError, r"indices must be a one-dimensional .* got a DataFrame\[2, 1\]"),
        ({1: 2}, TypeError, "got a dict"),
        (range(200), ValueError, "all 200 images"),
    ],
)
def test_indices_that_cannot_be_forgotten(ready, indices, error, said):
    with pytest.raises(error, match=said):
        ready.problem(indices)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"folds": 1}, ValueError, "folds=1"),
        ({"folds": 201}, ValueError, "folds=201 of 200 images"),
        ({"heldout": 1}, ValueError, "heldout=1"),
        ({"heldout": 121}, ValueError, "heldout=121 must be at least 2 and at most 120"),
        ({"heldout": [0, 0]}, ValueError, "each row once; 0"),
        ({"heldout": [0, 4]}, ValueError, "holds no image of class"),
        ({"twin_epochs_share": 0.0}, ValueError, "twin_epochs_share=0.0"),
        ({"heldout": [0.5, 1]}, TypeError, "heldout must be a one-dimensional"),
        ({"heldout": pd.DataFrame([0, 1])}, TypeError, "heldout must .* got a DataFrame"),
        ({"removed": pd.DataFrame([0, 1])}, TypeError, "removed must .* got a DataFrame"),
    ],
)
def test_preparations_that_cannot_be(options, error, said):
    """Before any work: nothing is trained."""

    def progress(part):
        pytest.fail(f"{part} was begun")

    with pytest.raises(error, match=said):
        prepared(progress=progress, **options)


def test_the_removed_are_in_no_set_and_in_no_model(ready, monkeypatch):
    gone = np.array([3, 150, 207])
    with gathered_rows(monkeypatch) as rows:
        fresh = prepared(removed=gone)
    assert not np.isin(np.concatenate([part.ravel() for part in rows]), gone).any()
    for name in ("train", "heldout", "test"):
        left, whole = getattr(fresh, name).indices, getattr(ready, name).indices
        assert not np.isin(left, gone).any()
        assert len(left) == len(whole) - np.isin(gone, whole).sum() or name == "heldout"
    assert not any(np.isin(gone, model.rows).any() for models in fresh.bank.models for model in models)
    with pytest.raises(ValueError, match="holds 3, which was removed before this preparation"):
        fresh.problem([3])
    for removed, error, said in (
        ([-1], ValueError, "removed must lie in 0..319"),
        ([0.5], TypeError, "removed must be a one-dimensional"),
    ):
        with pytest.raises(error, match=said):
            prepared(removed=removed)
    with pytest.raises(ValueError, match="heldout holds 7, the test image of a picture that was removed"):
        prepared(removed=gone, heldout=range(12))


def test_a_model_that_forgot_images_is_prepared_without_them_alone(ready):
    unlearned = tmu_jax.unlearn("finetune", tmu_jax.data.forget_indices(DATA, [5, 9]), ready.original, key=KEY)
    options = {name: value for name, value in CALL.items() if name != "recipe"}
    with pytest.raises(ValueError, match=r"data holds 2 training images .* rows 5, 9"):
        tmu_jax.prepare(unlearned, DATA, **options)


def test_of_a_whole_class_nothing_is_known_to_gold(ready):
    """Its images are hard, whatever models that saw others of it answer; those of another class are as they were."""
    whole = np.flatnonzero(DATA.train_labels == 2)
    alone = ready.prediction(ready.problem([1, 5]))
    found = ready.prediction(ready.problem([1, 5, *whole]))
    np.testing.assert_array_equal(found.probability[:2], alone.probability)
    np.testing.assert_array_equal(found.probability[2:], 0)
    np.testing.assert_array_equal(found.targets[2:, 2], 0)
    np.testing.assert_allclose(found.targets.sum(1), 1, rtol=1e-5)
    assert len(found.heldout_easy) == 10  # of the other class alone
