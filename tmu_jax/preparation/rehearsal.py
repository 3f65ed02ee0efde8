"""Rehearsal: how well a method will do, told without a gold model.

Held-out images are forgotten from the twin model exactly as D_f will be from the one in service, and M_o, which never
saw them, is that problem's gold.
"""

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from tmu_jax.boundary import checked
from tmu_jax.data import Split
from tmu_jax.evaluation import metrics
from tmu_jax.preparation.datamodels import VERSION as DATAMODELS_VERSION
from tmu_jax.preparation.datamodels import datamodels_of
from tmu_jax.preparation.estimates import Estimate, estimate, percentage
from tmu_jax.preparation.foretelling import InRehearsal, InRequest
from tmu_jax.preparation.prepared import Prepared
from tmu_jax.stages import VERSIONS, Progress, Stage, compute, given, key_for
from tmu_jax.training import TrainedModel, predict
from tmu_jax.twin import TwinPrediction
from tmu_jax.unlearning import Method, MethodName, as_method
from tmu_jax.unlearning.needs import Foretell, PredictLogits


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """What forgetting held-out images from the twin model came to, beside M_o.

    Attributes:
      method: the method's name.
      options: its options.
      size: how many images were forgotten at once.
      repeats: how often, each time others.
      share: its cost as a share of retraining.
      forget_accuracy: percent, of what was left.
      gold_accuracy: percent, of M_o on the same images.
      gap: points between the two.
      agreement: percent of the images on which both are right or both wrong.
      distance: mean activation distance to M_o.
      test_loss: points of test accuracy below M_o's, on test images that are not held out.
      untouched: agreement, gap and distance of the twin model before it forgot: the floor.
      seconds: run time of the unlearning, of one repeat.
      recipe: its recipe as JSON values, where it has one of its own; None where that goes by the training's.
      answers: float16[u, classes], for a method that learns from its rehearsal: the logits that it learns from, of the
        first repeat on all held-out images.
    """

    method: str
    options: dict[str, Any]
    size: int
    repeats: int
    share: float
    forget_accuracy: Estimate
    gold_accuracy: float
    gap: Estimate
    agreement: Estimate
    distance: Estimate
    test_loss: Estimate
    untouched: dict[str, float]
    seconds: float
    recipe: dict[str, Any] | None = None
    answers: np.ndarray | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        # What was kept as JSON comes back as plain tuples.
        for name in ("forget_accuracy", "gap", "agreement", "distance", "test_loss"):
            object.__setattr__(self, name, Estimate(*getattr(self, name)))

    @property
    def misalignment(self) -> float:
        """What `auto` and every choice of a recipe makes small: disagreement, gap, lost test accuracy and a hundred
        activation distances, all in points.
        """
        return 100 - self.agreement.value + self.gap.value + max(0.0, self.test_loss.value) + 100 * self.distance.value


