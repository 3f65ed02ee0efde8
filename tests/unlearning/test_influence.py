"""The Newton step against a Hessian that is written out, and solved, in NumPy."""

import jax
import numpy as np
import pytest

import tmu_jax
from tests.unlearning import linear

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def made():
    return linear.made()


def hessian(problem, original):
    """Of softmax regression on D, [196, 196]: mean of (x, 1)(x, 1)ᵀ ⊗ (diag p − p pᵀ), in the order of `flat`."""
    rows = problem.train.indices
    x = np.concatenate([linear.inputs(problem, original, rows), np.ones((len(rows), 1))], axis=1)
    p = linear.softmax(linear.logits(linear.weights_of(original), x[:, :-1]))
    of_logits = p[:, :, None] * np.eye(4) - p[:, :, None] * p[:, None, :]
    return np.einsum("ni,nj,nab->iajb", x, x, of_logits).reshape(196, 196) / len(rows)


def flat(weights):
    return np.concatenate([weights.kernel, weights.bias[None]]).ravel()


def right_side(problem, original):
    weights = linear.weights_of(original)
    f, r = (
        flat(linear.gradient(weights, linear.inputs(problem, original, rows), linear.labels(problem, rows)))
        for rows in (problem.forget.indices, problem.retain.indices)
    )
    return 16 / 200 * (f - r)


def step_of(original, found):
    return flat(linear.weights_of(found)) - flat(linear.weights_of(original))


def test_the_step_solves_the_newton_system(made):
    problem, original = made
    damping, scale = 0.02, 0.5
    expected = scale * np.linalg.solve(
        hessian(problem, original) + damping * np.eye(196), right_side(problem, original)
    )
    found = tmu_jax.unlearn("influence", problem, original, key=KEY, damping=damping, iterations=80, scale=scale)
    error = np.linalg.norm(step_of(original, found) - expected) / np.linalg.norm(expected)
    assert error < 1e-3
    assert "conjugate gradients ended after" in found.notes[0]


def test_two_iterations_are_the_best_of_their_space(made):
    """Conjugate gradients minimise xᵀAx/2 − bᵀx over the span of b and Ab."""
    problem, original = made
    a, b = hessian(problem, original) + 0.01 * np.eye(196), right_side(problem, original)
    basis = np.stack([b, a @ b], axis=1)
    expected = basis @ np.linalg.solve(basis.T @ a @ basis, basis.T @ b)
    found = tmu_jax.unlearn("influence", problem, original, key=KEY, iterations=2)
    error = np.linalg.norm(step_of(original, found) - expected) / np.linalg.norm(expected)
    assert error < 2e-3
    assert "after 2 iterations" in found.notes[0]


def test_it_goes_towards_a_model_trained_without_the_images(made):
    """The loss on D_f rises, and that on D_r does not."""
    problem, original = made
    found = tmu_jax.unlearn("influence", problem, original, key=KEY)
    losses = []
    for model in (original, found):
        for rows in (problem.forget.indices, problem.retain.indices):
            p = linear.softmax(linear.logits(linear.weights_of(model), linear.inputs(problem, model, rows)))
            losses.append(-(linear.labels(problem, rows) * np.log(p)).sum(-1).mean())
    assert losses[2] > 1.1 * losses[0]
    assert losses[3] < 1.1 * losses[1]


def test_bad_options_get_one_line(made):
    problem, original = made
    for options, said in (
        ({"damping": 0.0}, "damping=0.0 must be above 0"),
        ({"scale": -1.0}, "scale=-1.0 must be above 0"),
        ({"iterations": 0}, "iterations=0 must be a whole number, at least 1"),
    ):
        with pytest.raises(ValueError, match=said):
            tmu_jax.unlearn("influence", problem, original, key=KEY, **options)
