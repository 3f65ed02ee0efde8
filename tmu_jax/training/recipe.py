"""How a classifier is optimised, and what a training leaves behind."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tmu_jax.boundary import check_fields, checked
from tmu_jax.data import Dataset
from tmu_jax.data.checks import check_integer
from tmu_jax.text import html_table
from tmu_jax.training.adapter import NO_INIT, Adapter, ModuleLike, Variables
from tmu_jax.training.updates import Updates

if TYPE_CHECKING:
    from tmu_jax.training.checking import Check

Format = Literal["orbax", "msgpack", "safetensors"]
Augment = Callable[[jax.Array, jax.Array], jax.Array]
Optimizer = Callable[[Any], optax.GradientTransformation]
Schedule = Literal["step", "cosine", "onecycle", "constant"]
OptimizerName = Literal["sgd", "adam"]
_MOST_EPOCHS, _LARGEST_BATCH, _LOWEST_RATE, _HIGHEST_RATE = 100_000, 1_000_000, 1e-37, 1e6
"""What is beyond is a slip of the keyboard."""
_FEW_LENGTHS = 1024


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
      optimizer: "sgd" (momentum 0.9) or "adam"; or a function of the learning rate, a float32[] of each step, that
        returns an optax transformation, such as `optax.adamw`.
      weight_decay: added to the gradient of all parameters; of an optimiser of your own, its own matter.
      augment: random horizontal flip and 4-pixel shifted crop of every drawn image, on the device; or a function of
        (key, images float32[n, h, w, c] in 0..1) that returns such images, not yet normalised.

    A function is compiled for as it is: give the same one each time, not a new one. Where a preparation is kept in a
    folder it goes by its name, so there it must be one that is defined at the top of a module.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 0.01
    schedule: Schedule = "step"
    drops: tuple[float, ...] = (1 / 2, 5 / 6)
    optimizer: OptimizerName | Optimizer = "sgd"
    weight_decay: float = 5e-4
    augment: bool | Augment = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_integer("epochs", self.epochs, 1, _MOST_EPOCHS)
        if self.batch_size in (0, 1):
            raise ValueError(f"batch_size={self.batch_size} is too small; batch norm needs at least 2")
        check_integer("batch_size", self.batch_size, 2, _LARGEST_BATCH)
        if not _LOWEST_RATE <= self.learning_rate <= _HIGHEST_RATE:
            raise ValueError(
                f"learning_rate={self.learning_rate} must be above 0, within {_LOWEST_RATE:g}..{_HIGHEST_RATE:g}"
            )
        if not 0 <= self.weight_decay <= 1:
            raise ValueError(f"weight_decay={self.weight_decay} must lie within 0..1")
        if not all(0 < drop <= 1 for drop in self.drops):
            raise ValueError(f"drops={self.drops} must be fractions of the steps, above 0 and at most 1")
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"schedule={self.schedule!r}; choose 'step', 'cosine', 'onecycle' or 'constant'")
        if self.optimizer not in get_args(OptimizerName) and not callable(self.optimizer):
            raise ValueError(
                f"optimizer={self.optimizer!r}; choose 'sgd' or 'adam', or give a function of the learning rate such "
                "as optax.adamw"
            )
        if not isinstance(self.augment, bool) and not callable(self.augment):
            raise ValueError(f"augment={self.augment!r} must be True, False or a function of (key, images)")

    def learning_rates(self, num_steps: int) -> np.ndarray:
        """The learning rate of each of `num_steps` steps, float32[num_steps]."""
        fraction = np.arange(num_steps) / num_steps
        if self.schedule == "cosine":
            factor = 0.5 * (1 + np.cos(np.pi * fraction))
        elif self.schedule == "onecycle":
            # optax compiles a score of small programs for each length of this array, a second's work; so there are few.
            steps = jnp.arange(-(-num_steps // _FEW_LENGTHS) * _FEW_LENGTHS)
            with jax.numpy_dtype_promotion("standard"):  # optax multiplies by booleans
                factor = np.asarray(jax.vmap(optax.cosine_onecycle_schedule(num_steps, 1.0))(steps))[:num_steps]
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
      module: the Flax module, or the adapter that `wrap` put around a classifier.
      variables: its "params" and its other collections, such as "batch_stats".
      normalization: applied to pixels before the module sees them.
      recipe: how it was trained; None where that is not known.
      seconds: run time of the training, synchronised with the device, without compilation.
      compile_seconds: time spent on tracing and compiling.
      losses: mean training loss of each epoch.
      updates: what the training kept of its steps, see `train(…, updates_of=…)`; None: nothing. It is saved and loaded
        with the model, and no unlearned model has any.
    """

    module: ModuleLike
    variables: Variables
    normalization: Normalization
    recipe: Recipe | None
    seconds: float = 0.0
    compile_seconds: float = 0.0
    losses: tuple[float, ...] = ()
    updates: Updates | None = None

    @checked
    def save(
        self,
        folder: pathlib.Path | str,
        format: Format = "orbax",
        *,
        overwrite: bool = False,
    ) -> pathlib.Path:
        """Writes the classifier as a folder that `tmu_jax.load` reads: variables, normalisation, recipe, checksums.

        Of an unlearned model its method, its notes and the row numbers that it forgot go with it, so that whoever loads
        it is not let train on them again; never the original's parameters, or what was predicted of the images.

        Args:
          folder: where; made, or replaced with `overwrite`.
          format: of the arrays.
          overwrite: replaces a model that is there. What is no model is never replaced.

        Returns:
          The folder.

        Raises:
          FileExistsError: when something is there that is not to be replaced.
          ValueError: for an unknown format.
        """
        from tmu_jax.training.saving import save_model  # It needs this class.

        return save_model(self, folder, format, overwrite=overwrite)

    def kept(self) -> dict[str, Any]:
        """What `save` writes beside the classifier itself, as JSON."""
        return {}

    def _repr_html_(self) -> str:
        return html_table(type(self).__name__, self._rows())

    def _rows(self) -> list[tuple[str, object]]:
        count = sum(np.size(leaf) for leaf in jax.tree.leaves(self.variables.get("params", self.variables)))
        return [
            ("module", _kind(self.module)),
            ("parameters", f"{count:,}"),
            ("recipe", self.recipe),
            ("last training loss", f"{self.losses[-1]:.4f}" if self.losses else None),
            ("seconds", f"{self.seconds:.1f}"),
        ]

    @property
    def training_recipe(self) -> Recipe:
        """The recipe, where something is to be trained as the model was.

        Raises:
          ValueError: where it is not known.
        """
        if self.recipe is None:
            raise ValueError(
                "recipe=None: how the model was trained is not known, and this trains as it was; "
                "give tmu_jax.wrap(…, recipe=tmu_jax.Recipe(epochs=…, learning_rate=…))"
            )
        return self.recipe

    @property
    def augment(self) -> bool | Augment:
        """The augmentation of its training; none where that is not known."""
        return False if self.recipe is None else self.recipe.augment

    def check_retrainable(self) -> None:
        """Raises ValueError where no such model can be trained anew: its recipe or fresh variables cannot be had."""
        _ = self.training_recipe
        self.check_fresh()

    def check_fresh(self) -> None:
        """Raises ValueError where no fresh variables of the module can be had."""
        if isinstance(self.module, Adapter) and not self.module.starts_afresh:
            raise ValueError(NO_INIT)

    def unwrap(self) -> Any:
        """The parameters as they were given to `wrap`: the user's own tree, collections and dtypes.

        Returns:
          Of a Linen module its variables (a `FrozenDict` where it was one), of an NNX module a new module, of a
          function the tree that it takes.
        """
        return self.module.unwrap(self.variables) if isinstance(self.module, Adapter) else self.variables

    def check(self, data: Dataset, expected_accuracy: float | None = None) -> "Check":
        """What fits and what does not between the model and a data set; see `tmu_jax.check`."""
        from tmu_jax.training.checking import check  # It runs models, and so lies above them.

        return check(self, data, expected_accuracy)


def _kind(module: ModuleLike) -> str:
    """The name of a user's own module or function; of an NNX module that of its adapter."""
    own = module.module.value if isinstance(module, Adapter) else module
    name = getattr(own, "__qualname__", None)
    return name or type(own if isinstance(own, nn.Module) else module).__qualname__
