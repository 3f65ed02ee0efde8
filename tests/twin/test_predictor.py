"""The easy/hard predictor against NumPy written out by hand, scikit-learn and known outcomes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from tmu_jax.twin import predictor


def problem(seed, num_samples, easy_share=0.87, signal=2.0):
    """Features in 0..1 of which the first two tell hard samples apart, and labels of which a given share is easy."""
    rng = np.random.default_rng(seed)
    easy = rng.permutation(np.arange(num_samples) < round(easy_share * num_samples))
    values = rng.normal(size=(num_samples, 3))
    values[:, :2] += signal * ~easy[:, None]
    scaling = predictor.fit_scaling(values)
    return jnp.asarray(predictor.apply_scaling(scaling, values)), jnp.asarray(easy)


def initial_params(num_features, hidden, key, easy_share):
    init_key, _ = jax.random.split(key)
    params = jax.jit(predictor.Network(hidden).init)(init_key, jnp.zeros((1, num_features)))["params"]
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    params["output"]["bias"] = np.log(easy_share / (1 - easy_share)) * np.ones(1)
    return params


def numpy_step(params, momentum, features, labels, learning_rate=0.01, decay=5e-4, beta=0.9):
    """One step of SGD with backpropagation by hand through 3 - a - b - 1."""
    layers = ["hidden_0", "hidden_1", "output"]
    inputs, before = [features], []
    for name in layers:
        before.append(inputs[-1] @ params[name]["kernel"] + params[name]["bias"])
        inputs.append(np.maximum(before[-1], 0))
    error = (scipy.special.expit(before[-1]) - labels[:, None]) / len(labels)
    new_params, new_momentum = {}, {}
    for layer, name in reversed(list(enumerate(layers))):
        gradient = {"kernel": inputs[layer].T @ error, "bias": error.sum(axis=0)}
        new_momentum[name] = {
            part: beta * momentum[name][part] + gradient[part] + decay * params[name][part] for part in gradient
        }
        new_params[name] = {part: params[name][part] - learning_rate * new_momentum[name][part] for part in gradient}
        if layer:
            error = (error @ params[name]["kernel"].T) * (before[layer - 1] > 0)
    return new_params, new_momentum


def test_full_batch_steps_equal_numpy():
    features, easy = problem(0, 12, easy_share=0.75)
    key = jax.random.key(3)
    params = predictor.fit(features, easy, key=key, epochs=4, learning_rate=0.1, weight_decay=0.01, hidden=(8, 5))
    expected = initial_params(3, (8, 5), key, 0.75)
    momentum = jax.tree.map(np.zeros_like, expected)
    for _ in range(4):
        expected, momentum = numpy_step(
            expected, momentum, np.asarray(features, np.float64), np.asarray(easy, np.float64), 0.1, 0.01
        )
    chex.assert_trees_all_close(params, expected, rtol=1e-4, atol=1e-6)


def test_last_partial_batch_is_the_mean_over_its_rows():
    """Of three samples in batches of two, one stands alone: one of three orders by hand must be the outcome."""
    features, easy = jnp.asarray([[0.1, 0.9, 0.3], [0.5, 0.2, 0.8], [0.9, 0.4, 0.1]]), jnp.asarray([1, 0, 1])
    key = jax.random.key(0)
    params = predictor.fit(features, easy, key=key, epochs=1, batch_size=2, learning_rate=0.5, hidden=(6, 4))
    initial = initial_params(3, (6, 4), key, 2 / 3)
    distances = []
    for last in range(3):
        first = [row for row in range(3) if row != last]
        expected, momentum = initial, jax.tree.map(np.zeros_like, initial)
        for rows in (first, [last]):
            batch = np.asarray(features, np.float64)[rows], np.asarray(easy, np.float64)[rows]
            expected, momentum = numpy_step(expected, momentum, *batch, learning_rate=0.5)
        differences = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), params, expected)
        distances.append(max(jax.tree.leaves(differences)))
    assert min(distances) < 1e-6
    assert sorted(distances)[1] > 1e-3


def test_every_epoch_draws_each_sample_once_in_another_order():
    weights = jnp.ones(10).at[jnp.array([2, 5])].set(0.0)
    orders = []
    for seed in range(3):
        rows, row_weights = predictor._batches(jax.random.key(seed), weights, 4)
        chex.assert_shape([rows, row_weights], (3, 4))
        drawn = np.asarray(rows)[np.asarray(row_weights) > 0]
        assert sorted(drawn) == [0, 1, 3, 4, 6, 7, 8, 9]
        # The real rows fill the batches from the front, so that no batch is small for want of order.
        np.testing.assert_array_equal(np.asarray(row_weights).reshape(-1), np.arange(12) < 8)
        orders.append(tuple(drawn))
    assert len(set(orders)) == 3


def test_order_is_uniform():
    draws = jax.vmap(lambda key: predictor._batches(key, jnp.ones(3), 3)[0][0])(
        jax.random.split(jax.random.key(1), 3000)
    )
    _, counts = np.unique(np.asarray(draws), axis=0, return_counts=True)
    assert counts.shape == (6,)
    # Six standard deviations of a binomial of 3000 draws at 1/6.
    assert np.abs(counts - 500).max() < 6 * np.sqrt(3000 * 5 / 36)


@pytest.mark.parametrize("num_rows", [1, 2, 1000, 70_000])
def test_order_holds_every_row_once_and_those_left_out_last(num_rows):
    is_used = np.arange(num_rows) % 3 != 2
    order = np.asarray(predictor._batches(jax.random.key(0), jnp.asarray(is_used, jnp.float32), 1)[0][:, 0])
    np.testing.assert_array_equal(np.sort(order), np.arange(num_rows))
    num_used = int(is_used.sum())
    assert is_used[order[:num_used]].all()
    if num_rows > 2:
        # Uncorrelated with the rows' own order, within five standard errors.
        correlation = np.corrcoef(order[:num_used], np.arange(num_used))[0, 1]
        assert abs(correlation) < 5 / np.sqrt(num_used)


def test_order_of_the_first_rows_does_not_change_when_rows_are_added():
    key = jax.random.key(5)
    short, _ = predictor._batches(key, jnp.ones(700), 1)
    long, _ = predictor._batches(key, jnp.asarray(jnp.arange(2000) < 700, jnp.float32), 1)
    np.testing.assert_array_equal(long[:700], short)


def test_separable_samples_are_learnt():
    rng = np.random.default_rng(5)
    features = rng.uniform(size=(600, 3)).astype(np.float32)
    features = features[np.abs(features.sum(axis=1) - 1.5) > 0.1][:400]
    easy = features.sum(axis=1) < 1.5
    params = predictor.fit(jnp.asarray(features), jnp.asarray(easy), key=jax.random.key(0))
    probability = np.asarray(predictor.predict_probability(params, jnp.asarray(features)))
    assert features.shape == (400, 3)
    assert np.mean((probability >= 0.5) == easy) > 0.97


def test_small_batches_call_some_hard_where_large_ones_collapse_to_the_majority():
    features, labels = zip(*(problem(seed, 100, signal=1.5) for seed in range(6)), strict=True)
    features, labels = np.stack(features), np.stack(labels)
    keys = jax.random.split(jax.random.key(0), 6)
    num_hard = {}
    for batch_size in (16, 128):
        fit = functools.partial(predictor.fit, batch_size=batch_size)
        params = jax.vmap(lambda x, y, key, fit=fit: fit(x, y, key=key))(features, labels, keys)
        probability = np.asarray(jax.jit(jax.vmap(predictor.predict_probability))(params, features))
        num_hard[batch_size] = (probability < 0.5).sum(axis=1)
        if batch_size == 16:
            right = (probability >= 0.5) == np.asarray(labels)
    assert np.all(num_hard[16] >= 3)
    assert right.mean() > 0.9
    assert np.median(num_hard[128]) == 0
    assert num_hard[128].mean() < 1


def test_auc_is_near_logistic_regression():
    train_features, train_easy = problem(7, 400, signal=1.0)
    features, easy = problem(8, 2000, signal=1.0)
    params = predictor.fit(train_features, train_easy, key=jax.random.key(1))
    ours = roc_auc_score(easy, predictor.predict_probability(params, features))
    regression = LogisticRegression().fit(np.asarray(train_features), np.asarray(train_easy))
    theirs = roc_auc_score(easy, regression.predict_proba(np.asarray(features))[:, 1])
    assert theirs > 0.75
    assert ours > theirs - 0.03


@pytest.mark.parametrize(("num_easy", "share"), [(9, 0.9), (10, 0.95), (0, 0.05), (5, 0.5)])
def test_last_bias_starts_at_the_log_odds(num_easy, share):
    easy = jnp.arange(10) < num_easy
    params = predictor.fit(jnp.zeros((10, 3)), easy, key=jax.random.key(0), epochs=20, learning_rate=0.0)
    np.testing.assert_allclose(params["output"]["bias"], np.log(share / (1 - share)), rtol=1e-5, atol=1e-6)
    probability = predictor.predict_probability(params, jnp.zeros((4, 3)))
    np.testing.assert_allclose(probability, share, rtol=1e-5)


@pytest.mark.parametrize("value", [0, 1])
def test_one_label_trains_to_that_label(value):
    features, _ = problem(9, 10)
    params = predictor.fit(features, jnp.full(10, value == 1), key=jax.random.key(0), epochs=20, learning_rate=0.01)
    probability = np.asarray(predictor.predict_probability(params, features))
    assert np.all(np.abs(probability - value) < 0.2)


def padded(features, easy, num_rows, filling=0.0):
    """Arrays of num_rows rows as numpy: features, labels and weights."""
    missing = num_rows - len(easy)
    return (
        np.concatenate([features, np.full((missing, 3), filling, np.float32)]),
        np.concatenate([np.asarray(easy, np.float32), np.full(missing, filling, np.float32)]),
        np.asarray(np.arange(num_rows) < len(easy), np.float32),
    )


def fit_weighted(features, labels, weights, key):
    return predictor.fit(features, labels, weights=weights, key=key, epochs=20, learning_rate=0.01)


def test_rows_of_weight_zero_may_hold_anything():
    zeros, large, nan = (
        fit_weighted(*padded(*problem(10, 27), 40, filling), jax.random.key(4)) for filling in (0.0, 1e6, np.nan)
    )
    chex.assert_tree_all_finite(zeros)
    chex.assert_trees_all_equal(large, zeros)
    chex.assert_trees_all_equal(nan, zeros)


def test_vmap_over_padded_problems_equals_unpadded_ones_and_traces_once():
    """One problem fills its shape, the other one is padded and has fewer samples than a batch."""
    large, small = problem(20, 40), problem(21, 10)
    large_and_small = [padded(*large, 40), padded(*small, 40)]
    problems = [np.stack(parts) for parts in zip(*large_and_small, strict=True)]
    keys = jax.random.split(jax.random.key(2), 2)
    fit_all = jax.jit(jax.vmap(chex.assert_max_traces(fit_weighted, n=1)))
    together = jax.device_get(fit_all(*problems, keys))
    alone = [
        fit_weighted(*large_and_small[0], keys[0]),
        predictor.fit(*small, key=keys[1], epochs=20, learning_rate=0.01),
    ]
    for number in range(2):
        chex.assert_trees_all_close(
            jax.tree.map(lambda p, i=number: p[i], together), alone[number], rtol=1e-5, atol=1e-5
        )
    # Other problems of these shapes use the same program.
    fit_all(*(part[::-1] for part in problems), keys)


def test_training_inside_another_trace_is_part_of_it():
    """Whether what it is given is traced or not."""
    features, easy = problem(23, 20)
    fit = functools.partial(predictor.fit, features, easy, key=jax.random.key(5), epochs=2)
    chex.assert_trees_all_close(jax.jit(fit)(), fit(), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal_shapes(jax.eval_shape(fit), fit())


@pytest.mark.slow
def test_jit_equals_eager():
    features, easy = problem(12, 3, easy_share=0.7)
    settings = {"key": jax.random.key(5), "epochs": 1, "batch_size": 2, "hidden": (4,)}
    jitted = predictor.fit(features, easy, **settings)
    with jax.disable_jit():
        eager = predictor.fit(features, easy, **settings)
    chex.assert_trees_all_close(jitted, eager, rtol=1e-5, atol=1e-6)


def test_key_decides_the_result():
    features, easy = problem(13, 10)
    first, again, other = (
        predictor.fit(features, easy, key=jax.random.key(k), epochs=20, learning_rate=0.01) for k in (0, 0, 1)
    )
    chex.assert_trees_all_equal(first, again)
    assert np.abs(np.asarray(first["hidden_0"]["kernel"] - other["hidden_0"]["kernel"])).max() > 0.01


def test_layers_are_those_of_the_paper():
    features, easy = problem(14, 10)
    params = predictor.fit(features, easy, key=jax.random.key(0), epochs=20, learning_rate=0.01)
    shapes = {name: layer["kernel"].shape for name, layer in params.items()}
    assert shapes == {"hidden_0": (3, 64), "hidden_1": (64, 32), "output": (32, 1)}


def test_fit_refuses_nothing_to_do():
    with pytest.raises(ValueError, match="got 0, 100 and 16"):
        predictor.fit(jnp.zeros((0, 3)), jnp.zeros(0), key=jax.random.key(0))
    with pytest.raises(ValueError, match="got 2, 0 and 16"):
        predictor.fit(jnp.zeros((2, 3)), jnp.zeros(2), key=jax.random.key(0), epochs=0)


def test_scaling_by_hand():
    # Quartiles 2 and 4: fences at -1 and 7, so that 100 counts as 7; the second feature is constant.
    features = np.float64([[1, 5], [2, 5], [3, 5], [4, 5], [100, 5]])
    scaling = predictor.fit_scaling(features)
    np.testing.assert_allclose([part[0] for part in scaling], [-1, 7, 1, 7])
    scaled = predictor.apply_scaling(scaling, features)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [[0, 0], [1 / 6, 0], [2 / 6, 0], [3 / 6, 0], [1, 0]], rtol=1e-6)
    np.testing.assert_allclose(predictor.apply_scaling(scaling, [[-50, 9], [6, 0]]), [[0, 0], [5 / 6, 0]], rtol=1e-6)


def test_scaling_uses_linear_quantiles_and_one_sample_gives_zero():
    features = np.random.default_rng(6).standard_t(df=2, size=(101, 3))
    scaling = predictor.fit_scaling(features)
    ordered = np.sort(features, axis=0)
    # Of 101 values the quartiles are the 26th and the 76th.
    lower, upper = ordered[25], ordered[75]
    limited = np.clip(features, lower - 1.5 * (upper - lower), upper + 1.5 * (upper - lower))
    expected = (limited - limited.min(axis=0)) / (limited.max(axis=0) - limited.min(axis=0))
    np.testing.assert_allclose(predictor.apply_scaling(scaling, features), expected, atol=1e-6)
    one = np.float32([[3, 1, 4]])
    np.testing.assert_array_equal(predictor.apply_scaling(predictor.fit_scaling(one), one), np.zeros((1, 3)))


def test_decisions():
    probability = np.float32([0.9, 0.5, 0.2, 0.49, 0.2])
    np.testing.assert_array_equal(predictor.decide_easy(probability), [1, 1, 0, 0, 0])
    decide = functools.partial(predictor.decide_easy, jnp.asarray(probability), "count")
    np.testing.assert_array_equal(decide(num_hard=0), [1, 1, 1, 1, 1])
    # Of the two equal ones the earlier is hard first.
    np.testing.assert_array_equal(decide(num_hard=1), [1, 1, 0, 1, 1])
    np.testing.assert_array_equal(decide(num_hard=3), [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(decide(num_hard=5), [0, 0, 0, 0, 0])


def test_only_label():
    assert predictor.only_label(np.array([True, True])) is True
    assert predictor.only_label(jnp.asarray([0.0, 0.0])) is False
    assert predictor.only_label([1, 0, 1]) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: predictor.decide_easy(np.ones(3), "count"), "num_hard must lie in 0..3"),
        (lambda: predictor.decide_easy(np.ones(3), "count", num_hard=4), "num_hard must lie in 0..3"),
        (lambda: predictor.decide_easy(np.ones(3), num_hard=1), "only for threshold 'count'"),
        (lambda: predictor.decide_easy(np.ones(3), "third"), "threshold must be"),
        (lambda: predictor.decide_easy(np.full(3, 1.5)), "probability must be"),
        (lambda: predictor.decide_easy(np.full(3, np.nan)), "probability must be"),
        (lambda: predictor.only_label([]), "labels must not be empty"),
        (lambda: predictor.fit_scaling(np.zeros((0, 3))), "at least one row"),
        (lambda: predictor.fit_scaling(np.full((2, 3), np.inf)), "features must be finite"),
        (lambda: predictor.apply_scaling(predictor.fit_scaling(np.ones((2, 3))), np.ones((2, 2))), "3 columns"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
