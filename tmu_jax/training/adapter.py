"""A user's own classifier as the compiled step takes it: called one way, with float32 variables, as a static argument.

What stands in an `Adapter` is part of the program: it hashes, and equal ones share one. Arrays stand in the variables.
"""

import abc
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from tmu_jax.stages import function_name

Variables = dict[str, Any]
Keys = Mapping[str, jax.Array]

NO_INIT = (
    "init=None: fresh parameters cannot be made of a finished NNX module or a function, and this needs them; give "
    "tmu_jax.wrap(…, init=function of a key), which returns a fresh module, or parameters"
)
_LOW_PRECISION = ("bfloat16", "float16")


class Static:
    """A value that a program is compiled for: equal values are one program, also those that have no hash (a module with
    a list as a field).
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Static) or type(self.value) is not type(other.value):
            return False
        try:
            return self.value is other.value or bool(self.value == other.value)
        except ValueError:  # Arrays have no truth; such values are equal to themselves alone.
            return False

    def __hash__(self) -> int:
        try:
            return hash(self.value)
        except TypeError:
            return hash(type(self.value))


class Recorder:
    """What a call went through: the input of its last dense layer, and the output of a layer that was asked for; and
    afterwards by `source`, where the embedding came from.
    """

    def __init__(self, wanted: str | None) -> None:
        self.wanted = wanted
        self.dense_input: Any = None
        self.dense_name: str | None = None
        self.output: Any = None
        self.names: list[str] = []
        self.source = ""

    def saw(self, name: str, output: Any) -> None:
        """A layer of this name returned this."""
        if self.wanted is not None and name and name not in self.names:
            self.names.append(name)
        if name == self.wanted:
            self.output = output

    def saw_dense(self, name: str, features: Any) -> None:
        """A dense layer of this name was given this."""
        self.dense_name, self.dense_input = name, features


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Adapter(abc.ABC):
    """A classifier that is not called as ours are.

    Attributes:
      module: the user's own, whatever it is.
      embedding: where the embedding comes from: a layer's name (its output), a function of (variables, images), or
        None: the second of two outputs, else the input of the last dense layer, else the logits.
      preprocess: applied to the normalised images.
      output: "logits" or "sigmoid".
      normalization: (mean, std) that the model was made for; None: of each training's own images.
      frozen: names of the variables that no training changes, such as "params/Conv_0/kernel".
      dtypes: (name, dtype) of each variable that is not float32 outside.
      init: makes fresh variables, for a `module` that cannot.
      kept: arrays that no program depends on: the frozen variables, to begin another training with.
    """

    module: Static
    embedding: str | Callable[..., jax.Array] | None = None
    preprocess: Callable[[jax.Array], jax.Array] | None = None
    output: Literal["logits", "sigmoid"] = "logits"
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    frozen: frozenset[str] = frozenset()
    dtypes: tuple[tuple[str, str], ...] = ()
    init: Callable[[jax.Array], Any] | None = None
    kept: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    @property
    @abc.abstractmethod
    def streams(self) -> tuple[str, ...]:
        """Names of the random numbers that the module may ask for in training."""

    @abc.abstractmethod
    def call(self, variables: Variables, images: jax.Array, train: bool, keys: Keys, recorder: Recorder) -> Any:
        """The module's own outputs and the collections that changed; variables and images as it takes them."""

    @abc.abstractmethod
    def as_given(self, variables: Variables) -> Any:
        """Variables in the user's own form: what `unwrap` returns and what a function `embedding` gets."""

    @abc.abstractmethod
    def fresh(self, key: jax.Array, images: jax.Array) -> Variables:
        """Fresh variables, in their own dtypes."""

    @property
    def microbatch(self) -> int | None:
        """Of the module, see `training.step.microbatch_size`."""
        return None

    @property
    def starts_afresh(self) -> bool:
        """Whether it can make fresh variables."""
        return self.init is not None

    def in_float32(self) -> "Adapter":
        """The same, computing in float32 where the module says in what it computes."""
        return self

    def run(
        self, variables: Variables, images: jax.Array, *, train: bool, keys: Keys, recorder: Recorder | None = None
    ) -> tuple[tuple[jax.Array, jax.Array], Variables]:
        """Runs the module; see `training.apply`."""
        own = self.in_own_dtypes(variables)
        if self.preprocess is not None:
            images = self.preprocess(images)
        recorder = recorder or Recorder(self.embedding if isinstance(self.embedding, str) else None)
        outputs, changed = self.call(own, images, train, keys, recorder)
        given = self.embedding(self.as_given(own), images) if callable(self.embedding) else None
        try:
            logits, embedding = read_outputs(outputs, recorder, given, self.output)
        except jax.errors.UnexpectedTracerError as error:
            raise ValueError(
                f"embedding={self.embedding!r} lies inside a transformed part of the model (remat, scan); name a layer "
                "outside of it, or give a function of (variables, images)"
            ) from error
        return (logits, embedding), {name: self._kept_in_form(variables, name, new) for name, new in changed.items()}

    def in_own_dtypes(self, variables: Variables) -> Variables:
        """Variables in the dtypes that they came in."""
        if not self.dtypes:
            return variables
        own = dict(self.dtypes)
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf.astype(own.get(name_of(path), leaf.dtype)), variables
        )

    def drawn(self, variables: Variables, images: jax.Array) -> tuple[str, ...]:
        """Which of the `streams` the module really asks for in training, on images of this shape."""
        leaves, structure = jax.tree.flatten((variables, images))
        return _drawn(self, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))

    def unwrap(self, variables: Variables) -> Any:
        """The user's own tree, dtypes and collections."""
        return self.as_given(self.in_own_dtypes(variables))

    @property
    def told(self) -> list[str]:
        """What `wrap` was told of the module beside its pixels' normalisation, or found: what a bare module lacks."""
        return [
            field.name
            for field in dataclasses.fields(Adapter)
            if field.compare
            and field.name not in ("module", "normalization")
            and getattr(self, field.name) != field.default
        ]

    def made_from(self) -> dict[str, Any]:
        """What a stage's name holds of it, as JSON."""
        found: dict[str, Any] = {"kind": type(self).__name__, "module": in_words(self.module.value)}
        for name in (*self.told, *(("normalization",) if self.normalization is not None else ())):
            value = getattr(self, name)
            listed = sorted(value) if isinstance(value, frozenset) else value
            found[name] = function_name(value, name) if callable(value) else listed
        return found

    def __repr__(self) -> str:
        return f"{type(self).__name__}({in_words(self.module.value)})"

    def _kept_in_form(self, variables: Variables, collection: str, new: Any) -> Any:
        """A changed collection in the dtypes of the old one, its frozen variables as they were."""
        old = variables[collection]
        differing = sorted(set(names(new)) ^ set(names(old)))
        if differing:
            raise ValueError(
                f"the model makes variables in training that {collection!r} does not hold: {differing[:5]}; give all "
                "of its collections"
            )

        def chosen(path: Any, after: jax.Array, before: jax.Array) -> jax.Array:
            is_frozen = f"{collection}/{name_of(path)}" in self.frozen
            return before if is_frozen else jnp.asarray(after).astype(before.dtype)

        return jax.tree_util.tree_map_with_path(chosen, new, old)


