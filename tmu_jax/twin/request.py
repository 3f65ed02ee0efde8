"""A twin request, from pixels to labels: which forgotten samples a gold model would still get right.

The twin model M_t is the original model M_o fine-tuned with held-out images D_test. Forgetting D_test from M_t has a
known gold model, M_o itself, so the easy/hard labels of D_test are free. A predictor trained on them transfers to the
forgotten images D_f under M_o, because D_f and D_test are drawn alike.

References:
  Ji et al., Towards Aligned Data Removal via Twin Machine Unlearning, 2024 (arXiv 2408.11433), Section 4.
"""

from collections.abc import Callable

import jax
import numpy as np

from tmu_jax.data import ForgetProblem, Split
from tmu_jax.stages import ATTACK_WORK, PASS_WORK, VERSIONS, Progress, Stage, compute, given, key_for
from tmu_jax.training import TrainedModel
from tmu_jax.twin.labels import TwinPrediction, all_hard, predict_labels
from tmu_jax.twin.measure import ProblemFeatures, measure_features
from tmu_jax.twin.models import train_curriculum, train_first_epoch, train_twin, tuned_on
from tmu_jax.twin.settings import DEFAULT_SETTINGS, TwinSettings


def predict_generalization(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    settings: TwinSettings = DEFAULT_SETTINGS,
    *,
    exclude: np.ndarray | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> TwinPrediction:
    """All of the twin problem: twin model, curriculum model, features, predictor.

    Args:
      problem: the request.
      original: M_o.
      key: a PRNG key, the same that `unlearn` is given.
      settings: see `TwinSettings`.
      exclude: int32, further rows of the pool that the curriculum model must not see: the forget sets of other requests
        that share it.
      progress: makes the progress function of a named part.

    Returns:
      The prediction for each forgotten sample.

    Raises:
      ValueError: before any work, where no curriculum model can be trained as the original was, or where it sees all
        of D by the settings and `exclude` leaves something out.
    """
    check_exclude(exclude, settings)
    if trains_afresh(problem, settings):
        original.check_retrainable()
    return compute(prediction_stage(problem, given(original), key, settings, exclude), progress)


def check_exclude(exclude: np.ndarray | None, settings: TwinSettings) -> None:
    """Raises ValueError where rows are to be left out of a curriculum model that leaves none out."""
    if exclude is None or (settings.curriculum == "fresh" and settings.curriculum_data == "unseen"):
        return
    name = "curriculum" if settings.curriculum != "fresh" else "curriculum_data"
    raise ValueError(
        f"exclude has no use with {name}={getattr(settings, name)!r}; leave it out, or take curriculum='fresh' and "
        "curriculum_data='unseen'"
    )


def prediction_stage(
    problem: ForgetProblem,
    original: Stage,
    key: jax.Array,
    settings: TwinSettings = DEFAULT_SETTINGS,
    exclude: np.ndarray | None = None,
) -> Stage:
    """The stages of a twin request; arguments as in `predict_generalization`, the original model as a stage.

    Args:
      problem: the request.
      original: the stage of M_o.
      key: a PRNG key.
      settings: see `TwinSettings`.
      exclude: int32 rows, or None.

    Returns:
      The last stage, whose value is the `TwinPrediction`; the others are its ancestors. Where a request forgets whole
      classes only there is no twin problem, and nothing to compute.
    """
    if not has_twin_problem(problem):
        made_from = {"all_hard": problem.forget.indices, "notes": list(problem.notes)}
        return Stage(
            "prediction",
            "labels",
            lambda progress: all_hard(problem),
            TwinPrediction,
            VERSIONS["prediction"],
            made_from=made_from,
        )
    twin_key, predictor_key = key_for(key, "twin"), key_for(key, "predictor")
    train, forget, heldout = problem.train.indices, problem.forget.indices, problem.heldout.indices
    rows = {"train": train, "forget": forget, "heldout": heldout}
    twin = Stage(
        "twin_model",
        "twin model",
        lambda original, progress: train_twin(problem, original, twin_key, settings, progress),
        TrainedModel,
        VERSIONS["twin_model"],
        {"original": original},
        # By content, for some may be augmented copies; without those of whole classes, which it does not see.
        {
            "settings": settings.part("twin_model"),
            "key": twin_key,
            "train": train,
            "heldout": tuned_on(problem).images,
        },
        work=settings.twin_recipe.epochs * (settings.twin_replay * len(train) + len(tuned_on(problem))),
    )
    of_twin, of_original = _curriculum_stages(problem, original, twin, key_for(key, "curriculum"), settings, exclude)
    attacked = len(settings.eps_candidates) * len(heldout) + len(forget)
    bank = 2 * len(train) * len(problem.target_classes) / problem.num_classes
    features = Stage(
        "features",
        "features",
        lambda original, twin, of_twin, of_original, progress: measure_features(
            problem, original, twin, (of_twin, of_original), settings, progress
        ),
        ProblemFeatures,
        VERSIONS["features"],
        {"original": original, "twin": twin, "of_twin": of_twin, "of_original": of_original},
        {"settings": settings.part("features"), **rows},
        work=ATTACK_WORK * settings.attack_steps * attacked + PASS_WORK * bank,
    )
    return Stage(
        "prediction",
        "predictor",
        lambda features, progress: predict_labels(problem, features, predictor_key, settings),
        TwinPrediction,
        VERSIONS["prediction"],
        {"features": features},
        {"settings": settings.part("predictor"), "key": predictor_key},
    )


def has_twin_problem(problem: ForgetProblem) -> bool:
    """Whether anything of a forgotten class is left that a gold model could recognise its images by."""
    return set(problem.whole_classes) != set(problem.target_classes)


def trains_afresh(problem: ForgetProblem, settings: TwinSettings = DEFAULT_SETTINGS) -> bool:
    """Whether the prediction trains a model from fresh parameters, as the original was trained."""
    return has_twin_problem(problem) and settings.curriculum == "fresh"


def _curriculum_stages(
    problem: ForgetProblem,
    original: Stage,
    twin: Stage,
    key: jax.Array,
    settings: TwinSettings,
    exclude: np.ndarray | None,
) -> tuple[Stage, Stage]:
    """The models whose loss is CF, of the twin and of the original problem: G_c twice where it is "fresh"."""
    part, train = settings.part("curriculum"), problem.train.indices
    if settings.curriculum == "fresh":
        left_out = np.union1d(problem.forget.indices, [] if exclude is None else exclude).astype(np.int32)
        if settings.curriculum_data != "unseen":
            left_out = np.zeros(0, np.int32)
        seen = {"heldout": problem.heldout.images} if settings.curriculum_data == "train_and_heldout" else {}
        fresh = Stage(
            "curriculum",
            "curriculum model",
            lambda original, progress: train_curriculum(problem, original, key, settings, exclude, progress),
            TrainedModel,
            VERSIONS["curriculum"],
            {"original": original},
            {"settings": part, "key": key, "train": train, "exclude": left_out, **seen},
            work=settings.curriculum_share * settings.curriculum_epochs * len(train),
        )
        return fresh, fresh

    def first_epoch(model: Stage, retain: Split, key: jax.Array) -> Stage:
        return Stage(
            "curriculum",
            "curriculum model",
            lambda model, progress: train_first_epoch(model, retain, key, progress),
            TrainedModel,
            VERSIONS["curriculum"],
            {"model": model},
            {"settings": part, "key": key, "retain": retain.indices},
            work=len(retain),
        )

    keys = jax.random.split(key)
    return first_epoch(twin, problem.train, keys[0]), first_epoch(original, problem.retain, keys[1])
