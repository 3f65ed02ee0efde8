"""Convolutions by matrix products against `jax.lax.conv_general_dilated`: values, gradients, vmap, loops, layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tmu_jax.cpu import convolution, native, products
from tmu_jax.cpu.convolution import conv_general_dilated, fast_convolutions

NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(autouse=True)
def without_compiled_code(monkeypatch):
    """What a machine without a C++ compiler does; test_native.py has the rest."""
    monkeypatch.setattr(native, "is_available", lambda *_: False)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of a few small images, so that a handful of images crosses their boundaries."""
    monkeypatch.setattr(convolution, "_CHUNK_FLOATS", 2000)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def bind(convolve, stride=1, padding="SAME", **options):
    def function(images, kernel):
        return convolve(images, kernel, (stride, stride), padding, dimension_numbers=NHWC, **options)

    return function


def values_and_gradients(function, images, kernel):
    """The output, and both gradients against a fixed random cotangent."""
    outputs, pull = jax.vjp(function, images, kernel)
    return outputs, *pull(normal(2, *outputs.shape).astype(outputs.dtype))


def assert_close(ours, expected, tolerance=2e-5):
    """Largest error relative to the largest value: Winograd's errors are relative to a tile, not to a pixel."""
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        scale = np.abs(np.asarray(other, np.float32)).max()
        np.testing.assert_allclose(np.asarray(one, np.float32), np.asarray(other, np.float32), atol=tolerance * scale)


def assert_agrees_with_lax(shape, window, features, stride=1, padding="SAME", channels_per_group=None, **options):
    images = normal(0, *shape)
    kernel = normal(1, window, window, channels_per_group or shape[-1], features)
    results = [
        jax.jit(values_and_gradients, static_argnums=0)(bind(convolve, stride, padding, **options), images, kernel)
        for convolve in (conv_general_dilated, lax.conv_general_dilated)
    ]
    assert_close(*results)


@pytest.mark.parametrize("num_images", [1, 2, 7, 32, 97, 100, 128, 500])
@pytest.mark.parametrize("wanted", [0.3, 1.0, 2.7, 5.3, 16.0, 90.0, 1000.0])
@pytest.mark.parametrize("more", [True, False])
def test_chunks_hold_all_images_with_as_little_padding_as_there_can_be(num_images, wanted, more):
    num_chunks, size = products._num_chunks(num_images, wanted, more)
    assert 0 <= num_chunks * size - num_images < size
    assert wanted >= num_images or size <= max(1, 2 * wanted)
    near = [wanted <= divisor < 2 * wanted if more else wanted / 2 < divisor <= wanted
            for divisor in range(1, num_images + 1) if num_images % divisor == 0]  # fmt: skip
    assert num_chunks * size == num_images or not any(near)


def optimized_hlo(function, *args):
    return jax.jit(function).lower(*args).compile().as_text()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize(
    ("shape", "features"),
    [((5, 5, 5, 8), 6), ((2, 7, 9, 16), 16), ((1, 9, 6, 3), 8), ((2, 8, 8, 1), 4)],
)
def test_values_and_gradients(shape, features, window, stride):
    assert_agrees_with_lax(shape, window, features, stride)


@pytest.mark.parametrize(("channels", "stride"), [(3, 1), (3, 2), (8, 1), (8, 2)])
@pytest.mark.parametrize("padding", ["VALID", ((1, 1), (1, 1)), ((2, 0), (0, 1)), ((3, 1), (1, 4))])
def test_padding(padding, channels, stride):
    assert_agrees_with_lax((2, 7, 6, channels), 3, 4, stride, padding)


@pytest.mark.parametrize(("window", "stride"), [(4, 4), (2, 3), (1, 3)])
def test_windows_that_do_not_overlap(window, stride):
    assert_agrees_with_lax((3, 9, 11, 3), window, 5, stride, "VALID")


@pytest.mark.parametrize("chunk_floats", [2000, 8000])
@pytest.mark.parametrize(("channels", "stride"), [(3, 1), (3, 2), (8, 1), (8, 2)])
@pytest.mark.parametrize("num_images", [1, 5, 131])
def test_batches_across_chunks(monkeypatch, num_images, channels, stride, chunk_floats):
    """Chunks of one image, and of several with a last one that is filled up."""
    monkeypatch.setattr(convolution, "_CHUNK_FLOATS", chunk_floats)
    assert_agrees_with_lax((num_images, 5, 6, channels), 3, 8, stride)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("features", "loops"), [(9, False), (8, True)])
def test_patches_that_are_smaller_than_the_result_are_not_cut_into_chunks(features, loops):
    args = normal(0, 40, 8, 8, 1), normal(1, 3, 3, 1, features)
    assert (" while(" in optimized_hlo(bind(conv_general_dilated), *args)) == loops
    assert_agrees_with_lax((40, 8, 8, 1), 3, features)


