"""The request itself: only unlearning is left to do."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from tmu_jax.data import ForgetProblem
from tmu_jax.preparation.grid import rehearse_candidates
from tmu_jax.preparation.prepared import Prepared
from tmu_jax.preparation.rehearsal import Estimate, Rehearsal, Z, as_method
from tmu_jax.stages import Progress, compute, given, key_for
from tmu_jax.twin import TwinPrediction
from tmu_jax.unlearning import Method, UnlearnedModel

UNLIKE = 15.0
"""Points of AUC above 50 from which D_f and held-out images count as drawn otherwise, where chance reaches less."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Forgotten:
    """What a request came to; `print` it.

    Attributes:
      model: the classifier after it.
      prepared: what the next request starts from.
      method: the method's name and options, in words.
      share: its cost as a share of retraining, by images trained on.
      expected_accuracy: percent of D_f that a gold model is expected to get right; None without a bank.
      prediction: labels and distributions; None where the method used none and there is no bank.
      rehearsal: of this recipe, the nearest in size; None where none was made.
      likeness: how well D_f and held-out images are told apart, an AUC in percent, 50 where they are alike.
      debt: forgotten images that each model in use was trained on, by its name.
      notes: what a reader should know.
    """

    model: UnlearnedModel
    prepared: Prepared
    method: str
    share: float
    expected_accuracy: Estimate | None
    prediction: TwinPrediction | None
    rehearsal: Rehearsal | None
    likeness: float
    debt: dict[str, int]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        count = len(self.prepared.forgotten[-1])
        lines = [f"forgot {count} images by {self.method}: {100 * self.share:.1f} % of a retraining"]
        if self.expected_accuracy is not None:
            lines.append("expected of gold: {:.1f} % of them right ({:.1f} to {:.1f})".format(*self.expected_accuracy))
        if self.rehearsal is not None:
            of = self.rehearsal
            lines.append(
                f"rehearsed: agreement {of.agreement.value:.1f} ({of.agreement.low:.1f} to {of.agreement.high:.1f}), "
                f"gap {of.gap.value:.1f}, distance {of.distance.value:.3f}, test accuracy {-of.test_loss.value:+.1f}"
            )
        seen = sum(count > 0 for count in self.debt.values())
        lines.append(f"models in use that were trained on forgotten images: {seen} of {len(self.debt)}")
        return "\n".join([*lines, *self.notes])


def forget(
    prepared: Prepared,
    indices: Iterable[int],
    *,
    method: str | Method = "auto",
    budget: float = 0.05,
    key: jax.Array | None = None,
    progress: Callable[[str], Progress] | None = None,
    **options: Any,
) -> Forgotten:
    """Removes training images from the model in service.

    Args:
      prepared: from `prepare`, or the last request's.
      indices: rows of `data.train_images`, of any classes.
      method: a name in `METHODS`, a method, or "auto": the recipe with the best rehearsal within the budget. Where D_f
        is not drawn like the held-out images, "auto" takes only what does not assume it.
      budget: the share of retraining that "auto" may spend.
      key: a PRNG key; the preparation's own and the number of the request by default.
      progress: makes the progress function of each named part.
      **options: of the method; with "auto" there are none.

    Returns:
      The model, what was predicted of gold, the rehearsal, and what the next request starts from.

    Raises:
      ValueError: before any work, for indices that cannot be forgotten, and a method or budget that cannot be used.
    """
    problem = prepared.problem(indices)
    key = key_for(prepared.key, f"forget {len(prepared.forgotten)}") if key is None else key
    likeness = prepared.likeness(problem)
    alike = likeness - 50 < unlike_beyond_chance(len(problem.forget), len(prepared.heldout))
    notes: list[str] = []
    if not alike:
        notes.append(f"D_f is not drawn like the held-out images (AUC {likeness:.0f}): predictions for it do not hold")
    rehearsal = None
    if method == "auto":
        if options:
            raise ValueError(f"options {sorted(options)} have no use with method='auto'; name the method")
        prepared, rehearsal = choose(prepared, problem, budget, alike, progress)
        method, options = rehearsal.method, rehearsal.options
    method = as_method(method).configured(None, options)
    if method.reference == "original":
        raise ValueError("method='original' forgets nothing; choose another one")
    if method.needs == "bank" and prepared.bank is None:
        raise ValueError(f"method={method.name!r} learns from a bank, and folds=0 left none; prepare with folds=2")
    prediction = None
    if method.needs == "prediction" or prepared.bank is not None:
        prediction = prepared.prediction(problem, published=method.needs == "prediction")
    needed = given(prediction) if method.needs is not None else None
    model = compute(method.stage(problem, given(prepared.model), key, needed), progress)
    if rehearsal is None:
        rehearsal = nearest(prepared, method, len(problem.forget))
    after = prepared.after(problem.forget.indices, model)
    return Forgotten(
        model=model,
        prepared=after,
        method=f"{method.name} ({', '.join(f'{name} {value:.3g}' for name, value in method.options.items())})",
        share=method.work(problem) / prepared.retraining_work(problem),
        expected_accuracy=None if prediction is None else expected_accuracy(prediction.probability),
        prediction=prediction,
        rehearsal=rehearsal,
        likeness=likeness,
        debt=after.debt(),
        notes=(*model.notes, *notes),
    )


def choose(
    prepared: Prepared,
    problem: ForgetProblem,
    budget: float,
    alike: bool,
    progress: Callable[[str], Progress] | None = None,
) -> tuple[Prepared, Rehearsal]:
    """The best rehearsed recipe within a budget; rehearses where nothing of this size and budget was rehearsed before.

    Returns:
      The preparation with its rehearsals, and the one that is best.
    """
    size = min(len(problem.forget), len(prepared.heldout))

    def fits(one: Rehearsal) -> bool:
        method = as_method(one.method).configured(None, one.options)
        cost = method.work(problem) / prepared.retraining_work(problem)
        of_this_size = size / 2 <= one.size <= size * 2
        return of_this_size and budget / 2 < cost <= 1.05 * budget and (alike or method.needs is None)

    def fitting() -> list[Rehearsal]:
        return [one for one in prepared.rehearsals if fits(one)]

    if not fitting():
        found = rehearse_candidates(prepared, budget, size=size, bank=alike, progress=progress)
        prepared = dataclasses.replace(prepared, rehearsals=(*prepared.rehearsals, *found))
    return prepared, min(fitting(), key=lambda rehearsal: rehearsal.misalignment)


def nearest(prepared: Prepared, method: Method, size: int) -> Rehearsal | None:
    """The rehearsal of this very recipe that is nearest in size."""
    same = [one for one in prepared.rehearsals if one.method == method.name and one.options == dict(method.options)]
    return min(same, key=lambda one: abs(math.log(one.size / size)), default=None)


def expected_accuracy(probability: np.ndarray) -> Estimate:
    """The expected percentage of right answers, where each is right with its own probability, and its 95 % interval."""
    probability = probability.astype(np.float64)
    error = 100 * math.sqrt(float(np.sum(probability * (1 - probability)))) / len(probability)
    mean = 100 * float(probability.mean())
    return Estimate(mean, max(0.0, mean - Z * error), min(100.0, mean + Z * error))


def unlike_beyond_chance(num_forget: int, num_heldout: int) -> float:
    """Points of AUC above 50 from which two sets of these sizes count as drawn otherwise: three standard errors of an
    AUC of equal sets (Hanley & McNeil 1982), and never less than `UNLIKE`.
    """
    error = math.sqrt((num_forget + num_heldout + 1) / (12 * num_forget * num_heldout))
    return max(UNLIKE, 300 * error)
