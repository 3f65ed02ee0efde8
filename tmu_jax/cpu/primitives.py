"""The convolution as three primitives, each the transpose of the two others.

With c the cotangent of the outputs, <c, convolution(images, kernel)> is linear in each of three arrays, and every
primitive is its gradient in one of them, a function of the other two:

| primitive | of | gives |
|---|---|---|
| forward | images, kernel | outputs |
| input_gradient | outputs, kernel | images |
| weight_gradient | images, outputs | kernel |

So they are closed under differentiation, forwards, backwards and as often as one likes. Under `vmap`, images that share
a kernel are folded into one batch, all else runs one after another.

References:
    https://docs.jax.dev/en/latest/jax-primitives.html, on what JAX asks of a primitive.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from tmu_jax.cpu import native, plain
from tmu_jax.cpu.geometry import NHWC, Geometry

forward_p = Primitive("tmu_jax_forward")
input_gradient_p = Primitive("tmu_jax_input_gradient")
weight_gradient_p = Primitive("tmu_jax_weight_gradient")


def call(primitive: Primitive, first: Array, second: Array, geometry: Geometry) -> Array:
    """One of the three, of the arrays in the table above."""
    return primitive.bind(first, second, geometry=geometry)  # type: ignore[no-untyped-call]


forward = functools.partial(call, forward_p)
input_gradient = functools.partial(call, input_gradient_p)
weight_gradient = functools.partial(call, weight_gradient_p)


def _result_shape(primitive: Primitive, num_images: int, geometry: Geometry) -> tuple[int, ...]:
    if primitive is forward_p:
        return num_images, *geometry.out_size, geometry.features
    if primitive is input_gradient_p:
        return num_images, *geometry.size, geometry.channels
    return geometry.kernel_shape


# --- What they compute: on a CPU by compiled code or by products, elsewhere as lax does.


@functools.partial(jax.jit, static_argnames=("primitive", "geometry"))
def _on_cpu(first: Array, second: Array, *, primitive: Primitive, geometry: Geometry) -> Array:
    # Where windows lie apart the input gradient is one product in XLA too, and zeros that it need not write.
    is_product = primitive is input_gradient_p and geometry.is_apart
    if is_product or not geometry.is_compiled:
        function = {
            forward_p: plain.forward,
            input_gradient_p: plain.input_gradient,
            weight_gradient_p: plain.weight_gradient,
        }[primitive]
        return function(first, second, geometry=geometry)
    (top, _), (left, _) = geometry.padding
    shape = _result_shape(primitive, first.shape[0], geometry)
    return native.call(primitive.name, shape, stride=geometry.stride, top=top, left=left)(first, second)


def _elsewhere(first: Array, second: Array, *, primitive: Primitive, geometry: Geometry) -> Array:
    def convolve(images: Array, kernel: Array) -> Array:
        strides = (geometry.stride, geometry.stride)
        return lax.conv_general_dilated(
            images, kernel, strides, geometry.padding, dimension_numbers=NHWC, precision=geometry.precision
        )

    if primitive is forward_p:
        return convolve(first, second)
    result = jax.ShapeDtypeStruct(_result_shape(primitive, first.shape[0], geometry), first.dtype)
    if primitive is input_gradient_p:
        return jax.linear_transpose(lambda images: convolve(images, second), result)(first)[0]
    return jax.linear_transpose(lambda kernel: convolve(first, kernel), result)(second)[0]


@functools.partial(jax.jit, static_argnames=("primitive", "geometry"))
def _bind(first: Array, second: Array, *, primitive: Primitive, geometry: Geometry) -> Array:
    return call(primitive, first, second, geometry)


def _evaluate(first: Array, second: Array, *, primitive: Primitive, geometry: Geometry) -> Array:
    with jax.disable_jit(False):  # Else `_bind` would end here again.
        return _bind(first, second, primitive=primitive, geometry=geometry)


def _abstract(first: ShapedArray, _: ShapedArray, *, primitive: Primitive, geometry: Geometry) -> ShapedArray:
    return ShapedArray(_result_shape(primitive, first.shape[0], geometry), first.dtype)


def _map(
    args: tuple[Array, Array], axes: tuple[int | None, int | None], *, primitive: Primitive, geometry: Geometry
) -> tuple[Array, int]:
    """The batching rule: the result, and its mapped axis."""
    moved = [arg if axis is None else jnp.moveaxis(arg, axis, 0) for arg, axis in zip(args, axes, strict=True)]
    (num_mapped, *_) = (arg.shape[0] for arg, axis in zip(moved, axes, strict=True) if axis is not None)
    first, second = moved
    num_images = first.shape[0 if axes[0] is None else 1]
    if num_mapped == 0:
        return jnp.zeros((0, *_result_shape(primitive, num_images, geometry)), first.dtype), 0
    if primitive is not weight_gradient_p and axes[1] is None:
        folded = call(primitive, first.reshape(num_mapped * num_images, *first.shape[2:]), second, geometry)
        return folded.reshape(num_mapped, num_images, *folded.shape[1:]), 0
    if axes[0] is None:
        return lax.map(lambda one: call(primitive, first, one, geometry), second), 0
    if axes[1] is None:
        return lax.map(lambda one: call(primitive, one, second, geometry), first), 0
    return lax.map(lambda pair: call(primitive, pair[0], pair[1], geometry), (first, second)), 0


for _primitive in (forward_p, input_gradient_p, weight_gradient_p):
    _primitive.def_impl(functools.partial(_evaluate, primitive=_primitive))
    _primitive.def_abstract_eval(functools.partial(_abstract, primitive=_primitive))
    batching.primitive_batchers[_primitive] = functools.partial(_map, primitive=_primitive)
    for _platform, _function in ((None, _elsewhere), ("cpu", _on_cpu)):
        _lowering = mlir.lower_fun(functools.partial(_function, primitive=_primitive), multiple_results=False)
        mlir.register_lowering(_primitive, _lowering, platform=_platform)


# --- How they are transposed: the rules for the first and for the second argument.

ad.defbilinear(
    forward_p,
    lambda outputs, _, kernel, geometry: input_gradient(outputs, kernel, geometry),
    lambda outputs, images, _, geometry: weight_gradient(images, outputs, geometry),
)
ad.defbilinear(
    input_gradient_p,
    lambda images, _, kernel, geometry: forward(images, kernel, geometry),
    lambda images, outputs, _, geometry: weight_gradient(images, outputs, geometry),
)
ad.defbilinear(
    weight_gradient_p,
    lambda kernel, _, outputs, geometry: input_gradient(outputs, kernel, geometry),
    lambda kernel, images, _, geometry: forward(images, kernel, geometry),
)
