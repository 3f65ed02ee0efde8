"""Convolutions by matrix products against `jax.lax.conv_general_dilated`: values, gradients, vmap, loops."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.cpu.common import assert_close, bind, normal, sweep, values_and_gradients
from tmu_jax.cpu import conv_general_dilated, geometry, native, plain


@pytest.fixture(autouse=True)
def without_compiled_code(monkeypatch):
    """What a machine without a C++ compiler does; test_native.py has the rest."""
    monkeypatch.setattr(native, "is_available", lambda: False)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of a few small images, so that a handful of images crosses their boundaries."""
    monkeypatch.setattr(geometry, "_CHUNK_FLOATS", 2000)


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
    num_chunks, size = plain._num_chunks(num_images, wanted, more)
    assert 0 <= num_chunks * size - num_images < size
    assert wanted >= num_images or size <= max(1, 2 * wanted)
    near = [wanted <= divisor < 2 * wanted if more else wanted / 2 < divisor <= wanted
            for divisor in range(1, num_images + 1) if num_images % divisor == 0]  # fmt: skip
    assert num_chunks * size == num_images or not any(near)


def optimized_hlo(function, *args):
    return jax.jit(function).lower(*args).compile().as_text()


@sweep("stride", [1, 2], [])
@sweep("window", [3], [1])
@sweep(("shape", "features"), [((2, 7, 9, 16), 16), ((1, 9, 6, 3), 8)], [((5, 5, 5, 8), 6), ((2, 8, 8, 1), 4)])
def test_values_and_gradients(shape, features, window, stride):
    assert_agrees_with_lax(shape, window, features, stride)


@sweep(("channels", "stride"), [(8, 2)], [(3, 1), (3, 2), (8, 1)])
@sweep("padding", [((2, 0), (0, 1))], ["VALID", ((1, 1), (1, 1)), ((3, 1), (1, 4))])
def test_padding(padding, channels, stride):
    assert_agrees_with_lax((2, 7, 6, channels), 3, 4, stride, padding)


@sweep(("window", "stride"), [(2, 3)], [(4, 4), (1, 3)])
def test_windows_that_do_not_overlap(window, stride):
    assert_agrees_with_lax((3, 9, 11, 3), window, 5, stride, "VALID")


@sweep("chunk_floats", [2000], [8000])
@sweep(("channels", "stride"), [(8, 1), (8, 2)], [(3, 1), (3, 2)])
@sweep("num_images", [131], [1, 5])
def test_batches_across_chunks(monkeypatch, num_images, channels, stride, chunk_floats):
    """Chunks of one image, and of several with a last one that is filled up."""
    monkeypatch.setattr(geometry, "_CHUNK_FLOATS", chunk_floats)
    assert_agrees_with_lax((num_images, 5, 6, channels), 3, 8, stride)


@pytest.mark.usefixtures("small_chunks")
@sweep(("features", "loops"), [(9, False)], [(8, True)])
def test_patches_that_are_smaller_than_the_result_are_not_cut_into_chunks(features, loops):
    args = normal(0, 40, 8, 8, 1), normal(1, 3, 3, 1, features)
    assert (" while(" in optimized_hlo(bind(conv_general_dilated), *args)) == loops
    assert_agrees_with_lax((40, 8, 8, 1), 3, features)


@pytest.mark.usefixtures("small_chunks")
@sweep("stride", [2], [1])
@sweep("in_axes", [(0, None), (1, 3)], [(None, 0), (0, 0)])
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


@pytest.mark.slow
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
@sweep("stride", [2], [1])
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


@sweep(
    ("channels", "window", "stride", "padding"),
    [(8, 1, 2, "VALID")],
    [(8, 3, 1, "SAME"), (8, 3, 2, "SAME"), (3, 3, 1, "SAME")],
)
def test_no_convolution_is_left_on_the_cpu(channels, window, stride, padding):
    def all_three(convolve):
        return lambda images, kernel: values_and_gradients(bind(convolve, stride, padding), images, kernel)

    args = normal(0, 2, 8, 8, channels), normal(1, window, window, channels, 4)
    assert " convolution(" not in optimized_hlo(all_three(conv_general_dilated), *args)
    assert " convolution(" in optimized_hlo(all_three(lax.conv_general_dilated), *args)
