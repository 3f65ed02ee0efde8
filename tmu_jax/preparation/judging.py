"""What a gold model is expected to get right of a request, by what may be believed; and what became of the request."""

import math

import numpy as np

from tmu_jax.data import ForgetProblem, Split
from tmu_jax.evaluation.metrics import correct, margins
from tmu_jax.evaluation.outcome import Expected, Outcome, judge
from tmu_jax.preparation.bank import Bank
from tmu_jax.preparation.estimates import Estimate, Z
from tmu_jax.preparation.findings import Findings
from tmu_jax.preparation.prepared import Prepared
from tmu_jax.preparation.rehearsal import Rehearsal, twin_loss
from tmu_jax.statistics import separation
from tmu_jax.training import TrainedModel, predict
from tmu_jax.twin import TwinPrediction
from tmu_jax.unlearning import METHODS, UnlearnedModel

OTHER_RECIPE = 3.0
"""Points of test accuracy, beyond chance, that two trainings of one recipe are not taken to differ by."""


def expected_of_gold(
    problem: ForgetProblem,
    findings: Findings,
    original: TrainedModel,
    bank: Bank | None = None,
    prediction: TwinPrediction | None = None,
) -> Expected | None:
    """What gold is expected to get right of D_f; None where nothing that is known may be believed.

    Args:
      problem: the request.
      findings: what it is like.
      original: M_o, which was not trained on the held-out images.
      bank: of models that never saw them nor D_f; None where there is none.
      prediction: by the bank's calibration; None where there is none.

    Returns:
      Nothing of a whole class. Else what the calibration says, where D_f is drawn like held-out images that were never
      trained on; what the bank's models get right themselves, where it is not; and without a bank M_o's accuracy on
      held-out images of the same classes.
    """
    labels = problem.forget.labels
    partly = ~np.isin(labels, problem.whole_classes)
    if not partly.any():
        return Expected(0.0, 0.0, "no image of the class stays")
    holds = findings.allows("random_draw") and findings.allows("heldout_unseen")
    if bank is not None and prediction is not None and holds:
        return Expected(100 * float(prediction.probability.astype(np.float64).mean()), 0.0, "predicted by the bank")
    if bank is not None:
        right = (np.exp(bank.answers(problem.forget.indices)).mean(1).argmax(1) == labels) & partly
        return Expected(100 * float(right.mean()), _error(right), "the share of models that never saw them")
    heldout = problem.heldout
    if not holds or len(np.setdiff1d(labels[partly], heldout.labels)):
        return None
    right = correct(predict(original, heldout)[0], heldout.labels)
    of_class = {c: float(right[heldout.labels == c].mean()) for c in np.unique(labels[partly]).tolist()}
    shares = [of_class[c] if of_part else 0.0 for c, of_part in zip(labels.tolist(), partly, strict=True)]
    return Expected(100 * float(np.mean(shares)), _error(right), "accuracy on held-out images of their classes")


def outcome_of(
    problem: ForgetProblem,
    findings: Findings,
    original: TrainedModel,
    model: UnlearnedModel,
    expected: Expected | None,
) -> Outcome:
    """What became of D_f between the model in service before the request and the one after it."""
    method = METHODS.get(model.method)
    if method is not None and method.reference == "gold":
        return Outcome("forgotten", "forgotten: the model was trained anew without them")
    before, after = (predict(one, problem.forget)[0] for one in (original, model))
    heldout = None
    unseen = Split(problem.pool, problem.heldout.indices[~np.isin(problem.heldout.labels, problem.whole_classes)])
    if findings.allows("random_draw") and findings.allows("heldout_unseen") and len(unseen):
        heldout = predict(original, unseen)[0], predict(model, unseen)[0], unseen.labels
    is_harder = not findings.allows("random_draw") and _is_harder(problem, original, before)
    return judge(before, after, problem.forget.labels, expected, heldout, is_harder=is_harder)


def _is_harder(problem: ForgetProblem, original: TrainedModel, logits: np.ndarray) -> bool:
    """Whether a model's margins on D_f (logits float32[n, classes]) lie below those on what stays of its classes."""
    stays = Split(problem.pool, problem.retain.indices[np.isin(problem.retain.labels, problem.forget.labels)])
    ours, theirs = margins(logits, problem.forget.labels), margins(predict(original, stays)[0], stays.labels)
    found = separation(ours, theirs, problem.forget.labels, stays.labels)
    return found is not None and found.auc.value < 50


def _error(right: np.ndarray) -> float:
    """Standard error of a share, in points."""
    share = float(right.mean())
    return 100 * math.sqrt(share * (1 - share) / len(right))


def recipe_note(prepared: Prepared) -> tuple[str, ...]:
    """What must be said where the twin model, trained from scratch as M_o's recipe says, is another kind than M_o."""
    loss = twin_loss(prepared)
    if loss is None or prepared.twin is None or prepared.twin.recipe != prepared.original.training_recipe:
        return ()
    # The twin model may be better by a point for each percent of images more that it was trained on.
    more = len(prepared.heldout) / (len(prepared.train) + sum(map(len, prepared.forgotten)))
    if max(loss.low, -loss.high - 100 * more) < OTHER_RECIPE:
        return ()
    compared = "fewer" if loss.value > 0 else "more"
    return (
        f"the twin model, trained by the model's recipe, gets {abs(loss.value):.0f} points {compared} of the test "
        "images right than the model: another recipe trained the model, and a rehearsal says little of it; give `wrap` "
        "the recipe that it was trained by",
    )


def size_note(rehearsal: Rehearsal, problem: ForgetProblem) -> tuple[str, ...]:
    """What must be said where far fewer images were rehearsed with than are forgotten."""
    count = len(problem.forget)
    if 2 * rehearsal.size >= count:
        return ()
    return (f"rehearsed with {rehearsal.size} images at once, for want of held-out ones; the request is of {count}",)


def expected_accuracy(probability: np.ndarray) -> Estimate:
    """The expected percentage of right answers, where each is right with its own probability, and its 95 % interval."""
    probability = probability.astype(np.float64)
    error = 100 * math.sqrt(float(np.sum(probability * (1 - probability)))) / len(probability)
    mean = 100 * float(probability.mean())
    return Estimate(mean, max(0.0, mean - Z * error), min(100.0, mean + Z * error))
