"""The shift against two ridge regressions in NumPy, with the Jacobian and the NTK matrix written out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tmu_jax
from tests.tiny import tiny_data
from tests.unlearning import linear
from tmu_jax.stages import key_for
from tmu_jax.training import Recipe, apply
from tmu_jax.unlearning import ntk

KEY = jax.random.key(5)
RIDGE = 0.02


class Narrow(nn.Module):
    """One hidden layer of four units and a tanh: logits that are not linear in the parameters."""

    @nn.compact
    def __call__(self, images):
        return nn.Dense(4)(nn.tanh(nn.Dense(4)(images.reshape(len(images), -1))))


@pytest.fixture(scope="module")
def made():
    problem = tmu_jax.data.forget_subset(tiny_data(60, 24), target_classes=[1, 2], num_forget=4)
    return problem, tmu_jax.train(Narrow(), problem.train, recipe=Recipe(epochs=3, batch_size=20), key=KEY)


def flat(model):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(model.variables["params"])]).astype(np.float64)


def jacobian(problem, model, rows):
    """Of all logits, float64[4 n, parameters], and the residuals softmax − label, float64[4 n]."""
    x = jnp.asarray(linear.inputs(problem, model, rows).reshape(-1, 4, 4, 3), jnp.float32)

    def forward(params):
        return apply(model.module, {"params": params}, x, train=False)[0][0]

    leaves = jax.tree.leaves(jax.jacrev(forward)(model.variables["params"]))
    whole = np.concatenate([np.reshape(leaf, (4 * len(rows), -1)) for leaf in leaves], axis=1)
    p = linear.softmax(np.asarray(forward(model.variables["params"]), np.float64))
    return whole.astype(np.float64), (p - linear.labels(problem, rows)).ravel()


def solution(problem, model, rows, ridge=RIDGE):
    """−Jᵀ (J Jᵀ + n ridge I)⁻¹ r: the published form, by the NTK matrix."""
    j, r = jacobian(problem, model, rows)
    return -j.T @ np.linalg.solve(j @ j.T + len(rows) * ridge * np.eye(len(r)), r)


def expected(problem, model, retain):
    return solution(problem, model, retain) - solution(problem, model, np.concatenate([retain, problem.forget.indices]))


def error_of(shift, wanted):
    return np.linalg.norm(shift - wanted) / np.linalg.norm(wanted)


def test_the_shift_is_the_difference_of_two_kernel_regressions(made):
    problem, original = made
    wanted = expected(problem, original, problem.retain.indices)
    seen = []
    found = ntk.ntk.configured(None, {"ridge": RIDGE, "iterations": 80, "scale": 0.5}).apply(
        problem, original, KEY, progress=lambda done, total: seen.append((done, total))
    )
    assert error_of(flat(found) - flat(original), 0.5 * wanted) < 1e-4
    assert seen[0] == (1, 160)
    assert found.notes[0].startswith("conjugate gradients of D ended after")
    assert found.notes[1].startswith("conjugate gradients of D_r ended after")


def test_the_two_forms_of_the_text_are_one(made):
    """The oracle's own: function space and parameter space."""
    problem, original = made
    rows = problem.retain.indices
    j, r = jacobian(problem, original, rows)
    in_parameters = -np.linalg.solve(j.T @ j + len(rows) * RIDGE * np.eye(j.shape[1]), j.T @ r)
    np.testing.assert_allclose(in_parameters, solution(problem, original, rows), rtol=1e-6, atol=1e-9)


def test_after_few_iterations_it_is_nearer_than_two_separate_solutions(made):
    """The second system is that of the difference: what the first has left unsolved is no forgetting."""
    problem, original = made
    wanted = expected(problem, original, problem.retain.indices)
    found = tmu_jax.unlearn("ntk", problem, original, key=KEY, ridge=RIDGE, iterations=8)
    first, second = (
        ntk.solve(
            lambda v, data=data: ntk.add_ridge(
                ntk.sum_over(original, data, ntk.kernel_product, extra=v), v, jnp.float32(RIDGE * len(data))
            ),
            jax.tree.map(jnp.negative, ntk.sum_over(original, data, ntk.gradient_sum)),
            8,
        ).vector
        for data in (problem.train, problem.retain)
    )
    apart = np.concatenate([np.ravel(b - a) for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True)])
    error = error_of(flat(found) - flat(original), wanted)
    assert error < 0.95 * error_of(apart, wanted) < 0.7


def test_fewer_retained_images_are_drawn_by_the_key(made):
    problem, original = made
    found = tmu_jax.unlearn("ntk", problem, original, key=KEY, ridge=RIDGE, iterations=80, retained=15)
    draw_key, _ = jax.random.split(key_for(KEY, "method ntk"))
    retain = ntk.drawn(problem.retain, 15, draw_key).indices
    assert len(np.unique(retain)) == 15
    assert set(retain) < set(problem.retain.indices)
    assert error_of(flat(found) - flat(original), expected(problem, original, retain)) < 2e-3
    for count in (0, 52, 1000):
        np.testing.assert_array_equal(ntk.drawn(problem.retain, count, draw_key).indices, problem.retain.indices)


def test_noise_is_that_of_fisher_on_the_shifted_model(made):
    problem, original = made
    shifted = tmu_jax.unlearn("ntk", problem, original, key=KEY)
    noisy = tmu_jax.unlearn("ntk", problem, original, key=KEY, noise=1e-4)
    _, noise_key = jax.random.split(key_for(KEY, "method ntk"))
    by_fisher = tmu_jax.METHODS["fisher"].configured(None, {"alpha": 1e-4}).apply(problem, shifted, noise_key)
    np.testing.assert_array_equal(flat(noisy), flat(by_fisher))
    assert np.abs(flat(noisy) - flat(shifted)).max() > 0
    assert noisy.notes == shifted.notes


def test_it_goes_towards_the_ridge_regression_without_the_images(made):
    """The loss on D_f rises more than that on D_r."""
    problem, original = made
    found = tmu_jax.unlearn("ntk", problem, original, key=KEY, ridge=RIDGE)
    losses = []
    for model in (original, found):
        for split in (problem.forget, problem.retain):
            p = linear.softmax(np.asarray(tmu_jax.predict(model, split)[0], np.float64))
            losses.append(-(linear.labels(problem, split.indices) * np.log(p)).sum(-1).mean())
    assert losses[2] - losses[0] > 2 * abs(losses[3] - losses[1])


def test_bad_options_get_one_line(made):
    problem, original = made
    for options, said in (
        ({"ridge": 0.0}, "ridge=0.0 must be above 0"),
        ({"scale": -1.0}, "scale=-1.0 must be above 0"),
        ({"iterations": 0}, "iterations=0 must be a whole number, at least 1"),
        ({"retained": -1}, "retained=-1 must be a whole number of images"),
        ({"noise": -1.0}, "noise=-1.0 must be 0 or more"),
    ):
        with pytest.raises(ValueError, match=said):
            tmu_jax.unlearn("ntk", problem, original, key=KEY, **options)
