"""From features to generalization labels: scaling, the predictor, the threshold."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tmu_jax.data import ForgetProblem
from tmu_jax.timing import Stopwatch
from tmu_jax.twin import predictor
from tmu_jax.twin.features import FEATURES
from tmu_jax.twin.measure import ProblemFeatures
from tmu_jax.twin.models import outside
from tmu_jax.twin.settings import DEFAULT_SETTINGS, TwinSettings


@dataclasses.dataclass(frozen=True, eq=False)
class TwinPrediction:
    """Which forgotten samples a gold model is predicted to get right.

    Attributes:
      probability: float32[n], of "easy", in the order of `problem.forget`.
      easy: bool[n].
      heldout_probability: float32[m], the predictor on D_test, which it was trained on; in the order of
        `problem.heldout` without whole classes (empty when there is nothing to train on).
      heldout_easy_predicted: bool[m].
      heldout_easy: bool[m], the known labels.
      twin_features: float32[m, 3], scaled to 0..1; columns NF, AF, CF.
      original_features: float32[n', 3], likewise, of the forgotten samples outside whole classes.
      eps: radius of the attack, in pixel units; 0 when there was none.
      seconds_by_part: run time of "twin_model", "curriculum", "features" and "predictor".
      compile_seconds: tracing and compiling of all of them.
      notes: what a reader should know: warnings, degenerate cases.
      targets: float32[n, classes], gold's predicted softmax, where a bank of models gives it (`tmu_jax.preparation`).
    """

    probability: np.ndarray
    easy: np.ndarray
    heldout_probability: np.ndarray
    heldout_easy_predicted: np.ndarray
    heldout_easy: np.ndarray
    twin_features: np.ndarray
    original_features: np.ndarray
    eps: float
    seconds_by_part: dict[str, float]
    compile_seconds: float
    notes: tuple[str, ...]
    targets: np.ndarray | None = None


def scale_features(
    features: ProblemFeatures,
    heldout_labels: np.ndarray,
    forget_labels: np.ndarray,
    settings: TwinSettings = DEFAULT_SETTINGS,
) -> tuple[np.ndarray, np.ndarray]:
    """Both problems' features winsorised and scaled to 0..1, class by class.

    Args:
      features: raw features.
      heldout_labels: int32[m], classes of D_test.
      forget_labels: int32[n], classes of D_f.
      settings: see `TwinSettings`.

    Returns:
      (twin float32[m, 3], original float32[n, 3]).

    Raises:
      ValueError: when a class of D_f has no held-out samples.
    """
    alone = np.setdiff1d(forget_labels, heldout_labels)
    if len(alone):
        raise ValueError(f"forget_labels holds classes {alone.tolist()} without held-out samples to learn from")
    twin, original = np.zeros_like(features.twin), np.zeros_like(features.original)
    for c in np.unique(heldout_labels):
        of_twin, of_original = heldout_labels == c, forget_labels == c
        scaling = predictor.fit_scaling(features.twin[of_twin])
        twin[of_twin] = predictor.apply_scaling(scaling, features.twin[of_twin])
        own = settings.scaling or ("per_problem" if of_original.sum() >= settings.min_scaling else "twin")
        if own == "per_problem" and of_original.any():
            scaling = predictor.fit_scaling(features.original[of_original])
        original[of_original] = predictor.apply_scaling(scaling, features.original[of_original])
    return twin, original


def predict_labels(
    problem: ForgetProblem,
    features: ProblemFeatures,
    key: jax.Array,
    settings: TwinSettings = DEFAULT_SETTINGS,
) -> TwinPrediction:
    """Trains the predictor on the twin problem and applies it to the forgotten samples.

    Args:
      problem: the request.
      features: of both problems.
      key: a PRNG key.
      settings: see `TwinSettings`.

    Returns:
      The prediction, with the costs of the features and of the models behind them.
    """
    heldout_labels = outside(problem.heldout, problem.whole_classes).labels
    in_whole = np.isin(problem.forget.labels, problem.whole_classes)
    forget_labels = problem.forget.labels[~in_whole]
    columns = [FEATURES.index(name) for name in settings.features]
    notes: list[str] = []
    with Stopwatch() as watch:
        twin, original = scale_features(features, heldout_labels, forget_labels, settings)
        only = predictor.only_label(features.easy)
        if only is None:
            params = predictor.fit(
                jnp.asarray(twin[:, columns]),
                jnp.asarray(features.easy),
                key=key,
                batch_size=settings.predictor_batch_size,
                epochs=settings.predictor_epochs,
            )
            heldout_probability = np.asarray(predictor.predict_probability(params, jnp.asarray(twin[:, columns])))
            probability = np.asarray(predictor.predict_probability(params, jnp.asarray(original[:, columns])))
        else:
            word = "easy" if only else "hard"
            notes.append(f"every held-out sample is {word}: all forgotten samples are predicted {word}")
            heldout_probability = np.full(len(twin), float(only), np.float32)
            probability = np.full(len(original), float(only), np.float32)
        heldout_predicted = _decide(heldout_probability, heldout_labels, features.easy, heldout_labels, settings)
        predicted = _decide(probability, forget_labels, features.easy, heldout_labels, settings)
    if only is None and predicted.all():
        notes.append("the predictor calls no forgotten sample hard: its labels are the majority floor's")
    all_probability = np.zeros(len(in_whole), np.float32)
    all_probability[~in_whole] = probability
    easy = np.zeros(len(in_whole), bool)
    easy[~in_whole] = predicted
    return TwinPrediction(
        probability=all_probability,
        easy=easy,
        heldout_probability=heldout_probability,
        heldout_easy_predicted=heldout_predicted,
        heldout_easy=features.easy,
        twin_features=twin,
        original_features=original,
        eps=features.eps,
        seconds_by_part={**features.seconds_by_part, "predictor": watch.seconds},
        compile_seconds=features.compile_seconds + watch.compile_seconds,
        notes=(*problem.notes, *features.notes, *notes),
    )


def _decide(
    probability: np.ndarray,
    labels: np.ndarray,
    heldout_easy: np.ndarray,
    heldout_labels: np.ndarray,
    settings: TwinSettings,
) -> np.ndarray:
    """Easy or hard by the chosen threshold; "count" ranks within each class."""
    if settings.threshold == "half":
        return predictor.decide_easy(probability, "half")
    easy = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        of_class = labels == c
        hard_share = 1 - heldout_easy[heldout_labels == c].mean()
        easy[of_class] = predictor.decide_easy(
            probability[of_class], "count", num_hard=round(float(hard_share) * int(of_class.sum()))
        )
    return easy


def all_hard(problem: ForgetProblem) -> TwinPrediction:
    """The prediction for whole classes: a gold model never sees them, so every sample is hard by definition."""
    n = len(problem.forget)
    nothing, no_features = np.zeros(0, np.float32), np.zeros((0, len(FEATURES)), np.float32)
    none = np.zeros(0, bool)
    return TwinPrediction(
        np.zeros(n, np.float32), np.zeros(n, bool), nothing, none, none, no_features, no_features, 0.0, {}, 0.0,
        problem.notes,
    )  # fmt: skip