ModuleLike = nn.Module | Adapter
"""What a model's `module` may be: a Flax module called as ours are, or an adapter that `wrap` made."""


@functools.lru_cache(maxsize=256)
def _drawn(adapter: Adapter, structure: Any, shapes: tuple[tuple[Any, Any], ...]) -> tuple[str, ...]:
    variables, images = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    key = jax.eval_shape(lambda: jax.random.key(0))
    asked = tuple(sorted(adapter.streams))
    traced = jax.make_jaxpr(lambda variables, images, keys: adapter.run(variables, images, train=True, keys=keys))(
        variables, images, dict.fromkeys(asked, key)
    ).jaxpr
    used = {id(variable) for equation in traced.eqns for variable in equation.invars}
    inputs = traced.invars[len(traced.invars) - len(asked) :]
    return tuple(name for name, variable in zip(asked, inputs, strict=True) if id(variable) in used)


def read_outputs(outputs: Any, recorder: Recorder, given: Any, output: str) -> tuple[jax.Array, jax.Array]:
    """(logits float32[n, classes], embedding float32[n, d]) from whatever a module returned.

    Args:
      outputs: logits, or (logits, embedding).
      recorder: of the call.
      given: an embedding that is known, before all others.
      output: "sigmoid" makes of one logit z the two (0, z), whose softmax is the sigmoid of z, and of several the
        logarithms of their sigmoids: the classes' probabilities, made to add up to 1.

    Raises:
      ValueError: for anything else.
    """
    logits, embedding = outputs if isinstance(outputs, tuple | list) and len(outputs) == 2 else (outputs, None)
    if not hasattr(logits, "ndim") or not hasattr(logits, "dtype") or logits.ndim not in (1, 2):
        found = f"logits of shape {logits.shape}" if hasattr(logits, "shape") else f"a {type(outputs).__name__}"
        raise ValueError(
            f"the model returns {found}; it must return logits [n, classes], or (logits, embedding): "
            "put a function around it that does"
        )
    if recorder.wanted is not None and recorder.output is None:
        raise ValueError(
            f"embedding={recorder.wanted!r} names no layer that was called; there are {', '.join(recorder.names[:20])}"
        )
    sources = {
        "function's": given,
        f"output of {recorder.wanted!r}": recorder.output,
        "second output": embedding,
        f"input of {recorder.dense_name!r}": recorder.dense_input,
        "logits": logits,
    }
    recorder.source, embedding = next(pair for pair in sources.items() if pair[1] is not None)
    if embedding is recorder.output or embedding is recorder.dense_input:
        jnp.negative(embedding)  # What escaped from an inner transformation says so here, not in the program's end.
    embedding = jnp.asarray(embedding).astype(jnp.float32)
    logits = jnp.asarray(logits).astype(jnp.float32)
    logits = logits[:, None] if logits.ndim == 1 else logits
    if output == "sigmoid":
        one = logits.shape[1] == 1
        logits = jnp.concatenate([jnp.zeros_like(logits), logits], 1) if one else jax.nn.log_sigmoid(logits)
    return logits, embedding if embedding.ndim == 2 else embedding.reshape(len(embedding), -1)


def name_of(path: Any) -> str:
    """A variable's name from its path in a tree, such as "params/Conv_0/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def names(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their names."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def low_precision(variables: Variables) -> tuple[tuple[str, str], ...]:
    """(name, dtype) of the variables in bfloat16 or float16, which are trained as float32."""
    dtypes = {name: str(jnp.result_type(leaf)) for name, leaf in names(variables).items()}
    return tuple((name, dtype) for name, dtype in dtypes.items() if dtype in _LOW_PRECISION)


def as_masters(variables: Variables) -> Variables:
    """Variables as they are trained: those in bfloat16 and float16 as float32."""

    def master(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.float32) if str(leaf.dtype) in _LOW_PRECISION else leaf

    return jax.tree.map(master, variables)


def in_words(value: Any) -> str:
    """A module in words that are the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
