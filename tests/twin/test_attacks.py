"""PGD against closed forms on linear models and an independent NumPy implementation."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from tmu_jax.twin import attacks

SHAPE = (4, 5, 3)
NUM_CLASSES = 6


@pytest.fixture
def linear():
    """A softmax model with weights float64[pixels, classes], images and labels."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(np.prod(SHAPE), NUM_CLASSES))
    images = rng.uniform(size=(7, *SHAPE)).astype(np.float32)
    # Some pixels lie on the ends of the range, so that its projection is at work.
    images[:, 0] = np.round(images[:, 0])
    return kernel, images, rng.integers(0, NUM_CLASSES, 7).astype(np.int32)


def linear_logits(kernel, image):
    return image.reshape(-1) @ jnp.asarray(kernel, jnp.float32)


def numpy_pgd(kernel, image, label, eps, num_steps, step_size):
    """Steps along the analytic gradient of the cross-entropy, W (softmax - one-hot)."""
    clean = image.astype(np.float64).reshape(-1)
    adversarial = clean.copy()
    for _ in range(num_steps):
        error = scipy.special.softmax(adversarial @ kernel)
        error[label] -= 1
        adversarial = adversarial + step_size * np.sign(kernel @ error)
        adversarial = np.clip(np.clip(adversarial, clean - eps, clean + eps), 0, 1)
    return adversarial.reshape(image.shape)


@pytest.mark.parametrize(("eps", "num_steps", "step_size"), [(4 / 255, 1, None), (8 / 255, 5, None), (0.3, 4, 0.05)])
def test_equals_numpy_pgd_on_a_softmax_model(linear, eps, num_steps, step_size):
    kernel, images, labels = linear
    logits_fn = functools.partial(linear_logits, kernel)
    step = eps / 3 if step_size is None else step_size
    attack = jax.jit(functools.partial(attacks.pgd, logits_fn, eps=eps, num_steps=num_steps, step_size=step_size))
    for image, label in zip(images, labels, strict=True):
        adversarial = attack(jnp.asarray(image), jnp.asarray(label))
        expected = numpy_pgd(kernel, image, label, eps, num_steps, step)
        np.testing.assert_allclose(adversarial, expected, atol=1e-6)


@pytest.mark.parametrize("num_steps", [0, 1, 5])
def test_a_known_ascent_direction_changes_nothing(linear, num_steps):
    kernel, images, labels = linear
    logits_fn = functools.partial(linear_logits, kernel)
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    uphill, logits = jax.vmap(functools.partial(attacks.ascent_direction, logits_fn))(images, labels)
    flat = np.asarray(images, np.float64).reshape(len(images), -1)
    error = scipy.special.softmax(flat @ kernel, axis=1) - np.eye(NUM_CLASSES)[labels]
    np.testing.assert_array_equal(uphill, np.sign(error @ kernel.T).reshape(images.shape))
    np.testing.assert_allclose(logits, flat @ kernel, rtol=1e-4, atol=1e-5)
    for eps in (1 / 255, 0.2):
        settings = {"eps": eps, "num_steps": num_steps}
        known = attacks.attack_batch(logits_fn, images, labels, uphill=uphill, **settings)
        np.testing.assert_array_equal(known, attacks.attack_batch(logits_fn, images, labels, **settings))


@pytest.mark.parametrize("label", [0, 1])
def test_binary_optimum_is_the_corner_against_the_label(label):
    rng = np.random.default_rng(1)
    weights = jnp.asarray(rng.normal(size=SHAPE), jnp.float32)
    image = jnp.asarray(rng.uniform(size=SHAPE), jnp.float32)

    def logits_fn(image):
        return jnp.stack([jnp.zeros(()), jnp.sum(weights * image)])

    adversarial = attacks.pgd(logits_fn, image, jnp.int32(label), eps=0.1)
    # The loss of label 0 grows with the logit of class 1, that of label 1 falls.
    direction = np.sign(weights) * (1 - 2 * label)
    np.testing.assert_allclose(adversarial, np.clip(np.asarray(image) + 0.1 * direction, 0, 1), atol=1e-6)


def test_stays_in_the_ball_and_in_the_pixel_range_and_raises_the_loss(linear):
    kernel, images, labels = linear
    logits_fn = functools.partial(linear_logits, kernel)
    eps = 6 / 255
    adversarial = attacks.attack_batch(logits_fn, jnp.asarray(images), jnp.asarray(labels), eps=eps, num_steps=9)
    assert np.abs(np.asarray(adversarial) - images).max() <= eps * (1 + 1e-5)
    assert np.abs(np.asarray(adversarial) - images).max() >= eps * (1 - 1e-5)
    assert adversarial.min() == 0.0
    assert adversarial.max() == 1.0

    def loss(images):
        logits = jax.vmap(logits_fn)(jnp.asarray(images))
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels))

    assert np.all(np.asarray(loss(adversarial)) > np.asarray(loss(images)))


@pytest.mark.parametrize("settings", [{"eps": 0.0}, {"eps": 0.1, "num_steps": 0}])
def test_no_radius_or_no_step_gives_the_image_back(linear, settings):
    kernel, images, labels = linear
    logits_fn = functools.partial(linear_logits, kernel)
    adversarial = attacks.attack_batch(logits_fn, jnp.asarray(images), jnp.asarray(labels), **settings)
    np.testing.assert_array_equal(adversarial, images)


