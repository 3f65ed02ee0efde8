"""What a method may need beside the request and the original: labels, a bank's distributions, or what predicts them."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from tmu_jax.data import ForgetProblem
from tmu_jax.training import TrainedModel
from tmu_jax.twin import TwinPrediction

NEEDS = ("prediction", "bank", "rehearsal", "datamodels", None)


class Foretell(Protocol):
    """Tells from a model that is on its way what gold would answer on D_f; see `tmu_jax.preparation.foretelling`.

    Attributes:
      seconds_by_part: run time of what it learnt from.
    """

    seconds_by_part: Mapping[str, float]

    def __call__(self, model: TrainedModel, problem: ForgetProblem) -> TwinPrediction:
        """Args: model: what the method has come to; problem: the request."""


class PredictLogits(Protocol):
    """Predicts logits of a model trained without D_f; see `tmu_jax.preparation.datamodels`.

    Attributes:
      trainings: on which it rests, of each image.
      seconds_by_part: run time of what it was fitted on.
    """

    trainings: int
    seconds_by_part: Mapping[str, float]

    def __call__(self, problem: ForgetProblem, rows: np.ndarray, logits: np.ndarray, ridge: float) -> np.ndarray:
        """Args: problem: the request; rows: int32[n] of D; logits: of M_o on them; ridge: weight of the penalty."""
