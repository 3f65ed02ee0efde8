"""How a callable is told that it is trained: by which of the names in use, and which way round."""

import inspect
from collections.abc import Callable
from typing import Any

TRAIN_NAMES = ("train", "training", "is_training")
EVALUATION_NAMES = ("deterministic", "inference", "use_running_average")
KEY_NAMES = ("key", "rng")


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """A callable's parameters by name; none where it does not say."""
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}


def mode(known: Any, train: bool) -> dict[str, bool]:
    """The arguments, among those `known`, that say whether the model is trained."""
    flags = dict.fromkeys(TRAIN_NAMES, train) | dict.fromkeys(EVALUATION_NAMES, not train)
    return {name: flag for name, flag in flags.items() if name in known}