@pytest.mark.parametrize(
    ("window", "options"),
    [
        (5, {}),
        (3, {"rhs_dilation": (2, 2)}),
        (3, {"lhs_dilation": (2, 1), "padding": ((1, 0), (1, 1))}),
        (3, {"feature_group_count": 4, "channels_per_group": 2}),
        (3, {"stride": 3}),
        (1, {"padding": ((1, 1), (0, 0))}),
    ],
)
def test_other_convolutions_are_those_of_lax(window, options):
    assert_agrees_with_lax((2, 7, 8, 8), window, 8, **{"padding": "SAME" if window > 1 else "VALID", **options})


def test_other_dtypes_and_layouts_are_those_of_lax():
    images, kernel = normal(0, 2, 6, 6, 8).astype(jnp.bfloat16), normal(1, 3, 3, 8, 4).astype(jnp.bfloat16)
    ours, expected = (
        values_and_gradients(bind(convolve), images, kernel)
        for convolve in (conv_general_dilated, lax.conv_general_dilated)
    )
    assert_close(ours, expected, tolerance=0)
    planes, transposed = normal(0, 2, 8, 6, 7), normal(1, 4, 8, 3, 3)
    assert_close(
        conv_general_dilated(planes, transposed, (1, 1), "SAME"),
        lax.conv_general_dilated(planes, transposed, (1, 1), "SAME"),
        tolerance=0,
    )


def test_mismatched_channels_raise_as_lax_does():
    with pytest.raises(ValueError, match="feature_group_count"):
        bind(conv_general_dilated)(normal(0, 2, 6, 6, 8), normal(1, 3, 3, 9, 4))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("in_axes", [(0, None), (None, 0), (0, 0), (1, 3)])
def test_vmap_equals_a_loop(in_axes, stride):
    num_mapped = 3

    def stacked(array, axis):
        return array[0] if axis is None else jnp.moveaxis(array, 0, axis)

    every_image, every_kernel = normal(0, num_mapped, 2, 7, 5, 8), normal(1, num_mapped, 3, 3, 8, 4)
    images, kernel = stacked(every_image, in_axes[0]), stacked(every_kernel, in_axes[1])

    def results(images, kernel):
        return values_and_gradients(bind(conv_general_dilated, stride), images, kernel)

    expected = [
        values_and_gradients(
            bind(lax.conv_general_dilated, stride),
            every_image[0 if in_axes[0] is None else i],
            every_kernel[0 if in_axes[1] is None else i],
        )
        for i in range(num_mapped)
    ]
    ours = jax.jit(jax.vmap(results, in_axes))(images, kernel)
    assert_close(ours, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected))


def test_nested_vmap_equals_a_loop():
    images, kernels = normal(0, 2, 3, 1, 6, 6, 8), normal(1, 2, 3, 3, 8, 8)

    def results(convolve, images, kernel):
        return values_and_gradients(bind(convolve), images, kernel)

    models_by_images = jax.vmap(jax.vmap(results, (None, 0, None)), (None, 0, 0))
    ours = jax.jit(models_by_images, static_argnums=0)(conv_general_dilated, images, kernels)
    expected = [
        jax.tree.map(
            lambda *leaves: jnp.stack(leaves),
            *(results(lax.conv_general_dilated, images[i, j], kernels[i]) for j in range(3)),
        )
        for i in range(2)
    ]
    assert_close(ours, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected))


def test_gradients_of_single_images_are_folded_into_one_batch():
    """The attack's use: vmapped over examples that are each a batch of one, products are of all examples at once."""
    kernel, images = normal(1, 3, 3, 16, 32), normal(0, 12, 8, 8, 16)

    def image_gradient(convolve, image):
        return jax.grad(lambda image: jnp.sum(jnp.sin(bind(convolve)(image[None], kernel))))(image)

    compiled = (
        jax.jit(lambda images: jax.vmap(image_gradient, (None, 0))(conv_general_dilated, images))
        .lower(images)
        .compile()
    )
    assert_close(compiled(images), jnp.stack([image_gradient(lax.conv_general_dilated, image) for image in images]))
    compiled = compiled.as_text()
    assert " while(" not in compiled
    assert f"f32[{12 * 16},16]" in compiled


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("stride", [1, 2])
def test_inside_a_loop_equals_outside(stride):
    images, kernel = normal(0, 4, 6, 6, 8), normal(1, 3, 3, 8, 8) / 10
    gradient = jax.grad(lambda kernel: jnp.mean(bind(conv_general_dilated, stride)(images, kernel) ** 2))

    def step(kernel, _):
        return kernel - gradient(kernel), None

    expected = kernel
    for _ in range(3):
        expected, _ = jax.jit(step)(expected, None)
    assert_close(jax.jit(lambda kernel: lax.scan(step, kernel, None, length=3)[0])(kernel), expected)
    assert_close(jax.jit(lambda kernel: lax.fori_loop(0, 3, lambda _, k: step(k, None)[0], kernel))(kernel), expected)


