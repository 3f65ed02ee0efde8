"""Flax Linen modules: with dropout, with any collection, with any name for "train", with logits alone."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import freeze, unfreeze

from tmu_jax.training.adapter import Adapter, Keys, ModuleLike, Recorder, Static, Variables
from tmu_jax.training.signature import mode, parameters

_DENSE = (nn.Dense, nn.DenseGeneral)
_FLEETING = ("intermediates", "perturbations")
_OVER_DEVICES = (nn.BatchNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.InstanceNorm)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class LinenAdapter(Adapter):
    """A Linen module.

    Attributes:
      is_frozen_dict: whether its variables came as a `FrozenDict`.
    """

    is_frozen_dict: bool = False

    @property
    def streams(self) -> tuple[str, ...]:
        # Flax takes what has no stream of its own from "params".
        return ("dropout", "params")

    @property
    def microbatch(self) -> int | None:
        return getattr(self.module.value, "microbatch", None)

    @property
    def starts_afresh(self) -> bool:
        return True

    def call(self, variables: Variables, images: jax.Array, train: bool, keys: Keys, recorder: Recorder) -> Any:
        flags: Any
        module, flags = self._in_mode(train)
        collections = [name for name in variables if name not in ("params", *_FLEETING)]
        with self._around_layers(recorder), _in_our_words(variables):
            outputs, changed = module.apply(
                variables, images, mutable=collections if train else [], rngs=dict(keys) or None, **flags
            )
        return outputs, dict(changed)

    def fresh(self, key: jax.Array, images: jax.Array) -> Variables:
        if self.init is not None:
            return lasting(self.init(key))
        flags: Any
        module, flags = self._in_mode(False)
        return lasting(module.init(key, images, **flags))

    def as_given(self, variables: Variables) -> Any:
        return freeze(variables) if self.is_frozen_dict else variables

    def in_float32(self) -> "LinenAdapter":
        module = in_float32(self.module.value)
        return self if module is self.module.value else dataclasses.replace(self, module=Static(module))

    def _in_mode(self, train: bool) -> tuple[nn.Module, dict[str, bool]]:
        """The module and the arguments of its call; one that has the mode as a field is copied with it."""
        module = self.module.value
        known = parameters(type(module).__call__)
        flags = mode(known, train)
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            flags.setdefault("train", train)
        if flags:
            return module, flags
        fields = mode({field.name for field in dataclasses.fields(module)}, train)
        return (module.clone(**fields) if fields else module), {}

    @contextlib.contextmanager
    def _around_layers(self, recorder: Recorder) -> Iterator[None]:
        """Records what layers see; batch norm is of one device, and of a frozen part in evaluation mode."""

        def intercept(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Any) -> Any:
            layer = context.module
            if context.method_name != "__call__":
                return call(*args, **kwargs)
            name = "/".join(layer.path)
            lend: dict[str, Any] = {}
            if isinstance(layer, _OVER_DEVICES) and getattr(layer, "axis_name", None) is not None:
                lend["axis_name"] = None
            if isinstance(layer, nn.BatchNorm) and f"batch_stats/{name}/mean" in self.frozen:
                lend["use_running_average"] = True
                args, kwargs = args[:1], {n: v for n, v in kwargs.items() if n != "use_running_average"}
            if isinstance(layer, _DENSE):
                recorder.saw_dense(name, args[0])
            with _lent(layer, lend):
                output = call(*args, **kwargs)
            recorder.saw(name, output)
            return output

        with nn.intercept_methods(intercept):
            yield


def lasting(variables: Mapping[str, Any]) -> Variables:
    """Collections as plain dicts, without those that hold what Flax saw in one call (`sow`, `perturb`)."""
    return {name: unfreeze(collection) for name, collection in variables.items() if name not in _FLEETING}


def as_adapter(module: ModuleLike) -> Adapter:
    """The adapter itself, or that of a plain Flax module.

    Raises:
      TypeError: for what is neither.
    """
    if isinstance(module, Adapter):
        return module
    if isinstance(module, nn.Module):
        return LinenAdapter(module=Static(module))
    raise TypeError(
        f"model={type(module).__name__} is no Flax Linen module; an NNX module or a function goes through tmu_jax.wrap"
    )


def as_static(module: ModuleLike) -> ModuleLike:
    """The module, or where it has no hash (a list as a field) its adapter, which has one."""
    try:
        hash(module)
    except TypeError:
        return as_adapter(module)
    return module


def in_float32(module: ModuleLike) -> Any:
    """The module computing in float32, where it has a field `dtype` of less."""
    if isinstance(module, Adapter):
        return module.in_float32()
    if "dtype" not in {field.name for field in dataclasses.fields(module)}:
        return module
    try:
        low = module.dtype is not None and jnp.dtype(module.dtype) in (jnp.bfloat16, jnp.float16)
    except TypeError:  # A field of this name that means something else.
        low = False
    return module.clone(dtype=jnp.float32) if low else module


@contextlib.contextmanager
def _lent(layer: nn.Module, attributes: dict[str, Any]) -> Iterator[None]:
    """Attributes of a bound layer for one call: it is frozen, and a copy would not own its parameters."""
    own = {name: getattr(layer, name) for name in attributes}
    for name, value in attributes.items():
        object.__setattr__(layer, name, value)
    try:
        yield
    finally:
        for name, value in own.items():
            object.__setattr__(layer, name, value)


@contextlib.contextmanager
def _in_our_words(variables: Variables) -> Iterator[None]:
    """What Flax and JAX say of variables that are missing, and of axes of devices, in a line that names the remedy."""
    given = ", ".join(map(repr, variables))
    try:
        yield
    except (
        flax.errors.ScopeCollectionNotFound,
        flax.errors.ScopeVariableNotFoundError,
        flax.errors.ScopeParamNotFoundError,
        flax.errors.ModifyScopeVariableError,
    ) as error:
        reason = str(error).split(" (https://")[0]
        raise ValueError(
            f"variables holds {given}, and the module needs more: {reason} Give all of its collections, as `init` "
            "returned them: {'params': …, 'batch_stats': …}"
        ) from error
    except flax.errors.InvalidRngError as error:
        raise ValueError(
            "the module draws random numbers in evaluation too, where the same image must have one answer; let an "
            f"argument `train` or `deterministic` turn that off ({str(error).split(' (https://')[0]})"
        ) from error
    except NameError as error:
        if "axis name" not in str(error):
            raise
        raise ValueError(
            f"the module takes a mean over devices outside of Flax's norms ({str(error).split('.')[0]}); here it runs "
            "on one: give it with axis_name=None"
        ) from error
