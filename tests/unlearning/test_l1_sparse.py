"""The sparsity penalty against steps in NumPy."""

import jax
import numpy as np
import optax
import pytest

import tmu_jax
from tests.unlearning import linear
from tmu_jax.training import Recipe

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def made():
    return linear.made()


def expected_after(problem, original, recipe, gamma, steps_per_epoch):
    """SGD with momentum on D_r as one batch, the penalty smaller in each epoch."""
    rows = problem.retain.indices
    x, y = linear.inputs(problem, original, rows), linear.labels(problem, rows)
    weights, velocity = linear.weights_of(original), linear.Weights(np.zeros((48, 4)), np.zeros(4))
    for step in range(recipe.epochs * steps_per_epoch):
        now = gamma * (1 - (step // steps_per_epoch) / recipe.epochs)
        slope = linear.gradient(weights, x, y).plus(weights, recipe.weight_decay)
        slope = slope.plus(linear.Weights(*map(np.sign, weights)), now)
        velocity = slope.plus(velocity, 0.9)
        weights = weights.plus(velocity, -recipe.learning_rate)
    return weights


def test_its_steps_are_the_published_ones(made):
    problem, original = made
    recipe = Recipe(epochs=4, batch_size=len(problem.retain), learning_rate=0.1, schedule="constant", weight_decay=0.01)
    found = tmu_jax.unlearn("l1_sparse", problem, original, key=KEY, recipe=recipe, gamma=0.05)
    linear.close(found, expected_after(problem, original, recipe, 0.05, 1))


def test_an_optimiser_of_ones_own_gets_the_penalty_too(made):
    problem, original = made
    of_its_own, plain = (
        Recipe(
            epochs=3, batch_size=len(problem.retain), learning_rate=0.1, schedule="constant", weight_decay=0.0,
            optimizer=optimizer,
        )
        for optimizer in (momentum, "sgd")
    )  # fmt: skip
    found = tmu_jax.unlearn("l1_sparse", problem, original, key=KEY, recipe=of_its_own, gamma=0.05)
    linear.close(found, expected_after(problem, original, plain, 0.05, 1))


def momentum(learning_rate):
    return optax.sgd(learning_rate, momentum=0.9)


def test_more_penalty_leaves_more_parameters_near_zero(made):
    problem, original = made
    recipe = Recipe(epochs=20, batch_size=46, learning_rate=0.05, schedule="constant")
    near_zero = []
    for gamma in (0.0, 0.03):
        found = tmu_jax.unlearn("l1_sparse", problem, original, key=KEY, recipe=recipe, gamma=gamma)
        near_zero.append((np.abs(linear.weights_of(found).kernel) < 0.01).mean())
    assert near_zero[1] > near_zero[0] + 0.2


def test_a_negative_penalty_gets_one_line(made):
    problem, original = made
    with pytest.raises(ValueError, match=r"gamma=-0.1 must be 0 or more"):
        tmu_jax.unlearn("l1_sparse", problem, original, key=KEY, gamma=-0.1)
