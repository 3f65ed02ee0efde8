"""What a case computes on: plain arrays, made once, that our side and every rival read from one file."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import tmu_jax
from benchmarks.arrays import Arrays, flatten
from benchmarks.cases import Case
from tmu_jax import models
from tmu_jax.data import synthetic
from tmu_jax.data.types import ForgetProblem, Split
from tmu_jax.models import Architecture
from tmu_jax.stages import key_for
from tmu_jax.training import STEPS_PER_CALL, Recipe, Stream, init_variables, normalize, one_hot, pixel_statistics
from tmu_jax.twin import predictor

NUM_CLASSES = 10

REQUEST_RECIPE = Recipe(epochs=10, batch_size=64, learning_rate=0.05, schedule="cosine")
"""Training of the whole request's original model; its curriculum model uses the same batch and learning rate."""


SPLITS = ("train", "forget", "retain", "heldout", "test")

UNLEARNING_SEED = 1
"""Of the key of our side's unlearnings, from which the rival's order of images comes too."""


def make_inputs(case: Case) -> Arrays:
    """The arrays of a case, the same at every call."""
    return _MAKERS[case.kind](case.settings) if case.kind in _MAKERS else {}


def _images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Synthetic images, repeated beyond 2,000 of them."""
    data = synthetic.generate(num_train=min(max(count, 10), 2000), num_test=10)
    rows = np.arange(count) % len(data.train_labels)
    return data.train_images[rows], data.train_labels[rows]


def _classifier(settings: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> Arrays:
    """Fresh variables with the batch statistics of some of these images, and the pixels' normalisation.

    Running statistics of a fresh network (mean 0, variance 1) would let activations grow from layer to layer, and
    comparisons in evaluation mode would compare saturated outputs.
    """
    pool = tmu_jax.data.types.Pool(images, labels, NUM_CLASSES)
    normalization = pixel_statistics(Split(pool, np.arange(len(images), dtype=np.int32)))
    module = models.create(settings["arch"], NUM_CLASSES, dtype=jnp.float32)
    batch = normalize(jnp.asarray(images[:64], jnp.float32) / 255, normalization)
    variables = init_variables(jax.random.key(0), batch[:1], module=module)
    if "batch_stats" in variables:
        _, updated = jax.jit(lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"]))(variables, batch)
        # One update from mean 0 and variance 1 with momentum 0.9, undone.
        variables["batch_stats"] = jax.tree_util.tree_map_with_path(
            lambda path, value: jnp.maximum((value - 0.9) * 10, 1e-3) if path[-1].key == "var" else value * 10,
            updated["batch_stats"],
        )
    return flatten(jax.device_get(variables)) | {"mean": normalization.mean, "std": normalization.std}


def _train(settings: dict[str, Any]) -> Arrays:
    rng = np.random.default_rng(0)
    images, labels = _images(settings["pool"])
    steps = STEPS_PER_CALL
    orders = [rng.permutation(len(images)) for _ in range(-(-steps * settings["batch"] // len(images)))]
    rows = np.concatenate(orders)[: steps * settings["batch"]].reshape(steps, -1).astype(np.int32)
    targets = rng.dirichlet(np.ones(NUM_CLASSES), len(images)) if settings["soft"] else one_hot(labels, NUM_CLASSES)
    return {
        "images": images, "labels": labels, "rows": rows, "targets": targets.astype(np.float32),
        **_classifier(settings, images, labels),
    }  # fmt: skip


def _pixels(settings: dict[str, Any]) -> Arrays:
    images, labels = _images(settings["num_images"])
    return {"images": images, "labels": labels, **_classifier(settings, images, labels)}


def _distances(settings: dict[str, Any]) -> Arrays:
    rng = np.random.default_rng(0)

    def draw(count: int) -> np.ndarray:
        rows = rng.standard_normal((count, settings["columns"]), np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return {"queries": draw(settings["num_queries"]), "bank": draw(settings["num_bank"])}


def _predictor(settings: dict[str, Any]) -> Arrays:
    """Features, labels, and the initial parameters and orders that `predictor.fit` draws from its key."""
    count, rng = settings["num_samples"], np.random.default_rng(0)
    features = rng.random((count, 3), np.float32)
    labels = rng.random(count) < 1 / (1 + np.exp(8 * features.sum(1) - 15))
    key = jax.random.key(0)
    init_key, shuffle_key = jax.random.split(key)
    params = predictor.Network().init(init_key, features[:1])["params"]
    weights = jnp.ones(count, jnp.float32)
    params["output"]["bias"] = jnp.full_like(
        params["output"]["bias"], predictor._log_odds(jnp.asarray(labels, jnp.float32), weights)
    )
    batch = min(settings["batch"], count)
    keys = jax.random.split(shuffle_key, settings["epochs"])
    orders = jax.lax.map(lambda epoch_key: predictor._batches(epoch_key, weights, batch)[0].reshape(-1)[:count], keys)
    return {
        "features": features, "easy": labels, "key": np.asarray(jax.random.key_data(key)),
        "orders": np.asarray(orders, np.int32), **flatten(jax.device_get(params), "params"),
    }  # fmt: skip


def _trained(arch: Architecture, problem: ForgetProblem, epochs: int) -> Arrays:
    """A request, and the trained model that is to forget its images."""
    module = models.create(arch, NUM_CLASSES, dtype=jnp.float32)
    recipe = dataclasses.replace(REQUEST_RECIPE, epochs=epochs)
    original = tmu_jax.train(module, problem.train, key=jax.random.key(0), recipe=recipe)
    splits = {name: getattr(problem, name).indices for name in SPLITS}
    return {
        "images": problem.pool.images, "labels": problem.pool.labels, **splits,
        "mean": original.normalization.mean, "std": original.normalization.std,
        **flatten(jax.device_get(original.variables)),
    }  # fmt: skip


def _request(settings: dict[str, Any]) -> Arrays:
    """A request of some images of every class."""
    num_train = settings["num_train"]
    data = synthetic.generate(num_train=num_train, num_test=max(20, num_train // 2))
    problem = tmu_jax.data.forget_subset(
        data, target_classes=range(NUM_CLASSES), num_forget=settings["num_forget"], seed=0
    )
    return _trained(settings["arch"], problem, REQUEST_RECIPE.epochs)


@functools.lru_cache(maxsize=1)
def _any_images(arch: Architecture, num_train: int, num_test: int, num_forget: int, epochs: int) -> Arrays:
    """A request of images of whatever class."""
    data = synthetic.generate(num_train=num_train, num_test=num_test)
    rows = np.random.default_rng(0).permutation(num_train)[:num_forget]
    return _trained(arch, tmu_jax.data.forget_indices(data, rows.astype(np.int32)), epochs)


def _unlearning(settings: dict[str, Any]) -> Arrays:
    """A request, and where both sides can go by it the order in which our method draws from its key."""
    names = ("arch", "num_train", "num_test", "num_forget", "training_epochs")
    arrays, method = dict(_any_images(*(settings[name] for name in names))), settings["method"]
    if settings["exact"] != "logits":
        return arrays
    fit_key = key_for(jax.random.key(UNLEARNING_SEED), f"method {method}")
    if tmu_jax.METHODS[method].relabel is not None:
        fit_key = jax.random.split(fit_key)[1]
    rng = np.random.default_rng(np.asarray(jax.random.key_data(jax.random.split(fit_key)[0])))
    stream = Stream((arrays["retain"],))
    if method == "negative_gradient":
        stream = Stream((arrays["retain"], arrays["forget"]), (0.5, 0.5))
    arrays["order"] = next(stream.epochs(settings["batch"], rng))
    arrays["of_retain"] = np.asarray(stream.sizes(settings["batch"])[0])
    return arrays


_MAKERS = {
    "train": _train,
    "evaluation": _pixels,
    "attack": _pixels,
    "distances": _distances,
    "predictor": _predictor,
    "request": _request,
    "unlearning": _unlearning,
}
