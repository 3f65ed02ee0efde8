"""Conjugate gradients in float32, against the best vectors of Krylov spaces in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from tmu_jax.unlearning.conjugate import solve

SIZE = 60


@pytest.fixture(scope="module")
def system():
    """A matrix with eigenvalues from 1e-4 to 1, and a right side: float64[60, 60], float64[60]."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))
    return basis * np.logspace(-4, 0, SIZE) @ basis.T, rng.normal(size=SIZE)


def best(matrix, right, iterations):
    """The vector that conjugate gradients come to without rounding: of least xᵀAx/2 − bᵀx in the span of b, Ab, …"""
    basis = right[:, None] / np.linalg.norm(right)
    for _ in range(iterations - 1):
        new = matrix @ basis[:, -1]
        for _ in range(2):
            new -= basis @ (basis.T @ new)
        basis = np.column_stack([basis, new / np.linalg.norm(new)])
    return basis @ np.linalg.solve(basis.T @ matrix @ basis, basis.T @ right)


def solved(matrix, right, iterations):
    """By `solve`, in a tree of two leaves."""
    a = jnp.asarray(matrix, jnp.float32)

    def product(vector):
        whole = a @ jnp.concatenate([vector["first"], vector["second"].ravel()])
        return {"first": whole[:20], "second": whole[20:].reshape(8, 5)}

    b = np.float32(right)
    found = solve(product, {"first": b[:20], "second": b[20:].reshape(8, 5)}, iterations)
    return np.concatenate([found.vector["first"], np.ravel(found.vector["second"])]), found


@pytest.mark.parametrize("iterations", [1, 5, 20, 40])
def test_each_number_of_iterations_gives_the_best_vector_of_its_space(system, iterations):
    """At 20 and at 40 the recurrences alone are 0.3 and 0.4 of the vector away: their residuals are not orthogonal."""
    expected = best(*system, iterations)
    vector, found = solved(*system, iterations)
    assert found.iterations == iterations
    assert np.linalg.norm(vector - expected) < 1e-4 * np.linalg.norm(expected)
    left = np.linalg.norm(system[1] - system[0] @ expected) / np.linalg.norm(system[1])
    np.testing.assert_allclose(found.left, left, rtol=1e-3)


def test_it_ends_where_nothing_is_left(system):
    _, right = system
    vector, found = solved(np.diag(np.repeat([1.0, 2.0, 4.0], 20)), right, 20)
    assert found.iterations == 3
    np.testing.assert_allclose(vector, right / np.repeat([1.0, 2.0, 4.0], 20), rtol=1e-5)
    assert found.left < 1e-6


def test_gradients_that_are_not_finite_are_no_reason_to_leave_the_model_as_it_is():
    with pytest.raises(FloatingPointError, match="gradients are not finite"):
        solve(lambda vector: vector, {"a": np.float32([1, np.nan])}, 3)
