"""Named arrays in files, and Flax variables in PyTorch's names and layouts. NumPy alone: both sides use it."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]

_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def save_arrays(path: pathlib.Path, arrays: Arrays) -> None:
    """Writes named arrays; names may hold slashes."""
    renamed: dict[str, Any] = {name.replace("/", "|"): value for name, value in arrays.items()}
    np.savez(path, **renamed)


def load_arrays(path: pathlib.Path) -> Arrays:
    """Reads what `save_arrays` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return {name.replace("|", "/"): file[name] for name in file.files}


def flatten(tree: Mapping, prefix: str = "") -> dict[str, np.ndarray]:
    """A nested dictionary of arrays as one of paths joined by "/"."""
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        path = f"{prefix}/{name}" if prefix else str(name)
        flat |= flatten(value, path) if isinstance(value, Mapping) else {path: np.asarray(value)}
    return flat


def unflatten(flat: Mapping[str, np.ndarray], prefix: str = "") -> dict:
    """The inverse of `flatten`, of the paths that start with `prefix`/."""
    tree: dict = {}
    start = f"{prefix}/" if prefix else ""
    for path, value in flat.items():
        if path.startswith(start):
            *parents, leaf = path[len(start) :].split("/")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
    return tree


def to_torch(flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Flax variables ("params/…" and "batch_stats/…" paths) as a PyTorch state dictionary of NumPy arrays.

    A dense kernel [in, out] is transposed, a convolution's goes from HWIO to OIHW, attention's projections of several
    axes become plain matrices, and batch norm's statistics take PyTorch's names.

    Args:
      flat: from `flatten`.

    Returns:
      Arrays by PyTorch name; modules are named as in Flax.
    """
    state = {}
    for path, value in flat.items():
        _, *modules, leaf = path.split("/")
        name = ".".join([*modules, _NAMES.get(leaf, leaf)])
        state[name] = np.ascontiguousarray(_layout(modules, leaf, value))
    return state


def _layout(modules: list[str], leaf: str, value: np.ndarray) -> np.ndarray:
    if leaf != "kernel":
        return value
    if modules[-1] == "query_key_value":  # [width, 3, heads, head]
        return value.reshape(value.shape[0], -1).T
    if modules[-1] == "output" and value.ndim == 3:  # [heads, head, width]
        return value.reshape(-1, value.shape[-1]).T
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