@checked
def rehearse(
    prepared: Prepared,
    method: MethodName | Method,
    *,
    size: int | None = None,
    repeats: int = 1,
    key: jax.Array | None = None,
    progress: Callable[[str], Progress] | None = None,
    **options: Any,
) -> Rehearsal:
    """Forgets held-out images from the twin model, and compares with M_o.

    Args:
      prepared: from `prepare`.
      method: a name in `METHODS`, or a method.
      size: how many of the held-out images are forgotten at once; all of them by default.
      repeats: how many random subsets of that size, without an image in common as far as there are enough.
      key: a PRNG key; the preparation's by default.
      progress: makes the progress function of each named part.
      **options: of the method.

    Returns:
      The readouts, with 95 % intervals: over the images, an image of several repeats being one, or over the repeats
      where they spread further.

    Raises:
      ValueError: for a size beyond the held-out images, a method without a rehearsal, or a budget of no step.
    """
    method = as_method(method).configured(None, options)
    heldout = prepared.heldout
    size = len(heldout) if size is None else size
    if not 1 <= size <= len(heldout) or repeats < 1:
        raise ValueError(
            f"size={size}, repeats={repeats} must be at least 1; there are {len(heldout)} held-out images to forget"
        )
    if method.reference is not None or method.needs == "prediction" or method.needs_updates:
        raise ValueError(
            f"method {method.name!r} cannot be rehearsed: it retrains, learns its labels from the rehearsal, or takes "
            "back what a training kept"
        )
    if prepared.twin is None:
        raise ValueError("the preparation has no twin model to rehearse with; it was made with_twin=False")
    key = key_for(prepared.key, "rehearsal") if key is None else key
    before, gold = _ends(prepared, prepared.twin)
    # At the rates of a request, which go by M_o's training and not by the twin model's.
    twin = dataclasses.replace(prepared.twin, recipe=prepared.original.recipe)
    # The same images for every method: what they are compared by is not who drew the easier ones.
    order, runs = np.asarray(jax.random.permutation(key_for(key, "draw"), len(heldout))), []
    for repeat in range(repeats):
        own = key_for(key, f"{method.name} {repeat}")
        drawn = np.sort(order.take(np.arange(repeat * size, (repeat + 1) * size), mode="wrap"))
        problem = prepared.twin_problem(heldout.indices[drawn])
        foretell = InRehearsal(prepared)
        needed: TwinPrediction | Foretell | PredictLogits | None = None
        if method.needs == "rehearsal":
            needed = foretell
        elif method.needs == "bank":
            needed = prepared.twin_prediction(problem)
        elif method.needs == "datamodels":
            needed = datamodels_of(prepared)
        stage = method.stage(problem, given(twin), own, None if needed is None else given(needed))
        left = compute(stage, None if progress is None else lambda part: progress(f"rehearsal of {part}"))
        share = prepared.share(method, problem)
        runs.append(_Run(drawn, _Outputs.of(prepared, left), share, left.seconds, foretell.answers))
    return _read(prepared, method, size, runs, before, gold)


class _Outputs(NamedTuple):
    """Logits on the held-out images, float32[n, classes], and right or wrong on the other test images, bool[m]."""

    heldout: np.ndarray
    test_right: np.ndarray

    @classmethod
    def of(cls, prepared: Prepared, model: TrainedModel) -> "_Outputs":
        others = Split(prepared.test.pool, np.setdiff1d(prepared.test.indices, prepared.heldout.indices))
        right = np.zeros(0, bool)
        if len(others):
            right = metrics.correct(predict(model, others)[0], others.labels)
        return cls(predict(model, prepared.heldout)[0], right)


_known_ends: "weakref.WeakKeyDictionary[Prepared, tuple[_Outputs, _Outputs]]" = weakref.WeakKeyDictionary()


def _ends(prepared: Prepared, twin: TrainedModel) -> tuple[_Outputs, _Outputs]:
    """What every rehearsal lies between, computed once: the twin model's outputs and M_o's."""
    if prepared not in _known_ends:
        _known_ends[prepared] = _Outputs.of(prepared, twin), _Outputs.of(prepared, prepared.original)
    return _known_ends[prepared]


def twin_loss(prepared: Prepared) -> Estimate | None:
    """Points of test accuracy of the twin model below M_o's, with its interval over the images; None without one.

    Where it was trained from scratch by M_o's recipe and lies far from M_o, another recipe trained M_o.
    """
    if prepared.twin is None:
        return None
    before, gold = _ends(prepared, prepared.twin)
    return _mean_loss([_losses(gold, before)])


class _Run(NamedTuple):
    drawn: np.ndarray
    left: _Outputs
    share: float
    seconds: float
    answers: np.ndarray | None


