"""Folds, and who may answer on which image."""

import jax
import numpy as np
import pytest
import scipy.special

import tmu_jax
from tests.preparation.made import DATA, KEY, RECIPE, gathered_rows
from tests.tiny import TinyNet
from tmu_jax.data import Split
from tmu_jax.preparation import bank
from tmu_jax.preparation.bank import Bank, BankModel, BankSettings, bank_stages, fold_of, train_bank_model
from tmu_jax.stages import compute, given
from tmu_jax.training.packing import pack, unpack_plain

TRAIN = Split(DATA.pool, np.arange(200, dtype=np.int32))
UNSEEN = np.arange(200, 320, dtype=np.int32)


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_folds_partition_the_images_and_every_class_alike(folds):
    found = fold_of(TRAIN, folds, KEY)
    assert set(found.tolist()) == set(range(folds))
    for c in range(4):
        sizes = np.bincount(found[TRAIN.labels == c], minlength=folds)
        assert sizes.max() - sizes.min() <= 1
    assert (fold_of(TRAIN, folds, jax.random.key(1)) != found).any()


def test_no_model_gathers_an_image_of_its_fold(monkeypatch):
    """From what the training step was given, not from what was asked for."""
    original = given(tmu_jax.train(TinyNet(), TRAIN, key=KEY, recipe=RECIPE))
    settings = BankSettings(folds=3, repetitions=2)
    stages = bank_stages(original, settings.recipe(RECIPE), TRAIN, UNSEEN, KEY, settings, "data")
    assert len(stages) == 6
    answered = []
    for stage in stages:
        with gathered_rows(monkeypatch) as rows:
            model = compute(stage)
        seen = np.unique(np.concatenate([part.ravel() for part in rows]))
        assert not np.isin(model.rows, seen).any()
        assert np.isin(seen, model.trained).all()
        assert len(seen) > 100
        answered.append(model.rows)
    for repetition in (answered[:3], answered[3:]):
        of_train = np.concatenate([rows[rows < 200] for rows in repetition])
        np.testing.assert_array_equal(np.sort(of_train), TRAIN.indices)
        assert all(np.isin(UNSEEN, rows).all() for rows in repetition)


def test_answers_in_half_precision_are_finite():
    found = bank.in_half(np.float32([[1e6, -1e6, 1.5]]))
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, np.float16([[60_000, -60_000, 1.5]]))


def test_a_model_is_trained_for_its_share_of_the_epochs_in_one_cycle():
    recipe = BankSettings(epochs_share=0.4).recipe(RECIPE)
    assert (recipe.epochs, recipe.schedule, recipe.learning_rate) == (3, "onecycle", RECIPE.learning_rate)
    assert BankSettings(epochs_share=0.01).recipe(RECIPE).epochs == 1


def test_answers_come_from_the_models_that_never_saw_the_image():
    """Each model answers with logits that name it."""
    halves = [np.arange(0, 6), np.arange(6, 12)]
    models = []
    for repetition in range(2):
        models.append([])
        for fold in range(2):
            rows = np.concatenate([halves[fold], [12, 13, 14, 15]]).astype(np.int32)
            logits = np.full((len(rows), 3), 0, np.float16)
            logits[:, fold] = 1 + repetition
            models[-1].append(BankModel(halves[1 - fold].astype(np.int32), rows, logits))
    bank = Bank(models, 16, seed=5)
    answers = bank.answers(np.arange(16, dtype=np.int32))
    assert answers.shape == (16, 2, 3)
    np.testing.assert_array_equal(answers[:6].argmax(-1), 0)
    np.testing.assert_array_equal(answers[6:12].argmax(-1), 1)
    np.testing.assert_allclose(answers[0, 1], scipy.special.log_softmax([2.0, 0, 0]), rtol=1e-6)
    many = Bank(models, 16, seed=5).answers(np.array([14, 12, 13, 15], np.int32))
    np.testing.assert_array_equal(many, answers[[14, 12, 13, 15]])  # the draw is the image's own
    assert {tuple(Bank(models, 16, seed=s).answers(np.array([12]))[0].argmax(-1)) for s in range(40)} == {
        (0, 0), (0, 1), (1, 0), (1, 1)
    }  # fmt: skip


def test_rows_that_left_are_answered_no_more():
    models = [[BankModel(np.array([4], np.int32), np.arange(4, dtype=np.int32), np.zeros((4, 2), np.float16))]]
    left = Bank(models, 5, 0).without(np.array([1, 2], np.int32))
    assert left.answers(np.array([0, 3])).shape == (2, 1, 2)
    for row in (1, 4):
        with pytest.raises(ValueError, match=f"row {row} was trained on by every model"):
            left.answers(np.array([row]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"folds": 1}, "folds=1 must be at least 2"),
        ({"folds": -2}, "folds=-2"),
        ({"repetitions": 0}, "repetitions=0"),
        ({"epochs_share": 0.0}, "epochs_share=0.0"),
        ({"epochs_share": 1.5}, "epochs_share=1.5"),
    ],
)
def test_settings_out_of_range(options, said):
    with pytest.raises(ValueError, match=said):
        BankSettings(**options)


def test_an_empty_fold_and_a_model_that_saw_what_it_answers_are_refused():
    with pytest.raises(ValueError, match="folds=5 of 4 images"):
        fold_of(Split(DATA.pool, TRAIN.indices[:4]), 5, KEY)
    with pytest.raises(ValueError, match="never saw"):
        train_bank_model(TinyNet(), RECIPE, TRAIN, np.array([3], np.int32), KEY)


def test_of_many_classes_the_largest_few_are_kept(monkeypatch):
    """True probabilities to float16's precision; the others share what is left, so that all add up to 1."""
    trained, rows = Split(DATA.pool, TRAIN.indices[:100]), np.arange(100, 150, dtype=np.int32)
    whole = train_bank_model(TinyNet(), RECIPE, trained, rows, KEY)
    monkeypatch.setattr(bank, "_MOST_CLASSES", 3)
    monkeypatch.setattr(bank, "_LARGEST", 2)
    few = train_bank_model(TinyNet(), RECIPE, trained, rows, KEY)
    assert few.logits.shape == few.largest.shape == (50, 2)
    expected = scipy.special.softmax(whole.logits.astype(np.float64), axis=1)
    order = np.argsort(expected, axis=1)
    np.put_along_axis(expected, order[:, :2], np.take_along_axis(expected, order[:, :2], 1).mean(1)[:, None], axis=1)
    kept = Bank([[few]], len(DATA.pool), seed=0)
    np.testing.assert_allclose(np.exp(kept.answers(rows)[:, 0]), expected, atol=2e-3)
    np.testing.assert_allclose(np.exp(kept.answers(rows)).sum(2), 1, rtol=1e-5)
    fewer = kept.without(rows[:7])
    np.testing.assert_array_equal(fewer.answers(rows[7:]), kept.answers(rows[7:]))
    again = unpack_plain(BankModel, pack(few))
    np.testing.assert_array_equal(again.log_probabilities(np.arange(50)), few.log_probabilities(np.arange(50)))
