"""The generated images against their stated distribution, by moments and by a nearest-neighbour classifier."""

import time

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from tmu_jax.data import load, synthetic
from tmu_jax.data.synthetic import generate

EASY = {"kinds_per_class": 1, "class_share": 1.0, "background_share": 0.0, "noise": 0.1}


def spectra(images: np.ndarray) -> np.ndarray:
    """Amplitudes of the low frequencies, which a shift hardly changes: float[n, features]."""
    waves = np.fft.rfft2(images.astype(np.float32) - 127.5, axes=(2, 1))
    amplitudes = np.abs(waves[:, :7, np.r_[0:7, -6:0]])
    return amplitudes.reshape(len(images), -1)


def neighbour_correct(num_train: int = 600, num_test: int = 500, seed: int = 0, **settings) -> np.ndarray:
    """bool[num_test]: does the nearest training image have the test image's class?"""
    data = generate(num_train, num_test, seed, **settings)
    classifier = KNeighborsClassifier(1).fit(spectra(data.train_images), data.train_labels)
    return classifier.predict(spectra(data.test_images)) == data.test_labels


@pytest.fixture(scope="module")
def loaded():
    """The set, and the seconds of processor time that it took."""
    start = time.process_time()
    return load("synthetic"), time.process_time() - start


@pytest.fixture(scope="module")
def data(loaded):
    return loaded[0]


def test_generation_takes_seconds(loaded):
    assert loaded[1] < 10


def test_default_sizes_types_and_balance(data):
    assert data.train_images.shape == (5000, 32, 32, 3)
    assert data.test_images.shape == (2500, 32, 32, 3)
    assert data.train_images.dtype == data.test_images.dtype == np.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    assert np.bincount(data.train_labels).tolist() == [500] * 10
    assert np.bincount(data.test_labels).tolist() == [250] * 10
    assert data.source == "generated from seed 0"
    assert len(set(data.class_names)) == 10


def test_pixels_use_the_range_without_piling_up_at_its_ends(data):
    pixels = data.train_images
    assert abs(pixels.mean() - 127.5) < 3
    assert 30 < pixels.std() < 60
    assert np.mean((pixels == 0) | (pixels == 255)) < 0.05


def test_the_seed_alone_decides(data):
    small = generate(500, 300, seed=1)
    assert generate(500, 300, seed=1).fingerprint == small.fingerprint
    assert generate(500, 300, seed=2).fingerprint != small.fingerprint
    other = load("synthetic", seed=1)
    assert (other.source, other.name) == ("generated from seed 1", "synthetic")
    assert (other.train_images != data.train_images).mean() > 0.9
    np.testing.assert_array_equal(generate(500, 10, seed=1).train_images, small.train_images)
    np.testing.assert_array_equal(generate(10, 300, seed=1).test_images, small.test_images)


def test_no_image_occurs_twice(data):
    images = data.pool.images
    assert len({image.tobytes() for image in images}) == len(images)


