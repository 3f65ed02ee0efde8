"""The classifiers: sizes against closed forms, forward passes against NumPy, and what train mode touches."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tmu_jax import models
from tmu_jax.models.vit import LocalitySelfAttention, attend_others, shifted_patches

EMBEDDING_WIDTHS = {"small_resnet": 256, "resnet18": 512, "allcnn": 192, "vit": 192}


def abstract_images(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def abstract_variables(model, images):
    return jax.eval_shape(model.init, jax.random.key(0), images)


def abstract_outputs(model, images):
    return jax.eval_shape(model.apply, abstract_variables(model, images), images)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def random_variables(model, images, seed=0):
    """Variables without a leaf at a start value such as 0 or 1, so that a forward pass depends on every one of them."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return rng.normal(0, np.sqrt(2 / (leaf.size / leaf.shape[-1])), leaf.shape).astype(np.float32)
        return (rng.uniform(-0.3, 0.3, leaf.shape) + (name in ("scale", "var"))).astype(np.float32)

    abstract = abstract_variables(model, abstract_images(*images.shape))
    return jax.tree_util.tree_map_with_path(draw, abstract)


def random_images(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def numpy_convolution(images, kernel, stride=1, padding=0):
    size = kernel.shape[0]
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("nhwcij,ijcf->nhwf", windows, kernel)


def numpy_norm(features, params, statistics):
    scaled = (features - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5)
    return scaled * params["scale"] + params["bias"]


def numpy_resnet(variables, images, blocks, strides):
    """An eval-mode residual network with projected shortcuts where the shape changes."""
    params, statistics = variables["params"], variables["batch_stats"]
    features = numpy_convolution(images, params["stem_conv"]["kernel"], padding=1)
    features = np.maximum(numpy_norm(features, params["stem_norm"], statistics["stem_norm"]), 0)
    for stage, (num_blocks, stage_stride) in enumerate(zip(blocks, strides, strict=True)):
        for block in range(num_blocks):
            stride = stage_stride if block == 0 else 1
            p, s = params[f"block_{stage}_{block}"], statistics[f"block_{stage}_{block}"]
            hidden = numpy_convolution(features, p["conv_0"]["kernel"], stride, padding=1)
            hidden = np.maximum(numpy_norm(hidden, p["norm_0"], s["norm_0"]), 0)
            hidden = numpy_norm(numpy_convolution(hidden, p["conv_1"]["kernel"], padding=1), p["norm_1"], s["norm_1"])
            if "shortcut_conv" in p:
                features = numpy_convolution(features, p["shortcut_conv"]["kernel"], stride)
                features = numpy_norm(features, p["shortcut_norm"], s["shortcut_norm"])
            features = np.maximum(hidden + features, 0)
    embedding = features.mean((1, 2))
    return embedding @ params["head"]["kernel"] + params["head"]["bias"], embedding


def numpy_allcnn(variables, images):
    params, statistics = variables["params"], variables["batch_stats"]
    features = images
    for index, stride in enumerate((1, 1, 2, 1, 1, 2, 1, 1)):
        kernel = params[f"conv_{index}"]["kernel"]
        features = numpy_convolution(features, kernel, stride, padding=kernel.shape[0] // 2)
        features = np.maximum(numpy_norm(features, params[f"norm_{index}"], statistics[f"norm_{index}"]), 0)
    embedding = features.mean((1, 2))
    return embedding @ params["head"]["kernel"] + params["head"]["bias"], embedding


def numpy_shifted_patches(images, patch):
    """Pixel by pixel: the image, then the shifts by half a patch that bring in its diagonal neighbours."""
    n, height, width, channels = images.shape
    half = patch // 2
    shifts = [(0, 0), (-half, -half), (-half, half), (half, -half), (half, half)]
    result = np.zeros((n, (height // patch) * (width // patch), patch * patch * 5 * channels), np.float32)
    for token in range(result.shape[1]):
        top, left = divmod(token, width // patch)
        column = 0
        for y in range(top * patch, (top + 1) * patch):
            for x in range(left * patch, (left + 1) * patch):
                for down, right in shifts:
                    if 0 <= y + down < height and 0 <= x + right < width:
                        result[:, token, column : column + channels] = images[:, y + down, x + right]
                    column += channels
    return result


def numpy_attention(params, tokens):
    """One query, one head at a time; each over all tokens but itself."""
    kernel, out = params["query_key_value"]["kernel"], params["output"]
    temperature = np.exp(params["log_temperature"])
    result = np.zeros_like(tokens) + out["bias"]
    for n, t, head in np.ndindex(*tokens.shape[:2], len(temperature)):
        query = tokens[n, t] @ kernel[:, 0, head]
        others = [other for other in range(tokens.shape[1]) if other != t]
        scores = np.array([query @ (tokens[n, other] @ kernel[:, 1, head]) for other in others])
        weights = np.exp(scores / temperature[head])
        values = np.array([tokens[n, other] @ kernel[:, 2, head] for other in others])
        result[n, t] += (weights / weights.sum()) @ values @ out["kernel"][head]
    return result


def numpy_layer_norm(tokens, params):
    centred = tokens - tokens.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * params["scale"] + params["bias"]


def numpy_vit(params, images, patch, depth):
    def dense(name, values):
        return values @ params[name]["kernel"] + params[name]["bias"]

    tokens = dense("patch_embedding", numpy_layer_norm(numpy_shifted_patches(images, patch), params["patch_norm"]))
    class_tokens = np.repeat(params["class_token"], len(tokens), axis=0)
    tokens = np.concatenate([class_tokens, tokens], axis=1) + params["positions"]
    for block in range(depth):
        normed = numpy_layer_norm(tokens, params[f"attention_norm_{block}"])
        tokens = tokens + numpy_attention(params[f"attention_{block}"], normed)
        hidden = dense(f"mlp_in_{block}", numpy_layer_norm(tokens, params[f"mlp_norm_{block}"]))
        hidden = hidden / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
        tokens = tokens + dense(f"mlp_out_{block}", hidden)
    embedding = numpy_layer_norm(tokens[:, 0], params["final_norm"])
    return dense("head", embedding), embedding


@pytest.fixture(scope="module")
def small():
    """A residual network with both kinds of shortcut, its variables and images."""
    model = models.ResNet(3, stem_width=4, widths=(4, 6), blocks=(2, 1), strides=(1, 2))
    images = random_images(5, 6, 7, 3)
    return model, random_variables(model, images), images


@pytest.fixture(scope="module")
def evaluated(small):
    """The compiled forward pass in evaluation mode, offered the batch statistics to change."""
    model, _, _ = small
    return jax.jit(lambda variables, images: model.apply(variables, images, mutable=["batch_stats"]))


def test_resnet18_has_the_published_number_of_parameters():
    model = models.create("resnet18", 10, jnp.float32)
    variables = abstract_variables(model, abstract_images(1, 32, 32, 3))
    assert count(variables["params"]) == 11_173_962
    assert count(abstract_variables(models.create("resnet18", 100), abstract_images(1, 32, 32, 3))["params"]) == (
        11_173_962 + 90 * 513
    )
    # A running mean and variance for each channel of the stem, the 16 other convolutions and the three projections.
    channels = 64 + 4 * (64 + 128 + 256 + 512) + (128 + 256 + 512)
    assert count(variables["batch_stats"]) == 2 * channels


def test_allcnn_has_the_parameters_of_its_layers():
    convolutions = 9 * (3 * 96 + 2 * 96 * 96 + 96 * 192 + 3 * 192 * 192) + 192 * 192
    channels = 3 * 96 + 5 * 192
    variables = abstract_variables(models.create("allcnn", 10), abstract_images(1, 32, 32, 3))
    assert count(variables["params"]) == convolutions + 2 * channels + 192 * 10 + 10
    assert count(variables["batch_stats"]) == 2 * channels


def test_vit_has_the_parameters_of_its_layers():
    patch = 4 * 4 * 3 * 5
    stem = 2 * patch + (patch + 1) * 192 + 192 + (8 * 8 + 1) * 192
    attention = 192 * 3 * 12 * 16 + 12 + 12 * 16 * 192 + 192
    mlp = 192 * 384 + 384 + 384 * 192 + 192
    variables = abstract_variables(models.create("vit", 10), abstract_images(1, 32, 32, 3))
    assert count(variables["params"]) == stem + 9 * (attention + mlp + 4 * 192) + 2 * 192 + 192 * 10 + 10
    assert set(variables) == {"params"}


@pytest.mark.parametrize("size", [(32, 32, 3), (64, 64, 3), (28, 36, 1)])
@pytest.mark.parametrize("name", sorted(models.ARCHITECTURES))
def test_logits_and_embedding_for_any_image_size(name, size):
    logits, embedding = abstract_outputs(models.create(name, 7), abstract_images(2, *size))
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert (embedding.shape, embedding.dtype) == ((2, EMBEDDING_WIDTHS[name]), jnp.float32)


def test_sizes_that_no_patch_divides():
    logits, _ = abstract_outputs(models.create("small_resnet", 3), abstract_images(2, 31, 17, 3))
    assert logits.shape == (2, 3)
    vit = models.create("vit", 3)
    for size in ((30, 32), (32, 33)):
        with pytest.raises(ValueError, match="multiples of 4"):
            abstract_variables(vit, abstract_images(2, *size, 3))


@pytest.mark.parametrize("name", sorted(models.ARCHITECTURES))
def test_bfloat16_keeps_parameters_statistics_and_outputs_in_float32(name):
    model, images = models.create(name, 5, jnp.bfloat16), abstract_images(2, 32, 32, 3)
    with jax.numpy_dtype_promotion("standard"):  # flax's batch norm mixes its float32 statistics with bfloat16
        variables = abstract_variables(model, images)
        traced = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))(variables, images)
        trained = jax.eval_shape(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]), variables, images)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, trained))} == {jnp.dtype(jnp.float32)}
    chex.assert_trees_all_equal_shapes_and_dtypes(trained[1], {k: variables[k] for k in trained[1]})
    # And the computation itself is in bfloat16.
    assert "bf16[2," in str(traced)


