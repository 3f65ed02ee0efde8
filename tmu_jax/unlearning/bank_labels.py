"""The published mechanism on the labels of a bank: wrong labels for the images that it predicts hard."""

import jax
import numpy as np

from tmu_jax.data import ForgetProblem
from tmu_jax.training import TrainedModel
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.ranges import Range
from tmu_jax.unlearning.relabelling import Relabelling
from tmu_jax.unlearning.twin import RECIPE, relabel_hard


def relabel(
    problem: ForgetProblem, original: TrainedModel, key: jax.Array, easy: np.ndarray, targets: np.ndarray
) -> Relabelling:
    """As `twin`, whose mechanism it is (easy: bool[n], of the bank); the distributions are not used."""
    return relabel_hard(problem, original, key, easy)


bank_labels = Method(
    "bank_labels",
    relabel,
    RECIPE,
    needs="bank",
    ranges={"learning_rate": Range(0.0003, 0.1, "log"), "epochs": Range(1, 5, "whole")},
)
