"""A data set and a classifier small enough that a test trains it in a second."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import tmu_jax
from tmu_jax.training import Recipe, Stream, Variables


class TinyNet(nn.Module):
    """A user's own module: one hidden layer with batch norm on the flattened pixels."""

    num_classes: int = 4
    width: int = 16

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        flat = images.reshape((images.shape[0], -1))
        hidden = nn.Dense(self.width)(flat)
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(hidden))
        return nn.Dense(self.num_classes)(hidden), hidden


class PlainNet(nn.Module):
    """Without batch norm: logits are linear in the pixels."""

    num_classes: int = 4

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        flat = images.reshape((images.shape[0], -1)).astype(jnp.float32)
        return nn.Dense(self.num_classes)(flat), flat


def tiny_data(num_train: int = 200, num_test: int = 80, num_classes: int = 4, seed: int = 0) -> tmu_jax.data.Dataset:
    """Noisy 4×4 RGB images around one random pattern a class."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(60, 196, (num_classes, 4, 4, 3))

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % num_classes
        images = patterns[labels] + rng.normal(0, 45, (count, 4, 4, 3))
        return np.clip(images, 0, 255).astype(np.uint8), labels.astype(np.int32)

    return tmu_jax.data.from_arrays(*draw(num_train), *draw(num_test))


def noise_for_training(
    module: nn.Module,
    variables: Variables,
    normalization: object,
    pool: object,
    stream: Stream,
    targets: np.ndarray,
    weights: np.ndarray,
    recipe: Recipe,
    key: jax.Array,
    **options: object,
) -> tuple[Variables, list[float]]:
    """In place of `training.fit` where it counts what is trained, not how well: noise by the key, nothing compiled."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    noisy = jax.tree.map(lambda leaf: leaf + rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype), variables["params"])
    return {**variables, "params": jax.tree.map(jnp.asarray, noisy)}, [1.0] * recipe.epochs
