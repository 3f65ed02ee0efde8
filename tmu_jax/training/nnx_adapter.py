"""Flax NNX modules: split into what a program is compiled for and arrays, merged again inside the program."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from tmu_jax.cpu.convolution import conv_general_dilated
from tmu_jax.training.adapter import NO_INIT, Adapter, Keys, Recorder, Static, Variables, names
from tmu_jax.training.signature import mode, parameters

_OVER_DEVICES = (nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm, nnx.GroupNorm)
_RNGS = "rngs"
_OTHERS = nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate))


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class NnxAdapter(Adapter):
    """An NNX module; `module` is its graph.

    Its `nnx.Param` are "params", its other variables, such as batch statistics, "state", each a dict of arrays by names
    such as "layers/0/kernel". Keys and counters of random numbers are none of them: in training each step has its own.
    What it sows is dropped.

    Attributes:
      paths: (collection, name, path in the module) of each variable.
      random: (path, whether it is a key, shape) of each variable of a random number generator.
      takes_rngs: whether the module is given a generator in each call of training, by an argument `rngs`.
      needs_rngs: whether that has no default, so that in evaluation it is given None.
    """

    paths: tuple[tuple[str, str, tuple[Any, ...]], ...]
    random: tuple[tuple[tuple[Any, ...], bool, tuple[int, ...]], ...] = ()
    takes_rngs: bool = False
    needs_rngs: bool = False

    @property
    def streams(self) -> tuple[str, ...]:
        own = tuple(_joined(path) for path, is_key, _ in self.random if is_key)
        return (*own, _RNGS) if self.takes_rngs else own

    def call(self, variables: Variables, images: jax.Array, train: bool, keys: Keys, recorder: Recorder) -> Any:
        merged = self._merged(variables, self._random_state(keys))
        (merged.train if train else merged.eval)()
        self._lend(merged, recorder)
        with _recorded(merged, recorder):
            flags: dict[str, Any] = mode(parameters(type(merged).__call__), train)
            if self.takes_rngs and train:
                flags[_RNGS] = nnx.Rngs(keys.get(_RNGS, jax.random.key(0)))
            elif self.needs_rngs:
                flags[_RNGS] = None
            outputs = merged(images, **flags)
        if not train:
            return outputs, {}
        moved = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(merged, _OTHERS)))
        return outputs, {"state": {_joined(path): leaf for path, leaf in moved.items()}} if "state" in variables else {}

    def as_given(self, variables: Variables) -> nnx.Module:
        return self._merged(variables, self.kept["random"])

    def fresh(self, key: jax.Array, images: jax.Array) -> Variables:
        if self.init is None:
            raise ValueError(NO_INIT)
        variables = variables_of(self.init(key))[0]
        if {name: leaf.shape for name, leaf in names(variables).items()} != self.shapes:
            raise ValueError("init returned a module of other variables than the one that was given to wrap")
        return variables

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the variables by their names."""
        return self.kept["shapes"]

    def _merged(self, variables: Variables, random: dict[tuple[Any, ...], Any]) -> Any:
        arrays = {path: variables[collection][name] for collection, name, path in self.paths}
        return nnx.merge(self.module.value, traverse_util.unflatten_dict({**arrays, **random}))

    def _random_state(self, keys: Keys) -> dict[tuple[Any, ...], Any]:
        """Fresh keys and counters at 0; a generator that nothing draws from has any key."""
        found: dict[tuple[Any, ...], Any] = {}
        for path, is_key, shape in self.random:
            if is_key:
                key = keys.get(_joined(path), jax.random.key(0))
                found[path] = jax.random.split(key, shape) if shape else key
            else:
                found[path] = jnp.zeros(shape, jnp.uint32)
        return found

    def _lend(self, merged: nnx.Module, recorder: Recorder) -> None:
        """Fast convolutions, norms of one device and of frozen parts, and dense layers that are recorded."""
        for path, layer in nnx.iter_graph(merged):
            if isinstance(layer, nnx.Conv) and layer.conv_general_dilated is jax.lax.conv_general_dilated:
                layer.conv_general_dilated = conv_general_dilated
            if isinstance(layer, _OVER_DEVICES):
                layer.axis_name = None
            if isinstance(layer, nnx.BatchNorm) and f"state/{_joined((*path, 'mean'))}" in self.frozen:
                layer.use_running_average = True
            if isinstance(layer, nnx.Linear):
                layer.dot_general = _recording(layer.dot_general, recorder, _joined(path))


def adapt(module: nnx.Module, init: Callable[[jax.Array], nnx.Module] | None) -> tuple[NnxAdapter, Variables]:
    """The adapter of a finished NNX module, which is left intact, and its variables."""
    module = nnx.clone(module)
    nnx.pop(module, nnx.Intermediate)
    graph, _ = nnx.split(module)
    variables, paths = variables_of(module)
    random = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(module, nnx.RngState)))
    kinds = tuple(
        (path, jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key), tuple(leaf.shape)) for path, leaf in random.items()
    )
    shapes = {name: leaf.shape for name, leaf in names(variables).items()}
    kept = {"random": random, "shapes": shapes}
    rngs = parameters(type(module).__call__).get(_RNGS)
    adapter = NnxAdapter(
        module=Static(graph),
        paths=paths,
        random=kinds,
        takes_rngs=rngs is not None,
        needs_rngs=rngs is not None and rngs.default is rngs.empty,
        init=init,
        kept=kept,
    )
    return adapter, variables


def variables_of(module: nnx.Module) -> tuple[Variables, tuple[tuple[str, str, tuple[Any, ...]], ...]]:
    """The arrays of a module by collection and name, and (collection, name, path) of each."""
    if not isinstance(module, nnx.Module):
        raise TypeError(f"init returned a {type(module).__name__}; it must return an NNX module")
    variables: Variables = {}
    paths = []
    for collection, kind in (("params", nnx.Param), ("state", _OTHERS)):
        flat = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(module, kind)))
        if flat or collection == "params":
            variables[collection] = {_joined(path): leaf for path, leaf in flat.items()}
        paths += [(collection, _joined(path), path) for path in flat]
    return variables, tuple(paths)


def _joined(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))


def _recording(dot_general: Callable[..., Any], recorder: Recorder, name: str) -> Callable[..., Any]:
    def recorded(features: jax.Array, *args: Any, **kwargs: Any) -> Any:
        recorder.saw_dense(name, features)
        return dot_general(features, *args, **kwargs)

    return recorded


@contextlib.contextmanager
def _recorded(merged: nnx.Module, recorder: Recorder) -> Iterator[None]:
    """Records the output of the layer that is wanted: the call of its class, for that one instance."""
    layers = {_joined(path): layer for path, layer in nnx.iter_graph(merged) if isinstance(layer, nnx.Module)}
    recorder.names.extend(name for name in layers if name)
    layer = layers.get(recorder.wanted) if recorder.wanted is not None else None
    if layer is None:
        yield
        return
    kind: Any = type(layer)
    own, call = "__call__" in vars(kind), kind.__call__

    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = call(self, *args, **kwargs)
        if self is layer:
            recorder.output = output
        return output

    kind.__call__ = recorded
    try:
        yield
    finally:
        if own:
            kind.__call__ = call
        else:
            del kind.__call__
