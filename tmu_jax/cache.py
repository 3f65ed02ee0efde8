"""How programs are compiled: kept on disk, so that the second start compiles nothing; small loops as one kernel."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata

# With them XLA writes small matrix products itself instead of calling a library.
ONE_KERNEL_OPTIONS = {"xla_cpu_multi_thread_eigen": False, "xla_cpu_experimental_ynn_fusion_type": ""}
_MARK = {"xla_cpu_small_call": "true", "inlineable": "false"}
_NO_MARK = {"xla_cpu_small_call": "false", "inlineable": "true"}


def use_compilation_cache(directory: pathlib.Path | str | None = None) -> pathlib.Path:
    """Turns JAX's persistent compilation cache on for every program, however quick to compile.

    A cache that is configured already (JAX_COMPILATION_CACHE_DIR) is kept.

    Args:
      directory: where to keep programs; by default a folder in the user's cache folder.

    Returns:
      The folder in use.
    """
    if directory is None:
        import pooch

        configured = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
        directory = configured or pathlib.Path(pooch.os_cache("tmu_jax")) / "xla"
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return pathlib.Path(directory)


def one_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a single kernel, loops and matrix products included, in a program for a CPU.

    XLA calls a CPU program's operations one after another, and where they are as small as the predictor's (a product of
    16x64x32, an update of 32 numbers) the calls cost more than the work. One kernel pays once, and runs on one core.

    Args:
      function: of arrays; it may hold no sort, scatter or call of a library. The `jax.jit` around it must have
        `ONE_KERNEL_OPTIONS` as its `compiler_options`, so that products are no such calls, and can therefore be no
        part of another one. Products are fast where `is_small_product` holds and neither factor is transposed.

    Returns:
      A function that computes the same.
    """

    @jax.jit
    def unmarked(*args: Any) -> Any:
        # What is marked is this call alone: the calls in it must stay free to be fused.
        with set_xla_metadata(**_NO_MARK):
            return function(*args)

    def call(*args: Any) -> Any:
        with set_xla_metadata(**_MARK):
            return unmarked(*args)

    return call


def is_small_product(rows: int, contracted: int, columns: int) -> bool:
    """Whether XLA (jaxlib 0.10.2) writes a product of these sizes in tiles; larger ones are plain, slow loops."""
    return contracted <= 128 and min(rows, columns) <= 32 and max(rows, columns) <= 128
