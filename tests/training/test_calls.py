"""How many steps a call takes."""

import jax
import pytest

import tmu_jax
from tests.patching import patch_everywhere
from tests.tiny import PlainNet, tiny_data
from tmu_jax import training
from tmu_jax.training import calls


@pytest.mark.parametrize(("seconds", "steps"), [(0.001, 64), (0.1, 40), (2.1, 1), (60, 1)])
def test_calls_end_within_seconds(seconds, steps):
    found = calls.Pace(64, is_bound=True)
    for _ in range(2):  # One that compiles, and one that tells.
        assert not found.is_known
        assert found.steps() == 2
        found.took(2, 2 * seconds)
    assert found.is_known
    assert found.steps() == steps


def test_an_accelerator_takes_the_most_at_once():
    found = calls.Pace(64, is_bound=False)
    assert found.is_known
    assert found.steps() == 64


def test_a_training_goes_by_it_and_its_numbers_do_not(monkeypatch):
    data, counts, steps = tiny_data(), [], training.train_steps
    recipe = tmu_jax.Recipe(epochs=2, batch_size=10)
    split = tmu_jax.data.forget_subset(data, target_classes=[1], num_forget=10).train

    def spy(*args, **options):
        counts.append(int(args[7]))
        return steps(*args, **options)

    patch_everywhere(monkeypatch, steps, spy)
    as_before = tmu_jax.train(PlainNet(), split, recipe=recipe, key=jax.random.key(0))
    assert counts == [2, 2, 16, 20]
    counts.clear()
    monkeypatch.setattr(calls, "SECONDS", 0.0)
    one_by_one = tmu_jax.train(PlainNet(), split, recipe=recipe, key=jax.random.key(0))
    assert counts == [2, 2] + [1] * 36
    assert one_by_one.losses == as_before.losses
    for one, other in zip(*(jax.tree.leaves(m.variables) for m in (as_before, one_by_one)), strict=True):
        assert (one == other).all()
