"""Datamodels against ridge regression written out in full, and against a linear truth that was planted."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from tests.preparation.made import DATA
from tmu_jax.data import Split
from tmu_jax.preparation.bank import Bank, BankModel
from tmu_jax.preparation.datamodels import Datamodels, datamodels_of, weights

NUM_IMAGES, NUM_CLASSES = 24, 3
FORGET = np.array([3, 7, 11, 20], np.int32)
RETAIN = np.setdiff1d(np.arange(NUM_IMAGES), FORGET).astype(np.int32)


def asked_for():
    splits = {name: Split(DATA.pool, rows) for name, rows in (("forget", FORGET), ("retain", RETAIN))}
    return SimpleNamespace(pool=DATA.pool, **splits)


def made_bank(repetitions, logits_of, seed=0):
    """Each repetition parts the images anew in two, of any sizes, and each model answers on those it lacks."""
    rng = np.random.default_rng(seed)
    models = []
    for _ in range(repetitions):
        fold = rng.random(NUM_IMAGES) < rng.uniform(0.3, 0.7)
        models.append([])
        for one in (fold, ~fold):
            trained = np.flatnonzero(~one).astype(np.int32)
            rows = np.flatnonzero(one).astype(np.int32)
            mask = np.isin(np.arange(NUM_IMAGES), trained).astype(float)
            models[-1].append(BankModel(trained, rows, np.stack([logits_of(x, mask, rng) for x in rows])))
    return Bank(models, len(DATA.pool), seed=0)


def centred(logits):
    return logits - logits.mean(-1, keepdims=True)


def asked(bank, row):
    """Masks float[R, n] and centred answers of the models that answer on an image."""
    chosen = bank.chosen(np.array([row]))[:, 0]
    models = [repetition[fold] for repetition, fold in zip(bank.models, chosen, strict=True)]
    masks = np.stack([np.isin(np.arange(NUM_IMAGES), model.trained) for model in models]).astype(float)
    return masks, centred(np.stack([m.logits[np.flatnonzero(m.rows == row)[0]] for m in models]).astype(np.float64))


@pytest.fixture(scope="module")
def noisy():
    return made_bank(5, lambda x, mask, rng: rng.normal(0, 3, NUM_CLASSES))


LOGITS = np.random.default_rng(1).normal(0, 4, (NUM_IMAGES, NUM_CLASSES)).astype(np.float32)


@pytest.mark.parametrize("ridge", [0.01, 1.0, 30.0])
def test_it_is_the_ridge_regression_of_scikit_learn(noisy, ridge):
    """Of forgotten images its prediction at the mask of D_r; of retained ones its own logits less D_f's part."""
    rows = np.arange(NUM_IMAGES, dtype=np.int32)
    found = Datamodels(noisy)(asked_for(), rows, LOGITS, ridge)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean(1), LOGITS.mean(1), atol=1e-5)
    at_retained = np.isin(rows, RETAIN).astype(float)
    for row in rows:
        fit = Ridge(alpha=ridge).fit(*asked(noisy, row))
        expected = fit.predict(at_retained[None])[0]
        if row in RETAIN:
            expected = centred(LOGITS[row]) - fit.coef_[:, FORGET].sum(1)
        np.testing.assert_allclose(centred(found[row]), expected, atol=2e-4, err_msg=str(row))


def test_the_two_forms_are_one_regression_with_the_model_in_service(noisy):
    """All observations at once, M_o's among them, and no penalty on the image's own coefficient nor on the constant."""
    ridge = 2.0
    rows = np.array([3, 20, 0, 9], np.int32)
    found = Datamodels(noisy)(asked_for(), rows, LOGITS[rows], ridge)
    for row, ours in zip(rows, found, strict=True):
        masks, answers = asked(noisy, row)
        design = np.vstack([masks, np.ones(NUM_IMAGES)])
        penalty = np.sqrt(ridge) * np.eye(NUM_IMAGES)
        penalty[row] = 0
        whole = np.vstack([np.hstack([design, np.ones((len(design), 1))]), np.hstack([penalty, np.zeros((24, 1))])])
        observed = np.vstack([answers, centred(LOGITS[row]), np.zeros((NUM_IMAGES, NUM_CLASSES))])
        coefficients = np.linalg.lstsq(whole, observed, rcond=None)[0]
        expected = centred(LOGITS[row]) - coefficients[FORGET].sum(0)
        np.testing.assert_allclose(centred(ours), expected, atol=2e-4)


def test_a_planted_linear_truth_is_found():
    """Of more trainings than images, whose logits are linear in their masks."""
    rng = np.random.default_rng(2)
    constant = rng.normal(size=(NUM_IMAGES, NUM_CLASSES))
    effect = rng.normal(size=(NUM_IMAGES, NUM_IMAGES, NUM_CLASSES))
    bank = made_bank(80, lambda x, mask, rng: constant[x] + mask @ effect[x])
    rows = np.arange(NUM_IMAGES, dtype=np.int32)
    of_all, of_retained = (
        constant + np.einsum("xzc,z->xc", effect, np.isin(rows, seen).astype(float)) for seen in (rows, RETAIN)
    )
    assert np.abs(centred(of_all) - centred(of_retained)).mean() > 1
    found = Datamodels(bank)(asked_for(), rows, of_all.astype(np.float32), 1e-6)
    np.testing.assert_allclose(centred(found), centred(of_retained), atol=1e-3)


def test_two_halves_say_little_more_than_their_mean():
    """What the documentation says of the default bank, at the size of CIFAR-10 with 1,000 images forgotten."""
    rng = np.random.default_rng(0)
    seen = np.stack([rng.permutation(50_000) < 25_000 for _ in range(2)]).astype(np.float32)
    shared, kept, gone = seen @ seen.T, seen[:, 1000:].sum(1), seen[:, :1000].sum(1)
    for ridge in (1e-3, 1.0, 1e3):
        at_retained, of_forgotten = weights(shared, kept, gone, ridge)
        np.testing.assert_allclose(at_retained, 0.5, atol=0.01)
        np.testing.assert_allclose(of_forgotten, 0, atol=0.01)
    assert np.abs(of_forgotten).max() > 0
    np.testing.assert_array_equal(weights(shared[:1, :1], kept[:1], gone[:1], 1.0), [[1], [0]])


def test_without_a_bank_there_are_none(bare, ready):
    with pytest.raises(ValueError, match="folds=0 leaves no bank"):
        datamodels_of(bare)
    assert datamodels_of(ready).trainings == 2
    left = dataclasses.replace(ready, bank=ready.bank.without(np.array([4])))
    with pytest.raises(ValueError, match="row 4 was trained on by every model"):
        datamodels_of(left)(ready.problem([4]), np.array([4]), np.zeros((1, 4), np.float32), 1.0)
