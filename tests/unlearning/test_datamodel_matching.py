"""Matching against gradient steps in NumPy; by a preparation, and its rehearsal by the public parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tmu_jax
from tests.preparation.made import gathered_rows, prepared
from tests.unlearning import linear
from tmu_jax.preparation.datamodels import datamodels_of
from tmu_jax.stages import key_for
from tmu_jax.training import Recipe, predict
from tmu_jax.unlearning import METHODS, datamodel_matching

KEY = jax.random.key(5)


class Told:
    """Predicts what it is given, and keeps what it was asked."""

    trainings = 3

    def __init__(self, added):
        self.added, self.seconds_by_part = added, {"bank": 7.0}

    def __call__(self, problem, rows, logits, ridge):
        self.rows, self.logits, self.ridge = rows, logits, ridge
        return logits + self.added[rows]


def test_its_step_is_the_published_one():
    """Whole batches by SGD: L is a mean over images and classes, so its gradient by a logit is 2 (f − q) / C."""
    problem, original = linear.made()
    rng = np.random.default_rng(0)
    told = Told(rng.normal(size=(len(problem.pool), 4)).astype(np.float32))
    rate, count = 0.3, len(problem.forget)
    recipe = Recipe(epochs=3, batch_size=4 * count, learning_rate=rate, schedule="constant", weight_decay=0.0)
    method = METHODS["datamodel_matching"].configured(recipe, {"ridge": 5.0})
    found = method.apply(problem, original, KEY, told)
    assert told.ridge == 5.0
    assert len(told.rows) == len(np.unique(told.rows)) == 4 * count
    np.testing.assert_array_equal(told.rows[:count], problem.forget.indices)
    assert np.isin(told.rows[count:], problem.retain.indices).all()
    x = linear.inputs(problem, original, told.rows)
    velocity = None
    weights = linear.weights_of(original)
    np.testing.assert_allclose(told.logits, linear.logits(weights, x), atol=1e-3)
    targets = linear.logits(weights, x) + told.added[told.rows]
    for _ in range(3):
        gradient = linear.backward(x, 2 * (linear.logits(weights, x) - targets) / 4)
        velocity = gradient if velocity is None else gradient.plus(velocity, 0.9)
        weights = weights.plus(velocity, -rate)
    linear.close(found, weights, rtol=1e-3, atol=1e-5)
    assert found.seconds_by_part["bank"] == 7.0
    assert found.notes == ("each image's datamodel rests on 3 trainings that never saw it",)


def test_the_loss_counts_weights_and_classes():
    logits, targets = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
    weights = np.array([1, 1, 0, 2, 1, 1], np.float32)
    expected = (weights[:, None] * (logits - targets) ** 2).mean()
    found = datamodel_matching.squared_error(*map(jnp.asarray, (logits, targets, weights)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.fixture(scope="module")
def ready():
    return prepared()


HARD = {"replay": 2.0, "ridge": 1.0}


def test_a_request_moves_towards_the_predicted_logits(ready, monkeypatch):
    """Nearer to them on D_f than before; D_f and replayed images alone are gathered."""
    rows = [2, 9, 30, 44]
    problem = ready.problem(rows)
    before = predict(ready.model, problem.forget)[0]
    expected = datamodels_of(ready)(problem, problem.forget.indices, before, 1.0)
    method = METHODS["datamodel_matching"].configured(Recipe(epochs=60, batch_size=12, learning_rate=0.01), HARD)
    with gathered_rows(monkeypatch) as gathered:
        found = tmu_jax.forget(ready, rows, method=method)
    drawn = np.unique(np.concatenate([part.ravel() for part in gathered]))
    assert len(drawn) == 12
    assert np.isin(rows, drawn).all()
    after = predict(found.model, problem.forget)[0]
    assert np.square(after - expected).mean() < 0.5 * np.square(before - expected).mean()
    assert found.expected_accuracy is not None


def test_it_is_rehearsed_on_held_out_images(ready):
    """As the very method by hand: M_t forgets them on what the bank's models say of them."""
    found = tmu_jax.rehearse(ready, "datamodel_matching", **HARD)
    key = key_for(key_for(ready.key, "rehearsal"), "datamodel_matching 0")
    problem = ready.twin_problem(ready.heldout.indices)
    method = METHODS["datamodel_matching"].configured(None, HARD)
    stage = method.stage(problem, tmu_jax.stages.given(ready.twin), key, tmu_jax.stages.given(datamodels_of(ready)))
    left = tmu_jax.stages.compute(stage)
    right = predict(left, ready.heldout)[0].argmax(-1) == ready.heldout.labels
    assert found.forget_accuracy.value == pytest.approx(100 * right.mean())
    again = tmu_jax.forget(ready, [1, 5], method="datamodel_matching")
    assert again.rehearsal is None


def test_what_it_cannot_do_is_said_before_any_work(ready):
    problem = ready.problem([2, 9])
    with pytest.raises(ValueError, match="learns from datamodels, which are fitted on a bank"):
        tmu_jax.unlearn("datamodel_matching", problem, ready.model, key=KEY)
    for options, said in (({"replay": 0.0}, "replay=0.0"), ({"ridge": -1.0}, "ridge=-1.0 must be above 0")):
        with pytest.raises(ValueError, match=said):
            tmu_jax.forget(ready, [2], method="datamodel_matching", **options)
    bare = prepared(folds=0)
    with pytest.raises(ValueError, match="folds=0 left none"):
        tmu_jax.forget(bare, [2], method="datamodel_matching")
    with pytest.raises(ValueError, match="folds=0 leaves no bank"):
        tmu_jax.rehearse(bare, "datamodel_matching")
    with pytest.raises(ValueError, match="needs 'datamodels' and so must have run"):
        tmu_jax.Method("mine", lambda *args: None, Recipe(epochs=1), needs="datamodels")


def test_of_a_whole_class_it_says_what_it_does_not_know(ready):
    rows = np.flatnonzero(ready.train.labels == 1)
    model = METHODS["datamodel_matching"].apply(ready.problem(rows), ready.model, KEY, datamodels_of(ready))
    assert any("still know it" in note for note in model.notes)
