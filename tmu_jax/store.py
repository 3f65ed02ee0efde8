"""Stages on disk: what a run has computed, found again by a hash of what produced it."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

_HASH_LENGTH = 16


class Stage(NamedTuple):
    """A computed stage.

    Attributes:
      arrays: a nested dict of arrays, none of them empty (Orbax refuses those).
      metadata: what else is known of it (seconds, notes), as JSON.
    """

    arrays: dict[str, Any]
    metadata: dict[str, Any]


def stage_hash(produced_by: Mapping[str, Any]) -> str:
    """A hash of everything that determines a stage; the order of the keys does not matter.

    Args:
      produced_by: JSON values, and NumPy arrays, which count by shape, dtype and content.

    Returns:
      16 hexadecimal digits.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return [str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()]
        raise TypeError(f"a stage's settings hold {value!r} of {type(value).__name__}, which is no JSON value or array")

    text = json.dumps(produced_by, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]


class StageStore:
    """Orbax checkpoints of stages in one folder, `<kind>-<hash>` each.

    A stage is written under a temporary name and renamed when it is whole, so one that was interrupted is simply
    computed again.
    """

    def __init__(self, directory: pathlib.Path | str) -> None:
        """Args: directory: where the stages lie; made when the first one is written."""
        self.directory = pathlib.Path(directory).absolute()

    def path(self, kind: str, produced_by: Mapping[str, Any]) -> pathlib.Path:
        """Where the stage is or would be."""
        return self.directory / f"{kind}-{stage_hash(produced_by)}"

    def has(self, kind: str, produced_by: Mapping[str, Any]) -> bool:
        """Whether the stage is there, whole."""
        path = self.path(kind, produced_by)
        return path.is_dir() and ocp.utils.checkpoint_steps(path) == [0]

    def get(self, kind: str, produced_by: Mapping[str, Any], compute: Callable[[], Stage]) -> Stage:
        """The stage, restored from disk or else computed and saved.

        Args:
          kind: a short name, such as "gold".
          produced_by: everything that determines the result (see `stage_hash`).
          compute: makes the stage.

        Returns:
          The stage, its arrays as NumPy arrays.
        """
        path = self.path(kind, produced_by)
        options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
        if not self.has(kind, produced_by):
            stage = compute()
            arrays = jax.tree.map(np.asarray, stage.arrays)
            with ocp.CheckpointManager(path, options=options) as manager:
                manager.save(
                    0,
                    args=ocp.args.Composite(
                        arrays=ocp.args.StandardSave(arrays), metadata=ocp.args.JsonSave(dict(stage.metadata))
                    ),
                )
        with ocp.CheckpointManager(path, options=options) as manager:
            restored = manager.restore(
                0, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(), metadata=ocp.args.JsonRestore())
            )
        return Stage(jax.tree.map(np.asarray, restored.arrays), restored.metadata)
