"""Classifiers as users have them: called in their own ways, none of them as ours are."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def flat(images: jax.Array) -> jax.Array:
    return images.reshape((len(images), -1))


class Dropping(nn.Module):
    """Logits alone, with dropout; told by `train`."""

    num_classes: int = 4

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        hidden = nn.relu(nn.Dense(12)(flat(images)))
        return nn.Dense(self.num_classes)(nn.Dropout(0.5, deterministic=not train)(hidden))


class ByTraining(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, *, training: bool) -> jax.Array:
        return Dropping(name="net")(images, train=training)


class ByDeterministic(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, deterministic: bool = False) -> jax.Array:
        return Dropping(name="net")(images, train=not deterministic)


class ByField(nn.Module):
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return Dropping(name="net")(images, train=not self.deterministic)


class Unaware(nn.Module):
    """Neither trained nor not: no argument of the kind."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        hidden = nn.relu(nn.Dense(12)(flat(images)))
        return nn.Dense(4)(hidden)


class Averaging(nn.Module):
    """Batch norm over devices, a collection of its own, a list as a field, and a property `dtype`."""

    widths: Any = (12,)
    axis_name: str | None = "devices"

    @property
    def dtype(self) -> str:
        return "own"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = True) -> jax.Array:
        hidden = flat(images)
        for width in self.widths:
            hidden = nn.Dense(width)(hidden)
            hidden = nn.BatchNorm(use_running_average=not train, momentum=0.9, axis_name=self.axis_name)(hidden)
        ema = self.variable("ema", "mean", lambda: jnp.zeros(hidden.shape[-1]))
        if train and not self.is_initializing():
            ema.value = 0.5 * ema.value + 0.5 * hidden.mean(0)
        return nn.Dense(4)(nn.relu(hidden - ema.value))


class Convolving(nn.Module):
    """In bfloat16, and convolutions; `nn.Conv` alone says which way round its images are."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        conv = functools.partial(nn.Conv, param_dtype=jnp.bfloat16)
        hidden = nn.relu(conv(6, (3, 3), name="stem")(images)).mean((1, 2))
        return nn.Dense(4, param_dtype=jnp.bfloat16)(hidden)


class Wide(nn.Module):
    """One convolution, computed in a dtype."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return nn.Dense(4)(nn.relu(nn.Conv(6, (3, 3), dtype=self.dtype)(images)).mean((1, 2)))


class NnxNet(nnx.Module):
    """With a convolution, batch norm, dropout and a list of layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=0.9, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(6, 12, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(12, 4, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        hidden = nnx.relu(self.norm(self.conv(images))).mean((1, 2))
        return self.head(self.dropout(nnx.relu(self.layers[0](hidden))))


class NnxGivenRngs(nnx.Module):
    """Its dropout draws from a generator that each call is given."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Linear(48, 12, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)
        self.head = nnx.Linear(12, 4, rngs=rngs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        return self.head(self.dropout(nnx.relu(self.stem(flat(images))), rngs=rngs))


class NnxMayHaveRngs(NnxGivenRngs):
    """The same, told by the generator's absence that it is not trained."""

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        hidden = nnx.relu(self.stem(flat(images)))
        return self.head(self.dropout(hidden, deterministic=rngs is None, rngs=rngs))


def nnx_net(key: jax.Array | int = 0) -> NnxNet:
    return NnxNet(nnx.Rngs(key))


def linear(tree: dict[str, Any], images: jax.Array) -> jax.Array:
    """A plain function of a tree of a user's own form."""
    return flat(images) @ tree["weights"][0] + tree["bias"][None]


def linear_tree(key: jax.Array | int = 0) -> dict[str, Any]:
    key = jax.random.key(key) if isinstance(key, int) else key
    return {"weights": [jax.random.normal(key, (48, 4)) / 7], "bias": jnp.zeros(4)}


def brighter(key: jax.Array, images: jax.Array) -> jax.Array:
    """An augmentation of a user's own."""
    return jnp.clip(images + jax.random.uniform(key, (len(images), 1, 1, 1), maxval=0.2), 0, 1)


def channels_first(images: jax.Array) -> jax.Array:
    return images.transpose(0, 3, 1, 2)


def variables_of(module: nn.Module, **options: Any) -> Any:
    """Fresh variables, every leaf moved, so that nothing is 0 or 1."""
    variables = module.init(jax.random.key(0), jnp.zeros((2, 4, 4, 3)), **options)
    return moved(variables)


def moved(tree: Any, by: float = 0.3) -> Any:
    """A tree with noise added to each leaf."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(np.abs(rng.normal(0, by, leaf.shape)), leaf.dtype), tree)


class Sowing(nnx.Module):
    """Sows its activations, beside batch norm."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.head = nnx.Linear(4 * 4 * 3, 4, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        hidden = self.norm(images)
        self.sow(nnx.Intermediate, "seen", hidden)
        return self.head(flat(hidden))
