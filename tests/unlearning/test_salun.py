"""SalUn's mask and its first steps against NumPy."""

import jax
import numpy as np
import pytest

import tmu_jax
from tests.training import users
from tests.unlearning import linear
from tmu_jax.training import Recipe
from tmu_jax.unlearning import salun

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def made():
    return linear.made()


def largest(parts, share):
    """Where the sizes of all parts together are among the largest `share`."""
    sizes = np.sort(np.concatenate([np.abs(part).ravel() for part in parts]))
    least = sizes[-round(share * len(sizes))]
    return [np.abs(part) >= least for part in parts]


def test_its_steps_are_the_published_ones(made):
    """Two steps on all of D: momentum and weight decay inside of the mask, nothing outside of it."""
    problem, original = made
    rate, decay, share = 0.3, 0.01, 0.3
    rows = problem.train.indices
    recipe = Recipe(epochs=2, batch_size=len(rows), learning_rate=rate, schedule="constant", weight_decay=decay)
    found = salun.run(problem, original, KEY, recipe=recipe, progress=None, share=share)

    start = weights = linear.weights_of(original)
    forgotten = problem.forget.indices
    saliency = linear.gradient(start, linear.inputs(problem, original, forgotten), linear.labels(problem, forgotten))
    mask = largest(saliency, share)
    assert sum(part.sum() for part in mask) == round(share * 196)
    wrong = tmu_jax.wrong_targets(problem, forgotten, jax.random.split(KEY)[0])[rows]
    assert (wrong.argmax(-1) != problem.pool.labels[rows]).sum() == len(forgotten)
    velocity = linear.Weights(np.zeros((48, 4)), np.zeros(4))
    for _ in range(2):
        slope = linear.gradient(weights, linear.inputs(problem, original, rows), wrong).plus(weights, decay)
        velocity = slope.plus(velocity, 0.9)
        moved = weights.plus(velocity, -rate)
        weights = linear.Weights(*(np.where(m, new, old) for m, new, old in zip(mask, moved, start, strict=True)))
    linear.close(found, weights)
    for m, before, after in zip(mask, start, linear.weights_of(found), strict=True):
        np.testing.assert_array_equal(before[~m], after[~m])


def test_frozen_parameters_are_neither_counted_nor_moved(made):
    problem, _ = made
    recipe = Recipe(epochs=1, batch_size=50)
    model = tmu_jax.wrap(
        users.Unaware(), users.variables_of(users.Unaware()), recipe=recipe, frozen=lambda name: "Dense_0" in name
    )
    found = tmu_jax.unlearn("salun", problem, model, key=KEY, recipe=recipe)
    before, after = (one.variables["params"] for one in (model, found))
    np.testing.assert_array_equal(before["Dense_0"]["kernel"], after["Dense_0"]["kernel"])
    free = [np.asarray(before["Dense_1"][name] != after["Dense_1"][name]) for name in ("kernel", "bias")]
    assert sum(part.sum() for part in free) == round(0.5 * sum(part.size for part in free))


def test_without_a_derivative_frozen_parameters_are_still_not_chosen(made):
    module = users.Unaware()
    model = tmu_jax.wrap(module, users.variables_of(module), frozen=lambda name: "Dense_0" in name)
    zeros = jax.tree.map(np.zeros_like, model.variables["params"])
    mask = salun.salient(model, zeros, 1.0)
    assert not any(leaf.any() for leaf in jax.tree.leaves(mask["Dense_0"]))
    assert all(leaf.all() for leaf in jax.tree.leaves(mask["Dense_1"]))


def test_a_share_out_of_range_gets_one_line(made):
    problem, original = made
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match=f"share={share} must be above 0 and at most 1"):
            tmu_jax.unlearn("salun", problem, original, key=KEY, share=share)
