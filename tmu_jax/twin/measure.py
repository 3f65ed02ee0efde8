"""Both problems' features: of D_test under M_t, of D_f under M_o."""

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from tmu_jax.data import ForgetProblem, Split
from tmu_jax.stages import Progress
from tmu_jax.statistics import ERRORS, UNLIKE, separation
from tmu_jax.timing import Stopwatch
from tmu_jax.training import TrainedModel, predict
from tmu_jax.twin.features import adversarial, curriculum_loss, nearest_distance
from tmu_jax.twin.models import outside, tuned_on
from tmu_jax.twin.settings import DEFAULT_SETTINGS, TwinSettings

_MORE = 0.05
"""Share of right answers by which D_test may lie above other unseen images, beside chance."""


class ProblemFeatures(NamedTuple):
    """Both problems' raw features, a row a sample, columns NF, AF, CF.

    Attributes:
      twin: float32[m, 3], of D_test under M_t (CF under G_c).
      original: float32[n, 3], of D_f under M_o (CF under G_c).
      easy: bool[m], the known labels of D_test: is M_o right on it?
      eps: the attack's radius, chosen on the twin problem.
      success_shares: the share of successful attacks on D_test for each candidate radius.
      notes: warnings where the twin model does not know D_test, M_o does, or D_f is not drawn like it.
      seconds_by_part: run time of "twin_model", "curriculum" and "features".
      compile_seconds: tracing and compiling of all of them.
    """

    twin: np.ndarray
    original: np.ndarray
    easy: np.ndarray
    eps: float
    success_shares: tuple[float, ...]
    notes: tuple[str, ...] = ()
    seconds_by_part: Mapping[str, float] = MappingProxyType({})
    compile_seconds: float = 0.0


def measure_features(
    problem: ForgetProblem,
    original: TrainedModel,
    twin: TrainedModel,
    curriculum: tuple[TrainedModel, TrainedModel],
    settings: TwinSettings = DEFAULT_SETTINGS,
    progress: Progress | None = None,
) -> ProblemFeatures:
    """NF, AF and CF of D_test (twin problem) and of D_f (original problem), and the known labels of D_test.

    The attack's radius is the candidate whose share of successful attacks on D_test is nearest the share of hard
    samples there.

    Args:
      problem: the request; samples of whole classes are left out.
      original: M_o.
      twin: M_t.
      curriculum: the models whose loss is CF in the twin and in the original problem; G_c twice where it is "fresh".
      settings: see `TwinSettings`.
      progress: called with (samples attacked, samples in all).

    Returns:
      The features.
    """
    heldout = outside(problem.heldout, problem.whole_classes)
    forget = outside(problem.forget, problem.whole_classes)

    def attack(
        model: TrainedModel, samples: Split, eps: float | Sequence[float], before: int
    ) -> tuple[np.ndarray, np.ndarray]:
        def report(done: int, _: int) -> None:
            if progress is not None:
                progress(before + done, len(heldout) + len(forget))

        return adversarial(
            model, samples, eps=eps, num_steps=settings.attack_steps, order=settings.attack_order, progress=report
        )

    distance = functools.partial(
        nearest_distance,
        k=settings.num_neighbors,
        same_class=settings.bank == "class",
        normalized=settings.normalize_embeddings,
    )
    with Stopwatch() as watch:
        easy = predict(original, heldout)[0].argmax(-1) == heldout.labels
        trials, successes = attack(twin, heldout, settings.eps_candidates, 0)
        shares = tuple(successes.mean(axis=1).tolist())
        chosen = choose_eps(shares, float(1 - easy.mean()))
        eps = settings.eps_candidates[chosen]
        attacked, _ = attack(original, forget, eps, len(heldout))
        of_twin = [distance(twin, heldout, problem.train), trials[chosen], curriculum_loss(curriculum[0], heldout)]
        of_original = [distance(original, forget, problem.retain), attacked, curriculum_loss(curriculum[1], forget)]
        notes = _twin_warning(problem, twin, settings) + _heldout_warning(problem, original, easy)
        # A model that was trained on one of the two alone tells them apart by that.
        if curriculum[0] is curriculum[1] and settings.curriculum_data != "train":
            # Copies made by augmentation are no draws.
            own = np.isin(heldout.indices, problem.heldout_images.indices)
            notes += _draw_warning(of_original[2], forget, of_twin[2][own], Split(problem.pool, heldout.indices[own]))
    # The same model twice is one training.
    trained = [twin, *{id(model): model for model in curriculum}.values()]
    return ProblemFeatures(
        twin=np.stack(of_twin, axis=-1),
        original=np.stack(of_original, axis=-1),
        easy=easy,
        eps=eps,
        success_shares=shares,
        notes=notes,
        seconds_by_part={
            "twin_model": twin.seconds,
            "curriculum": sum(model.seconds for model in trained[1:]),
            "features": watch.seconds,
        },
        compile_seconds=watch.compile_seconds + sum(model.compile_seconds for model in trained),
    )


def _twin_warning(problem: ForgetProblem, twin: TrainedModel, settings: TwinSettings) -> tuple[str, ...]:
    """Says so where the twin model does not know D_test, or what it was tuned on in its place."""
    tuned, name = tuned_on(problem), "D_test" if problem.tuned is None else "the images it was tuned on"
    accuracy = 100 * float(np.mean(predict(twin, tuned)[0].argmax(-1) == tuned.labels))
    if accuracy >= settings.enough_accuracy:
        return ()
    return (
        f"after {len(twin.losses)} epochs the twin model gets {accuracy:.1f} % of {name} right, "
        f"below {settings.enough_accuracy:g} %",
    )


def _draw_warning(of_forget: np.ndarray, forget: Split, of_heldout: np.ndarray, heldout: Split) -> tuple[str, ...]:
    """Says so where G_c, which saw neither D_f nor D_test, tells the two apart by its losses: no random draw."""
    found = separation(of_forget, of_heldout, forget.labels, heldout.labels)
    if found is None or abs(found.auc.value - 50) < max(UNLIKE, ERRORS * found.chance):
        return ()
    return (
        f"D_f is not drawn like D_test (the curriculum model's loss tells them apart, AUC {found.auc.value:.0f}): "
        "labels that were learnt on D_test do not hold for it; `rewarm` and `retrain` need none",
    )


def _heldout_warning(problem: ForgetProblem, original: TrainedModel, easy: np.ndarray) -> tuple[str, ...]:
    """Says so where D_test was taken from the training images of a model that was trained on them, too."""
    test = Split(problem.pool, problem.test.indices[np.isin(problem.test.labels, problem.target_classes)])
    if problem.heldout_source != "train" or not len(test) or not len(easy):
        return ()
    shares = float(easy.mean()), float(np.mean(predict(original, test)[0].argmax(-1) == test.labels))
    pooled = (shares[0] * len(easy) + shares[1] * len(test)) / (len(easy) + len(test))
    chance = ERRORS * float(np.sqrt(pooled * (1 - pooled) * (1 / len(easy) + 1 / len(test))))
    if shares[0] - shares[1] < max(_MORE, chance):
        return ()
    return (
        f"D_test was trained on: M_o is right on {100 * shares[0]:.0f} % of it and on {100 * shares[1]:.0f} % of the "
        "test images; heldout_source='train' is for a model that is trained after the split, on problem.train alone",
    )


def choose_eps(success_shares: tuple[float, ...], hard_share: float) -> int:
    """Index of the candidate radius whose share of successful attacks is nearest the share of hard samples."""
    return int(np.argmin(np.abs(np.asarray(success_shares) - hard_share)))
