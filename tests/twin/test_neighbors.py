"""Nearest distances against scikit-learn's brute force in float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from tmu_jax.twin import neighbors


def brute_force(queries, bank, k):
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(np.asarray(bank, np.float64))
    return search.kneighbors(np.asarray(queries, np.float64))[0]


def differences(queries, bank, k):
    """For near-duplicates, where the expanded form loses digits even in float64."""
    apart = np.asarray(queries, np.float64)[:, None] - np.asarray(bank, np.float64)[None]
    return np.sort(np.linalg.norm(apart, axis=-1), axis=1)[:, :k]


def normalised(rng, rows, columns, norm=1.0):
    values = rng.normal(size=(rows, columns))
    return (norm * values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("num_queries", "num_bank", "columns", "k", "block_size"),
    [
        (37, 1003, 17, 5, 8),
        (50, 700, 64, 1, None),
        (5, 33, 3, 33, 2),
        (1, 1, 1, 1, None),
        (13, 4000, 8, 40, 13),
        (19, 4003, 700, 5, None),
    ],
)
def test_equals_sklearn(num_queries, num_bank, columns, k, block_size):
    rng = np.random.default_rng(num_bank)
    queries, bank = normalised(rng, num_queries, columns), normalised(rng, num_bank, columns)
    distances = neighbors.nearest_distances(queries, bank, k=k, block_size=block_size)
    chex.assert_shape(distances, (num_queries, k))
    assert distances.dtype == jnp.float32
    np.testing.assert_allclose(distances, brute_force(queries, bank, k), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [1.0, 100.0])
def test_near_duplicates_keep_their_distance(norm):
    rng = np.random.default_rng(0)
    queries = normalised(rng, 20, 64, norm)
    directions = normalised(rng, 60, 64, 1e-6 * norm).reshape(20, 3, 64) * np.float32([1, 2, 3])[:, None]
    near = (queries[:, None] + directions).reshape(-1, 64)
    bank = np.concatenate([normalised(rng, 500, 64, norm), near])[rng.permutation(560)]
    expected = differences(queries, bank, 5)
    assert expected[:, :3].max() < 5e-6 * norm
    np.testing.assert_allclose(neighbors.nearest_distances(queries, bank, k=5), expected, rtol=1e-5)


def test_near_duplicates_at_a_distance_of_a_millionth():
    rng = np.random.default_rng(1)
    queries = normalised(rng, 10, 16, 100.0)
    # One small coordinate carries the difference, so that float32 can hold 1e-6 beside a norm of 100.
    queries[:, 0] = 0.0
    near = queries.copy()
    near[:, 0] = 1e-6
    bank = np.concatenate([normalised(rng, 300, 16, 100.0), near])
    np.testing.assert_allclose(neighbors.nearest_distances(queries, bank, k=1)[:, 0], 1e-6, rtol=1e-5)


def test_more_near_duplicates_than_candidates():
    """The rounded distances cannot order 300 rows within 1e-4 of the query; the nearest must be found all the same."""
    rng = np.random.default_rng(2)
    queries = normalised(rng, 70, 32, 100.0)
    near = queries[0] + normalised(rng, 300, 32) * rng.uniform(1e-4, 1e-3, size=(300, 1)).astype(np.float32)
    bank = np.concatenate([normalised(rng, 100, 32, 100.0), near])
    groups = rng.integers(0, 2, 400)
    expected = differences(queries, bank, 5)
    np.testing.assert_allclose(neighbors.nearest_distances(queries, bank, k=5), expected, rtol=1e-5)

    every_query = np.repeat(queries[:1], 70, axis=0)
    query_groups = np.arange(70) % 2
    distances = neighbors.nearest_distances(every_query, bank, k=5, query_groups=query_groups, bank_groups=groups)
    for group in (0, 1):
        of_group = differences(queries[:1], bank[groups == group], 5)
        np.testing.assert_allclose(distances[query_groups == group], np.repeat(of_group, 35, axis=0), rtol=1e-5)


def test_exact_duplicates_have_distance_zero():
    bank = normalised(np.random.default_rng(3), 200, 48, 7.0)
    distances = np.asarray(neighbors.nearest_distances(bank[20:40], np.concatenate([bank, bank[:30]]), k=2))
    assert np.all(distances[:, 0] == 0)
    assert np.all(distances[:10, 1] == 0)
    assert np.all(distances[10:, 1] > 0.1)


def test_groups_equal_a_loop_over_groups():
    rng = np.random.default_rng(4)
    queries, bank = normalised(rng, 41, 12), normalised(rng, 500, 12)
    query_groups, bank_groups = rng.integers(0, 4, 41), rng.choice([-3, 0, 1, 2, 3], 500)
    arguments = {"query_groups": query_groups, "bank_groups": bank_groups}
    distances = np.asarray(neighbors.nearest_distances(queries, bank, k=6, block_size=7, **arguments))
    means = neighbors.mean_nearest_distance(queries, bank, k=6, **arguments)
    for group in range(4):
        expected = brute_force(queries[query_groups == group], bank[bank_groups == group], 6)
        np.testing.assert_allclose(distances[query_groups == group], expected, rtol=1e-5)
        np.testing.assert_allclose(means[query_groups == group], expected.mean(axis=1), rtol=1e-5)


def test_missing_rows_are_infinite_and_left_out_of_the_mean():
    bank = np.float32([[0, 0], [3, 4], [10, 0]])
    queries = np.float32([[0, 0], [3, 0]])
    inf = np.inf
    distances = neighbors.nearest_distances(queries, bank, k=5)
    np.testing.assert_allclose(distances, [[0, 5, 10, inf, inf], [3, 4, 7, inf, inf]], rtol=1e-6)
    np.testing.assert_allclose(neighbors.mean_nearest_distance(queries, bank, k=5), [5, 14 / 3], rtol=1e-6)

    groups = {"query_groups": np.array([0, 1]), "bank_groups": np.array([0, 0, 1])}
    distances = neighbors.nearest_distances(queries, bank, k=2, **groups)
    np.testing.assert_allclose(distances, [[0, 5], [7, inf]], rtol=1e-6)
    np.testing.assert_allclose(neighbors.mean_nearest_distance(queries, bank, k=2, **groups), [2.5, 7], rtol=1e-6)
    groups["query_groups"] = np.array([0, 2])
    assert np.all(np.isinf(neighbors.nearest_distances(queries, bank, k=2, **groups)[1]))
    with pytest.raises(ValueError, match="1 have none, the first in row 1"):
        neighbors.mean_nearest_distance(queries, bank, k=2, **groups)


def test_block_size_changes_no_result_and_bounds_the_block():
    rng = np.random.default_rng(5)
    queries, bank = normalised(rng, 30, 9), normalised(rng, 300, 9)
    whole = neighbors.nearest_distances(queries, bank)
    for block_size in (1, 29):
        blockwise = neighbors.nearest_distances(queries, bank, block_size=block_size)
        np.testing.assert_allclose(blockwise, whole, rtol=1e-5)
    nearest = functools.partial(neighbors._nearest, k=5, block=3)
    program = jax.make_jaxpr(nearest)(queries, np.zeros(30, np.int32), bank, np.zeros(300, np.int32))
    assert "f32[3,300]" in str(program)
    assert "f32[30,300]" not in str(program)


def test_a_block_stays_within_its_bound_on_every_platform(monkeypatch):
    for backend, most in (("cpu", 256), ("gpu", 2**24 // 1000)):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert neighbors._queries_together(1000) == most
        assert neighbors._queries_together(2**20) == 16
        assert neighbors._queries_together(2**30) == 1


def test_no_queries_give_no_rows():
    chex.assert_shape(neighbors.nearest_distances(np.zeros((0, 3), np.float32), np.ones((4, 3), np.float32)), (0, 5))


def test_compiled_once_for_equal_shapes():
    rng = np.random.default_rng(6)
    bank = normalised(rng, 90, 6)
    neighbors.nearest_distances(normalised(rng, 24, 6), bank, k=3)
    before = neighbors._nearest._cache_size()
    neighbors.nearest_distances(normalised(rng, 24, 6), normalised(rng, 90, 6), k=3)
    assert neighbors._nearest._cache_size() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"block_size": 0}, "block_size must be at least 1"),
        ({"bank": np.zeros((0, 3), np.float32)}, "bank must have at least one row"),
        ({"bank": np.zeros((4, 2), np.float32)}, "equally many columns, got 3 and 2"),
        ({"bank": np.full((4, 3), np.nan, np.float32)}, "bank must be finite"),
        ({"queries": np.full((4, 3), np.inf, np.float32)}, "queries must be finite"),
        ({"queries": np.full((4, 3), 1e19, np.float32)}, "queries must be finite, with norms below"),
        ({"queries": np.zeros(3, np.float32)}, "queries must have shape"),
        ({"queries": np.zeros((2, 3), np.int32)}, "queries must be floating point"),
        ({"query_groups": np.zeros(2, int)}, "given together"),
        ({"query_groups": np.zeros(3, int), "bank_groups": np.zeros(4, int)}, "groups of queries must be integers"),
        ({"query_groups": np.zeros(2, int), "bank_groups": np.zeros(4)}, "groups of bank must be integers"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = {"queries": np.zeros((2, 3), np.float32), "bank": np.zeros((4, 3), np.float32)} | changes
    with pytest.raises(ValueError, match=message):
        neighbors.nearest_distances(**arguments)
