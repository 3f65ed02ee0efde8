"""Convolutions that nobody should ask for, run one after another in a process that they may not end.

`python -m tests.cpu.hostile` prints a line of JSON before and after each: what was tried, and what is wrong about what
happened (`null`: nothing, it is lax's result or lax's own error).
"""

import json
import pathlib
import resource
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from tmu_jax.cpu import conv_general_dilated, native
from tmu_jax.devices import use_devices

NHWC = ("NHWC", "HWIO", "NHWC")
NCHW = ("NCHW", "OIHW", "NCHW")
rng = np.random.default_rng(0)


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


IMAGES, KERNEL = normal(2, 8, 8, 32), normal(3, 3, 32, 64)


def case(images=IMAGES, kernel=KERNEL, strides=(1, 1), padding="SAME", **options):
    return lambda conv: conv(images, kernel, strides, padding, **{"dimension_numbers": NHWC, **options})


def with_value(value):
    images = IMAGES.copy()
    images[0, 4, 4, 3] = value
    return images


def misaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = np.frombuffer(raw, np.float32, array.size, offset=1).reshape(array.shape)
    view[:] = array
    return view


def gradients(conv, images=IMAGES, kernel=KERNEL):
    return jax.grad(lambda *args: jnp.sum(jnp.cos(case(*args)(conv))), (0, 1))(images, kernel)


def gradients_of(*shapes):
    arrays = [normal(*shape) for shape in shapes]
    return lambda conv: gradients(conv, *arrays)


def abstract(*sizes):
    structs = [jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes]
    return lambda conv: np.array(jax.eval_shape(lambda *args: case(*args)(conv), *structs).shape)


def mesh():
    return jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def sharded(conv):
    images = jax.device_put(IMAGES, NamedSharding(mesh(), PartitionSpec("data")))
    kernel = jax.device_put(KERNEL, NamedSharding(mesh(), PartitionSpec()))
    return gradients(conv, images, kernel)


def explicit(conv):
    axes = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(axes):
        images = jax.device_put(IMAGES, NamedSharding(axes, PartitionSpec("data")))
        return np.asarray(jax.jit(lambda images: case(images)(conv))(images))


def manual(check, spec):
    def run(conv):
        return jax.shard_map(
            lambda images, kernel: case(images, kernel)(conv),
            mesh=mesh(),
            in_specs=(spec, PartitionSpec()),
            out_specs=spec,
            check_vma=check,
        )(IMAGES, KERNEL)

    return run


def two_devices(conv):
    first, second = jax.devices()
    return case(jax.device_put(IMAGES, first), jax.device_put(KERNEL, second))(conv)


def deleted(conv):
    images = jnp.asarray(IMAGES)
    images.delete()
    return case(images)(conv)


def donated(conv):
    step = jax.jit(lambda images: case(images, KERNEL[:, :, :, :32])(conv), donate_argnums=0)
    return step(step(jnp.asarray(IMAGES)))


def symbolic(conv):
    (count,) = jax.export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((count, 8, 8, 32), jnp.float32)
    exported = jax.export.export(jax.jit(lambda images: case(images)(conv)))(images)
    return exported.call(jnp.asarray(IMAGES))


def in_x64(conv):
    with jax.enable_x64(True):
        return case(IMAGES.astype(np.float64), KERNEL.astype(np.float64))(conv)


def mapped(images, kernel, axes):
    def run(conv):
        return jax.vmap(lambda *args: (case(*args)(conv), *gradients(conv, *args)), axes)(images, kernel)

    return run


