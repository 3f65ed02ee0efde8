"""Strict numerics for every test, and one cache of compiled programs for all of them.

No implicit dtype or rank promotion; warnings are errors (pyproject.toml). Many tests trace the same programs anew, in
one process or in several: XLA compiles each once, and the next run of the suite finds them.
"""

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config: pytest.Config) -> None:
    """Puts JAX's compilation cache into pytest's own cache folder."""
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
