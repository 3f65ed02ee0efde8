"""Classifiers that are a pure function of parameters and images: equinox, haiku, or plain functions."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tmu_jax.stages import function_name
from tmu_jax.training.adapter import NO_INIT, Adapter, Keys, Recorder, Static, Variables, name_of
from tmu_jax.training.signature import KEY_NAMES, mode, parameters


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class FunctionAdapter(Adapter):
    """A function `apply(tree, images)`; `module` is the function.

    The floating-point arrays of its tree are "params", its other arrays "constants", dicts of arrays by their names.

    Attributes:
      tree: the structure of the user's tree.
      order: (collection, name) of each leaf.
    """

    tree: Static
    order: tuple[tuple[str, str], ...]

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(name for name in KEY_NAMES if name in parameters(self.module.value))

    def call(self, variables: Variables, images: jax.Array, train: bool, keys: Keys, recorder: Recorder) -> Any:
        known = parameters(self.module.value)
        options: dict[str, Any] = {**mode(known, train), **{name: keys.get(name) for name in self.streams}}
        return self.module.value(self.as_given(variables), images, **options), {}

    def as_given(self, variables: Variables) -> Any:
        leaves = [variables[collection][name] for collection, name in self.order]
        return jax.tree.unflatten(self.tree.value, leaves)

    def fresh(self, key: jax.Array, images: jax.Array) -> Variables:
        if self.init is None:
            raise ValueError(NO_INIT)
        variables, order, tree = variables_of(self.init(key))
        if order != self.order or tree != self.tree.value:
            raise ValueError("init returned another tree than the one that was given to wrap")
        return variables

    def made_from(self) -> dict[str, Any]:
        return {**super().made_from(), "module": function_name(self.module.value, "module_or_apply")}


def adapt(apply: Callable[..., Any], tree: Any, init: Callable[..., Any] | None) -> tuple[FunctionAdapter, Variables]:
    """The adapter of a function, and its tree's arrays."""
    variables, order, structure = variables_of(tree)
    return FunctionAdapter(module=Static(apply), tree=Static(structure), order=order, init=init), variables


def variables_of(tree: Any) -> tuple[Variables, tuple[tuple[str, str], ...], Any]:
    """The arrays of a tree by collection and name, (collection, name) of each leaf, and the tree's structure.

    Raises:
      TypeError: for a leaf that is no array, such as an activation function in an equinox module.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    variables: Variables = {"params": {}}
    order = []
    for path, leaf in leaves:
        name = name_of(path)
        if callable(leaf) or isinstance(leaf, str):
            raise TypeError(
                f"variables holds {leaf!r} at {name!r}, which is no array; of an equinox module give the arrays: "
                "params, static = eqx.partition(model, eqx.is_array)"
            )
        array = leaf if isinstance(leaf, jax.Array | np.ndarray) else jnp.asarray(leaf)
        collection = "params" if jnp.issubdtype(array.dtype, jnp.floating) else "constants"
        variables.setdefault(collection, {})[name] = array
        order.append((collection, name))
    return variables, tuple(order), structure
