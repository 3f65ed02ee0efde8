"""A preparation small enough that a test makes it in seconds, and a record of which rows a training gathered."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
import pytest

import tmu_jax
from tests.patching import patch_everywhere
from tests.tiny import TinyNet, tiny_data
from tmu_jax import training
from tmu_jax.training import Recipe


def hard_data() -> tmu_jax.data.Dataset:
    """The tiny data in so much noise that a model is wrong on some images that it never saw."""
    easy = tiny_data(num_train=200, num_test=120, seed=3)
    rng = np.random.default_rng(0)

    def noisy(images: np.ndarray) -> np.ndarray:
        return np.clip(images + rng.normal(0, 90, images.shape), 0, 255).astype(np.uint8)

    return tmu_jax.data.from_arrays(
        noisy(easy.train_images), easy.train_labels, noisy(easy.test_images), easy.test_labels
    )


DATA = hard_data()
RECIPE = Recipe(epochs=8, batch_size=20, learning_rate=0.05, schedule="onecycle")
KEY = jax.random.key(0)
CALL = {"heldout": 40, "folds": 2, "repetitions": 2, "recipe": RECIPE, "key": KEY}


def prepared(**options):
    """The tiny problem, prepared."""
    return tmu_jax.prepare(TinyNet(), DATA, **{**CALL, **options})


@contextlib.contextmanager
def gathered_rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[np.ndarray]]:
    """The rows of the pool that each call of the training step gathered, int32[steps, batch] each."""
    steps, rows = training.train_steps, []

    def spy(*args, **kwargs):
        rows.append(np.asarray(args[5][: int(args[7])]))
        return steps(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch_everywhere(patch, steps, spy)
        yield rows
