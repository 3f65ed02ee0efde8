"""A saved classifier back in memory."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tmu_jax.boundary import checked
from tmu_jax.training import ModuleLike, TrainedModel
from tmu_jax.training.saving import load_trained
from tmu_jax.unlearning.unlearned import as_unlearned


@checked
def load(folder: pathlib.Path | str, module: ModuleLike | TrainedModel | None = None) -> TrainedModel:
    """Reads what `TrainedModel.save` wrote, checked file by file.

    Args:
      folder: where.
      module: what the classifier is run by: a Flax Linen module, or a `TrainedModel`, such as `wrap` makes of any
        classifier, which stands for its module; the variables take the form of its own (lists, tuples, frozen dicts;
        nested dicts otherwise); or the `module` of such a model. None where it is one of `tmu_jax.models`.

    Returns:
      The classifier; an `UnlearnedModel` where one was saved, with its method, its notes and the rows that it forgot
      (`forgotten_before`), without its original.

    Raises:
      FileNotFoundError: when the folder holds no model.
      ValueError: when it is damaged, of another making, or does not fit, in one line with the file; without a module
        where it needs one; and for a bare module where `wrap` was told more than that.
      TypeError: for a module that is none.
    """
    return restored(*load_trained(folder, module))


def restored(model: TrainedModel, kept: Mapping[str, Any]) -> TrainedModel:
    """A model as it was before it was kept, by what its `kept` said: an `UnlearnedModel` where it was one."""
    if "method" not in kept:
        return model
    return as_unlearned(
        model,
        method=kept["method"],
        notes=tuple(kept["notes"]),
        seconds_by_part=dict(kept["seconds_by_part"]),
        forgotten_before=np.asarray(kept["forgotten"], np.int32),
    )