CASES = {
    "no images": case(normal(0, 8, 8, 32)),
    "no rows": case(normal(2, 0, 8, 32)),
    "no channels": case(normal(2, 8, 8, 0), normal(3, 3, 0, 16)),
    "no features": case(kernel=normal(3, 3, 32, 0)),
    "no window": case(kernel=normal(0, 0, 32, 16)),
    "gradients of no images": gradients_of((0, 8, 8, 32)),
    "jvp of no images": lambda conv: jax.jvp(
        lambda images: case(images)(conv), (normal(0, 8, 8, 32),), (normal(0, 8, 8, 32),)
    ),
    "vmap over nothing": mapped(normal(0, 2, 8, 8, 32), KERNEL, (0, None)),
    "vmap over no kernels": mapped(IMAGES, normal(0, 3, 3, 32, 64), (None, 0)),
    "vmap over no pairs": mapped(normal(0, 2, 8, 8, 32), normal(0, 3, 3, 32, 64), (0, 0)),
    "vmap over no images each": mapped(normal(3, 0, 8, 8, 32), KERNEL, (0, None)),
    "vmap along the last axis": mapped(normal(2, 4, 4, 16, 3), normal(3, 3, 16, 3, 8), (4, 3)),
    "window larger than the image": case(normal(1, 2, 2, 16), normal(5, 5, 16, 8)),
    "window larger than the image, nothing left": case(normal(1, 2, 2, 16), normal(5, 5, 16, 8), padding="VALID"),
    "gradients of a window larger than the image": gradients_of((1, 2, 3, 16), (7, 7, 16, 8)),
    "window of one number": case(kernel=normal(1, 1, 32, 1)),
    "window not square": case(kernel=normal(3, 1, 32, 16)),
    "patch that is too large": case(normal(1, 70, 70, 16), normal(65, 65, 16, 1), padding="VALID"),
    "many pixels of few channels": gradients_of((1, 600, 600, 1), (5, 5, 1, 2)),
    "one pixel": case(normal(1, 1, 1, 1), normal(3, 3, 1, 1)),
    "one column": case(normal(2, 9, 1, 3), normal(3, 3, 3, 4), (2, 2)),
    "huge padding": case(padding=((40, 40), (40, 40))),
    "padding of a whole window": case(padding=((3, 3), (3, 3))),
    "padding of 2**40": case(padding=((2**40, 0), (0, 0))),
    "negative padding": case(padding=((-1, -1), (-1, 0))),
    "negative padding, nothing left": case(padding=((-5, -5), (-5, -5))),
    "padding of another rank": case(padding=((1, 1),)),
    "padding of numbers": case(padding=(1, 1)),
    "padding of fractions": case(padding=((0.5, 0.5), (1.0, 1.0))),
    "padding of no known name": case(padding="WRONG"),
    "padding in small letters": case(padding="same"),
    "no padding": case(padding=None),
    "padding as an array": case(padding=np.ones((2, 2), int)),
    "stride 0": case(strides=(0, 0)),
    "stride 0, named padding": case(strides=(0, 0), padding="VALID"),
    "negative stride": case(strides=(-1, -1), padding="VALID"),
    "two strides": case(strides=(1, 2)),
    "stride larger than the image": case(strides=(100, 100)),
    "stride larger than the image, window of 1": case(kernel=normal(1, 1, 32, 16), strides=(100, 100), padding="VALID"),
    "stride 2**30": case(kernel=normal(1, 1, 32, 16), strides=(2**30, 2**30), padding="VALID"),
    "stride 2**40": case(strides=(2**40, 2**40), padding="VALID"),
    "stride of three axes": case(strides=(1, 1, 1)),
    "stride of one number": case(strides=1),
    "stride of fractions": case(strides=(1.0, 1.0)),
    "stride of NumPy": case(strides=np.array([2, 2])),
    "one dimension": case(normal(2, 8, 16), normal(3, 16, 8), (1,), dimension_numbers=("NWC", "WIO", "NWC")),
    "three dimensions": case(
        normal(1, 4, 4, 4, 8), normal(3, 3, 3, 8, 4), (1, 1, 1), dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    ),
    "no dimensions": case(np.float32(1), np.float32(2)),
    "ranks that differ": case(kernel=normal(3, 3, 32)),
    "NaN": case(with_value(np.nan)),
    "infinity": case(with_value(np.inf)),
    "minus infinity in few channels": case(with_value(-np.inf)[..., :3], KERNEL[:, :, :3]),
    "NaN in the kernel": case(kernel=KERNEL * np.nan),
    "largest number": case(with_value(np.finfo(np.float32).max)),
    "denormal numbers": case(IMAGES * np.float32(1e-40)),
    "not contiguous": case(normal(2, 16, 16, 64)[:, ::2, ::2, ::2]),
    "turned round": case(IMAGES[::-1, ::-1], KERNEL[::-1]),
    "Fortran's order": case(np.asfortranarray(IMAGES), np.asfortranarray(KERNEL)),
    "misaligned": case(misaligned(IMAGES), misaligned(KERNEL)),
    "read-only": case(np.broadcast_to(normal(1, 8, 8, 32), (4, 8, 8, 32))),
    "other byte order": case(IMAGES.astype(">f4")),
    "masked array": case(np.ma.masked_array(IMAGES, IMAGES > 0)),
    "lists": case(IMAGES.tolist(), KERNEL.tolist()),
    "None": case(None, None),
    "strings": case(np.array("image"), KERNEL),
    "float64": case(IMAGES.astype(np.float64), KERNEL.astype(np.float64)),
    "float64 in x64": in_x64,
    "bfloat16": case(jnp.asarray(IMAGES, jnp.bfloat16), jnp.asarray(KERNEL, jnp.bfloat16)),
    "float16": case(jnp.asarray(IMAGES, jnp.float16), jnp.asarray(KERNEL, jnp.float16)),
    "float8": case(IMAGES.astype(ml_dtypes.float8_e4m3fn), KERNEL.astype(ml_dtypes.float8_e4m3fn)),
    "int8": case(IMAGES.astype(np.int8), KERNEL.astype(np.int8)),
    "int32": case(IMAGES.astype(np.int32), KERNEL.astype(np.int32)),
    "bool": case(IMAGES > 0, KERNEL > 0),
    "complex64": case(IMAGES.astype(np.complex64), KERNEL.astype(np.complex64)),
    "bfloat16 kernel": case(IMAGES, jnp.asarray(KERNEL, jnp.bfloat16)),
    "int kernel": case(IMAGES, KERNEL.astype(np.int32)),
    "random keys": case(jax.random.split(jax.random.key(0), (1, 8, 8, 32)), KERNEL),
    "traced": lambda conv: jax.jit(lambda *args: case(*args)(conv))(IMAGES, KERNEL),
    "without jit": lambda conv: jax.disable_jit()(gradients)(conv),
    "2**31 numbers": abstract((2**14, 64, 64, 32), (3, 3, 32, 32)),
    "2**62 numbers": abstract((2**31 - 1, 2**10, 2**10, 2**11), (3, 3, 2**11, 8)),
    "2**31 images": abstract((2**31, 8, 8, 32), (3, 3, 32, 8)),
    "sharded": sharded,
    "sharded by explicit axes": explicit,
    "inside shard_map": manual(True, PartitionSpec("data")),
    "inside shard_map, unchecked": manual(False, PartitionSpec("data")),
    "inside shard_map, all alike": manual(True, PartitionSpec()),
    "on two devices": two_devices,
    "on the second device": lambda conv: case(jax.device_put(IMAGES, jax.devices()[1]))(conv),
    "deleted": deleted,
    "donated": donated,
    "a symbolic number of images": symbolic,
    "no dimension numbers": case(dimension_numbers=None),
    "other dimension numbers": case(dimension_numbers=NCHW),
    "wrong dimension numbers": case(dimension_numbers=("NHWC", "HWIO", "NHHC")),
    "dimension numbers of nonsense": case(dimension_numbers=5),
    "dimension numbers as an object": case(
        dimension_numbers=lax.conv_dimension_numbers(IMAGES.shape, KERNEL.shape, NHWC)
    ),
    "groups": case(kernel=normal(3, 3, 16, 64), feature_group_count=2),
    "groups that do not divide": case(feature_group_count=5),
    "no groups": case(feature_group_count=0),
    "groups of images": case(batch_group_count=2),
    "dilated kernel": case(rhs_dilation=(2, 2)),
    "dilated images": case(lhs_dilation=(2, 2)),
    "dilation 0": case(rhs_dilation=(0, 0)),
    "dilation of one number": case(rhs_dilation=1),
    "dilation of one axis": case(rhs_dilation=(1,)),
    "channels that differ": case(kernel=normal(3, 3, 16, 64)),
    "precision highest": case(precision="highest"),
    "precision of two": case(precision=("high", lax.Precision.DEFAULT)),
    "precision of an algorithm": case(precision=lax.DotAlgorithmPreset.F32_F32_F32),
    "precision of nonsense": case(precision="rubbish"),
    "precision of a number": case(precision=5),
    "result in float64": case(preferred_element_type=np.float64),
    "result in float32": case(preferred_element_type=jnp.float32),
    "result in bfloat16": case(preferred_element_type=jnp.bfloat16),
    "result in nonsense": case(preferred_element_type="rubbish"),
    "sharding of nonsense": case(out_sharding="rubbish"),
}
# Calls of the compiled functions themselves: shapes of the arguments and of the result, and attributes.
GOOD = {"stride": np.int64(1), "top": np.int64(1), "left": np.int64(1)}
CALLS = {
    "forward: channels": ("forward", (2, 8, 8, 16), (3, 3, 32, 64), (2, 8, 8, 64), {}),
    "forward: features": ("forward", (2, 8, 8, 32), (3, 3, 32, 64), (2, 8, 8, 32), {}),
    "forward: images": ("forward", (2, 8, 8, 32), (3, 3, 32, 64), (200, 8, 8, 64), {}),
    "forward: rows": ("forward", (2, 8, 8, 32), (3, 3, 32, 64), (2, 800, 8, 64), {}),
    "forward: columns": ("forward", (2, 8, 8, 32), (3, 3, 32, 64), (2, 8, 2, 64), {}),
    "forward: not square": ("forward", (2, 8, 8, 32), (3, 2, 32, 64), (2, 8, 8, 64), {}),
    "forward: rank": ("forward", (2, 8, 8), (3, 3, 32, 64), (2, 8, 8, 64), {}),
    "forward: result's rank": ("forward", (2, 8, 8, 32), (3, 3, 32, 64), (2, 8, 8), {}),
    "forward: stride 0": ("forward", (2, 8, 8, 32), (3, 3, 32, 64), (2, 8, 8, 64), {"stride": np.int64(0)}),
    "forward: stride -1": ("forward", (2, 8, 8, 32), (3, 3, 32, 64), (2, 8, 8, 64), {"stride": np.int64(-1)}),
    "forward: stride 2**62": ("forward", (2, 8, 8, 32), (3, 3, 32, 64), (2, 8, 8, 64), {"stride": np.int64(2**62)}),
    "forward: top -1": ("forward", (2, 8, 8, 32), (3, 3, 32, 64), (2, 8, 8, 64), {"top": np.int64(-1)}),
    "forward: top -2**63": ("forward", (2, 8, 8, 32), (3, 3, 32, 64), (2, 8, 8, 64), {"top": np.int64(-(2**63))}),
    "forward: left 2**63 - 1": ("forward", (2, 8, 8, 32), (3, 3, 32, 64), (2, 8, 8, 64), {"left": np.int64(2**63 - 1)}),
    "forward: no images": ("forward", (0, 8, 8, 32), (3, 3, 32, 64), (2, 8, 8, 64), {}),
    "forward: no window": ("forward", (2, 8, 8, 32), (0, 0, 32, 64), (2, 8, 8, 64), {}),
    "input_gradient: channels": ("input_gradient", (2, 8, 8, 64), (3, 3, 32, 64), (2, 8, 8, 3), {}),
    "input_gradient: rows": ("input_gradient", (2, 8, 8, 64), (3, 3, 32, 64), (2, 80, 8, 32), {}),
    "input_gradient: features": ("input_gradient", (2, 8, 8, 6), (3, 3, 32, 64), (2, 8, 8, 32), {}),
    "weight_gradient: window": ("weight_gradient", (2, 8, 8, 32), (2, 8, 8, 64), (5, 3, 32, 64), {}),
    "weight_gradient: channels": ("weight_gradient", (2, 8, 8, 32), (2, 8, 8, 64), (3, 3, 3200, 64), {}),
    "weight_gradient: images": ("weight_gradient", (2, 8, 8, 32), (3, 8, 8, 64), (3, 3, 32, 64), {}),
    "weight_gradient: stride 2": (
        "weight_gradient",
        (2, 8, 8, 32),
        (2, 8, 8, 64),
        (3, 3, 32, 64),
        {"stride": np.int64(2)},
    ),
}


