"""A user's finished classifier as a `TrainedModel`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core import FrozenDict

from tmu_jax.boundary import checked
from tmu_jax.training import function_adapter, nnx_adapter
from tmu_jax.training.adapter import Adapter, Static, Variables, as_masters, low_precision, names
from tmu_jax.training.linen import LinenAdapter, lasting
from tmu_jax.training.recipe import Normalization, Recipe, TrainedModel


@checked
def wrap(
    module_or_apply: nn.Module | nnx.Module | Callable[..., Any],
    variables: Any = None,
    *,
    normalization: Normalization | tuple[Any, Any] | None = None,
    preprocess: Callable[[jax.Array], jax.Array] | None = None,
    embedding: str | Callable[..., jax.Array] | None = None,
    recipe: Recipe | None = None,
    output: Literal["logits", "sigmoid"] = "logits",
    frozen: Callable[[str], bool] | Any = None,
    init: Callable[[jax.Array], Any] | None = None,
) -> TrainedModel:
    """Takes a finished classifier, whatever trained it, so that every part of the package can work with it.

    Parameters in bfloat16 or float16 are trained as float32 and rounded to their own dtype for every forward pass, so
    the model computes what it always did, and `unwrap` gives them back as they came, bit by bit where nothing was
    trained.

    Args:
      module_or_apply: a Flax Linen module; a finished Flax NNX module; or a pure function `apply(variables, images)`.
        Called with images float32[n, h, w, c], it returns logits [n, classes], or (logits, embedding [n, d]). Whether
        it is trained it is told by an argument `train`, `training`, `is_training`, `deterministic` or `inference`,
        where it has one; a function gets an argument `key` or `rng` in training, and None otherwise.
      variables: of a Linen module all of its collections, {"params": …, "batch_stats": …}, but for what `sow` left; of
        a function the tree that it takes; of an NNX module nothing.
      normalization: (mean, std) of each channel, in units of pixels 0..1, that the model is used to; None: it takes
        pixels 0..1 as they are.
      preprocess: a function of the normalised images float32[n, h, w, c]: to put channels first, to resize.
      embedding: the name of the layer whose output is the embedding, such as "backbone/pool"; or a function of
        (variables, images) (of an NNX module: of the module and the images). None: the model's second output; else the
        input of its last dense layer; else, in functions, its logits.
      recipe: how it was trained, for what trains as it was: retraining, preparing, a budget, `rewarm`, a twin problem.
      output: "sigmoid" where a single output is the logit of class 1, or each class has a logit of its own.
      frozen: what no training changes: a function of a variable's name, such as "params/Conv_0/kernel", or a tree of
        bools in the form of the variables or of "params". Batch norm of a frozen part is in evaluation mode.
      init: a function of a key that makes a fresh NNX module, or fresh variables; a Linen module has its own.

    Returns:
      The model. `check` says whether it fits a data set, `unwrap` gives the parameters back.

    Raises:
      TypeError: for what is no such classifier, or variables that are no arrays.
      ValueError: for values that cannot be used.
    """
    _check(preprocess, embedding, recipe, output, init)
    adapter, given = _adapt(module_or_apply, variables, init)
    _check_dtypes(given)
    if isinstance(embedding, str) and isinstance(adapter, function_adapter.FunctionAdapter):
        raise ValueError(f"embedding={embedding!r} names a layer, and a function has none; give a function for it")
    channels = None if normalization is None else _checked_normalization(normalization)
    pixels = channels or Normalization(np.zeros(1, np.float32), np.ones(1, np.float32))
    mask = frozen_names(frozen, given)
    masters = as_masters(given)
    adapter = dataclasses.replace(
        adapter,
        embedding=embedding,
        preprocess=preprocess,
        output=output,
        normalization=(tuple(pixels.mean.tolist()), tuple(pixels.std.tolist())),
        frozen=mask,
        dtypes=low_precision(given),
        kept={**adapter.kept, **{name: leaf for name, leaf in names(masters).items() if name in mask}},
    )
    return TrainedModel(adapter, masters, pixels, recipe)


def _adapt(model: Any, variables: Any, init: Callable[..., Any] | None) -> tuple[Adapter, Variables]:
    if isinstance(model, nnx.Module):
        if variables is not None:
            raise ValueError("variables has no use beside an NNX module, which holds its own; leave it out")
        return nnx_adapter.adapt(model, init)
    if isinstance(model, nn.Module):
        if not isinstance(variables, Mapping) or "params" not in variables:
            found = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
            raise ValueError(
                f"variables={found} must be the module's collections, {{'params': …}} and where it has them "
                "'batch_stats' and others"
            )
        is_frozen_dict = isinstance(variables, FrozenDict)
        return LinenAdapter(module=Static(model), init=init, is_frozen_dict=is_frozen_dict), lasting(variables)
    if isinstance(model, type) or not callable(model):
        raise TypeError(
            f"module_or_apply={model!r} must be a Flax module (an instance), or a function of (variables, images)"
        )
    if variables is None:
        raise ValueError("variables=None: give the tree that the function takes as its first argument")
    return function_adapter.adapt(model, variables, init)


def frozen_names(frozen: Any, variables: Variables) -> frozenset[str]:
    """Names of the variables that no training changes; statistics of a layer all of whose parameters are frozen too.

    Raises:
      ValueError: where a tree is not of the form of the variables, or nothing is left to train.
    """
    every = list(names(variables))
    if frozen is None:
        return frozenset()
    if callable(frozen):
        chosen = {name for name in every if frozen(name)}
    else:
        flags = names(frozen)
        flags = {name if name in every else f"params/{name}": flag for name, flag in flags.items()}
        unknown = sorted(set(flags) - set(every))
        if unknown or not all(isinstance(flag, bool | np.bool_) for flag in flags.values()):
            raise ValueError(
                f"frozen must be a tree of bools in the form of the variables or of 'params'; {unknown[:5]} are not "
                "theirs"
            )
        chosen = {name for name, flag in flags.items() if flag}
    params = [name for name in every if name.startswith("params/")]
    if chosen.issuperset(params):
        raise ValueError("frozen takes all parameters, which leaves nothing to train; leave some out")
    for name in every:
        layer = "params/" + name.partition("/")[2].rpartition("/")[0] + "/"
        of_layer = [other for other in params if other.startswith(layer)]
        if not name.startswith("params/") and of_layer and chosen.issuperset(of_layer):
            chosen.add(name)
    return frozenset(chosen)


def _checked_normalization(normalization: Any) -> Normalization:
    try:
        mean, std = (np.atleast_1d(np.asarray(part, np.float32)) for part in normalization)
    except (TypeError, ValueError) as error:
        raise ValueError(f"normalization={normalization!r} must be (mean, std), or None for pixels 0..1") from error
    if mean.ndim != 1 or std.ndim != 1 or not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise ValueError(f"normalization={normalization!r} must be finite numbers, one of each channel")
    if (mean > 1).any() or (std > 1).any():
        raise ValueError(
            f"normalization has mean {mean.tolist()} and std {std.tolist()}, which look like units of pixels 0..255; "
            f"divide both by 255: {np.round(mean / 255, 4).tolist()}, {np.round(std / 255, 4).tolist()}"
        )
    if not (std > 0).all():
        raise ValueError(f"normalization has std {std.tolist()}, which must be above 0; a constant channel takes 1")
    return Normalization(mean, std)


def _check(preprocess: Any, embedding: Any, recipe: Any, output: str, init: Any) -> None:
    for name, value in (("preprocess", preprocess), ("init", init)):
        if value is not None and not callable(value):
            raise TypeError(f"{name}={value!r} must be a function")
    if embedding is not None and not isinstance(embedding, str) and not callable(embedding):
        raise TypeError(f"embedding={embedding!r} must be a layer's name or a function of (variables, images)")
    if recipe is not None and not isinstance(recipe, Recipe):
        raise TypeError(f"recipe={recipe!r} must be a tmu_jax.Recipe")
    if output not in ("logits", "sigmoid"):
        raise ValueError(f"output={output!r}; choose 'logits' or 'sigmoid'")


def _check_dtypes(variables: Variables) -> None:
    for name, leaf in names(variables).items():
        dtype = jnp.result_type(leaf) if isinstance(leaf, jax.Array) else np.asarray(leaf).dtype
        if dtype == np.float64 and jnp.result_type(float) != np.float64:
            raise ValueError(f"variables holds float64 at {name!r}, which JAX would round; cast it to float32")
        if name.startswith("params/") and not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"variables holds {dtype} at {name!r}; only floating-point parameters can be trained")
