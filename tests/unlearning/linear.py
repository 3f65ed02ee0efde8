"""Softmax regression in NumPy and float64, where every derivative is a product that can be written down."""

from typing import NamedTuple

import jax
import numpy as np

import tmu_jax
from tests.tiny import PlainNet, tiny_data
from tmu_jax.data import ForgetProblem
from tmu_jax.training import Recipe, TrainedModel


class Weights(NamedTuple):
    """Of the one dense layer."""

    kernel: np.ndarray
    bias: np.ndarray

    def plus(self, other: "Weights", factor: float = 1.0) -> "Weights":
        return Weights(*(one + factor * two for one, two in zip(self, other, strict=True)))


def made() -> tuple[ForgetProblem, TrainedModel]:
    """A request of 16 of 200 images, and a `PlainNet` that knows most of them."""
    problem = tmu_jax.data.forget_subset(tiny_data(), target_classes=[1, 2], num_forget=8)
    recipe = Recipe(epochs=3, batch_size=20)
    return problem, tmu_jax.train(PlainNet(), problem.train, recipe=recipe, key=jax.random.key(0))


def weights_of(model: TrainedModel) -> Weights:
    dense = model.variables["params"]["Dense_0"]
    return Weights(np.asarray(dense["kernel"], np.float64), np.asarray(dense["bias"], np.float64))


def inputs(problem: ForgetProblem, model: TrainedModel, rows: np.ndarray) -> np.ndarray:
    """Normalised pixels, float64[n, d]."""
    mean, std = (np.asarray(part, np.float64) for part in model.normalization)
    return ((problem.pool.images[rows] / 255 - mean) / std).reshape(len(rows), -1)


def labels(problem: ForgetProblem, rows: np.ndarray) -> np.ndarray:
    """One-hot, float64[n, 4]."""
    return np.eye(4)[problem.pool.labels[rows]]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def logits(weights: Weights, x: np.ndarray) -> np.ndarray:
    return x @ weights.kernel + weights.bias


def backward(x: np.ndarray, of_logits: np.ndarray) -> Weights:
    """The gradient of a mean over images from that of each image's logits."""
    return Weights(x.T @ of_logits / len(x), of_logits.mean(0))


def gradient(weights: Weights, x: np.ndarray, targets: np.ndarray) -> Weights:
    """Of the mean cross-entropy."""
    return backward(x, softmax(logits(weights, x)) - targets)


def close(model: TrainedModel, expected: Weights, rtol: float = 2e-4, atol: float = 2e-6) -> None:
    for name, found, wanted in zip(Weights._fields, weights_of(model), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol, err_msg=name)
