"""What `check` finds between a model and a data set: each fault planted alone, and none where there is none."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import tmu_jax
from tests.tiny import tiny_data
from tests.training import users
from tmu_jax.cpu import conv_general_dilated
from tmu_jax.training import checking

DATA = tiny_data()
MEAN, STD = (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)


@pytest.fixture(autouse=True)
def users_settings():
    """Users' modules mix dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def normalised(images):
    return (images - jnp.asarray(MEAN)) / jnp.asarray(STD)


def nearest(tree, images):
    """Right on nearly all images: logits by the distance to each class's mean, of normalised pixels."""
    distances = jnp.sum((users.flat(images)[:, None] - tree["means"]) ** 2, -1)
    return -distances * tree["sharpness"]


def tree_of(data=DATA):
    images = normalised(data.train_images / np.float32(255))
    means = np.stack([users.flat(images)[data.train_labels == c].mean(0) for c in range(4)])
    return {"means": jnp.asarray(means), "sharpness": jnp.float32(0.1)}


def wrapped(function=nearest, **options):
    return tmu_jax.wrap(function, tree_of(), **{"normalization": (MEAN, STD), **options})


def right(data=DATA):
    """The accuracy of `nearest`, in NumPy."""
    logits = nearest(tree_of(), normalised(data.test_images / np.float32(255)))
    return 100 * float(np.mean(np.argmax(logits, 1) == data.test_labels))


def test_a_model_that_fits_has_no_problems():
    found = tmu_jax.check(wrapped(), DATA, expected_accuracy=right())
    assert found.problems == ()
    assert found.accuracy == pytest.approx(right())
    assert found.accuracy > 90
    assert found.train_accuracy > 90
    assert found.images_per_second > 10
    assert "the logits themselves" in found.notes[0]
    assert str(found).startswith("the model fits the data")
    assert "images per second" in str(found)


def only_problem(model, data=DATA, expected_accuracy=None):
    found = model.check(data, expected_accuracy)
    assert len(found.problems) == 1, found
    assert str(found).startswith("1 problem")
    return found.problems[0]


@pytest.mark.parametrize("normalization", [None, (0.0, 1 / 255)])
def test_a_normalisation_in_other_units(normalization):
    sentence = only_problem(wrapped(sensitive, normalization=normalization), expected_accuracy=right())
    assert f"and {right():g} % were expected" in sentence
    assert "with normalization=(0.5, 0.5) it is" in sentence
    assert "the normalisation seems to be in other units" in sentence


def sensitive(tree, images):
    """As a network is that has seen no other pixels: what lies far outside of them has the answer of class 0."""
    logits = nearest(tree, images)
    far = jnp.abs(images.mean((1, 2, 3), keepdims=False)) > 0.5
    return jnp.where(far[:, None], jnp.arange(4) * -5.0, logits)


def test_channels_in_another_order():
    """Their order is told by which prediction is right, for there is no shape to it."""
    sentence = only_problem(wrapped(preprocess=lambda images: images[..., ::-1]), expected_accuracy=right())
    assert "images[..., ::-1]" in sentence


def test_chance_is_a_problem_without_an_expectation():
    noise = {
        "means": jnp.asarray(np.random.default_rng(3).normal(size=(4, 48)), jnp.float32),
        "sharpness": jnp.ones(()),
    }
    sentence = only_problem(tmu_jax.wrap(lambda tree, images: nearest(tree, images) * 0, noise))
    assert "no better than one class for all (25.0 %)" in sentence


def rewrapped(model, **options):
    """The same model, wrapped with other options."""
    return dataclasses.replace(model, module=dataclasses.replace(model.module, **options))


def test_softmax_in_place_of_logits():
    assert "leave out the softmax" in only_problem(wrapped(lambda tree, x: jax.nn.softmax(nearest(tree, x))))
    assert tmu_jax.check(wrapped(lambda tree, x: jax.nn.log_softmax(nearest(tree, x))), DATA).problems == ()
    # Each class by itself: they do not add up to 1.
    each = wrapped(lambda tree, x: jax.nn.sigmoid(nearest(tree, x) + 3))
    assert "they all lie in 0..1" in only_problem(each)
    assert "they all lie in 0..1" in only_problem(rewrapped(each, output="sigmoid"))


def test_embedding_and_logits_swapped():
    pair = wrapped(lambda tree, x: (users.flat(x), nearest(tree, x)))
    assert "it must return (logits, embedding), in this order" in only_problem(pair)
    assert tmu_jax.check(wrapped(lambda tree, x: (nearest(tree, x), users.flat(x))), DATA).problems == ()


