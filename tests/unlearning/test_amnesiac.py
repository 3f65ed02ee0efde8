"""Updates taken back, against the same training replayed step by step in NumPy."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

import tmu_jax
from tests.tiny import PlainNet, TinyNet, tiny_data
from tests.unlearning import linear
from tmu_jax.resuming import resumable
from tmu_jax.training import Recipe, Stream
from tmu_jax.training.updates import with_step

KEY = jax.random.key(5)
RECIPE = Recipe(epochs=3, batch_size=20, learning_rate=0.03, weight_decay=0.01)


@pytest.fixture(scope="module")
def problem():
    return tmu_jax.data.forget_indices(tiny_data(), [5, 17])


@pytest.fixture(scope="module")
def original(problem):
    return trained(problem, updates_of=problem.forget.indices)


def trained(problem, module=None, **options):
    return tmu_jax.train(module or PlainNet(), problem.train, recipe=RECIPE, key=jax.random.key(0), **options)


def rows_of_steps(problem):
    """The batches of the training, int[steps, batch], by the order that its key gives."""
    _, fit_key = jax.random.split(jax.random.key(0))
    order_key, _ = jax.random.split(fit_key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(order_key)))
    epochs = Stream((problem.train.indices,)).epochs(RECIPE.batch_size, rng)
    return np.concatenate([next(epochs) for _ in range(RECIPE.epochs)])


def replayed(problem, original, rows):
    """SGD with momentum in float64: the last weights, and the sum of the updates of steps with one of the rows."""
    init_key, _ = jax.random.split(jax.random.key(0))
    start = PlainNet().init(init_key, np.zeros((1, 4, 4, 3), np.float32))
    weights = linear.weights_of(dataclasses.replace(original, variables=start))
    velocity = undone = linear.Weights(np.zeros((48, 4)), np.zeros(4))
    steps = rows_of_steps(problem)
    for batch, rate in zip(steps, RECIPE.learning_rates(len(steps)), strict=True):
        x, y = linear.inputs(problem, original, batch), linear.labels(problem, batch)
        slope = linear.gradient(weights, x, y).plus(weights, RECIPE.weight_decay)
        velocity = slope.plus(velocity, 0.9)
        weights = weights.plus(velocity, -float(rate))
        if np.isin(batch, rows).any():
            undone = undone.plus(velocity, -float(rate))
    return weights, undone


def test_the_updates_of_the_batches_with_forgotten_images_are_taken_back(problem, original):
    weights, undone = replayed(problem, original, problem.forget.indices)
    linear.close(original, weights)
    found = tmu_jax.unlearn("amnesiac", problem, original, key=KEY)
    linear.close(found, weights.plus(undone, -1.0), rtol=5e-4, atol=5e-6)
    touched = np.isin(rows_of_steps(problem), problem.forget.indices).any(1).sum()
    assert 3 <= touched <= 6
    assert found.notes[0].startswith(f"{touched} of 30 steps of the training held a forgotten image")
    assert found.updates is None


def test_each_group_has_its_own_sum_and_serves_exactly_its_rows(problem):
    groups = [problem.forget.indices, np.array([17]), [40, 3, 8]]
    model = trained(problem, updates_of=groups)
    for rows in groups:
        own = tmu_jax.data.forget_indices(tiny_data(), rows)
        weights, undone = replayed(own, model, rows)
        linear.close(tmu_jax.unlearn("amnesiac", own, model, key=KEY), weights.plus(undone, -1.0), 5e-4, 5e-6)
    for rows in ([5], [3, 5, 8, 17, 40], [9]):
        other = tmu_jax.data.forget_indices(tiny_data(), rows)
        with pytest.raises(ValueError, match=r"groups of 2, 1, 3 rows, none of which are the \d rows .* updates_of="):
            tmu_jax.unlearn("amnesiac", other, model, key=KEY)


def test_a_training_that_keeps_updates_is_the_one_that_does_not(problem):
    plain, keeping = trained(problem, TinyNet()), trained(problem, TinyNet(), updates_of=[5, 17])
    chex.assert_trees_all_equal(plain.variables, keeping.variables)
    assert plain.updates is None


def test_where_every_step_is_taken_back_the_start_is_left_batch_norm_included(problem):
    """Half of the images are in every batch of 20."""
    everything = tmu_jax.data.forget_indices(tiny_data(), range(100))
    model = trained(problem, TinyNet(), updates_of=everything.forget.indices)
    assert model.updates.steps == model.updates.total_steps == 30
    init_key, _ = jax.random.split(jax.random.key(0))
    start = TinyNet().init(init_key, np.zeros((1, 4, 4, 3), np.float32))
    found = tmu_jax.unlearn("amnesiac", everything, model, key=KEY)
    chex.assert_trees_all_close(found.variables, dict(start), atol=2e-6)
    as_in_the_code = tmu_jax.unlearn("amnesiac", everything, model, key=KEY, statistics=0)
    chex.assert_trees_all_equal(as_in_the_code.variables["batch_stats"], model.variables["batch_stats"])
    chex.assert_trees_all_close(as_in_the_code.variables["params"], start["params"], atol=2e-6)


def test_the_repair_is_a_training_on_what_stays_from_there(problem, original):
    after = tmu_jax.unlearn("amnesiac", problem, original, key=KEY)
    found = tmu_jax.unlearn("amnesiac", problem, original, key=KEY, repair=2)
    from tmu_jax.stages import key_for
    from tmu_jax.unlearning.relabelling import equal_weights, true_targets

    expected, losses = tmu_jax.training.fit(
        original.module,
        after.variables,
        original.normalization,
        problem.pool,
        Stream((problem.retain.indices,)),
        true_targets(problem),
        equal_weights(problem),
        dataclasses.replace(RECIPE, epochs=2),
        key_for(KEY, "method amnesiac"),
    )
    chex.assert_trees_all_equal(found.variables, expected)
    assert found.losses == tuple(losses)
    assert found.recipe == RECIPE


@pytest.mark.parametrize("format", ["orbax", "msgpack", "safetensors"])
def test_a_saved_model_keeps_them_and_an_unlearned_one_does_not(problem, original, tmp_path, format):
    read = tmu_jax.load(original.save(tmp_path / "original", format), PlainNet())
    chex.assert_trees_all_equal(dict(read.updates.changes), dict(original.updates.changes))
    assert read.updates.total_steps == 30
    found, again = (tmu_jax.unlearn("amnesiac", problem, model, key=KEY) for model in (original, read))
    chex.assert_trees_all_equal(found.variables, again.variables)
    for after in (again, tmu_jax.unlearn("finetune", problem, original, key=KEY, recipe=RECIPE)):
        left = tmu_jax.load(after.save(tmp_path / after.method, format), PlainNet())
        assert after.updates is None
        assert left.updates is None
        with pytest.raises(ValueError, match=r"original.updates=None: .* updates_of=problem.forget.indices"):
            tmu_jax.unlearn("amnesiac", problem, left, key=KEY)
    from tmu_jax.training.saving import read_model, state_of, weights_digest

    assert weights_digest(read_model(tmp_path / "original").arrays) == weights_digest(state_of(original))


def test_a_training_that_was_killed_goes_on_with_its_sums(problem, original, tmp_path):
    class Killed(BaseException):
        pass

    def kill(done, total):
        if done >= 12:
            raise Killed

    with resumable(tmp_path, every=0), pytest.raises(Killed):
        trained(problem, updates_of=problem.forget.indices, progress=kill)
    seen = []
    with resumable(tmp_path, every=0):
        found = trained(problem, updates_of=problem.forget.indices, progress=lambda done, total: seen.append(done))
    assert min(seen) > 2
    chex.assert_trees_all_equal(dict(found.updates.changes), dict(original.updates.changes))
    np.testing.assert_array_equal(found.updates.steps, original.updates.steps)
    with resumable(tmp_path, every=0):  # The same training without them is another one, and so are other rows.
        assert trained(problem).updates is None
    with resumable(tmp_path, every=0):
        other = trained(problem, updates_of=[5])
    assert other.updates.steps < original.updates.steps


def test_a_request_without_updates_gets_one_line_before_any_work(problem):
    plain = trained(problem)
    with pytest.raises(ValueError, match=r"original.updates=None: method 'amnesiac' .*train\(…, updates_of="):
        tmu_jax.unlearn("amnesiac", problem, plain, key=KEY)


def test_what_cannot_be_kept_is_refused_by_name(problem):
    for rows, error, said in (
        ([], ValueError, "updates_of holds no rows"),
        ([[5], []], ValueError, r"updates_of\[1\] holds no rows"),
        ([5, 5], ValueError, "updates_of must name each row once; 5"),
        ([5, 999], ValueError, r"updates_of must lie in 0\.\.279"),
        ([5, 250], ValueError, "updates_of holds 1 rows that `data` does not train on, such as 250"),
        (5, TypeError, "updates_of must be a one-dimensional sequence"),
        ("5", TypeError, "updates_of must be a one-dimensional sequence"),
        ([0.5], TypeError, "updates_of must be a one-dimensional sequence of integers"),
    ):
        with pytest.raises(error, match=said):
            trained(problem, updates_of=rows)


def test_a_result_whose_outputs_are_not_finite_is_refused(problem):
    model = trained(problem, TinyNet(), updates_of=problem.forget.indices)
    changes = dict(model.updates.changes)
    changes["batch_stats/BatchNorm_0/var"] = changes["batch_stats/BatchNorm_0/var"] + 1e3
    spoilt = dataclasses.replace(model, updates=dataclasses.replace(model.updates, changes=changes))
    with pytest.raises(FloatingPointError, match=r"not finite after \d+ of 30 steps .* statistics=0"):
        tmu_jax.unlearn("amnesiac", problem, spoilt, key=KEY)
    tmu_jax.unlearn("amnesiac", problem, spoilt, key=KEY, statistics=0)


def test_bad_options_get_one_line(problem, original):
    for options, said in (
        ({"statistics": 2}, "statistics=2 must be 0 or 1"),
        ({"repair": -1}, "repair=-1 must be a whole number of epochs"),
        ({"repair": 1.5}, "repair=1.5 must be a whole number of epochs"),
    ):
        with pytest.raises(ValueError, match=said):
            tmu_jax.unlearn("amnesiac", problem, original, key=KEY, **options)


def test_a_step_is_added_to_the_groups_that_it_counts_for():
    from tmu_jax.training.updates import Recording

    before, after = ({"params": {"a": np.asarray(values, np.float32)}} for values in ([1, 1, 1], [0, 1, 2]))
    sums = Recording((np.array([1]), np.array([2]))).begin(before)
    sums = with_step(sums, before, after, np.array([True, False]))
    np.testing.assert_array_equal(sums.changes["params/a"], [[-1, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(sums.steps, [1, 0])
