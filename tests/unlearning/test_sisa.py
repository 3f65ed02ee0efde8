"""Shards: what a request leaves is, bit by bit, what would have been trained without its images."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

import tmu_jax
from tests.patching import patch_everywhere
from tests.tiny import TinyNet, tiny_data
from tests.unlearning import linear
from tmu_jax import training
from tmu_jax.data import Split
from tmu_jax.stages import key_for
from tmu_jax.training import Recipe, predict
from tmu_jax.unlearning import ensemble, sisa

KEY = jax.random.key(5)
RECIPE = Recipe(epochs=4, batch_size=10, learning_rate=0.05)


@pytest.fixture(scope="module")
def problem():
    return tmu_jax.data.forget_indices(tiny_data(), [5, 17, 40])


@pytest.fixture(scope="module")
def original(problem):
    return tmu_jax.train(TinyNet(), problem.train, recipe=RECIPE, key=jax.random.key(0))


@pytest.fixture(scope="module")
def shards(problem):
    return sisa.train(TinyNet(), problem.train, key=KEY, recipe=RECIPE, shards=4)


@pytest.fixture(scope="module")
def sliced(problem):
    return sisa.train(TinyNet(), problem.train, key=KEY, recipe=RECIPE, shards=2, slices=3)


def test_every_image_is_in_one_slice_of_one_shard(problem):
    found = sisa.divided(problem.train, KEY, 3, 4)
    assert [len(shard) for shard in found] == [4, 4, 4]
    rows = np.concatenate([one for shard in found for one in shard])
    np.testing.assert_array_equal(np.sort(rows), problem.train.indices)
    sizes = [sum(map(len, shard)) for shard in found]
    assert max(sizes) - min(sizes) <= 1
    other = sisa.divided(problem.train, jax.random.key(6), 3, 4)
    assert not np.array_equal(found[0][0], other[0][0])


def test_a_touched_shard_is_a_training_from_scratch_on_what_remains_and_the_others_are_as_they_were(problem, shards):
    rows = shards[1].slices[0][[2, 7]]
    left = sisa.forget(shards, problem.train, rows, RECIPE)
    assert [one is other for one, other in zip(left, shards, strict=True)] == [True, False, True, True]
    remaining = np.setdiff1d(shards[1].slices[0], rows).astype(np.int32)
    scratch = tmu_jax.train(TinyNet(), Split(problem.pool, remaining), key=shards[1].key, recipe=RECIPE)
    chex.assert_trees_all_equal(left[1].states[-1].variables, scratch.variables)
    np.testing.assert_array_equal(left[1].states[-1].normalization.mean, scratch.normalization.mean)
    assert not np.array_equal(left[1].states[-1].normalization.mean, shards[1].states[-1].normalization.mean)


@pytest.mark.parametrize("hit", [0, 1, 2])
def test_a_sliced_shard_goes_on_from_the_slice_before_and_is_the_same_training_from_scratch(problem, sliced, hit):
    rows = sliced[0].slices[hit][:2]
    left = sisa.forget(sliced, problem.train, rows, RECIPE)
    assert left[1] is sliced[1]
    kept = [one.variables is other.variables for one, other in zip(left[0].states, sliced[0].states, strict=True)]
    assert kept == [number < hit for number in range(3)]
    slices = tuple(one[~np.isin(one, rows)] for one in sliced[0].slices)
    scratch = sisa.trained_on(TinyNet(), problem.train, slices, sliced[0].key, RECIPE)
    chex.assert_trees_all_equal([one.variables for one in left[0].states], [one.variables for one in scratch])


def test_slices_add_up_and_take_the_epochs_of_the_published_schedule(problem, sliced, monkeypatch):
    """A = 2 · 4 / (3 + 1) = 2 epochs each; the state before a slice never saw it."""
    seen = []
    fit = sisa.fit

    def spy(module, variables, normalization, pool, stream, targets, weights, recipe, *rest, **options):
        seen.append((stream.groups[0], recipe.epochs))
        return fit(module, variables, normalization, pool, stream, targets, weights, recipe, *rest, **options)

    from tests.patching import patch_everywhere

    patch_everywhere(monkeypatch, fit, spy)
    sisa.trained_on(TinyNet(), problem.train, sliced[0].slices, sliced[0].key, RECIPE)
    assert [epochs for _, epochs in seen] == [2, 2, 2]
    for number, (rows, _) in enumerate(seen):
        np.testing.assert_array_equal(rows, np.sort(np.concatenate(sliced[0].slices[: number + 1])))
    seen.clear()
    five = dataclasses.replace(RECIPE, epochs=5)  # 2.5 each, rounded down together
    sisa.trained_on(TinyNet(), problem.train, sliced[0].slices, sliced[0].key, five)
    assert [epochs for _, epochs in seen] == [2, 3, 2]


def test_the_ensemble_answers_by_the_mean_of_the_members_probabilities(problem, shards):
    model = sisa.model_of(shards)
    apart = [predict(shard.states[-1], problem.test) for shard in shards]
    logits, embeddings = predict(model, problem.test)
    mean = np.mean([linear.softmax(logits.astype(np.float64)) for logits, _ in apart], axis=0)
    np.testing.assert_allclose(np.exp(logits), mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(linear.softmax(logits), mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(embeddings, np.concatenate([one for _, one in apart], axis=1), rtol=1e-5, atol=1e-6)
    for number, shard in enumerate(shards):
        member = ensemble.member_of(model, number)
        chex.assert_trees_all_equal(member.variables, shard.states[-1].variables)
        np.testing.assert_array_equal(member.normalization.std, shard.states[-1].normalization.std)
        chex.assert_trees_all_equal(model.unwrap()[number], shard.states[-1].variables)


def test_unlearn_trains_the_shards_and_then_forgets(problem, original):
    found = tmu_jax.unlearn("sisa", problem, original, key=KEY, shards=4)
    own = key_for(KEY, "method sisa")
    trained = sisa.train(TinyNet(), problem.train, key=own, recipe=RECIPE, shards=4)
    touched = [bool(np.isin(shard.slices[0], problem.forget.indices).any()) for shard in trained]
    assert 1 <= sum(touched) <= 3
    left = sisa.forget(trained, problem.train, problem.forget.indices, RECIPE)
    for number, (one, before) in enumerate(zip(left, trained, strict=True)):
        member = ensemble.member_of(found, number)
        chex.assert_trees_all_equal(member.variables, one.states[-1].variables)
        same = np.array_equal(member.variables["params"]["Dense_0"]["kernel"],
                              before.states[-1].variables["params"]["Dense_0"]["kernel"])  # fmt: skip
        assert same == (not touched[number])
    assert set(found.seconds_by_part) == {"shards", "unlearning"}
    assert found.seconds == pytest.approx(sum(found.seconds_by_part.values()))
    assert f"{sum(touched)} of 4 were" in found.notes[0]
    assert found.recipe == RECIPE
    expected = 1 - (3 / 4) ** len(problem.forget)
    drawn = RECIPE.epochs * (len(problem.train) + expected * len(problem.retain))
    assert tmu_jax.METHODS["sisa"].configured(None, {"shards": 4}).work(problem, RECIPE) == pytest.approx(drawn)
    evaluation = tmu_jax.evaluate(problem, found, gold=original)
    assert 0 <= evaluation.readouts.forget_accuracy <= 100


def test_the_cost_of_a_request_is_that_of_the_shards_that_it_touches(problem, shards, monkeypatch):
    drawn = []
    train = sisa.training.train
    monkeypatch.setattr(sisa.training, "train", lambda module, data, **options: drawn.append(len(data)) or train(
        module, data, **options))  # fmt: skip
    sisa.forget(shards, problem.train, shards[2].slices[0][:5], RECIPE)
    assert drawn == [len(shards[2].slices[0]) - 5]
    sisa.forget(shards, problem.train, np.array([250]), RECIPE)
    assert len(drawn) == 1


def test_an_ensemble_is_saved_and_loaded_by_its_module(problem, original, tmp_path):
    found = tmu_jax.unlearn("sisa", problem, original, key=KEY, shards=2)
    folder = found.save(tmp_path / "after")
    read = tmu_jax.load(folder, ensemble.module_of(TinyNet(), 2))
    np.testing.assert_array_equal(predict(read, problem.test)[0], predict(found, problem.test)[0])
    assert read.module == found.module == tmu_jax.METHODS["sisa"].module_of(TinyNet(), shards=2, slices=1)
    assert found.module != ensemble.module_of(TinyNet(), 3)


def test_each_slice_has_a_key_of_its_own(problem, sliced, monkeypatch):
    keys = []

    def spy(*args, **kwargs):
        keys.append(jax.random.key_data(args[8]).tolist())
        return fit(*args, **kwargs)

    fit = training.fit
    patch_everywhere(monkeypatch, fit, spy)
    sisa.trained_on(TinyNet(), problem.train, sliced[0].slices, sliced[0].key, RECIPE)
    assert len(set(map(tuple, keys))) == len(keys) == 3


def test_what_cannot_be_divided_is_refused_by_name(problem, original, shards, monkeypatch):
    for options, said in (
        ({"shards": 0}, "shards=0 must be a whole number, at least 1"),
        ({"slices": 1.5}, "slices=1.5 must be a whole number, at least 1"),
        ({"shards": 150, "slices": 2}, "shards=150, slices=2: 200 images do not fill so many"),
        ({"slices": 8}, "slices=8 leave some without an epoch of the recipe's 4; take at most 7"),
    ):
        with pytest.raises(ValueError, match=said):
            tmu_jax.unlearn("sisa", problem, original, key=KEY, **options)
    with pytest.raises(ValueError, match="first slice is left without an image"):
        sisa.forget(shards, problem.train, shards[0].slices[0], RECIPE)
    most = tmu_jax.data.forget_indices(tiny_data(), range(190), ratio="all")
    with monkeypatch.context() as patch:
        patch.setattr(sisa, "trained_on", lambda *args: pytest.fail("trained"))
        with pytest.raises(ValueError, match="first slice is left without an image"):
            tmu_jax.unlearn("sisa", most, original, key=KEY, shards=20)
    with pytest.raises(ValueError, match="recipe=None"):
        tmu_jax.unlearn("sisa", problem, dataclasses.replace(original, recipe=None), key=KEY)
