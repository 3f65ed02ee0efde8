"""Linear datamodels from a bank: how an image's logits follow from which images a model was trained on.

    g_x(1_S) = b_x + Σ_z β_xz [z ∈ S],   (b_x, β_x) = argmin Σ_S ‖f_S(x) − g_x(1_S)‖² + ridge · Σ_{z ≠ x} ‖β_xz‖²

over the bank's models that never saw x, one of each repetition, and the model in service, which was trained on all of
D. Without D_f its logits become

    f(x) − Σ_{z ∈ D_f} β_xz

which of a forgotten image is g_x at the mask of D_r: only the model in service saw x, so β_xx is free and takes up what
its answer has beyond the others'. Logits are known up to a constant, so the mean over classes stays the model's own.

The published datamodels are lasso regressions on thousands of trainings. Here R answers stand against |D| unknowns, and
a ridge is what such a fit can bear: it has a closed form in the R × R numbers of images that two models share. Subsets
of one size do not tell what all images bring alike from the constant b_x; a ridge gives it to the constant.

References:
  Georgiev et al., Attribute-to-Delete: Machine Unlearning via Datamodel Matching, 2024 (arXiv 2410.23232), whose code
  takes the logits of the original less the sum of the forgotten images' coefficients; a constant and lasso as in the
  code of Ilyas et al., Datamodels: Predicting Predictions from Training Data, 2022 (arXiv 2202.00622).
"""

from collections.abc import Mapping

import numpy as np

from tmu_jax.data import ForgetProblem
from tmu_jax.preparation.bank import Bank
from tmu_jax.preparation.prepared import Prepared
from tmu_jax.stages import Progress, Stage

VERSION = 1
"""Of this code, part of the names of what rests on it; raise it when its numbers change."""


class Datamodels:
    """Predicts logits without D_f from a bank.

    Attributes:
      trainings: R, on which each image's datamodel is fitted, beside the model in service.
      seconds_by_part: run time of what it was fitted on, as far as a request is to bear it.
    """

    def __init__(self, bank: Bank, seconds_by_part: Mapping[str, float] | None = None) -> None:
        """Args: bank: the answers; seconds_by_part: nothing by default."""
        self.trainings = len(bank.models)
        self.seconds_by_part = seconds_by_part or {}
        self._bank = bank

    def __call__(self, problem: ForgetProblem, rows: np.ndarray, logits: np.ndarray, ridge: float) -> np.ndarray:
        """Logits that a model trained without D_f is predicted to give.

        Args:
          problem: the request.
          rows: int32[n], images of D.
          logits: float32[n, classes], of the model in service on them.
          ridge: weight of the squared coefficients.

        Returns:
          float32[n, classes].

        Raises:
          ValueError: for a row on which no model of the bank may answer.
        """
        chosen, answers = self._bank.chosen(rows), self._bank.answers(rows).astype(np.float64)
        models = [model for repetition in self._bank.models for model in repetition]
        seen = np.zeros((len(models), len(problem.pool)), np.float32)
        for one, model in zip(seen, models, strict=True):
            one[model.trained] = 1
        shared = seen @ seen.T
        kept, gone = (seen[:, split.indices].sum(1) for split in (problem.retain, problem.forget))
        first = np.cumsum([0, *map(len, self._bank.models[:-1])])
        is_forgotten = np.isin(rows, problem.forget.indices)
        change = np.empty(logits.shape)
        combinations, place = np.unique(chosen.T + first, axis=0, return_inverse=True)
        for i, own in enumerate(combinations):
            at_retained, of_forgotten = weights(shared[np.ix_(own, own)], kept[own], gone[own], ridge)
            here = place.ravel() == i
            for are, combined in ((is_forgotten, at_retained), (~is_forgotten, -of_forgotten)):
                change[here & are] = np.einsum("nrc,r->nc", answers[here & are], combined)
        change[is_forgotten] -= logits[is_forgotten]
        return (logits + change - change.mean(1, keepdims=True)).astype(np.float32)


def weights(shared: np.ndarray, kept: np.ndarray, gone: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """What a ridge regression on R subsets makes of their R answers.

    Args:
      shared: float[R, R], images that two subsets have in common.
      kept: float[R], images of D_r that each has.
      gone: float[R], images of D_f that each has.
      ridge: weight of the squared coefficients, above 0.

    Returns:
      float64[R] each: weights of the answers in the prediction at D_r, and in the sum of D_f's coefficients.
    """
    size = len(shared)
    centre = np.eye(size) - 1 / size
    inverse = centre @ np.linalg.solve(centre @ shared @ centre + ridge * np.eye(size), centre)
    return 1 / size + inverse @ (kept - shared.mean(1)), inverse @ gone


def datamodels_of(prepared: Prepared, seconds_by_part: Mapping[str, float] | None = None) -> Datamodels:
    """A preparation's datamodels.

    Raises:
      ValueError: without a bank.
    """
    if prepared.bank is None:
        raise ValueError("folds=0 leaves no bank, on which datamodels are fitted; prepare with folds=2")
    return Datamodels(prepared.bank, seconds_by_part)


def datamodels_stage(prepared: Stage) -> Stage:
    """The same as a stage, at the bank's cost; it is not kept, for it holds nothing but the bank."""

    def make(prepared: Prepared, progress: Progress) -> Datamodels:
        return datamodels_of(prepared, {"bank": prepared.seconds["bank"]})

    parents = {"prepared": prepared}
    return Stage("datamodels", "datamodels of the bank", make, Datamodels, VERSION, parents, is_kept=False)