def test_train_and_test_are_draws_of_one_distribution(data):
    """Feature means of the same class differ by chance alone; those of different classes do not."""

    def standardised(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        spread = np.sqrt(first.var(axis=0) / len(first) + second.var(axis=0) / len(second))
        return (first.mean(axis=0) - second.mean(axis=0)) / spread

    train, test = spectra(data.train_images[:2000]), spectra(data.test_images[:2000])
    train_labels, test_labels = data.train_labels[:2000], data.test_labels[:2000]
    for c in range(10):
        mine = train[train_labels == c]
        # The mean of a squared standard score is 1, within 0.15 for hundreds of correlated features.
        assert np.mean(standardised(mine, test[test_labels == c]) ** 2) < 2
        assert np.mean(standardised(mine, test[test_labels == (c + 1) % 10]) ** 2) > 5


def test_classes_of_one_kind_are_told_apart_wholly():
    assert neighbour_correct(300, 200, **EASY).mean() > 0.98


@pytest.mark.parametrize(
    ("easier", "harder"),
    [
        ({"kinds_per_class": 5}, {"kinds_per_class": 80}),
        ({"zipf_exponent": 2.0}, {"zipf_exponent": 0.0}),
        ({"class_share": 0.9}, {"class_share": 0.0}),
        ({"background_share": 0.1}, {"background_share": 0.6}),
        ({"background_share": 0.6, "num_backgrounds": 1}, {"background_share": 0.6, "num_backgrounds": 200}),
        ({"noise": 0.1}, {"noise": 4.0}),
    ],
)
def test_every_setting_changes_the_difficulty_as_said(easier, harder):
    others = {"kinds_per_class": 60, "class_share": 0.2, "background_share": 0.2}
    # The standard error of a difference of two accuracies over 500 images is below 3.2 points.
    assert neighbour_correct(**others | easier).mean() > neighbour_correct(**others | harder).mean() + 0.1


def test_kinds_follow_zipf():
    """Without background and noise an image's nearest kind is its own but for its shift and hidden part."""
    data = generate(2000, 10, kinds_per_class=6, zipf_exponent=1.0, class_share=0.0, background_share=0.0, noise=0.0)
    kinds = synthetic._objects(np.random.default_rng([0, 0]), 6, 0.0)
    mine = data.train_labels == 3
    own = spectra(kinds[3][:, 4:36, 4:36] + 127.5)
    features = spectra(data.train_images[mine])
    cosine = (features @ own.T) / np.linalg.norm(own, axis=1) / np.linalg.norm(features, axis=1, keepdims=True)
    counts = np.bincount(cosine.argmax(axis=1), minlength=6)
    frequencies = np.arange(1, 7) ** -1.0
    # 0.408, 0.204, 0.136, ... of 200, each within 4 standard errors of at most 7.
    np.testing.assert_allclose(counts, 200 * frequencies / frequencies.sum(), atol=28)


def test_backgrounds_are_shared_by_all_classes_and_by_training_and_test():
    """Images that are background alone look alike whatever their class: a neighbour tells the background, no class."""
    settings = {"background_share": 1.0, "num_backgrounds": 3, "noise": 0.0}
    assert neighbour_correct(**settings).mean() < 0.2
    data = generate(300, 200, **settings)
    backgrounds = synthetic._textures(np.random.default_rng([0, 3]), 3)
    own = spectra(backgrounds[:, 4:36, 4:36] + 127.5)
    for images in (data.train_images, data.test_images):
        features = spectra(images)
        cosine = (features @ own.T) / np.linalg.norm(own, axis=1) / np.linalg.norm(features, axis=1, keepdims=True)
        assert np.median(cosine.max(axis=1)) > 0.9
        assert np.bincount(cosine.argmax(axis=1), minlength=3).min() > len(images) / 3 - 4 * np.sqrt(
            len(images) * 2 / 9
        )


def test_objects_share_their_class_part_as_said():
    objects = synthetic._objects(np.random.default_rng(0), 40, 0.3)
    assert objects.dtype == np.float32
    np.testing.assert_allclose(objects.var(axis=(2, 3, 4)).mean(), 1, atol=0.05)
    products = np.einsum("ckyxi,cjyxi->ckj", objects, objects) / objects[0, 0].size
    apart = products[:, ~np.eye(40, dtype=bool)]
    np.testing.assert_allclose(apart.mean(), 0.3, atol=0.03)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_train": 9}, ValueError, "num_train must be 10 or more, got 9"),
        ({"num_test": 2.0}, TypeError, "num_test must be an integer"),
        ({"seed": -1}, ValueError, "seed must be 0 or more"),
        ({"kinds_per_class": 0}, ValueError, "kinds_per_class must be 1 or more"),
        ({"class_share": 1.5}, ValueError, r"class_share must lie within 0\.\.1, got 1.5"),
        ({"background_share": float("nan")}, ValueError, "background_share"),
        ({"num_backgrounds": 0}, ValueError, "num_backgrounds must be 1 or more"),
        ({"noise": -0.1}, ValueError, "noise and zipf_exponent must be 0 or more"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        generate(**arguments)
