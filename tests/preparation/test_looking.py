"""Looking at a request: what it is found to be, on data where it is known."""

import dataclasses

import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import tmu_jax
from tests.preparation.made import DATA, RECIPE
from tests.tiny import TinyNet, tiny_data
from tmu_jax import look
from tmu_jax.data import Split
from tmu_jax.preparation import looking
from tmu_jax.preparation.calibration import bank_features

MEMORISING = dataclasses.replace(RECIPE, epochs=40, learning_rate=0.2)


def noisy(seed, noise=90):
    """Data of which a model learns a part by heart: its images differ from seed to seed."""
    easy, rng = tiny_data(num_train=200, num_test=120, seed=seed), np.random.default_rng(seed)
    images = [
        np.clip(part + rng.normal(0, noise, part.shape), 0, 255) for part in (easy.train_images, easy.test_images)
    ]
    train, test = (part.astype(np.uint8) for part in images)
    return tmu_jax.data.from_arrays(train, easy.train_labels, test, easy.test_labels)


def mislabelled(data, count=40):
    labels = data.train_labels.copy()
    labels[:count] = (labels[:count] + 1) % 4
    return tmu_jax.data.from_arrays(data.train_images, labels, data.test_images, data.test_labels)


def trained(pool, rows, seed, recipe=MEMORISING):
    split = Split(pool, np.asarray(rows, np.int32))
    return tmu_jax.train(TinyNet(width=64), split, recipe=recipe, key=jax.random.key(seed))


@pytest.mark.parametrize("seed", range(3))
def test_a_finished_model_that_was_trained_on_the_heldout_images_is_found_out_by_a_bank(seed):
    data = noisy(seed)
    found = {}
    for name, count in (("proper", 200), ("trained on", 320)):
        model = trained(data.pool, range(count), seed)
        ready = tmu_jax.prepare(model, data, heldout=60, twin_epochs_share=0.05, key=jax.random.key(seed))
        found[name] = look(ready.problem(range(12)), ready)
    assert found["proper"]["heldout_unseen"].holds is True
    one = found["trained on"]["heldout_unseen"]
    assert one.holds is False
    assert one.value < one.threshold
    assert any("the held-out images were trained on" in note for note in found["trained on"].notes)
    assert any("measured on held-out images" in claim for claim in found["trained on"].forbids)


def test_without_a_bank_fresh_test_images_tell_and_where_nothing_tells_it_says_so():
    cleared = []
    for seed in range(3):
        data = noisy(seed)
        problem = tmu_jax.data.forget_indices(data, range(36), heldout_source="train")
        proper, finished = (trained(data.pool, rows, seed) for rows in (problem.train.indices, range(200)))
        cleared.append(look(problem, proper)["heldout_unseen"].holds)
        one = look(problem, finished)["heldout_unseen"]
        assert one.holds is False
        assert "above those on other test images" in one.sentence
    assert False not in cleared
    assert any(holds is True for holds in cleared)
    everything = trained(data.pool, range(320), seed)  # the test images too: nothing fresh is left to compare with
    assert look(problem, everything)["heldout_unseen"].holds is None


@pytest.mark.parametrize("is_trained_on", [False, True])
def test_the_twin_model_finds_out_that_the_heldout_images_were_trained_on(ready, monkeypatch, is_trained_on):
    """Planted answers: what a model was trained on it is surer of."""
    trained, heldout = ready.train.indices, ready.heldout.indices

    def planted(model, split):
        seen = np.concatenate([trained, heldout]) if model is ready.twin or is_trained_on else trained
        logits = np.random.default_rng(len(split)).normal(size=(len(split), 4))
        logits[np.arange(len(split)), split.labels] += np.where(np.isin(split.indices, seen), 4, 1)
        return logits, logits

    monkeypatch.setattr(looking, "predict", planted)
    found = looking._unseen_by_twin(ready)
    assert (found is not None and found.holds is False) == is_trained_on


def test_the_twin_model_is_asked_of_images_that_it_never_saw(ready, monkeypatch):
    asked = []

    def spied(model, split):
        asked.append((model, split.indices))
        return tmu_jax.predict(model, split)

    monkeypatch.setattr(looking, "predict", spied)
    looking._unseen_by_twin(ready)
    of_twin = np.concatenate([rows for model, rows in asked if model is ready.twin])
    of_original = np.concatenate([rows for model, rows in asked if model is ready.original])
    trained, fresh = ready.train.indices, np.setdiff1d(ready.test.indices, ready.heldout.indices)
    np.testing.assert_array_equal(np.sort(of_twin), np.union1d(trained, fresh))
    np.testing.assert_array_equal(np.sort(of_original), np.union1d(trained, ready.heldout.indices))


