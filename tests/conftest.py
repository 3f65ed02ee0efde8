"""Strict numerics for every test, and what keeps the suite short and small.

No implicit dtype or rank promotion; warnings are errors (pyproject.toml). Most of the time goes into compiling small
programs: XLA is told to optimise little (JAX_DISABLE_MOST_OPTIMIZATIONS=0 has it do what it does for users), and each
program is compiled once and kept in pytest's cache folder for the other modules, processes and runs.
"""

import os
from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    jax.config.update("jax_disable_most_optimizations", True)


def pytest_configure(config: pytest.Config) -> None:
    """Puts JAX's compilation cache into pytest's own cache folder."""
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_module_in_memory() -> Iterator[None]:
    """Programs stay in memory as long as anything holds them: a whole suite of them takes gigabytes."""
    yield
    jax.clear_caches()
