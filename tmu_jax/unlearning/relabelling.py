"""A relabelling, what most methods are beside their optimiser: targets and weights of images, and which are drawn."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from tmu_jax.data import ForgetProblem
from tmu_jax.training import Stream, one_hot


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
"""Called as `relabel(problem: ForgetProblem, original: TrainedModel, key, **options) -> Relabelling`; a method that
needs a prediction gets `easy=`, bool[n] in the order of `problem.forget`, as well, and one that needs a bank
`targets=`, float32[n, classes]."""


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


def soft_targets(problem: ForgetProblem, targets: np.ndarray) -> np.ndarray:
    """One-hot labels of every row of the pool; of forgotten images `targets` float32[n, classes] in their place."""
    every = true_targets(problem)
    every[problem.forget.indices] = targets
    return every


def draw_retained(problem: ForgetProblem, count: int, key: jax.Array) -> np.ndarray:
    """A random `count` of the retained rows, int32[count]; all of them where they are fewer.

    Raises:
      ValueError: where that is none.
    """
    if min(count, len(problem.retain)) < 1:
        raise ValueError(
            f"a share of {len(problem.retain)} retained images that is {count} images leaves nothing to train on"
        )
    return np.asarray(jax.random.permutation(key, problem.retain.indices))[:count]


def equal_weights(problem: ForgetProblem) -> np.ndarray:
    """Weight 1 for every row of the pool."""
    return np.ones(len(problem.pool.labels), np.float32)