def _read(
    prepared: Prepared, method: Method, size: int, runs: Sequence[_Run], before: _Outputs, gold: _Outputs
) -> Rehearsal:
    labels = prepared.heldout.labels
    gold_right = metrics.correct(gold.heldout, labels)
    known = metrics.correct(before.heldout, labels)
    rights = [metrics.correct(run.left.heldout, labels)[run.drawn] for run in runs]
    of_gold = [gold_right[run.drawn] for run in runs]
    agrees = [100.0 * (right == golds) for right, golds in zip(rights, of_gold, strict=True)]
    distances = [metrics.activation_distances(run.left.heldout[run.drawn], gold.heldout[run.drawn]) for run in runs]
    excess = [100.0 * (right.astype(float) - golds) for right, golds in zip(rights, of_gold, strict=True)]
    losses = [_losses(gold, run.left) for run in runs]
    images = [run.drawn for run in runs]
    agreement = percentage(agrees, images)
    signed = estimate(excess, images)  # Images right and wrong cancel as they do in a gap; its ends are the gap's.
    most = max(abs(signed.low), abs(signed.high))
    gap = Estimate(
        float(np.mean([abs(part.mean()) for part in excess])),
        0.0 if signed.low <= 0 <= signed.high else min(abs(signed.low), abs(signed.high)),
        most if signed.low < signed.high else 100 - agreement.low,  # Where no image differs, others still may.
    )
    everywhere = np.concatenate(images)
    return Rehearsal(
        method=method.name,
        options=dict(method.options),
        size=size,
        repeats=len(runs),
        share=runs[0].share,
        forget_accuracy=percentage([100.0 * right for right in rights], images),
        gold_accuracy=100.0 * float(np.mean(np.concatenate(of_gold))),
        gap=gap,
        agreement=agreement,
        distance=estimate(distances, images),
        test_loss=_mean_loss(losses),
        untouched={
            "agreement": metrics.agreement(known[everywhere], gold_right[everywhere]),
            "gap": 100.0 * abs(float(np.mean(known[everywhere])) - float(np.mean(gold_right[everywhere]))),
            "distance": metrics.activation_distance(before.heldout[everywhere], gold.heldout[everywhere]),
        },
        seconds=float(np.mean([run.seconds for run in runs])),
        recipe=method.own_recipe,
        answers=runs[0].answers,
    )


def _losses(gold: _Outputs, left: _Outputs) -> np.ndarray:
    """What each test image that is not held out loses, -100, 0 or 100 points: float64[m]."""
    return 100.0 * (gold.test_right.astype(np.float64) - left.test_right)


def _mean_loss(losses: Sequence[np.ndarray]) -> Estimate:
    """The mean of all repeats, which are of the same test images."""
    return estimate(losses, [np.arange(len(part)) for part in losses])


def rehearsal_stage(prepared: Stage, method: Method, size: int, repeats: int = 1) -> Stage:
    """A rehearsal as a stage; arguments as in `rehearse`, the preparation as a stage."""
    # What the method learns from is made within the rehearsal, and so no parent tells its version.
    learnt_by = {"rehearsal": VERSIONS["foretelling"], "bank": VERSIONS["bank_prediction"]}
    learnt_by |= {"datamodels": DATAMODELS_VERSION}
    return Stage(
        "rehearsal",
        f"rehearsal of {method.name}",
        lambda prepared, progress: rehearse(prepared, method, size=size, repeats=repeats, progress=lambda _: progress),
        Rehearsal,
        VERSIONS["rehearsal"],
        {"prepared": prepared},
        {
            "method": method.name,
            "version": method.version,
            "options": dict(method.options),
            "size": size,
            "repeats": repeats,
            **({} if method.own_recipe is None else {"recipe": method.own_recipe}),
            **({"image_noise": method.image_noise} if method.image_noise else {}),
            **({"learnt_by": learnt_by[method.needs]} if method.needs in learnt_by else {}),
        },
    )


def taught(prepared: Prepared, rehearsal: Rehearsal) -> InRequest:
    """What a method learns from its rehearsal, of which the request bears the cost."""
    seconds = {name.replace(" ", "_"): seconds for name, seconds in prepared.seconds.items()}
    return InRequest(prepared, rehearsal.answers, {**seconds, "rehearsal": rehearsal.repeats * rehearsal.seconds})


def foretelling_stage(prepared: Stage, rehearsal: Stage) -> Stage:
    """What a method learns from its rehearsal; the value is an `InRequest`, and is not kept: it takes seconds."""

    def make(prepared: Prepared, rehearsal: Rehearsal, progress: Progress) -> InRequest:
        return taught(prepared, rehearsal)

    parents = {"prepared": prepared, "rehearsal": rehearsal}
    version = VERSIONS["foretelling"]
    return Stage("foretelling", "what the rehearsal taught", make, InRequest, version, parents, is_kept=False)
