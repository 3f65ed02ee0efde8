"""Our side of a whole unlearning beside torchunlearn's, by `tmu_jax.unlearn`."""

from typing import Any

import jax
import numpy as np

import tmu_jax
from benchmarks.arrays import Arrays, flatten, to_torch
from benchmarks.classifiers import model_of, problem_of, seconds_of
from benchmarks.inputs import UNLEARNING_SEED
from tmu_jax import training
from tmu_jax.training import Recipe
from tmu_jax.unlearning.fisher import expected_square
from tmu_jax.unlearning.gradients import sum_over


def recipe_of(settings: dict[str, Any]) -> Recipe | None:
    """One epoch at a constant rate; None for methods that train nothing."""
    if tmu_jax.METHODS[settings["method"]].recipe is None:
        return None
    return Recipe(
        epochs=1,
        batch_size=settings["batch"],
        learning_rate=settings["learning_rate"],
        schedule="constant",
        optimizer=settings["optimizer"],
        weight_decay=5e-4 if settings["optimizer"] == "sgd" else 0.0,
    )


class Unlearning:
    """A whole unlearning, from the original model to the new one."""

    def __init__(self, settings: dict[str, Any], arrays: Arrays) -> None:
        self._settings, self._problem = settings, problem_of(arrays)
        self._original = model_of(settings["arch"], arrays)
        self._options = dict(settings["ours"])
        if settings["method"] == "scrub":
            self._options["forget_batch"] = settings["batch"]

    def _unlearn(self) -> tmu_jax.UnlearnedModel:
        unlearned = tmu_jax.unlearn(
            self._settings["method"],
            self._problem,
            self._original,
            key=jax.random.key(UNLEARNING_SEED),
            recipe=recipe_of(self._settings),
            **self._options,
        )
        jax.block_until_ready(unlearned.variables)
        return unlearned

    def check(self) -> Arrays:
        unlearned, problem = self._unlearn(), self._problem
        logits = {name: training.predict(unlearned, getattr(problem, name))[0] for name in ("test", "forget")}
        found = {
            f"{name}_accuracy": 100 * np.mean(of_split.argmax(-1) == getattr(problem, name).labels)
            for name, of_split in logits.items()
        }
        if self._settings["exact"] == "information":
            found["information"] = self._information()
        return {**found, "logits": logits["test"]}

    def _information(self) -> np.ndarray:
        """The Fisher information's diagonal as one vector, in the order of PyTorch's names."""
        retain = self._problem.retain
        total = sum_over(self._original, retain, expected_square, size=1)
        state = to_torch(flatten(jax.device_get(total), "params"))
        return np.concatenate([state[name].ravel() for name in sorted(state)]) / len(retain)

    def run(self, count: int) -> float:
        return seconds_of(self._unlearn, count)