class SmallNetwork(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        hidden = nn.Conv(8, (3, 3))(2.0 * images - 1.0)
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train)(hidden))
        return nn.Dense(NUM_CLASSES)(jnp.mean(hidden, axis=(1, 2)))


@pytest.fixture
def network():
    model = SmallNetwork()
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    rng = np.random.default_rng(2)
    shift = functools.partial(rng.uniform, 0.1, 0.9)
    statistics = jax.tree.map(lambda x: jnp.asarray(shift(size=x.shape), x.dtype), variables["batch_stats"])
    variables = {"params": variables["params"], "batch_stats": statistics}
    return variables, lambda image: model.apply(variables, image[None], train=False)[0]


def test_jit_and_traced_eps_equal_eager_and_vmap_equals_a_loop(network, linear):
    _, logits_fn = network
    images, labels = jnp.asarray(linear[1][:3]), jnp.asarray(linear[2][:3])
    eps = 8 / 255
    loop = [attacks.pgd(logits_fn, image, label, eps=eps) for image, label in zip(images, labels, strict=True)]
    batch = functools.partial(attacks.attack_batch, logits_fn)
    np.testing.assert_allclose(batch(images, labels, eps=eps), jnp.stack(loop), atol=1e-6)
    jitted = jax.jit(batch)
    np.testing.assert_allclose(jitted(images, labels, eps=jnp.float32(eps)), jnp.stack(loop), atol=1e-6)
    # A half of eps gives another image: the traced value is used.
    assert np.abs(np.asarray(jitted(images, labels, eps=jnp.float32(eps / 2))) - images).max() < 0.6 * eps


def test_one_trace_for_all_eps(network, linear):
    _, logits_fn = network
    _, images, labels = jax.tree.map(jnp.asarray, linear)
    attack = jax.jit(chex.assert_max_traces(lambda *args, eps: attacks.attack_batch(logits_fn, *args, eps=eps), n=1))
    for eps in (1 / 255, 2 / 255, 4 / 255):
        attack(images, labels, eps=eps)


def test_batch_statistics_stay_and_examples_do_not_see_each_other(network, linear):
    variables, logits_fn = network
    _, images, labels = jax.tree.map(jnp.asarray, linear)
    before = jax.tree.map(np.array, variables)
    attack = jax.jit(functools.partial(attacks.attack_batch, logits_fn, eps=8 / 255))
    together = attack(images, labels)
    chex.assert_trees_all_equal(jax.tree.map(np.array, variables), before)
    others = images.at[1:].set(1.0 - images[1:])
    alone = attack(others, labels)
    np.testing.assert_allclose(alone[0], together[0], atol=1e-6)


def test_adversarial_cross_entropy_equals_its_formula_in_both_orders():
    rng = np.random.default_rng(3)
    clean, adversarial = (10 * rng.normal(size=(2, 9, NUM_CLASSES))).astype(np.float32)
    targets, logs = scipy.special.softmax(clean, axis=-1), scipy.special.log_softmax(adversarial, axis=-1)
    value = attacks.adversarial_cross_entropy(jnp.asarray(clean), jnp.asarray(adversarial))
    np.testing.assert_allclose(value, -(targets * logs).sum(axis=-1), rtol=1e-5)
    targets, logs = scipy.special.softmax(adversarial, axis=-1), scipy.special.log_softmax(clean, axis=-1)
    swapped = attacks.adversarial_cross_entropy(jnp.asarray(clean), jnp.asarray(adversarial), "adversarial_target")
    np.testing.assert_allclose(swapped, -(targets * logs).sum(axis=-1), rtol=1e-5)


def test_cross_entropy_of_an_unchanged_prediction_is_its_entropy():
    logits = jnp.asarray(np.random.default_rng(4).normal(size=(5, NUM_CLASSES)), jnp.float32)
    entropy = scipy.stats.entropy(scipy.special.softmax(np.asarray(logits), axis=-1), axis=-1)
    np.testing.assert_allclose(attacks.adversarial_cross_entropy(logits, logits), entropy, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": -0.1}, "eps must be finite"),
        ({"eps": float("nan")}, "eps must be finite"),
        ({"eps": 0.1, "step_size": -1.0}, "step_size must be finite"),
        ({"eps": 0.1, "num_steps": -1}, "num_steps must be at least 0"),
    ],
)
def test_bad_settings_are_named(linear, settings, message):
    kernel, images, labels = linear
    with pytest.raises(ValueError, match=message):
        attacks.attack_batch(
            functools.partial(linear_logits, kernel), jnp.asarray(images), jnp.asarray(labels), **settings
        )


def test_pixels_in_another_unit_and_unknown_order_are_refused(linear):
    kernel, images, labels = linear
    logits_fn = functools.partial(linear_logits, kernel)
    pixels = jnp.asarray(images[0] * 255).astype(jnp.uint8)
    with pytest.raises(TypeError, match="image must be floating point"):
        attacks.pgd(logits_fn, pixels, jnp.asarray(labels[0]), eps=8 / 255)
    with pytest.raises(TypeError, match="label must be an integer"):
        attacks.pgd(logits_fn, jnp.asarray(images[0]), jnp.float32(1.0), eps=8 / 255)
    with pytest.raises(ValueError, match="order must be"):
        attacks.adversarial_cross_entropy(jnp.zeros((1, 3)), jnp.zeros((1, 3)), "neither")
