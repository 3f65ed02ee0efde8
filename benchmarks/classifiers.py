"""What our side of a case is made of: modules, their variables, models and requests from a case's arrays."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.arrays import Arrays, unflatten
from benchmarks.inputs import NUM_CLASSES, REQUEST_RECIPE, SPLITS
from tmu_jax import models
from tmu_jax.data.types import ForgetProblem, Pool, Split
from tmu_jax.models import Architecture
from tmu_jax.training import Normalization, TrainedModel


def classifier(arch: Architecture) -> Any:
    """The module of an architecture, in float32."""
    return models.create(arch, NUM_CLASSES, dtype=jnp.float32)


def variables_of(arrays: Arrays) -> dict[str, Any]:
    """The variables of a classifier, on the device."""
    tree = {name: unflatten(arrays, name) for name in ("params", "batch_stats")}
    return {name: jax.tree.map(jnp.array, branch) for name, branch in tree.items() if branch}


def model_of(arch: Architecture, arrays: Arrays) -> TrainedModel:
    """A trained classifier."""
    return TrainedModel(classifier(arch), variables_of(arrays), normalization_of(arrays), REQUEST_RECIPE)


def normalization_of(arrays: Arrays) -> Normalization:
    """Of the pixels."""
    return Normalization(arrays["mean"], arrays["std"])


def problem_of(arrays: Arrays) -> ForgetProblem:
    """A request."""
    pool = Pool(arrays["images"], arrays["labels"], NUM_CLASSES)
    splits: dict[str, Any] = {name: Split(pool, arrays[name]) for name in SPLITS}
    return ForgetProblem(
        pool, **splits, target_classes=tuple(range(NUM_CLASSES)), heldout_source="test", ratio="dataset", seed=0,
        whole_classes=(), notes=(),
    )  # fmt: skip


def seconds_of(call: Callable[[], Any], count: int) -> float:
    """Seconds of `count` calls, one after another."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start
