"""The twin problem: learn there, where the gold model is known, which forgotten samples a gold model still gets right.

The twin model M_t is the original model M_o fine-tuned with held-out images D_test. Forgetting D_test from M_t has a
known gold model, M_o itself, so the easy/hard labels of D_test are free. A predictor trained on them transfers to the
forgotten images D_f under M_o, because D_f and D_test are drawn alike.

References:
  Ji et al., Towards Aligned Data Removal via Twin Machine Unlearning, 2024 (arXiv 2408.11433), Section 4.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax

from tmu_jax.data import ForgetProblem
from tmu_jax.timing import Stopwatch
from tmu_jax.training import Progress, TrainedModel
from tmu_jax.twin.labels import TwinPrediction, all_hard, predict_labels
from tmu_jax.twin.measure import measure_features
from tmu_jax.twin.models import train_curricula, train_twin
from tmu_jax.twin.settings import DEFAULT_SETTINGS, TwinSettings


def predict_generalization(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    settings: TwinSettings = DEFAULT_SETTINGS,
    progress: Callable[[str], Progress] | None = None,
) -> TwinPrediction:
    """All of the twin problem: twin model, curriculum model, features, predictor.

    Args:
      problem: the request.
      original: M_o.
      key: a PRNG key.
      settings: see `TwinSettings`.
      progress: makes the progress function of a named part.

    Returns:
      The prediction for each forgotten sample.
    """
    if set(problem.whole_classes) == set(problem.target_classes):
        return all_hard(problem)
    twin_key, curriculum_key, predictor_key = jax.random.split(key, 3)
    part = progress or (lambda name: lambda done, total: None)
    twin = train_twin(problem, original, twin_key, settings, part("twin_model"))
    curriculum = train_curricula(problem, original, twin, curriculum_key, settings, progress=part("curriculum"))
    with Stopwatch() as watch:
        features = measure_features(problem, original, twin, curriculum, settings, part("features"))
    prediction = predict_labels(problem, features, predictor_key, settings)
    # The same model twice is one training.
    trained = list({id(model): model for model in curriculum}.values())
    return with_costs(prediction, twin, trained, watch.seconds, watch.compile_seconds)


def with_costs(
    prediction: TwinPrediction,
    twin: TrainedModel,
    curriculum: Sequence[TrainedModel],
    features_seconds: float,
    features_compile_seconds: float,
) -> TwinPrediction:
    """The prediction with the seconds of every part beside the predictor's own."""
    return dataclasses.replace(
        prediction,
        seconds_by_part={
            "twin_model": twin.seconds,
            "curriculum": sum(model.seconds for model in curriculum),
            "features": features_seconds,
            **prediction.seconds_by_part,
        },
        compile_seconds=twin.compile_seconds
        + sum(model.compile_seconds for model in curriculum)
        + features_compile_seconds
        + prediction.compile_seconds,
    )