@pytest.mark.parametrize(("backend", "dtype"), [("cpu", jnp.float32), ("gpu", jnp.bfloat16), ("tpu", jnp.bfloat16)])
def test_create_computes_in_bfloat16_on_accelerators(monkeypatch, backend, dtype):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert models.create("allcnn", 4).dtype == dtype
    assert models.create("allcnn", 4, jnp.float32).dtype == jnp.float32
    assert models.create("allcnn", 4).param_dtype == jnp.float32


def test_create_refuses_what_it_cannot_make():
    with pytest.raises(ValueError, match=r"name='resnet'.*small_resnet"):
        models.create("resnet", 10)
    with pytest.raises(ValueError, match="num_classes=1"):
        models.create("allcnn", 1)


def test_resnet_equals_numpy(small, evaluated):
    _, variables, images = small
    got, _ = evaluated(variables, images)
    for value, expected in zip(got, numpy_resnet(variables, images, (2, 1), (1, 2)), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-4)


def test_train_mode_moves_the_statistics_towards_the_batch(small):
    model, variables, images = small
    apply = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
    _, updated = apply(variables, images)
    convolved = numpy_convolution(images, variables["params"]["stem_conv"]["kernel"], padding=1)
    before, after = variables["batch_stats"]["stem_norm"], updated["batch_stats"]["stem_norm"]
    np.testing.assert_allclose(
        after["mean"], 0.9 * before["mean"] + 0.1 * convolved.mean((0, 1, 2)), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * convolved.var((0, 1, 2)), rtol=1e-4)
    moved = jax.tree.map(lambda a, b: bool(np.abs(a - b).min() > 0), variables["batch_stats"], updated["batch_stats"])
    assert all(jax.tree.leaves(moved))


