"""How a classifier is optimised, and what a training leaves behind."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a classifier is optimised.

    Attributes:
      epochs: passes over the stream.
      batch_size: images a step.
      learning_rate: at the start, or at the peak of "onecycle".
      schedule: "step" (divided by 10 at each of `drops`), "cosine" (to 0), "onecycle" (from a 25th up to the learning
        rate over three tenths of the steps, then down to 0, along cosines; Smith & Topin 2019, arXiv 1708.07120) or
        "constant".
      drops: fractions of all steps after which "step" divides the learning rate.
      optimizer: "sgd" (momentum 0.9) or "adam".
      weight_decay: added to the gradient of all parameters.
      augment: random horizontal flip and 4-pixel shifted crop of every drawn image, on the device.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 0.01
    schedule: str = "step"
    drops: tuple[float, ...] = (1 / 2, 5 / 6)
    optimizer: str = "sgd"
    weight_decay: float = 5e-4
    augment: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs={self.epochs} is too few; train at least 1")
        if self.batch_size < 2:
            raise ValueError(f"batch_size={self.batch_size} is too small; batch norm needs at least 2")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0")
        if self.schedule not in ("step", "cosine", "onecycle", "constant"):
            raise ValueError(f"schedule={self.schedule!r}; choose 'step', 'cosine', 'onecycle' or 'constant'")
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer={self.optimizer!r}; choose 'sgd' or 'adam'")

    def learning_rates(self, num_steps: int) -> np.ndarray:
        """The learning rate of each of `num_steps` steps, float32[num_steps]."""
        fraction = np.arange(num_steps) / num_steps
        if self.schedule == "cosine":
            factor = 0.5 * (1 + np.cos(np.pi * fraction))
        elif self.schedule == "onecycle":
            with jax.numpy_dtype_promotion("standard"):  # optax multiplies by booleans
                factor = np.asarray(jax.vmap(optax.cosine_onecycle_schedule(num_steps, 1.0))(jnp.arange(num_steps)))
        elif self.schedule == "step":
            factor = np.prod([np.where(fraction >= drop, 0.1, 1.0) for drop in self.drops], axis=0)
        else:
            factor = np.ones(num_steps)
        return (self.learning_rate * factor).astype(np.float32)


class Normalization(NamedTuple):
    """Per-channel mean and standard deviation of the training pixels, float32[c] each, in units of 0..1."""

    mean: np.ndarray
    std: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
    """A classifier with what is needed to run it on raw pixels.

    Attributes:
      module: the Flax module.
      variables: its "params" and, where it has batch norm, "batch_stats".
      normalization: applied to pixels before the module sees them.
      recipe: how it was trained.
      seconds: run time of the training, synchronised with the device, without compilation.
      compile_seconds: time spent on tracing and compiling.
      losses: mean training loss of each epoch.
    """

    module: nn.Module
    variables: Variables
    normalization: Normalization
    recipe: Recipe
    seconds: float = 0.0
    compile_seconds: float = 0.0
    losses: tuple[float, ...] = ()
