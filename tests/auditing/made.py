"""Models that know their training images by heart, of the embedded synthetic data at a small size; and their audit."""

import functools

import jax
import numpy as np

import tmu_jax
from tests.tiny import TinyNet
from tmu_jax.data import ForgetProblem
from tmu_jax.data.problem import forget_indices
from tmu_jax.data.synthetic import generate
from tmu_jax.training import Recipe, TrainedModel
from tmu_jax.unlearning import UnlearnedModel
from tmu_jax.unlearning.unlearned import as_unlearned

RECIPE = Recipe(epochs=20, batch_size=50, learning_rate=0.05, schedule="onecycle")
NET = TinyNet(num_classes=10, width=64)


@functools.cache
def data() -> tmu_jax.data.Dataset:
    """A few hundred images of each part."""
    return generate(400, 500)


@functools.cache
def problem(seed: int = 0) -> ForgetProblem:
    """A random draw of 80 images."""
    rows = np.random.default_rng(seed).permutation(400)[:80]
    return forget_indices(data(), rows, ratio="all")


@functools.cache
def original() -> TrainedModel:
    """Of all training images."""
    return tmu_jax.train(NET, problem().train, key=jax.random.key(0), recipe=RECIPE)


@functools.cache
def gold(seed: int = 0, key: int = 1) -> TrainedModel:
    """Retrained without the images of a request."""
    return tmu_jax.train(NET, problem(seed).retain, key=jax.random.key(key), recipe=RECIPE)


def retrained() -> UnlearnedModel:
    """A retrained model that knows what it is."""
    rows = problem().forget.indices
    return as_unlearned(gold(), method="retrain", original=original(), forget_indices=rows)


@functools.cache
def audited() -> tmu_jax.Audit:
    """It, beside another one."""
    return tmu_jax.audit(problem(), retrained(), gold=gold(key=2), ids=[f"user/{n}.png" for n in range(80)])