def outcome(run, conv):
    """The results, or the error's type and first words, which name no functions."""
    try:
        return jax.tree.map(np.asarray, jax.block_until_ready(run(conv)))
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0].partition(". Got")[0]


def difference(ours, expected):
    """What is wrong with `ours`, if anything."""
    if isinstance(ours, str) or isinstance(expected, str):
        is_same = isinstance(ours, str) and isinstance(expected, str) and ours == expected
        return None if is_same else f"{str(ours)[:300]!r} in place of {str(expected)[:300]!r}"
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            return f"{one.dtype}{one.shape} in place of {other.dtype}{other.shape}"
        one, other = (array.astype(np.complex128) for array in (one, other))
        finite = np.isfinite(one)  # Winograd's tiles spread what is not, and may not hide it.
        if (finite & ~np.isfinite(other)).any():
            return "a number that is finite and should not be"
        scale = np.abs(other[finite]).max(initial=1e-37)
        if not (np.abs(one - other)[finite] <= 2e-5 * scale).all():
            return f"off by {np.abs(one - other)[finite].max() / scale:.1e}"
    return None


def wrong_call(name, first, second, result, attributes):
    """What is wrong with how a call of a compiled function ends, which must be an error."""
    function = jax.ffi.ffi_call(native._target(f"tmu_jax_{name}"), jax.ShapeDtypeStruct(result, jnp.float32))
    answer = outcome(lambda _: function(np.ones(first, np.float32), np.ones(second, np.float32), **attributes), None)
    is_error = isinstance(answer, str) and answer.startswith("JaxRuntimeError: INVALID_ARGUMENT")
    return None if is_error else f"no error: {str(answer)[:300]}"