def test_eval_mode_leaves_the_statistics_and_each_image_to_itself(small, evaluated):
    _, variables, images = small
    (logits, _), updated = evaluated(variables, images)
    chex.assert_trees_all_equal(updated["batch_stats"], variables["batch_stats"])
    others = 5 * random_images(*images.shape, seed=2)
    others[2] = images[2]
    (beside_others, _), _ = evaluated(variables, others)
    np.testing.assert_allclose(beside_others[2], logits[2], rtol=1e-4, atol=1e-5)
    assert np.abs(beside_others - logits).max() > 0.1


def test_allcnn_equals_numpy():
    model, images = models.create("allcnn", 4), random_images(2, 6, 5, 3)
    variables = random_variables(model, images)
    got = jax.jit(model.apply)(variables, images)
    for value, expected in zip(got, numpy_allcnn(variables, images), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_small_resnet_equals_numpy():
    model, images = models.create("small_resnet", 10), random_images(2, 32, 32, 3)
    variables = random_variables(model, images)
    got = jax.jit(model.apply)(variables, images)
    for value, expected in zip(got, numpy_resnet(variables, images, (1, 1, 1), (2, 2, 2)), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.slow
def test_small_resnet_compiled_equals_eager():
    model, images = models.create("small_resnet", 10), jnp.asarray(random_images(2, 32, 32, 3))
    variables = random_variables(model, images)
    eager = model.apply(variables, images)
    chex.assert_trees_all_close(jax.jit(model.apply)(variables, images), eager, rtol=1e-3, atol=1e-3)
    assert np.ptp(np.asarray(eager[0]), axis=0).min() > 1e-2


@pytest.mark.parametrize(("size", "patch"), [((8, 12, 3), 4), ((6, 4, 1), 2), ((6, 9, 2), 3)])
def test_shifted_patches_equal_a_loop_over_pixels(size, patch):
    images = random_images(2, *size)
    np.testing.assert_array_equal(shifted_patches(jnp.asarray(images), patch), numpy_shifted_patches(images, patch))


def test_locality_self_attention_equals_numpy():
    layer = LocalitySelfAttention(2, 3, jnp.float32, jnp.float32)
    tokens = random_images(2, 5, 7)
    start = layer.init(jax.random.key(0), tokens)["params"]
    np.testing.assert_allclose(np.exp(start["log_temperature"]), np.sqrt(3), rtol=1e-6)
    params = random_variables(layer, tokens)["params"]
    params["log_temperature"] = np.array([-0.7, 0.9], np.float32)
    np.testing.assert_allclose(
        layer.apply({"params": params}, tokens), numpy_attention(params, tokens), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_attention_in_bfloat16_is_near_float32():
    tokens = random_images(4, 9, 8)
    full = LocalitySelfAttention(2, 4, jnp.float32, jnp.float32)
    variables = random_variables(full, tokens)

    def value_and_gradient(layer):
        def loss(variables):
            return jnp.square(layer.apply(variables, tokens).astype(jnp.float32)).sum()

        return jax.value_and_grad(loss)(variables)

    expected, half = (
        value_and_gradient(full),
        value_and_gradient(LocalitySelfAttention(2, 4, jnp.bfloat16, jnp.float32)),
    )
    for one, other in zip(jax.tree.leaves(half), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=5e-2 * np.abs(other).max())


@pytest.mark.parametrize(("num_tokens", "factor"), [(1, 1.0), (17, 1.0), (17, 30.0), (17, 1000.0)])
def test_attention_equals_numpy_in_float64_and_large_scores_do_not_overflow(num_tokens, factor):
    query, key, value = np.random.default_rng(0).normal(size=(3, 2, num_tokens, 3, 16)).astype(np.float32)
    scale = np.array([0.2, 0.6, 1.0], np.float32)
    scores = np.einsum("nqhd,nkhd->nhqk", np.float64(query * np.float32(factor)) * scale[:, None], key)
    if num_tokens > 1:  # a single token has only its own value
        scores[:, :, np.arange(num_tokens), np.arange(num_tokens)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = np.einsum("nhqk,nkhd->nqhd", weights / weights.sum(-1, keepdims=True), value)
    got = attend_others(query * np.float32(factor), key, value, jnp.asarray(scale))
    np.testing.assert_allclose(got, expected, atol=1e-6 * max(10.0, factor))


def test_a_token_does_not_attend_to_itself():
    """With scores that all but pick the token itself, its own value still has no part in its output."""
    layer = LocalitySelfAttention(1, 4, jnp.float32, jnp.float32)
    tokens = jnp.eye(4)[None] * 30
    identity = np.stack([np.eye(4)] * 3, axis=1)[:, :, None].astype(np.float32)
    params = {
        "query_key_value": {"kernel": identity},
        "log_temperature": np.zeros(1, np.float32),
        "output": {"kernel": np.eye(4, dtype=np.float32)[None], "bias": np.zeros(4, np.float32)},
    }
    np.testing.assert_allclose(layer.apply({"params": params}, tokens)[0], (1 - np.eye(4)) * 10, rtol=1e-5)


def test_vit_equals_numpy_in_both_modes():
    model = models.ViT(3, patch=2, depth=2, width=6, num_heads=2, head_dim=3, mlp_width=8)
    images = random_images(2, 6, 4, 3)
    variables = random_variables(model, images)
    expected = numpy_vit(variables["params"], images, patch=2, depth=2)
    apply = jax.jit(model.apply, static_argnames="train")
    for train in (False, True):
        for value, numpy_value in zip(apply(variables, images, train=train), expected, strict=True):
            np.testing.assert_allclose(value, numpy_value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", sorted(models.ARCHITECTURES))
def test_one_image_without_a_batch_axis_is_refused(name):
    with pytest.raises(AssertionError, match="rank"):
        abstract_variables(models.create(name, 3), abstract_images(32, 32, 3))


def test_equal_architectures_are_equal_so_that_one_compiled_program_serves_both():
    for name in models.ARCHITECTURES:
        assert models.create(name, 10) == models.create(name, 10)
        assert hash(models.create(name, 10)) == hash(models.create(name, 10))
        assert models.create(name, 10) != models.create(name, 11)
