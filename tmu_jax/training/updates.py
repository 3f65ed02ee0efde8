"""Updates that a training keeps when it is asked: of groups of rows, what the steps with one of them changed in all.

A step's update is what it changed, Δθ = θ after − θ before, and the same of every other variable, such as batch norm's
statistics. Of each group one sum is kept, over the steps whose batch held a row of it: as large as the variables,
however many steps there are.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tmu_jax.data import Split
from tmu_jax.data.checks import check_rows, name_some
from tmu_jax.training.adapter import Variables, name_of, names


class Sums(NamedTuple):
    """What a training has come to; part of its state.

    Attributes:
      changes: by the variable's name, such as "params/Dense_0/kernel", float32[groups, *shape].
      steps: int32[groups], how many steps were added.
    """

    changes: dict[str, jax.Array]
    steps: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Updates:
    """The updates that a finished training kept; see `train(…, updates_of=…)`.

    Attributes:
      groups: int32[n] each, ascending: the rows of the pool that were named together.
      changes: by the variable's name, float32[groups, *shape]: the sum over the steps with a row of the group.
      steps: int32[groups], how many steps those were.
      total_steps: of the training.
    """

    groups: tuple[np.ndarray, ...]
    changes: Mapping[str, jax.Array]
    steps: np.ndarray
    total_steps: int

    def number_of(self, rows: np.ndarray) -> int:
        """Which group holds exactly these rows.

        Raises:
          ValueError: for other rows than those of one group.
        """
        wanted = np.unique(rows)
        for number, group in enumerate(self.groups):
            if np.array_equal(group, wanted):
                return number
        sizes = name_some([str(len(group)) for group in self.groups])
        raise ValueError(
            f"the updates that the training kept are of groups of {sizes} rows, none of which are the {len(wanted)} "
            f"rows {name_some(map(str, wanted.tolist()))} of this request: a sum is of exactly the rows that were "
            "named together; train with these among updates_of=, or ask for one of its groups"
        )

    def without(self, variables: Variables, group: int, but: tuple[str, ...] = ()) -> Variables:
        """Variables without the updates of a group; those of the collections named by `but` as they are."""

        def less(path: Any, leaf: Any) -> Any:
            name = name_of(path)
            if name not in self.changes or name.split("/")[0] in but:
                return leaf
            return leaf - self.changes[name][group]

        return jax.tree_util.tree_map_with_path(less, variables)

    def packed(self) -> dict[str, Any]:
        """As nested dicts of arrays."""
        return {
            "changes": traverse_util.unflatten_dict(jax.device_get(dict(self.changes)), sep="/"),
            "groups": {str(i): group for i, group in enumerate(self.groups)},
            "steps": np.asarray(self.steps),
            "total_steps": np.asarray(self.total_steps, np.int32),
        }

    @classmethod
    def of(cls, packed: Mapping[str, Any] | None) -> "Updates | None":
        """From what `packed` gave; None from None."""
        if packed is None:
            return None
        changes = traverse_util.flatten_dict(packed["changes"], sep="/")
        return cls(
            tuple(np.asarray(packed["groups"][str(i)], np.int32) for i in range(len(packed["groups"]))),
            {name: jnp.asarray(change) for name, change in changes.items()},
            np.asarray(packed["steps"]),
            int(packed["total_steps"]),
        )


class Recording:
    """Keeps the updates of one training: the loop asks it which steps count, and tells it what they came to."""

    def __init__(self, groups: tuple[np.ndarray, ...]) -> None:
        """Args: groups: int32[n] rows of the pool each, ascending."""
        self.groups = groups
        self.updates: Updates | None = None

    def begin(self, variables: Variables) -> Sums:
        """Sums of no step; of the variables that are floats."""
        count = len(self.groups)
        floats = {name: leaf for name, leaf in names(variables).items() if jnp.issubdtype(leaf.dtype, jnp.floating)}
        changes = {name: jnp.zeros((count, *leaf.shape), leaf.dtype) for name, leaf in floats.items()}
        return Sums(changes, jnp.zeros(count, jnp.int32))

    def counted(self, rows: np.ndarray) -> np.ndarray:
        """Of which groups each step has a row, bool[steps, groups], from rows int32[steps, batch]."""
        return np.stack([np.isin(rows, group).any(axis=1) for group in self.groups], axis=1)

    def end(self, sums: Sums, total_steps: int) -> None:
        """Told of the sums after the last step."""
        self.updates = Updates(self.groups, sums.changes, np.asarray(sums.steps), total_steps)


def with_step(sums: Sums, before: Variables, after: Variables, counted: jax.Array) -> Sums:
    """The sums after a step from variables to variables, for the groups that it counts for, bool[groups]."""
    old, new = names(before), names(after)

    def add(name: str, total: jax.Array) -> jax.Array:
        counts = counted.reshape(-1, *[1] * old[name].ndim)
        return total + jnp.where(counts, (new[name] - old[name])[None], jnp.zeros_like(total))

    changes = {name: add(name, total) for name, total in sums.changes.items()}
    return Sums(changes, sums.steps + counted.astype(jnp.int32))


def as_groups(rows: Any, data: Split) -> tuple[np.ndarray, ...]:
    """The groups that a caller names, int32[n] each, ascending.

    Args:
      rows: rows of the pool as one sequence of integers, or a sequence of such, one for each group.
      data: the images that are trained on.

    Raises:
      TypeError: for what are no rows.
      ValueError: for no group, an empty one, a row out of range or twice in a group, or one that is not trained on.
    """
    is_nested = isinstance(rows, list | tuple) and len(rows) > 0 and np.ndim(rows[0]) > 0
    found = []
    for number, group in enumerate(rows if is_nested else [rows]):
        argument = f"updates_of[{number}]" if is_nested else "updates_of"
        checked = check_rows(argument, group, "the pool of `data`", len(data.pool))
        if not len(checked):
            raise ValueError(f"{argument} holds no rows; name the rows that may have to be forgotten together")
        strange = np.setdiff1d(checked, data.indices)
        if len(strange):
            raise ValueError(
                f"{argument} holds {len(strange)} rows that `data` does not train on, such as {strange[0]}; name rows "
                "of data.indices"
            )
        found.append(np.sort(checked).astype(np.int32))
    return tuple(found)