def without_memory():
    """What is wrong with a call whose working memory cannot be had, on the caller's thread or another.

    Needs MALLOC_ARENA_MAX=1 in the environment: else threads have heaps of 64 MiB that are theirs already.
    """
    # Made where they stay: what they would be copied or computed from is freed who knows when.
    arrays = jnp.ones((1, 8, 8, 2048)), jnp.ones((3, 3, 2048, 256))
    convolve = jax.jit(lambda *args: case(*args)(conv_general_dilated))
    compiled = convolve.lower(*arrays).compile()
    jax.block_until_ready(arrays)
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 6 * 2**20, unlimited[1]))
    try:
        answer = outcome(lambda _: compiled(*arrays), None)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)
    if not isinstance(answer, str) or "RESOURCE_EXHAUSTED" not in answer:
        return f"no error: {str(answer)[:300]}"
    again = np.asarray(compiled(*arrays))[0, 4, 4]
    return None if np.allclose(again, 9 * 2048, rtol=1e-4) else f"{again} with memory"


@np.errstate(all="ignore")
def main():
    if native.is_available() and sys.platform == "linux":  # First, while nothing is kept that it could take.
        print(json.dumps(["without memory"]), flush=True)
        print(json.dumps(["without memory", without_memory()]), flush=True)
    for name, run in CASES.items():
        print(json.dumps([name]), flush=True)
        wrong = difference(outcome(run, conv_general_dilated), outcome(run, lax.conv_general_dilated))
        print(json.dumps([name, wrong]), flush=True)
    if native.is_available():
        for name, call in CALLS.items():
            print(json.dumps([name]), flush=True)
            print(json.dumps([name, wrong_call(*call[:4], {**GOOD, **call[4]})]), flush=True)


if __name__ == "__main__":
    with use_devices(jax.devices()[:1]):  # Ours serve one device; the cases hand them arrays on two.
        assert native.is_wanted()
        main()
