"""Both problems' features: of D_test under M_t, of D_f under M_o."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tmu_jax.data import ForgetProblem, Split
from tmu_jax.training import Progress, TrainedModel, predict
from tmu_jax.twin.features import adversarial, curriculum_loss, nearest_distance
from tmu_jax.twin.models import outside
from tmu_jax.twin.settings import DEFAULT_SETTINGS, TwinSettings


class ProblemFeatures(NamedTuple):
    """Both problems' raw features, a row a sample, columns NF, AF, CF.

    Attributes:
      twin: float32[m, 3], of D_test under M_t (CF under G_c).
      original: float32[n, 3], of D_f under M_o (CF under G_c).
      easy: bool[m], the known labels of D_test: is M_o right on it?
      eps: the attack's radius, chosen on the twin problem.
      success_shares: the share of successful attacks on D_test for each candidate radius.
      notes: a warning where the twin model does not know D_test.
    """

    twin: np.ndarray
    original: np.ndarray
    easy: np.ndarray
    eps: float
    success_shares: tuple[float, ...]
    notes: tuple[str, ...] = ()


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
    easy = predict(original, heldout)[0].argmax(-1) == heldout.labels

    def attack(
        model: TrainedModel, samples: Split, eps: float | Sequence[float], before: int
    ) -> tuple[np.ndarray, np.ndarray]:
        def report(done: int, _: int) -> None:
            if progress is not None:
                progress(before + done, len(heldout) + len(forget))

        return adversarial(
            model, samples, eps=eps, num_steps=settings.attack_steps, order=settings.attack_order, progress=report
        )

    trials, successes = attack(twin, heldout, settings.eps_candidates, 0)
    shares = tuple(successes.mean(axis=1).tolist())
    chosen = choose_eps(shares, float(1 - easy.mean()))
    eps = settings.eps_candidates[chosen]
    af_original, _ = attack(original, forget, eps, len(heldout))
    distance = functools.partial(
        nearest_distance,
        k=settings.num_neighbors,
        same_class=settings.bank == "class",
        normalized=settings.normalize_embeddings,
    )
    af_twin, (twin_curriculum, original_curriculum) = trials[chosen], curriculum
    return ProblemFeatures(
        twin=np.stack(
            [distance(twin, heldout, problem.train), af_twin, curriculum_loss(twin_curriculum, heldout)], axis=-1
        ),
        original=np.stack(
            [distance(original, forget, problem.retain), af_original, curriculum_loss(original_curriculum, forget)],
            axis=-1,
        ),
        easy=easy,
        eps=eps,
        success_shares=shares,
        notes=_twin_warning(twin, heldout, settings),
    )


def _twin_warning(twin: TrainedModel, heldout: Split, settings: TwinSettings) -> tuple[str, ...]:
    """Says so where the twin model does not know D_test."""
    accuracy = 100 * float(np.mean(predict(twin, heldout)[0].argmax(-1) == heldout.labels))
    if accuracy >= settings.enough_accuracy:
        return ()
    return (
        f"after {len(twin.losses)} epochs the twin model gets {accuracy:.1f} % of D_test right, "
        f"below {settings.enough_accuracy:g} %",
    )


def choose_eps(success_shares: tuple[float, ...], hard_share: float) -> int:
    """Index of the candidate radius whose share of successful attacks is nearest the share of hard samples."""
    return int(np.argmin(np.abs(np.asarray(success_shares) - hard_share)))
