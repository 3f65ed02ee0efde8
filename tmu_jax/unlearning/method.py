"""What an unlearning method is: most are a relabelling of the images and a stream of them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from tmu_jax.data import ForgetProblem
from tmu_jax.timing import Stopwatch
from tmu_jax.training import Progress, Recipe, Stream, TrainedModel, fit, one_hot
from tmu_jax.twin import TwinPrediction

_LABEL_TYPE = np.dtype([("index", np.int32), ("easy", np.bool_), ("probability", np.float32)])


@dataclasses.dataclass(frozen=True, eq=False)
class UnlearnedModel(TrainedModel):
    """A model after unlearning, with what the method learnt on the way.

    Attributes:
      method: the method's name.
      original: the model that was to forget.
      forget_indices: int32[n], the rows of the pool that were forgotten.
      prediction: which samples were predicted easy or hard; None for methods that predict nothing.
      seconds_by_part: run time of each part; `seconds` is their sum.
      notes: what a reader should know: warnings, degenerate cases.
    """

    method: str = ""
    original: TrainedModel | None = None
    forget_indices: np.ndarray | None = None
    prediction: TwinPrediction | None = None
    seconds_by_part: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def generalization_labels(self) -> np.ndarray:
        """Each forgotten sample's predicted label: a structured array with `index`, `easy` and `probability`.

        Raises:
          ValueError: when the method predicts no labels.
        """
        if self.prediction is None or self.forget_indices is None:
            raise ValueError(f"method {self.method!r} predicts no generalization labels; the twin methods do")
        labels = np.empty(len(self.forget_indices), _LABEL_TYPE)
        labels["index"] = self.forget_indices
        labels["easy"] = self.prediction.easy
        labels["probability"] = self.prediction.probability
        return labels


Method = Callable[..., UnlearnedModel]
"""Called as `method(problem: ForgetProblem, original: TrainedModel, key) -> UnlearnedModel`."""


class Relabelling(NamedTuple):
    """What a method trains on, beside the optimiser.

    Attributes:
      stream: which images are drawn; what a method leaves out is not in its stream.
      targets: float32[p, classes], a distribution for each row of the pool.
      weights: float32[p], positive: learn; negative: ascend, bounded.
    """

    stream: Stream
    targets: np.ndarray
    weights: np.ndarray


Relabel = Callable[..., Relabelling]
"""Called as `relabel(problem: ForgetProblem, original: TrainedModel, key, **options) -> Relabelling`."""


def true_targets(problem: ForgetProblem) -> np.ndarray:
    """One-hot labels of every row of the pool, float32[p, classes]."""
    return one_hot(problem.pool.labels, problem.num_classes)


def wrong_targets(problem: ForgetProblem, rows: np.ndarray, key: jax.Array) -> np.ndarray:
    """One-hot labels of every row; those of `rows` get a fixed wrong label each, uniform over the other classes.

    Args:
      problem: the request.
      rows: int32[n], rows of the pool to mislabel.
      key: a PRNG key.

    Returns:
      float32[p, classes].
    """
    shift = np.asarray(jax.random.randint(key, (len(problem.pool.labels),), 1, problem.num_classes))[rows]
    targets = true_targets(problem)
    targets[rows] = one_hot((problem.pool.labels[rows] + shift) % problem.num_classes, problem.num_classes)
    return targets


def equal_weights(problem: ForgetProblem) -> np.ndarray:
    """Weight 1 for every row of the pool."""
    return np.ones(len(problem.pool.labels), np.float32)


def unlearn_by_relabelling(
    name: str,
    relabel: Relabel,
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    *,
    recipe: Recipe,
    progress: Progress | None = None,
    **options: Any,
) -> UnlearnedModel:
    """Fine-tunes the original model on a relabelled stream of images.

    Args:
      name: the method's name.
      relabel: makes the relabelling; its options are passed on.
      problem: the request.
      original: M_o, left intact.
      key: a PRNG key.
      recipe: the optimisation; its augmentation is the original's.
      progress: called with (steps done, steps in all).
      **options: of the method.

    Returns:
      The unlearned model; its seconds include the making of the relabelling.
    """
    relabel_key, fit_key = jax.random.split(key)
    recipe = dataclasses.replace(recipe, augment=original.recipe.augment)
    with Stopwatch() as watch:
        relabelling = relabel(problem, original, relabel_key, **options)
        variables, losses = fit(
            original.module,
            original.variables,
            original.normalization,
            problem.pool,
            relabelling.stream,
            relabelling.targets,
            relabelling.weights,
            recipe,
            fit_key,
            progress=progress,
        )
        jax.block_until_ready(variables)
    return UnlearnedModel(
        module=original.module,
        variables=variables,
        normalization=original.normalization,
        recipe=recipe,
        seconds=watch.seconds,
        compile_seconds=watch.compile_seconds,
        losses=tuple(losses),
        method=name,
        original=original,
        forget_indices=problem.forget.indices,
        seconds_by_part={"unlearning": watch.seconds},
    )


def relabelling_method(name: str, relabel: Relabel, recipe: Recipe) -> Method:
    """A method from a relabelling: `method(problem, original, key, *, recipe=…, progress=…, **options)`."""
    return functools.partial(unlearn_by_relabelling, name, relabel, recipe=recipe)