@pytest.mark.parametrize(
    ("channels", "window", "stride", "padding"),
    [(8, 3, 1, "SAME"), (8, 3, 2, "SAME"), (3, 3, 1, "SAME"), (8, 1, 2, "VALID")],
)
def test_no_convolution_is_left_on_the_cpu(channels, window, stride, padding):
    def all_three(convolve):
        return lambda images, kernel: values_and_gradients(bind(convolve, stride, padding), images, kernel)

    args = normal(0, 2, 8, 8, channels), normal(1, window, window, channels, 4)
    assert " convolution(" not in optimized_hlo(all_three(conv_general_dilated), *args)
    assert " convolution(" in optimized_hlo(all_three(lax.conv_general_dilated), *args)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_keep_their_convolution(platform):
    def all_three(images, kernel):
        return values_and_gradients(bind(conv_general_dilated), images, kernel)

    args = normal(0, 2, 8, 8, 8), normal(1, 3, 3, 8, 4)
    text = jax.jit(all_three).trace(*args).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 3
    assert "stablehlo.dot_general" not in text


class Tiny(nn.Module):
    """Convolutions of each kind, one called twice, beside layers of one dimension that must be left alone."""

    @nn.compact
    def __call__(self, images):
        shared = nn.Conv(8, (1, 1), name="shared")
        features = shared(nn.relu(shared(nn.Conv(8, (3, 3))(images))))
        strided = nn.Conv(16, (3, 3), strides=(2, 2), use_bias=False)(features)
        shortcut = nn.Conv(16, (1, 1), strides=2, use_bias=False)(features)
        patches = nn.Conv(16, (4, 4), strides=4, padding="VALID")(images)
        sequence = nn.Conv(4, (3,))(nn.relu(strided + shortcut).reshape(images.shape[0], -1, 16))
        return nn.Dense(3)(sequence.mean(axis=1)) + nn.Dense(3)(patches.mean(axis=(1, 2)))


@jax.jit
def initialize(images):
    return Tiny().init(jax.random.key(0), images)


def model_outputs(model, variables, images):
    """Outputs and the gradient of all parameters."""

    @jax.jit
    def both(params):
        outputs, pull = jax.vjp(lambda params: model.apply({"params": params}, images), params)
        return outputs, pull(jnp.cos(outputs))

    return both(variables["params"])


@pytest.mark.parametrize(
    ("window", "stride", "padding"),
    [((3, 3), 1, "SAME"), ((3, 3), (2, 2), 1), ((1, 1), 2, "SAME"), ((4, 4), 4, "VALID")],
)
def test_under_a_flax_layer(window, stride, padding):
    options = {"features": 8, "kernel_size": window, "strides": stride, "padding": padding}
    ours, plain = nn.Conv(**options, conv_general_dilated=conv_general_dilated), nn.Conv(**options)
    images = normal(0, 2, 8, 8, 8)
    variables = jax.jit(plain.init)(jax.random.key(0), images)
    assert jax.eval_shape(ours.init, jax.random.key(0), images) == jax.eval_shape(lambda: variables)
    assert_close(model_outputs(ours, variables, images), model_outputs(plain, variables, images))


def test_fast_convolutions_under_a_module():
    model, images = Tiny(), normal(0, 3, 8, 8, 3)
    variables = initialize(images)
    expected = model_outputs(model, variables, images)
    with fast_convolutions():
        assert jax.eval_shape(model.init, jax.random.key(0), images) == jax.eval_shape(lambda: variables)
        assert_close(model_outputs(model, variables, images), expected)


def test_fast_convolutions_replace_those_of_two_dimensions_only():
    def fast(variables, images):
        with fast_convolutions():
            return Tiny().apply(variables, images)

    images = normal(0, 3, 8, 8, 3)
    variables = initialize(images)

    def num_convolutions(function):
        return jax.jit(function).lower(variables, images).as_text().count("stablehlo.convolution(")

    assert num_convolutions(Tiny().apply) == 7
    assert num_convolutions(fast) == 1


def test_fast_convolutions_keep_a_layers_own_function():
    def doubled(*args, **kwargs):
        return 2 * lax.conv_general_dilated(*args, **kwargs)

    layer, images = nn.Conv(4, (3, 3), conv_general_dilated=doubled), normal(0, 1, 5, 5, 8)
    variables = layer.init(jax.random.key(0), images)
    expected = layer.apply(variables, images)
    with fast_convolutions():
        assert_close(layer.apply(variables, images), expected, tolerance=0)