@pytest.mark.parametrize("seed", range(2))
def test_of_easy_images_nobody_is_accused(seed):
    """All are right everywhere, whoever was trained on what."""
    data = noisy(seed, noise=0)
    for count in (200, 320):
        model = trained(data.pool, range(count), seed, dataclasses.replace(RECIPE, epochs=4))
        ready = tmu_jax.prepare(model, data, heldout=60, twin_epochs_share=0.05, key=jax.random.key(seed))
        assert look(ready.problem(range(12)), ready).allows("heldout_unseen")
        problem = tmu_jax.data.forget_indices(data, range(12))
        assert look(problem, model).allows("heldout_unseen")


@pytest.mark.parametrize("seed", range(3))
def test_mislabelled_images_are_no_random_draw_and_others_are_by_a_model_alone(seed):
    data = mislabelled(noisy(seed, noise=40), 24)
    model = trained(data.pool, range(200), seed)
    learnt = tmu_jax.predict(model, Split(data.pool, np.arange(24, dtype=np.int32)))[0].argmax(-1)
    assert np.mean(learnt == data.train_labels[:24]) > 0.9
    drawn = np.random.default_rng(seed).permutation(200)[:40]
    assert look(tmu_jax.data.forget_indices(data, drawn), model)["random_draw"].holds is True
    odd = look(tmu_jax.data.forget_indices(data, range(24)), model)["random_draw"]
    assert odd.holds is False
    assert odd.value > odd.threshold >= 65
    assert "what stays of their classes" in odd.sentence


def test_with_a_bank_the_draw_is_judged_class_by_class_and_by_the_number_of_images(ready):
    """Of one class its likeness to held-out images of that class; few images must differ more."""
    whole = np.flatnonzero(DATA.train_labels == 1)[:30]
    sets = (Split(DATA.pool, whole.astype(np.int32)), ready.problem([1]).heldout)
    ours, theirs = (bank_features(ready.bank.answers(one.indices), one.labels) for one in sets)
    is_ours = np.repeat([1, 0], [len(ours), len(theirs)])
    areas = [roc_auc_score(is_ours, column) for column in np.concatenate([ours, theirs]).T]
    found, few = (look(ready.problem(rows), ready)["random_draw"] for rows in (whole, whole[:4]))
    assert found.value == pytest.approx(100 * max(max(area, 1 - area) for area in areas))
    assert found.holds is True
    assert few.threshold > found.threshold >= 65


@pytest.mark.parametrize("seed", range(2))
def test_mislabelled_images_are_no_random_draw_by_a_bank(seed):
    data = mislabelled(noisy(seed, noise=40), 24)
    ready = tmu_jax.prepare(TinyNet(), data, heldout=60, recipe=RECIPE, twin_epochs_share=0.1, key=jax.random.key(seed))
    assert look(ready.problem(range(24)), ready)["random_draw"].holds is False
    drawn = np.random.default_rng(seed).permutation(200)[:40]
    assert look(ready.problem(drawn), ready)["random_draw"].holds is True


def test_whole_and_tiny_classes_are_named(ready):
    whole = np.flatnonzero(DATA.train_labels == 2)
    most = np.flatnonzero(DATA.train_labels == 1)[:-9]
    found = look(ready.problem([0, 4, *most, *whole]), ready)
    assert found["whole_classes"].value == 1
    assert "of class 2 nothing stays" in found["whole_classes"].sentence
    assert (found["images_left"].value, found["images_left"].holds) == (9, False)
    assert "class 1 has 9 remaining images, fewer than 10" in found["images_left"].sentence
    assert (found["heldout_images"].value, found["heldout_images"].holds) == (10, True)
    few = look(tmu_jax.data.forget_indices(DATA, range(4)), ready.original)
    assert (few["heldout_images"].value, few["heldout_images"].holds) == (1, False)
    only = look(ready.problem(whole), ready)
    assert only["heldout_images"].holds is None
    assert "not to be claimed: a comparison with held-out images of a class that leaves whole" in repr(only)
    alone = look(tmu_jax.data.forget_indices(DATA, whole, ratio="all"), ready.original)
    assert alone["random_draw"].value is None


def test_an_unlearned_model_is_asked_as_it_was_before_the_request(ready):
    problem = tmu_jax.data.forget_indices(DATA, range(30))
    unlearned = tmu_jax.unlearn("finetune", problem, ready.original, key=jax.random.key(0))
    assert look(problem, unlearned) == look(problem, ready.original)


def test_what_cannot_be_looked_at(ready):
    with pytest.raises(TypeError, match="not an int"):
        look(ready.problem([1]), 3)
    with pytest.raises(ValueError, match="of other images"):
        look(tmu_jax.data.forget_indices(noisy(5), [1]), ready)
    with pytest.raises(KeyError, match="'weather' is no finding"):
        _ = look(ready.problem([1]), ready)["weather"]
