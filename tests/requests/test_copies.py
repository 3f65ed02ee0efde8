"""Near copies, by the embeddings of a model whose embeddings are known: the pixels themselves, or a trained one's."""

import dataclasses

import jax
import numpy as np
import pytest

import tmu_jax
from tests.tiny import PlainNet, TinyNet, tiny_data
from tmu_jax import Ledger, find_copies
from tmu_jax.data import Split
from tmu_jax.requests.copies import NEAR_COSINE
from tmu_jax.training import Normalization, Recipe, TrainedModel


def with_copies():
    """Image 3 again as 11, with a little noise as 20, brighter as 33; image 8 darker as test image 4."""
    data, rng = tiny_data(), np.random.default_rng(0)
    train, test = data.train_images.copy(), data.test_images.copy()
    train[11] = train[3]
    train[20] = np.clip(train[3] + rng.integers(-2, 3, train[3].shape), 0, 255)
    train[33] = np.clip(train[3].astype(int) + 3, 0, 255)
    test[4] = np.clip(train[8].astype(int) - 3, 0, 255)
    return dataclasses.replace(data, train_images=train, test_images=test)


DATA = with_copies()


@pytest.fixture(scope="module")
def pixels():
    """A model whose embedding is the image, about grey."""
    variables = {"params": PlainNet().init(jax.random.key(0), np.zeros((1, 4, 4, 3), np.float32))["params"]}
    half = np.full(3, 0.5, np.float32)
    return TrainedModel(PlainNet(), variables, Normalization(half, half), Recipe())


@pytest.fixture(scope="module")
def trained():
    split = Split(DATA.pool, np.arange(200, dtype=np.int32))
    return tmu_jax.train(TinyNet(), split, key=jax.random.key(0), recipe=Recipe(epochs=20, batch_size=20))


def problem_of(data, rows):
    return tmu_jax.data.forget_indices(data, rows, ratio="all")


def test_near_copies_are_those_within_the_threshold(pixels):
    """Beside all pairs by hand."""
    problem = problem_of(DATA, [3, 8])
    found = find_copies(problem, pixels)
    np.testing.assert_array_equal(found.exact, [[3, 11]])
    assert {tuple(pair) for pair in found.near.tolist()} == {(3, 20), (3, 33), (8, 204)}
    flat = (DATA.pool.images.reshape(280, -1) / 255 - 0.5).astype(np.float64)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(found.cosines, [unit[a] @ unit[b] for a, b in found.near], rtol=1e-5)
    assert np.all(np.diff(found.cosines) <= 0)
    others = np.setdiff1d(np.union1d(problem.retain.indices, problem.heldout.indices), [11, 20, 33, 204])
    assert (unit[[3, 8]] @ unit[others].T).max() < found.threshold
    assert found.cosines.min() >= found.threshold >= NEAR_COSINE
    assert "3 images that stay are nearly equal to forgotten ones" in repr(found)
    assert len(found) == 4


def test_a_model_that_draws_its_classes_together_has_no_copies_everywhere(trained):
    """Cosines within a class are large there; the usual distance to the nearest says how large is near."""
    found = find_copies(problem_of(DATA, [3, 8]), trained)
    assert {20, 33} <= set(found.rows.tolist()) <= {11, 20, 33, 204}
    assert len(find_copies(problem_of(tiny_data(), [3, 8, 40, 41]), trained)) == 0


def test_without_a_model_equal_pixels_alone():
    found = find_copies(problem_of(DATA, [3]))
    assert found.rows.tolist() == [11]
    assert found.threshold is None
    assert repr(find_copies(problem_of(DATA, [50]))) == "no copies among what stays, by pixels"


def test_a_ledger_takes_near_copies_along_and_lists_them_by_id(tmp_path, pixels):
    data = dataclasses.replace(DATA, train_ids=np.array([f"{i}.png" for i in range(200)]))
    listed = Ledger(tmp_path / "a").request(data, ["3.png"], model=pixels)
    assert any("nearly equal to forgotten ones (20.png of 3.png, 33.png of 3.png)" in n for n in listed.notes) or any(
        "33.png of 3.png, 20.png of 3.png" in note for note in listed.notes
    )
    taken = Ledger(tmp_path / "b").request(data, ["3.png"], model=pixels, with_copies=True)
    assert sorted(taken.forget.indices.tolist()) == [3, 11, 20, 33]


def test_a_request_that_took_near_copies_along_is_found_again_as_it_is(tmp_path, pixels):
    """Frame after frame of a film: the copy that was taken along has a near copy of its own, which was not."""
    images, signs = DATA.train_images.copy(), np.random.default_rng(5).choice([-9, 9], (2, 4, 4, 3))
    frames = images[0] + np.cumsum(signs, axis=0)
    images[1:3] = np.clip(frames, 0, 255)
    labels = DATA.train_labels.copy()
    labels[1:3] = labels[0]
    film = dataclasses.replace(DATA, train_images=images, train_labels=labels)
    assert 2 in find_copies(problem_of(film, [0, 1]), pixels).rows
    ledger = Ledger(tmp_path)
    for _ in range(2):
        assert ledger.request(film, [0], model=pixels, with_copies=True).forget.indices.tolist() == [0, 1]
