"""Fisher forgetting against the diagonal of the Fisher information in NumPy."""

import zlib

import jax
import numpy as np
import pytest

import tmu_jax
from tests.training import users
from tests.unlearning import linear
from tmu_jax.training import Recipe

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def made():
    return linear.made()


def information(problem, original):
    """Of softmax regression: E[x²] p (1 − p) for a weight, for Σ_y p_y (1[y = c] − p_c)² = p_c (1 − p_c)."""
    rows = problem.retain.indices
    x = linear.inputs(problem, original, rows)
    p = linear.softmax(linear.logits(linear.weights_of(original), x))
    return linear.Weights((x**2).T @ (p * (1 - p)) / len(rows), (p * (1 - p)).mean(0))


@pytest.mark.parametrize(("power", "alpha"), [(0.5, 1e-4), (0.25, 1e-8)])
def test_the_noise_is_the_published_one(made, power, alpha):
    """Its deviation times normal numbers, which are drawn here from the method's key, a leaf's from each half."""
    problem, original = made
    found = tmu_jax.unlearn("fisher", problem, original, key=KEY, alpha=alpha, power=power, most=30.0)
    inverse = [1 / (part + 1e-8) for part in information(problem, original)]
    assert 0 < sum((part > 30).sum() for part in inverse) < 196
    keys = jax.random.split(jax.random.fold_in(KEY, zlib.crc32(b"method fisher")))[::-1]  # the bias is the first leaf
    expected = [
        weight + (alpha * np.minimum(part, 30.0)) ** power * np.asarray(jax.random.normal(key, weight.shape))
        for weight, part, key in zip(linear.weights_of(original), inverse, keys, strict=True)
    ]
    linear.close(found, linear.Weights(*expected))


def test_frozen_parameters_get_no_noise(made):
    problem, _ = made
    model = tmu_jax.wrap(
        users.Unaware(),
        users.variables_of(users.Unaware()),
        recipe=Recipe(epochs=1),
        frozen=lambda name: "Dense_0" in name,
    )
    found = tmu_jax.unlearn("fisher", problem, model, key=KEY)
    before, after = (one.variables["params"] for one in (model, found))
    np.testing.assert_array_equal(before["Dense_0"]["kernel"], after["Dense_0"]["kernel"])
    assert (before["Dense_1"]["kernel"] != after["Dense_1"]["kernel"]).all()


def test_noise_beyond_all_numbers_gets_one_line(made):
    problem, original = made
    with pytest.raises(FloatingPointError, match="the parameters are not finite after the method's step"):
        tmu_jax.unlearn("fisher", problem, original, key=KEY, alpha=1e38, power=1.0)


def test_bad_options_get_one_line(made):
    problem, original = made
    for name in ("alpha", "power", "most"):
        with pytest.raises(ValueError, match=f"{name}=0 must be above 0"):
            tmu_jax.unlearn("fisher", problem, original, key=KEY, **{name: 0})
