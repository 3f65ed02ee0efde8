"""Looking at a request before anything is done: what methods assume of it, and what may be claimed afterwards."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from tmu_jax.boundary import checked
from tmu_jax.data import ForgetProblem, Split
from tmu_jax.evaluation.metrics import margins
from tmu_jax.preparation.calibration import bank_features
from tmu_jax.preparation.findings import Finding, Findings
from tmu_jax.preparation.knowledge import some_of
from tmu_jax.preparation.prepared import Prepared
from tmu_jax.statistics import ERRORS, UNLIKE, separation
from tmu_jax.training import TrainedModel, predict
from tmu_jax.twin.models import outside
from tmu_jax.twin.neighbors import nearest_distances
from tmu_jax.unlearning.unlearned import UnlearnedModel

FEWEST = 10
"""Images of a class below which little can be said of it."""
_TELLING = 8
_NEIGHBORS = 5
_KNOWN = 0.9
_CHANCE = 0.05
_LEAST_POINTS = 5.0


@checked
def look(problem: ForgetProblem, prepared_or_model: Prepared | TrainedModel) -> Findings:
    """Looks at a request: is it what methods assume, and what may be claimed of their result?

    - "random_draw": is D_f drawn from its classes at random? With a bank, whose models never saw an image of D_f nor a
      held-out one, the two are told apart by the bank's features. A model alone was trained on D_f and not on held-out
      images, so that its features differ by that too: D_f is compared with what stays of its classes, which it was
      trained on as well (margin, and distance to the nearest of what stays).
    - "heldout_unseen": were the held-out images trained on? With a bank, by images that its models get wrong: a model
      that has learnt them by heart is right on them, on D and on images that it was trained on without a word. A model
      alone can be caught where its margins on held-out images are above those on the other test images, and cleared
      where they are below those on D. Where neither tells, the twin model does, which was trained on the held-out
      images: by what it knows of them and of other test images.
    - "heldout_images", "images_left": the fewest of any class asked for; "whole_classes": how many classes leave whole.

    Args:
      problem: the request.
      prepared_or_model: what it is asked of: a preparation, or M_o alone.

    Returns:
      The findings; `findings.forbids` says what must not be claimed.

    Raises:
      TypeError: for something else than a preparation or a trained model.
      ValueError: for a request of other images than the preparation's.
    """
    if isinstance(prepared_or_model, Prepared):
        prepared = prepared_or_model
        problem = prepared.problem(problem)
        if prepared.bank is not None:
            draw, unseen = _draw_by_bank(problem, prepared), _unseen_by_bank(prepared)
        else:
            draw = _draw_by_model(problem, prepared.model)
            unseen = _unseen_by_model(problem, prepared.original)
        if unseen.holds is None and prepared.twin is not None:
            unseen = _unseen_by_twin(prepared) or unseen
        return Findings((draw, unseen, *_of_classes(problem)))
    if not isinstance(prepared_or_model, TrainedModel):
        raise TypeError(f"prepared_or_model must be from prepare() or train(), got {type(prepared_or_model).__name__}")
    problem = dataclasses.replace(problem, heldout=problem.heldout_images)
    model = _before_the_request(problem, prepared_or_model)
    return Findings((_draw_by_model(problem, model), _unseen_by_model(problem, model), *_of_classes(problem)))


def _before_the_request(problem: ForgetProblem, model: TrainedModel) -> TrainedModel:
    """The model that had not forgotten the request yet."""
    while isinstance(model, UnlearnedModel) and model.original is not None:
        if model.forget_indices is None or not np.isin(problem.forget.indices, model.forget_indices).any():
            break
        model = model.original
    return model


def _draw_by_bank(problem: ForgetProblem, prepared: Prepared) -> Finding:
    """By the bank's features, class by class: a class that is harder than others is a random draw of itself."""
    assert prepared.bank is not None
    forget, heldout = problem.forget, problem.heldout
    ours, theirs = (bank_features(prepared.bank.answers(one.indices), one.labels) for one in (forget, heldout))
    return _draw(list(zip(ours.T, theirs.T, strict=True)), forget, heldout, "the held-out images")


