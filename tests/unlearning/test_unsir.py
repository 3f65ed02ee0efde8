"""UNSIR's noise, its impairing and its repair against Adam in NumPy."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tmu_jax
from tests.tiny import TinyNet
from tests.unlearning import linear
from tmu_jax.training import Recipe
from tmu_jax.unlearning import unsir

KEY = jax.random.key(5)
RECIPE = Recipe(epochs=1, batch_size=368, learning_rate=0.01, schedule="constant", optimizer="adam", weight_decay=0.0)


@pytest.fixture(scope="module")
def made():
    return linear.made()


class Adam:
    """Kingma & Ba 2015, Algorithm 1, on an array."""

    def __init__(self, rate):
        self.rate, self.first, self.second, self.steps = rate, 0.0, 0.0, 0

    def __call__(self, value, slope):
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * slope
        self.second = 0.999 * self.second + 0.001 * slope**2
        scaled = self.first / (1 - 0.9**self.steps)
        return value - self.rate * scaled / (np.sqrt(self.second / (1 - 0.999**self.steps)) + 1e-8)


def noise_after(weights, noise, label, steps, rate=0.1, penalty=0.1):
    adam, y = Adam(rate), np.eye(4)[[label] * len(noise)]
    for _ in range(steps):
        away = -(linear.softmax(linear.logits(weights, noise)) - y) @ weights.kernel.T
        noise = adam(noise, (away + 2 * penalty * noise) / len(noise))
    return noise


def test_noise_is_learnt_as_published(made):
    _, original = made
    start = np.random.default_rng(0).normal(size=(5, 4, 4, 3)).astype(np.float32)
    call = [jnp.float32(0.1), jnp.float32(0.1), jnp.int32(7)]
    found = unsir.learn_noise(original.variables, start, jnp.int32(2), *call, module=original.module)
    expected = noise_after(linear.weights_of(original), start.reshape(5, -1).astype(np.float64), 2, 7)
    np.testing.assert_allclose(np.asarray(found).reshape(5, -1), expected, rtol=1e-3, atol=1e-4)


def test_it_impairs_and_repairs_as_published(made):
    """Two classes' noise, 46 images each, twice, beside all of D_r: one step; then one on D_r, twice over."""
    problem, original = made
    options = {"noise_images": 46, "noise_steps": 3, "copies": 2, "per_class": 1000}
    found = tmu_jax.unlearn("unsir", problem, original, key=KEY, recipe=RECIPE, **options)

    key = jax.random.split(jax.random.fold_in(KEY, zlib.crc32(b"method unsir")), 4)[0]
    weights = linear.weights_of(original)
    noise = [
        noise_after(weights, np.asarray(jax.random.normal(own, (46, 48)), np.float64), label, 3)
        for own, label in zip(jax.random.split(key, 2), (1, 2), strict=True)
    ]
    rows = problem.retain.indices
    x_r, y_r = linear.inputs(problem, original, rows), linear.labels(problem, rows)
    x = np.concatenate([*noise, *noise, x_r])
    y = np.concatenate([np.eye(4)[np.repeat([1, 2, 1, 2], 46)], y_r])
    for inputs, targets, rate in ((x, y, 0.02), (x_r, y_r, 0.01)):
        slopes = linear.gradient(weights, inputs, targets)
        weights = linear.Weights(*(Adam(rate)(w, g) for w, g in zip(weights, slopes, strict=True)))
    linear.close(found, weights, atol=1e-4)


def test_retained_images_are_so_many_of_each_class(made):
    problem, _ = made
    rows = unsir.draw_by_class(problem, 10, KEY)
    assert np.isin(rows, problem.retain.indices).all()
    np.testing.assert_array_equal(np.bincount(problem.pool.labels[rows]), [10, 10, 10, 10])
    assert len(np.unique(rows)) == 40


def test_noise_is_learnt_as_the_model_predicts(made):
    """An image's noise does not depend on the others', as it would by the statistics of a batch."""
    module = TinyNet()
    variables = module.init(KEY, jnp.zeros((1, 4, 4, 3)))
    start = np.random.default_rng(0).normal(size=(4, 4, 4, 3)).astype(np.float32)
    call = [jnp.int32(1), jnp.float32(0.1), jnp.float32(0.1), jnp.int32(3)]
    alone, together = (unsir.learn_noise(variables, noise, *call, module=module) for noise in (start[:1], start))
    np.testing.assert_allclose(alone[0], together[0], rtol=1e-3, atol=1e-4)


def test_bad_options_get_one_line(made):
    problem, original = made
    for options, said in (
        ({"copies": 0}, "copies=0 must be a whole number, at least 1"),
        ({"noise_steps": 1.5}, "noise_steps=1.5 must be a whole number"),
        ({"impair": 0.0}, "impair=0.0 must be above 0"),
        ({"penalty": -1.0}, "penalty=-1.0 must be 0 or more"),
    ):
        with pytest.raises(ValueError, match=said):
            tmu_jax.unlearn("unsir", problem, original, key=KEY, **options)


def test_a_loss_that_is_not_finite_gets_one_line(made, monkeypatch):
    problem, original = made
    monkeypatch.setattr(unsir, "train_steps", lambda state, *args, **kwargs: (state, jnp.full(8, jnp.nan)))
    with pytest.raises(FloatingPointError, match=r"at learning rate 0\.02; try a smaller impair"):
        tmu_jax.unlearn("unsir", problem, original, key=KEY, recipe=RECIPE, noise_images=5, noise_steps=7)
