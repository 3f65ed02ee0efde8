"""What became of forgotten images, where no gold model is at hand: accuracy and margins before and after."""

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tmu_jax.evaluation.metrics import correct, margins
from tmu_jax.statistics import UNLIKE, separation

State = Literal["forgotten", "partly", "nothing forgotten"]
LEAST_POINTS = 5.0
"""Points of accuracy, or of AUC, within which two numbers count as equal where chance reaches less."""
NOTHING = 0.25
"""The share of what was to go, below which nothing counts as gone."""
_Z = 1.959963984540054


class Outcome(NamedTuple):
    """What became of forgotten images.

    Attributes:
      state: "forgotten", "partly" or "nothing forgotten".
      sentence: why, for people.
    """

    state: State
    sentence: str


class Expected(NamedTuple):
    """What a gold model is expected to get right of forgotten images.

    Attributes:
      accuracy: percent, 0..100.
      error: its standard error, in points, beside what chance makes of so many images.
      source: where it comes from, in words.
    """

    accuracy: float
    error: float
    source: str


def judge(
    before: ArrayLike,
    after: ArrayLike,
    labels: ArrayLike,
    expected: Expected | None,
    heldout: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None,
    *,
    is_harder: bool = False,
) -> Outcome:
    """Whether a model has forgotten images, by what a gold model is expected to get right of them.

    Where the original is no more right on them than gold is expected to be, accuracy says nothing, and the margins do:
    how well they tell forgotten images from held-out ones of the same class, before and after.

    Args:
      before: float[n, classes], logits of the original on D_f.
      after: float[n, classes], of the model that was to forget them.
      labels: int[n].
      expected: what gold is expected to get right; None where nothing is known.
      heldout: logits of the original and of the model on images that neither was trained on, float[m, classes], and
        their labels int[m]; None where there are none.
      is_harder: whether D_f is known to be harder than a random draw, which gold cannot be as right on as a model that
        was trained on it.

    Returns:
      The state and a sentence. "partly" is also said where it cannot be told how far.

    Raises:
      ValueError: for logits and labels that do not fit together.
    """
    right = [correct(logits, labels) for logits in (before, after)]
    was, now = (100 * float(one.mean()) for one in right)
    numbers = f"{was:.0f} % of them were right before, {now:.0f} % are after"
    if np.array_equal(np.asarray(before), np.asarray(after)):
        return Outcome(
            "nothing forgotten", f"nothing was forgotten: the model answers on them as before ({now:.0f} % right)"
        )
    if expected is None:
        if is_harder and now > was - LEAST_POINTS:
            words = f"nothing was forgotten: {numbers}, and D_f is harder than a random draw of its class"
            return Outcome("nothing forgotten", words)
        return Outcome(
            "partly", f"how much was forgotten cannot be told: {numbers}, and what gold gets right is unknown"
        )
    numbers += f"; of gold {expected.accuracy:.0f} % is expected ({expected.source})"
    chance = 100 * math.sqrt(expected.accuracy / 100 * (1 - expected.accuracy / 100) / len(right[0]))
    tolerance = max(LEAST_POINTS, _Z * math.hypot(chance, expected.error))
    excess, left = was - expected.accuracy, now - expected.accuracy
    if excess > tolerance:
        return _state(excess, left, tolerance, numbers)
    if left > tolerance:
        return Outcome("nothing forgotten", f"nothing was forgotten: {numbers}")
    return _by_margins(before, after, labels, heldout, numbers)


def _by_margins(
    before: ArrayLike,
    after: ArrayLike,
    labels: ArrayLike,
    heldout: tuple[ArrayLike, ArrayLike, ArrayLike] | None,
    numbers: str,
) -> Outcome:
    """The same by how well margins tell D_f from held-out images of the same class; arguments as in `judge`."""
    of_before = of_after = None
    if heldout is not None:
        of_before, of_after = (
            separation(margins(ours, labels), margins(theirs, heldout[2]), labels, heldout[2])
            for ours, theirs in zip((before, after), heldout[:2], strict=True)
        )
    if of_before is None or of_after is None:
        words = f"how much was forgotten cannot be told: {numbers}, and that is no more than chance apart"
        return Outcome("partly", words)
    was, now = of_before.auc.value, of_after.auc.value
    tolerance = max(LEAST_POINTS, _Z * max(of_before.chance, of_after.chance))
    numbers += f"; margins tell them from held-out images of their classes with AUC {was:.0f} before, {now:.0f} after"
    if was - 50 > tolerance:
        return _state(was - 50, now - 50, tolerance, numbers)
    if now - 50 > tolerance:
        return Outcome("nothing forgotten", f"nothing was forgotten: {numbers}")
    if tolerance > UNLIKE:
        words = f"how much was forgotten cannot be told: {numbers}, and of so few images chance reaches {tolerance:.0f}"
        return Outcome("partly", f"{words} points")
    return Outcome("forgotten", f"forgotten, though it hardly showed before either: {numbers}")


def _state(excess: float, left: float, tolerance: float, numbers: str) -> Outcome:
    """By what was to go and what is left of it, in points."""
    if left <= tolerance:
        more = "" if left >= -tolerance else "; that is fewer than gold, which shows that they were removed"
        return Outcome("forgotten", f"forgotten: {numbers}{more}")
    if excess - left < NOTHING * excess:
        return Outcome("nothing forgotten", f"nothing was forgotten: {numbers}")
    return Outcome("partly", f"partly forgotten: {numbers}")
