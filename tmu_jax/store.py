"""Stages on disk: Orbax checkpoints that are found by name, and checked to be what their name says."""

import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util


class Saved(NamedTuple):
    """What is kept of a stage.

    Attributes:
      arrays: a nested dict of NumPy arrays.
      metadata: what else is known of it (seconds, notes), as JSON.
    """

    arrays: dict[str, Any]
    metadata: dict[str, Any]


class StageStore:
    """Checkpoints of stages in one folder, one folder each, under the stage's name.

    A stage is written under a temporary name and renamed when it is whole. It holds its own name and checksums of its
    arrays and metadata: Orbax notices neither a flipped bit nor a folder that was put in another's place.
    """

    def __init__(self, directory: pathlib.Path | str, warn: Callable[[str], None] = lambda sentence: None) -> None:
        """Prepares; nothing is read or written yet.

        Args:
          directory: where the stages lie; made when the first one is written.
          warn: is told, in one sentence, of a stage that is there and cannot be used.
        """
        self.directory = pathlib.Path(directory).absolute()
        self._warn = warn

    def path(self, name: str) -> pathlib.Path:
        """Where the stage is or would be."""
        return self.directory / name

    def has(self, name: str) -> bool:
        """Whether the stage seems to be there, whole; `load` looks closer."""
        path = self.path(name)
        return path.is_dir() and ocp.utils.checkpoint_steps(path) == [0]

    def load(self, name: str) -> Saved | None:
        """The stage, or None where there is none, or none that can be used: it is to be computed anew then.

        Args:
          name: of the stage.

        Returns:
          The stage as it was saved. What lies in its place and is not this stage, whole and unchanged, is named in a
          warning and left alone until `save` replaces it.
        """
        path = self.path(name)
        if not path.exists() and not path.is_symlink():
            return None
        if path.is_dir() and any(entry.name.startswith(_UNFINISHED) for entry in path.iterdir()):
            return None  # A run was stopped while it wrote this stage: nothing to warn of.
        try:
            return _read(path, name)
        except Exception as error:  # Whatever a damaged checkpoint makes Orbax raise: it cannot be used.
            reason = str(error).strip().splitlines() or [type(error).__name__]
            self._warn(f"stage {name} in {self.directory} cannot be used and is computed anew: {reason[0][:200]}")
            return None

    def save(self, name: str, saved: Saved) -> None:
        """Writes a stage, in the place of whatever is there.

        Args:
          name: of the stage.
          saved: what to keep.
        """
        path = self.path(name)
        _remove(path)
        full = traverse_util.flatten_dict(saved.arrays)
        arrays = {names: np.asarray(array) for names, array in full.items()}
        # Orbax refuses arrays without entries.
        empty = {_joined(names): [str(array.dtype), array.shape] for names, array in arrays.items() if not array.size}
        whole = traverse_util.unflatten_dict({names: array for names, array in arrays.items() if array.size})
        metadata = {
            "name": name,
            "checksums": {_joined(names): _checksum(array) for names, array in arrays.items()},
            "empty": empty,
            "of_stage": json.dumps(saved.metadata),
        }
        metadata["checksum"] = _checksum_of_metadata(metadata)
        with ocp.CheckpointManager(path, options=_OPTIONS) as manager:
            manager.save(
                0,
                args=ocp.args.Composite(arrays=ocp.args.StandardSave(whole), metadata=ocp.args.JsonSave(metadata)),
            )


_OPTIONS = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
_UNFINISHED = "0.orbax-checkpoint-tmp"
_RESTORE = ocp.args.Composite(arrays=ocp.args.StandardRestore(), metadata=ocp.args.JsonRestore())


def _read(path: pathlib.Path, name: str) -> Saved:
    """The stage that lies there, if it is that of this name, whole and unchanged; else an error of any kind."""
    if not path.is_dir():
        raise ValueError("it is no folder" if path.exists() else "it is a link to nothing")
    if ocp.utils.checkpoint_steps(path) != [0]:
        raise ValueError("its folder holds no checkpoint")
    with ocp.CheckpointManager(path, options=_OPTIONS) as manager:
        restored = manager.restore(0, args=_RESTORE)
    arrays, metadata = restored.arrays, restored.metadata
    if not isinstance(metadata, dict) or metadata.get("checksum") != _checksum_of_metadata(metadata):
        raise ValueError("its metadata is not as it was written")
    if metadata["name"] != name:
        raise ValueError(f"it is the stage {metadata['name']}")
    found = {names: np.asarray(array) for names, array in traverse_util.flatten_dict(arrays or {}).items()}
    for joined, (dtype, shape) in metadata["empty"].items():
        found[tuple(joined.split("/"))] = np.zeros(shape, dtype)
    checksums = {_joined(names): _checksum(array) for names, array in found.items()}
    changed = sorted(set(checksums.items()) ^ set(metadata["checksums"].items()))
    if changed:
        raise ValueError(f"its array {changed[0][0]} is not as it was written")
    return Saved(traverse_util.unflatten_dict(found), json.loads(metadata["of_stage"]))


def _joined(names: tuple[str, ...]) -> str:
    return "/".join(names)


def _checksum(array: np.ndarray) -> str:
    header = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def _checksum_of_metadata(metadata: Mapping[str, Any]) -> str:
    text = json.dumps({key: value for key, value in metadata.items() if key != "checksum"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _remove(path: pathlib.Path) -> None:
    """Removes what is in a stage's place; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()
