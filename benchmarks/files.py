"""Arrays in files, and where the checkout is. Without JAX or PyTorch."""

import pathlib
from typing import Any

import numpy as np


def root() -> pathlib.Path:
    """The folder that holds the package `benchmarks`."""
    return pathlib.Path(__file__).resolve().parent.parent


def save_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes named arrays; names may hold slashes."""
    renamed: dict[str, Any] = {name.replace("/", "|"): value for name, value in arrays.items()}
    np.savez(path, **renamed)


def load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads what `save_arrays` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return {name.replace("|", "/"): file[name] for name in file.files}
