"""Our side of every case: the library's own functions, called as the library calls them."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import tmu_jax
from benchmarks.arrays import Arrays
from benchmarks.cases import Case
from benchmarks.classifiers import classifier, model_of, normalization_of, problem_of, seconds_of, variables_of
from benchmarks.inputs import NUM_CLASSES
from benchmarks.unlearning import Unlearning
from tmu_jax import training
from tmu_jax.data.types import Pool, Split
from tmu_jax.training import STEPS_PER_CALL, Recipe, TrainState
from tmu_jax.training.calls import pad_steps
from tmu_jax.twin import features, predictor
from tmu_jax.twin.neighbors import nearest_distances

CHECKED_STEPS = 3


class Kernel(Protocol):
    """One case on our side."""

    def check(self) -> Arrays:
        """The outputs that a rival's are compared with; the first call, so it compiles."""

    def run(self, count: int) -> float:
        """Seconds of `count` units of work, synchronised with the device."""


class Train:
    """Steps of `training.train_steps`, in calls of at most as many as `training.fit` makes."""

    def __init__(self, settings: dict[str, Any], arrays: Arrays) -> None:
        variables = variables_of(arrays)
        optimizer = training.make_optimizer(settings["optimizer"], settings["weight_decay"])
        opt_state = optimizer.init(variables["params"])
        others = {name: collection for name, collection in variables.items() if name != "params"}
        self._state = TrainState(variables["params"], others, opt_state, jnp.zeros((), jnp.int32))
        self._fixed: list[Any] = [jnp.asarray(arrays[name]) for name in ("images", "targets")]
        self._fixed += [jnp.ones(len(arrays["images"]), jnp.float32), normalization_of(arrays)]
        self._rows, self._settings, self._cursor = arrays["rows"], settings, 0

    def _steps(self, count: int) -> tuple[float, list[np.ndarray]]:
        order = np.arange(self._cursor, self._cursor + count) % len(self._rows)
        self._cursor += count
        losses = []
        start = time.perf_counter()
        for first in range(0, count, STEPS_PER_CALL):
            rows = pad_steps(self._rows[order[first : first + STEPS_PER_CALL]], STEPS_PER_CALL)
            self._state, chunk = training.train_steps(
                self._state,
                *self._fixed,
                rows,
                np.full(STEPS_PER_CALL, self._settings["learning_rate"], np.float32),
                np.int32(min(STEPS_PER_CALL, count - first)),
                np.float32(self._settings["weight_decay"]),
                jax.random.key(0),
                module=classifier(self._settings["arch"]),
                optimizer=self._settings["optimizer"],
                augment=False,
            )
            losses.append(chunk)
        jax.block_until_ready(self._state)
        return time.perf_counter() - start, [np.asarray(chunk) for chunk in losses]

    def check(self) -> Arrays:
        return {"losses": self._steps(CHECKED_STEPS)[1][0][:CHECKED_STEPS]}

    def run(self, count: int) -> float:
        return self._steps(count)[0]


class Evaluation:
    """`training.predict`: logits and embeddings on the host."""

    def __init__(self, settings: dict[str, Any], arrays: Arrays) -> None:
        pool = Pool(arrays["images"], arrays["labels"], NUM_CLASSES)
        self._split = Split(pool, np.arange(len(pool), dtype=np.int32))
        self._model = model_of(settings["arch"], arrays)
        training.device_images(pool)

    def check(self) -> Arrays:
        logits, embeddings = training.predict(self._model, self._split)
        return {"logits": logits, "embeddings": embeddings}

    def run(self, count: int) -> float:
        return seconds_of(lambda: training.predict(self._model, self._split), count)


class Attack:
    """`features.attack_rows`, called as for one radius: five steps, the clean and the adversarial logits."""

    def __init__(self, settings: dict[str, Any], arrays: Arrays) -> None:
        blocks = training.evaluation_blocks(features.ATTACKED_ON_CPU, features.ATTACKED_ELSEWHERE)
        ((rows, self._count),) = blocks.split(np.arange(len(arrays["images"]), dtype=np.int32))
        self._arguments = (
            variables_of(arrays), normalization_of(arrays), jnp.asarray(arrays["images"]), rows, arrays["labels"][rows],
            blocks.num_blocks(self._count), *features.padded_radii((settings["eps"],)),
        )  # fmt: skip
        self._statics = {"module": classifier(settings["arch"]), "num_steps": settings["num_steps"]}

    def _attack(self) -> list[np.ndarray]:
        clean, attacked = features.attack_rows(*self._arguments, **self._statics)
        return [training.first_rows(logits, self._count) for logits in (clean, attacked[0])]

    def check(self) -> Arrays:
        return dict(zip(("clean_logits", "adversarial_logits"), self._attack(), strict=True))

    def run(self, count: int) -> float:
        return seconds_of(self._attack, count)