def test_outputs_that_are_not_as_many_as_the_classes():
    assert "6 outputs, and the data 4 classes" in only_problem(
        wrapped(lambda tree, x: jnp.concatenate([nearest(tree, x), nearest(tree, x)[:, :2]], 1))
    )
    binary = tmu_jax.data.from_arrays(DATA.train_images, DATA.train_labels % 2, DATA.test_images, DATA.test_labels % 2)
    one = {"function": lambda tree, x: nearest(tree, x)[:, :1]}
    assert "output='sigmoid'" in only_problem(wrapped(**one), binary)
    found = tmu_jax.check(wrapped(**one, output="sigmoid"), binary)
    rounded = {"function": lambda tree, x: jax.nn.sigmoid(one["function"](tree, x))}
    assert "they all lie in 0..1" in only_problem(wrapped(**rounded, output="sigmoid"), binary)
    assert not [sentence for sentence in found.problems if "output" in sentence]


def test_channels_first():
    data = tmu_jax.data.from_arrays(
        *(part for images, labels in ((DATA.train_images, DATA.train_labels), (DATA.test_images, DATA.test_labels))
          for part in (np.pad(images, ((0, 0), (1, 1), (0, 0), (0, 0))), labels))
    )  # fmt: skip
    variables = users.Convolving().init(jax.random.key(0), jnp.zeros((1, 6, 4, 3)))

    def takes_channels_first(tree, images):
        return users.Convolving().apply(tree, images.transpose(0, 2, 3, 1))

    sentence = only_problem(tmu_jax.wrap(takes_channels_first, variables), data)
    assert "cannot take images float32[n, 6, 4, 3]" in sentence
    assert "preprocess=lambda images: images.transpose(0, 3, 1, 2)" in sentence
    turned = tmu_jax.wrap(takes_channels_first, variables, preprocess=users.channels_first)
    assert checking.outputs_on(turned, (6, 4, 3))[0].shape == (2, 4)
    moved = dataclasses.replace(
        data, train_images=data.train_images.transpose(0, 3, 1, 2), test_images=data.test_images.transpose(0, 3, 1, 2)
    )
    assert "the data's images have their channels first" in only_problem(
        tmu_jax.wrap(users.Convolving(), variables), moved
    )


def test_a_model_for_other_shapes():
    other = tmu_jax.wrap(users.Unaware(), users.variables_of(users.Unaware()))
    larger = tiny_data()
    larger = dataclasses.replace(
        larger, train_images=larger.train_images.repeat(2, 1), test_images=larger.test_images.repeat(2, 1)
    )
    assert "cannot take images float32[n, 8, 4, 3]: ScopeParamShapeError" in only_problem(other, larger)


def test_pixels_of_0_and_1():
    small = dataclasses.replace(DATA, train_images=DATA.train_images // 128, test_images=DATA.test_images // 128)
    found = tmu_jax.check(wrapped(), small)
    assert "the largest pixel is 1, of 0 to 255" in found.problems[0]


def test_what_runs_and_cannot_be_trained():
    def untrainable(tree, images, train):
        if train:
            raise RuntimeError("only for inference")
        return nearest(tree, images)

    assert "cannot be trained: RuntimeError: only for inference" in only_problem(wrapped(untrainable))


@pytest.mark.parametrize("value", [0.94, 0, 101, float("nan")])
def test_an_expectation_is_percent(value):
    with pytest.raises(ValueError, match="must be percent"):
        tmu_jax.check(wrapped(), DATA, expected_accuracy=value)


def by(convolve):
    def convolving(tree, images):
        numbers = ("NHWC", "HWIO", "NHWC")
        hidden = convolve(images, tree["kernel"], (1, 1), "SAME", dimension_numbers=numbers)
        return jax.nn.relu(hidden).mean((1, 2))

    return convolving


def test_whose_convolutions_run_on_a_cpu():
    """Ours under Linen's and NNX's own layers; of a function those that it was handed."""
    tree = {"kernel": jnp.ones((3, 3, 3, 4))}
    models = {
        "Linen": (tmu_jax.wrap(users.Wide(), users.Wide().init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))), True),
        "NNX": (tmu_jax.wrap(users.nnx_net()), True),
        "theirs": (tmu_jax.wrap(by(lax.conv_general_dilated), tree), False),
        "ours": (tmu_jax.wrap(by(conv_general_dilated), tree), True),
        "bfloat16": (tmu_jax.wrap(users.Wide(jnp.bfloat16), users.variables_of(users.Wide())), False),
    }
    for name, (model, is_fast) in models.items():
        (note,) = checking._convolution_note(model, DATA)
        assert ("are the fast ones" in note) == is_fast, name
        assert ("1 of 1 convolutions are XLA's own" in note) != is_fast, name
        assert ("hand tmu_jax.cpu.conv_general_dilated" in note) == (name == "theirs"), name
