"""Compiled programs are kept on disk, so that the second start compiles nothing."""

import pathlib

import jax


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