class Distances:
    """`neighbors.nearest_distances`, from host arrays to a host array."""

    def __init__(self, settings: dict[str, Any], arrays: Arrays) -> None:
        self._search = lambda: np.asarray(nearest_distances(arrays["queries"], arrays["bank"], k=settings["k"]))

    def check(self) -> Arrays:
        return {"distances": self._search()}

    def run(self, count: int) -> float:
        return seconds_of(self._search, count)


class Predictor:
    """`predictor.fit`: the whole training."""

    def __init__(self, settings: dict[str, Any], arrays: Arrays) -> None:
        self._features, self._easy = jnp.asarray(arrays["features"]), jnp.asarray(arrays["easy"])
        self._key = jax.random.wrap_key_data(jnp.asarray(arrays["key"]))
        self._options = {"epochs": settings["epochs"], "batch_size": settings["batch"]}

    def _fit(self) -> Any:
        fitted = predictor.fit(self._features, self._easy, key=self._key, **self._options)
        return jax.block_until_ready(fitted)

    def check(self) -> Arrays:
        probability = predictor.predict_probability(self._fit(), self._features)
        # -log p of the true label; p is kept off 0 and 1, where float32 has no logarithm.
        right = jnp.clip(jnp.where(self._easy, probability, 1 - probability), 1e-6, 1)
        return {"loss": np.asarray(-jnp.log(right).mean()), "probability": np.asarray(probability)}

    def run(self, count: int) -> float:
        return seconds_of(self._fit, count)


class Request:
    """A whole request by `twin`: twin model, curriculum model, features, predictor and unlearning."""

    def __init__(self, settings: dict[str, Any], arrays: Arrays) -> None:
        self._problem = problem_of(arrays)
        self._original = model_of(settings["arch"], arrays)
        self._recipe = Recipe(epochs=settings["unlearning_epochs"], batch_size=64, schedule="cosine")
        self._twin_settings = tmu_jax.TwinSettings(
            twin_recipe=Recipe(epochs=settings["twin_epochs"], schedule="cosine"),
            max_twin_epochs=settings["twin_epochs"],
            curriculum_epochs=settings["curriculum_epochs"],
            curriculum_share=1.0,
        )
        self._settings = settings

    def _unlearn(self) -> tmu_jax.UnlearnedModel:
        unlearned = tmu_jax.unlearn(
            "twin",
            self._problem,
            self._original,
            key=jax.random.key(1),
            settings=self._twin_settings,
            recipe=self._recipe,
        )
        jax.block_until_ready(unlearned.variables)
        return unlearned

    def check(self) -> Arrays:
        problem, original = self._problem, self._original
        unlearned = self._unlearn()
        accuracy = {
            name: 100 * np.mean(training.predict(unlearned, split)[0].argmax(-1) == split.labels)
            for name, split in (("test_accuracy", problem.test), ("forget_accuracy", problem.forget))
        }
        assert unlearned.prediction is not None
        return {
            "heldout_easy": unlearned.prediction.heldout_easy.astype(np.float32),
            "nearest_distance": features.nearest_distance(original, problem.forget, problem.retain),
            "adversarial": features.adversarial(original, problem.forget, eps=self._settings["eps"])[0],
            **accuracy,
        }

    def run(self, count: int) -> float:
        return seconds_of(self._unlearn, count)


class Table:
    """The quick main job on the embedded data: a newcomer's first run, in a process of its own (`first_call`)."""

    def __init__(self, settings: dict[str, Any], arrays: Arrays) -> None:
        pass

    def check(self) -> Arrays:
        return {}

    def run(self, count: int) -> float:
        """One run into the current folder, which the caller makes and removes."""
        import experiments.cifar10

        start = time.perf_counter()
        status = experiments.cifar10.main(["--preset", "quick", "--dataset", "synthetic", "--output", "table"])
        if status:
            raise RuntimeError(f"experiments.cifar10 ended with status {status}")
        return time.perf_counter() - start


BUILDERS: dict[str, Callable[[dict[str, Any], Arrays], Kernel]] = {
    "train": Train,
    "evaluation": Evaluation,
    "attack": Attack,
    "distances": Distances,
    "predictor": Predictor,
    "request": Request,
    "unlearning": Unlearning,
    "table": Table,
}


def build(case: Case, arrays: Arrays) -> Kernel:
    """Our side of a case on these inputs."""
    return BUILDERS[case.kind](case.settings, arrays)
