"""Functions in C++ for a CPU, compiled for the machine they run on and called by XLA.

Convolutions, batch norm and nearest rows make one group, dense layers and attention another. A C++ compiler is needed,
as for `torch.compile` on a CPU. The first use of a group compiles it (some seconds, once: what is compiled is kept in
the user's cache folder); where that cannot be done a warning is logged, convolutions are XLA's matrix products
(`products.py`), all else is XLA's and Flax's own, and training takes up to twice as long. TMU_JAX_NATIVE=0 chooses
those: a program with compiled functions runs on a CPU alone, and only where they are registered.
"""

import concurrent.futures
import ctypes
import functools
import hashlib
import importlib.metadata
import logging
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from tmu_jax import timing

_FOLDER = pathlib.Path(__file__).parent
_GROUPS = {
    "convolutions, batch norm and nearest rows": {
        "convolution.cc": ("forward", "input_gradient", "weight_gradient"),
        "batch_norm.cc": ("batch_norm", "batch_norm_gradient"),
        "neighbors.cc": ("nearest_rows",),
    },
    "dense layers and attention": {
        "dense.cc": ("dense", "dense_input_gradient", "dense_weight_gradient"),
        "attention.cc": ("attention", "attention_gradient"),
    },
}
CONVOLUTIONS, ATTENTION = _GROUPS
_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-shared", "-fPIC", "-w")
_logger = logging.getLogger("tmu_jax")
_loaded: list[ctypes.CDLL] = []


def describe() -> str:
    """What computes convolutions, batch norm and the like on this CPU, in words, for records."""
    return "compiled C++" if is_available(CONVOLUTIONS) else "XLA"


def scratch_bytes() -> int:
    """Memory that compiled functions keep for their next call, the most that they have needed in this process."""
    total = 0
    for library in _loaded:
        library.tmu_jax_scratch_bytes.restype = ctypes.c_int64
        total += library.tmu_jax_scratch_bytes()
    return total


def is_used(*arrays: jax.Array, group: str = CONVOLUTIONS) -> bool:
    """Whether what is traced now for these arrays takes compiled functions: for a CPU, if they can be had.

    Arrays that differ from device to device inside `jax.shard_map` do not, nor do those of a mesh with explicit axes.
    """
    types = [jax.typeof(array) for array in arrays]
    is_manual = any(kind.manual_axis_type.varying for kind in types)
    is_explicit = any(jax.sharding.AxisType.Explicit in kind.sharding.mesh.axis_types for kind in types)
    return jax.default_backend() == "cpu" and not is_manual and not is_explicit and is_available(group)


def call(function: str, shapes: Any, **attributes: int | float | bool) -> Callable[..., Any]:
    """One of the compiled functions, where there are any.

    Args:
        function: "forward" of (images, kernel), "input_gradient" of (cotangent, kernel), "weight_gradient" of (images,
            cotangent), with the attributes stride, top and left (rows and columns of zeros before the images); images
            are float32[n, height, width, channels], kernels float32[window, window, channels, features]. The
            others as their sources describe them.
        shapes: of the result, or a list of them, float32 all.
        **attributes: what the function takes beside arrays.

    Raises:
        RuntimeError: where its group is not available.
    """
    (group,) = (group for group, sources in _GROUPS.items() if any(function in names for names in sources.values()))
    if not is_available(group):
        raise RuntimeError(f"{function} is not available on this machine: {group} were not compiled")
    results: Any = (
        jax.ShapeDtypeStruct(shapes, np.float32)
        if not isinstance(shapes, list)
        else [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    )
    target = jax.ffi.ffi_call(f"{_prefix()}_{function}", results, vmap_method="sequential")
    return functools.partial(target, **{name: _attribute(value) for name, value in attributes.items()})


def _attribute(value: int | float | bool) -> np.bool_ | np.int64 | np.float32:
    if isinstance(value, bool):
        return np.bool_(value)
    return np.int64(value) if isinstance(value, int) else np.float32(value)


@functools.cache
def is_available(group: str) -> bool:
    """Whether there are compiled functions here; compiles and registers a group of them at its first call."""
    sources = _GROUPS[group]
    if os.environ.get("TMU_JAX_NATIVE") == "0":
        return False
    try:
        with timing.compiling_native(), concurrent.futures.ThreadPoolExecutor() as pool:
            libraries = [ctypes.CDLL(str(path)) for path in pool.map(_build, sources)]
        functions = {
            name: jax.ffi.pycapsule(getattr(library, f"tmu_jax_{name}"))
            for library, names in zip(libraries, sources.values(), strict=True)
            for name in names
        }
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        _logger.warning(
            "%s could not be compiled for this CPU; XLA's take their place, and training up to twice as long. Install a"
            " C++ compiler (g++ or clang++; CXX names another), or set TMU_JAX_NATIVE=0 to be told no more: %s",
            group.capitalize(),
            reason.strip()[-1000:],
        )
        return False
    _loaded.extend(libraries)
    for name, capsule in functions.items():
        jax.ffi.register_ffi_target(f"{_prefix()}_{name}", capsule, platform="cpu")
    return True


@functools.cache
def _prefix() -> str:
    # Another version of the source is another function to the compilation cache.
    sources = b"".join(path.read_bytes() for path in sorted([*_FOLDER.glob("*.h"), *_FOLDER.glob("*.cc")]))
    return f"tmu_jax_{hashlib.sha256(sources).hexdigest()[:12]}"


def _build(source: str) -> pathlib.Path:
    """Compiles a library unless it is there: one for each source, compiler, jaxlib and processor."""
    import pooch

    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise FileNotFoundError("none of c++, g++ and clang++ was found")
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    command = [*shlex.split(compiler), *_FLAGS, native]
    key = [*command, _version(compiler), importlib.metadata.version("jaxlib"), sys.platform, _processor(), _prefix()]
    folder = pathlib.Path(pooch.os_cache("tmu_jax")) / "native"
    name = f"{pathlib.Path(source).stem}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.so"
    library = folder / name
    if not library.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = pathlib.Path(scratch) / name
            arguments = [*command, "-isystem", jax.ffi.include_dir(), str(_FOLDER / source), "-o", str(built)]
            subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=300)
            built.replace(library)  # Whole or not there, for others that start at the same time.
    return library


def _version(compiler: str) -> str:
    done = subprocess.run([*shlex.split(compiler), "--version"], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def _processor() -> str:
    """What tells apart processors that a shared cache folder may serve."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else [platform.processor()]
    kept = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))} or set(
        lines[:1]
    )
    return "\n".join(sorted(kept))