def _draw_by_model(problem: ForgetProblem, model: TrainedModel) -> Finding:
    forget = outside(problem.forget, problem.whole_classes)
    if not len(forget):
        words = "All images of the classes are asked for: nothing was drawn from them"
        return Finding("random_draw", None, 50 + UNLIKE, True, words)
    stays = Split(problem.pool, problem.retain.indices[np.isin(problem.retain.labels, forget.labels)])
    known = some_of(stays)
    outputs = [predict(model, split) for split in (forget, known, stays)]
    ours, theirs, bank = (_unit(embeddings) for _, embeddings in outputs)
    # The nearest of what stays to one of what stays is that image itself.
    own = nearest_distances(theirs, bank, k=_NEIGHBORS + 1, query_groups=known.labels, bank_groups=stays.labels)
    other = nearest_distances(ours, bank, k=_NEIGHBORS, query_groups=forget.labels, bank_groups=stays.labels)
    pairs = [
        (margins(outputs[0][0], forget.labels), margins(outputs[1][0], known.labels)),
        (_mean_finite(np.asarray(other)), _mean_finite(np.asarray(own)[:, 1:])),
    ]
    return _draw(pairs, forget, known, "what stays of their classes")


def _draw(pairs: Sequence[tuple[np.ndarray, np.ndarray]], forget: Split, known: Split, others: str) -> Finding:
    """The finding on a draw, by the one feature that tells the two sets apart best; of each both sets' values."""
    value, threshold = 50.0, 50 + UNLIKE
    for ours, theirs in pairs:
        found = separation(ours, theirs, forget.labels, known.labels)
        assert found is not None
        value, threshold = max(value, found.auc.value, 100 - found.auc.value), 50 + max(UNLIKE, ERRORS * found.chance)
    if value < threshold:
        words = f"D_f looks like a random draw: it is not told from {others} (AUC {value:.0f}, below {threshold:.0f})"
        return Finding("random_draw", value, threshold, True, words)
    words = f"D_f is not drawn like {others} (AUC {value:.0f}): predictions for it do not hold"
    forbids = ("what gold is expected to get right, predicted from held-out images", "what a rehearsal promised")
    return Finding("random_draw", value, threshold, False, words, forbids)


class _Answers(NamedTuple):
    """M_o's margins, and the mean margins of models that never saw the images, float64[n]; and labels int32[n]."""

    own: np.ndarray
    unseen: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, prepared: Prepared, split: Split) -> "_Answers":
        assert prepared.bank is not None
        answers = prepared.bank.answers(split.indices)
        unseen = np.mean([margins(answers[:, r], split.labels) for r in range(answers.shape[1])], axis=0)
        return cls(margins(predict(prepared.original, split)[0], split.labels), unseen, split.labels)


def _unseen_by_bank(prepared: Prepared) -> Finding:
    """Held-out images that the bank gets wrong or nearly so, beside images of D on which it is as wrong."""
    known = _Answers.of(prepared, some_of(prepared.train))
    heldout = _Answers.of(prepared, prepared.heldout)
    telling = np.median(heldout.unseen)
    gains = [(one.own - one.unseen)[one.unseen <= telling] for one in (known, heldout)]
    found = separation(*gains, *(np.zeros(len(gain), int) for gain in gains))
    if found is None:
        return _cannot_be_told(None, 50 + _LEAST_POINTS)
    value, threshold = found.auc.value, 50 + max(_LEAST_POINTS, 2 * found.chance)
    if value >= threshold:
        words = f"M_o gains less on held-out images than on D over models that saw neither (AUC {value:.0f})"
        return Finding("heldout_unseen", value, threshold, True, words)
    right, wrong = ((one.own > 0)[one.unseen < 0] for one in (known, heldout))
    if len(wrong) < _TELLING or not len(right) or wrong.mean() < _KNOWN:
        return _cannot_be_told(value, threshold)
    if binom.cdf(wrong.sum(), len(wrong), min(right.mean(), 0.99)) <= _CHANCE:
        return _cannot_be_told(value, threshold)
    words = (
        f"the held-out images were trained on: M_o is right on {wrong.sum()} of {len(wrong)} that models which never "
        f"saw them get wrong, as on D ({100 * right.mean():.0f} %)"
    )
    return Finding("heldout_unseen", value, threshold, False, words, _UNSEEN)


def _unseen_by_model(problem: ForgetProblem, model: TrainedModel) -> Finding:
    heldout = problem.heldout
    of_class = np.isin(problem.test.labels, heldout.labels)
    fresh = some_of(Split(problem.pool, np.setdiff1d(problem.test.indices[of_class], heldout.indices).astype(np.int32)))
    stays = some_of(Split(problem.pool, problem.retain.indices[np.isin(problem.retain.labels, heldout.labels)]))
    own, others, known = (
        margins(predict(model, split)[0], split.labels) if len(split) else np.zeros(0)
        for split in (heldout, fresh, stays)
    )
    above = separation(own, others, heldout.labels, fresh.labels)
    if above is not None and above.auc.value >= (threshold := 50 + max(UNLIKE, ERRORS * above.chance)):
        words = (
            "the held-out images were trained on: M_o's margins on them are above those on other test images "
            f"(AUC {above.auc.value:.0f})"
        )
        return Finding("heldout_unseen", above.auc.value, threshold, False, words, _UNSEEN)
    below = separation(known, own, stays.labels, heldout.labels)
    if below is None:
        return _cannot_be_told(None, 50 + _LEAST_POINTS)
    value, threshold = below.auc.value, 50 + max(_LEAST_POINTS, ERRORS * below.chance)
    if value < threshold:
        return _cannot_be_told(value, threshold)
    words = f"M_o's margins on held-out images are below those on D (AUC {value:.0f})"
    return Finding("heldout_unseen", value, threshold, True, words)


