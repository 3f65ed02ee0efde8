"""The twin problem: learn there, where the gold model is known, which forgotten samples a gold model still gets right.

The twin model M_t is the original model M_o fine-tuned with held-out images D_test. Forgetting D_test from M_t has a
known gold model, M_o itself, so the easy/hard labels of D_test are free. A predictor trained on them transfers to the
forgotten images D_f under M_o, because D_f and D_test are drawn alike.

References:
  Ji et al., Towards Aligned Data Removal via Twin Machine Unlearning, 2024 (arXiv 2408.11433), Section 4.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tmu_jax import predictor
from tmu_jax.data import ForgetProblem, Split
from tmu_jax.features import FEATURES, adversarial, curriculum_loss, nearest_distance
from tmu_jax.timing import Stopwatch
from tmu_jax.training import Progress, Recipe, Stream, TrainedModel, fit, one_hot, predict, train
from tmu_jax.twin_settings import DEFAULT_SETTINGS, FIRST_EPOCH_RECIPE, TwinSettings


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


def _outside(split: Split, classes: tuple[int, ...]) -> Split:
    """The samples of a split that are of none of these classes."""
    return Split(split.pool, split.indices[~np.isin(split.labels, classes)])


def _draw(indices: np.ndarray, share: float, key: jax.Array) -> np.ndarray:
    """A random share of the indices, at least one."""
    count = max(1, round(share * len(indices)))
    return np.sort(np.asarray(jax.random.permutation(key, indices))[:count])


def train_twin(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    settings: TwinSettings = DEFAULT_SETTINGS,
    progress: Progress | None = None,
) -> TrainedModel:
    """M_t: the original model fine-tuned on D and D_test, until it knows D_test.

    Args:
      problem: the request.
      original: M_o, left intact.
      key: a PRNG key.
      settings: see `TwinSettings`.
      progress: called with (steps done, steps in all).

    Returns:
      The twin model. Held-out samples of whole classes are left out: there is no twin problem for them.

    Raises:
      ValueError: when the request forgets whole classes only.
    """
    draw_key, fit_key = jax.random.split(key)
    recipe = dataclasses.replace(settings.twin_recipe, augment=original.recipe.augment)
    heldout = _outside(problem.heldout, problem.whole_classes)
    if not len(heldout):
        raise ValueError(f"problem forgets whole classes {problem.whole_classes} only; they have no twin problem")
    replayed = problem.train.indices
    if settings.twin_replay < 1:
        replayed = _draw(replayed, settings.twin_replay, draw_key)

    def knows_heldout(variables: dict) -> bool:
        logits, _ = predict(dataclasses.replace(original, variables=variables), heldout)
        return bool(100 * np.mean(logits.argmax(-1) == heldout.labels) >= settings.enough_accuracy)

    return _fine_tuned(
        original,
        Split(problem.pool, np.concatenate([replayed, heldout.indices])),
        recipe,
        fit_key,
        progress=progress,
        max_epochs=max(settings.max_twin_epochs, recipe.epochs),
        is_enough=knows_heldout,
    )


def _fine_tuned(model: TrainedModel, split: Split, recipe: Recipe, key: jax.Array, **options: Any) -> TrainedModel:
    """A model trained further on a split with its true labels; `options` are those of `fit`."""
    pool = split.pool
    with Stopwatch() as watch:
        variables, losses = fit(
            model.module,
            model.variables,
            model.normalization,
            pool,
            Stream((split.indices,)),
            one_hot(pool.labels, pool.num_classes),
            np.ones(len(pool.labels), np.float32),
            recipe,
            key,
            **options,
        )
        jax.block_until_ready(variables)
    return dataclasses.replace(
        model,
        variables=variables,
        recipe=recipe,
        seconds=watch.seconds,
        compile_seconds=watch.compile_seconds,
        losses=tuple(losses),
    )


def train_curriculum(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    settings: TwinSettings = DEFAULT_SETTINGS,
    exclude: np.ndarray | None = None,
    progress: Progress | None = None,
) -> TrainedModel:
    """G_c: the same architecture from a fresh initialisation, trained briefly on a part of D.

    Neither D_f nor D_test are among its images, or its loss would not transfer from one to the other.

    Args:
      problem: the request.
      original: M_o, for its architecture and recipe.
      key: a PRNG key.
      settings: see `TwinSettings`.
      exclude: int32, further rows of the pool to leave out: the forget sets of other requests that share this model.
      progress: called with (steps done, steps in all).

    Returns:
      The curriculum model.

    Raises:
      ValueError: when nothing of D is left to train on.
    """
    draw_key, train_key = jax.random.split(key)
    excluded = np.concatenate([problem.forget.indices, problem.heldout.indices, [] if exclude is None else exclude])
    allowed = np.setdiff1d(problem.train.indices, excluded.astype(np.int32))
    if not len(allowed):
        raise ValueError("exclude leaves no training image for the curriculum model; it needs at least one")
    # A cycle fits any number of epochs, and its peak is no rate to start at.
    schedule = "onecycle" if original.recipe.schedule == "onecycle" else "constant"
    recipe = dataclasses.replace(original.recipe, epochs=settings.curriculum_epochs, schedule=schedule)
    rows = _draw(allowed, settings.curriculum_share, draw_key)
    return train(original.module, Split(problem.pool, rows), key=train_key, recipe=recipe, progress=progress)


def train_curricula(
    problem: ForgetProblem,
    original: TrainedModel,
    twin: TrainedModel,
    key: jax.Array,
    settings: TwinSettings = DEFAULT_SETTINGS,
    exclude: np.ndarray | None = None,
    progress: Progress | None = None,
) -> tuple[TrainedModel, TrainedModel]:
    """The models whose loss is CF, of the twin and of the original problem; arguments as in `train_curriculum`."""
    if settings.curriculum == "first_epoch":
        keys = jax.random.split(key)
        return (
            train_first_epoch(twin, problem.train, keys[0], progress),
            train_first_epoch(original, problem.retain, keys[1], progress),
        )
    curriculum = train_curriculum(problem, original, key, settings, exclude, progress)
    return curriculum, curriculum


def train_first_epoch(
    model: TrainedModel, retain: Split, key: jax.Array, progress: Progress | None = None
) -> TrainedModel:
    """A problem's own model after one epoch of fine-tuning on its retain set: CF of `curriculum="first_epoch"`.

    Args:
      model: M_t for the twin problem, M_o for the original problem; left intact.
      retain: D for the twin problem, D_r for the original problem.
      key: a PRNG key.
      progress: called with (steps done, steps in all).

    Returns:
      The fine-tuned model.
    """
    recipe = dataclasses.replace(FIRST_EPOCH_RECIPE, augment=model.recipe.augment)
    return _fine_tuned(model, retain, recipe, key, progress=progress)


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
    heldout = _outside(problem.heldout, problem.whole_classes)
    forget = _outside(problem.forget, problem.whole_classes)
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
      The prediction, its `seconds_by_part` holding "predictor" alone.
    """
    heldout_labels = _outside(problem.heldout, problem.whole_classes).labels
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
        seconds_by_part={"predictor": watch.seconds},
        compile_seconds=watch.compile_seconds,
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
