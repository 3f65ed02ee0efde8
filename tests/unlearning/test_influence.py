"""The Newton step against a Hessian that is written out, and solved, in NumPy."""

import importlib

import jax
import numpy as np
import pytest

import tmu_jax
from tests.unlearning import linear
from tmu_jax.unlearning import gradients

KEY = jax.random.key(5)
influence = importlib.import_module("tmu_jax.unlearning.influence")  # The package has the method under this name.


@pytest.fixture(scope="module")
def made():
    return linear.made()


def hessian(problem, original, rows=None):
    """Of softmax regression on D, [196, 196]: mean of (x, 1)(x, 1)ᵀ ⊗ (diag p − p pᵀ), in the order of `flat`."""
    rows = problem.train.indices if rows is None else rows
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
    assert error < 1e-4
    assert "conjugate gradients ended after" in found.notes[0]


def test_the_curvature_is_of_so_many_images_and_the_gradient_of_all(made, monkeypatch):
    problem, original = made
    shown = []

    def spy(*arguments):
        shown.append(gradients.drawn(*arguments))
        return shown[-1]

    monkeypatch.setattr(influence, "drawn", spy)
    for key in (KEY, jax.random.key(6)):
        options = {"damping": 0.1, "iterations": 80, "curvature_images": 90}
        found = tmu_jax.unlearn("influence", problem, original, key=key, **options)
        a = hessian(problem, original, shown[-1].indices) + 0.1 * np.eye(196)
        expected = np.linalg.solve(a, right_side(problem, original))
        error = np.linalg.norm(step_of(original, found) - expected) / np.linalg.norm(expected)
        assert error < 1e-4
    assert all(len(set(split.indices) & set(problem.train.indices)) == 90 == len(split) for split in shown)
    assert set(shown[0].indices) != set(shown[1].indices)


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
        ({"damping": "small"}, "damping='small' of method 'influence' must be a finite number"),
        ({"scale": float("inf")}, "scale=inf of method 'influence' must be a finite number"),
        ({"curvature_images": -1}, "curvature_images=-1 must be a whole number of images"),
    ):
        with pytest.raises(ValueError, match=said):
            tmu_jax.unlearn("influence", problem, original, key=KEY, **options)