def _unseen_by_twin(prepared: Prepared) -> Finding | None:
    """The twin model, which was trained on the held-out images, tells how a model's margins on D lie above those on
    images that it never saw: the other test images. Where M_o knows D as well, and its margins on held-out images do
    not lie below those on D, these are no such images.

    Returns:
      The finding; None where the twin model knows nothing by heart, or is another kind of model than M_o.
    """
    assert prepared.twin is not None
    rows = np.setdiff1d(prepared.test.indices, prepared.heldout.indices).astype(np.int32)
    known, fresh = some_of(prepared.train), some_of(Split(prepared.test.pool, rows))

    def of(model: TrainedModel, split: Split) -> np.ndarray:
        return margins(predict(model, split)[0], split.labels)

    of_twin, of_original = of(prepared.twin, known), of(prepared.original, known)
    above = separation(of_twin, of(prepared.twin, fresh), known.labels, fresh.labels) if len(fresh) else None
    heldout = prepared.heldout
    found = separation(of_original, of(prepared.original, heldout), known.labels, heldout.labels)
    differ = 100 * abs(float(np.mean(of_twin > 0)) - float(np.mean(of_original > 0)))
    if above is None or found is None or differ > _LEAST_POINTS:
        return None
    threshold = (50 + above.auc.low) / 2
    if threshold < 50 + _LEAST_POINTS / 2 or found.auc.high >= threshold:
        return None
    words = (
        f"the held-out images were trained on: M_o's margins on D are told from those on them with AUC "
        f"{found.auc.value:.0f}, the twin model's from those on images that it never saw with {above.auc.value:.0f}"
    )
    return Finding("heldout_unseen", found.auc.value, threshold, False, words, _UNSEEN)


_UNSEEN = (
    "anything measured on held-out images: what gold is expected to get right, a rehearsal, membership against them",
)


def _cannot_be_told(value: float | None, threshold: float) -> Finding:
    words = "M_o's answers on D and on held-out images are too alike to tell whether the latter were trained on"
    return Finding("heldout_unseen", value, threshold, None, words)


def _of_classes(problem: ForgetProblem) -> tuple[Finding, ...]:
    """What there is of each class: held-out images, images that stay; and which classes leave whole."""
    partly = [c for c in problem.target_classes if c not in problem.whole_classes]
    found = [
        _fewest("heldout_images", problem.heldout, partly, "held-out", "accuracies of this class on held-out images"),
        _fewest("images_left", problem.retain, partly, "remaining", "that the model still knows this class"),
    ]
    whole = list(problem.whole_classes)
    if not whole:
        return (*found, Finding("whole_classes", 0, 0, True, "No class leaves whole"))
    words = f"of class {', '.join(map(str, whole))} nothing stays: gold gets none of its images right"
    forbids = ("a comparison with held-out images of a class that leaves whole",)
    return (*found, Finding("whole_classes", len(whole), 0, False, words, forbids))


def _fewest(name: str, split: Split, classes: list[int], kind: str, forbidden: str) -> Finding:
    if not classes:
        return Finding(name, None, FEWEST, None, f"The classes leave whole; {kind} images are not needed")
    counts = {c: int(np.sum(split.labels == c)) for c in classes}
    few = [c for c in classes if counts[c] < FEWEST]
    least = min(counts.values())
    if not few:
        return Finding(name, least, FEWEST, True, f"Each class has at least {least} {kind} images")
    listed = ", ".join(f"class {c} has {counts[c]}" for c in few)
    words = f"{listed} {kind} images, fewer than {FEWEST}: too few to judge by"
    return Finding(name, least, FEWEST, False, words, (forbidden,))


def _unit(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-12)


def _mean_finite(distances: np.ndarray) -> np.ndarray:
    """The mean of each row's finite distances; 0 where there is none."""
    finite = np.isfinite(distances)
    return np.where(finite, distances, 0).sum(1) / np.maximum(finite.sum(1), 1)
