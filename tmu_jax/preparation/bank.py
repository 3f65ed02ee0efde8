"""The bank: cheap models, each trained without a part of D, so that every image has models that never saw it.

R times D is split into K folds, and a model is trained without each. An image of D then has one model of each of the R
repetitions that never saw it; an image from outside D, which none saw, draws one of each repetition at random. So both
have R answers that are drawn alike, and what is learnt from the ones holds for the others.
"""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
import scipy.special

from tmu_jax.boundary import check_fields
from tmu_jax.data import Split
from tmu_jax.data.checks import check_integer
from tmu_jax.stages import PASS_WORK, VERSIONS, Progress, Stage, key_for
from tmu_jax.training import ModuleLike, Recipe, TrainedModel, predict, train
from tmu_jax.training.packing import pack_recipe

_MOST_CLASSES, _LARGEST = 256, 32
_MOST = 1000
"""Folds or repetitions: what is beyond is a slip of the keyboard."""


@dataclasses.dataclass(frozen=True)
class BankSettings:
    """How large a bank is, and what its models cost.

    Attributes:
      folds: K, parts of D; each model is trained without one. 0: no bank.
      repetitions: R, how often D is split anew.
      epochs_share: of the training's own epochs, in one cycle of the learning rate.
    """

    folds: int = 2
    repetitions: int = 2
    epochs_share: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("folds", "repetitions"):
            check_integer(name, getattr(self, name), min(0, getattr(self, name)), _MOST)
        if self.folds == 1 or self.folds < 0:
            raise ValueError(f"folds={self.folds} must be at least 2, for a model without its fold; or 0 for no bank")
        if self.repetitions < 1:
            raise ValueError(f"repetitions={self.repetitions} must be at least 1")
        if not 0 < self.epochs_share <= 1:
            raise ValueError(f"epochs_share={self.epochs_share} must be above 0 and at most 1")

    def recipe(self, training: Recipe) -> Recipe:
        """The recipe of a bank's model: the training's own in fewer epochs of one cycle."""
        epochs = max(1, round(self.epochs_share * training.epochs))
        return dataclasses.replace(training, epochs=epochs, schedule="onecycle")


class BankModel(NamedTuple):
    """What is kept of one model of the bank: its answers on images that it never saw.

    Attributes:
      trained: int32[m], rows of the pool that it was trained on.
      rows: int32[n], rows that it answers on: its fold, then those that no model saw.
      logits: float16[n, classes]; of more than 256 classes the 32 largest log-probabilities, float16[n, 32].
      seconds: run time of training and answering.
      compile_seconds: of tracing and compiling.
      largest: int32[n, 32], the classes of those; [0, 0] where all are kept.
      num_classes: of which they are the largest; 0 where all are kept.
    """

    trained: np.ndarray
    rows: np.ndarray
    logits: np.ndarray
    seconds: float = 0.0
    compile_seconds: float = 0.0
    largest: np.ndarray = np.zeros((0, 0), np.int32)
    num_classes: int = 0

    def log_probabilities(self, places: np.ndarray) -> np.ndarray:
        """Of the answers at int32[m] places of `rows`, float32[m, classes]; what is left is shared equally."""
        kept = self.logits[places].astype(np.float32)
        if not self.num_classes:
            return scipy.special.log_softmax(kept, axis=1)
        left = np.maximum(1 - np.exp(kept).sum(1), 1e-6) / (self.num_classes - kept.shape[1])
        found = np.repeat(np.log(left)[:, None], self.num_classes, axis=1)
        np.put_along_axis(found, self.largest[places], kept, axis=1)
        return scipy.special.log_softmax(found, axis=1)


def fold_of(train: Split, folds: int, key: jax.Array) -> np.ndarray:
    """A random fold for each image, int32[n], every class in equal shares.

    Args:
      train: n images.
      folds: how many, at least 2.
      key: a PRNG key.

    Raises:
      ValueError: where there are fewer images than folds.
    """
    if len(train) < folds:
        raise ValueError(f"folds={folds} of {len(train)} images leaves a fold empty; ask for fewer folds")
    order = np.asarray(jax.random.permutation(key, len(train)))
    order = order[np.argsort(train.labels[order], kind="stable")]
    found = np.empty(len(train), np.int32)
    found[order] = np.arange(len(train)) % folds
    return found


def train_bank_model(
    module: ModuleLike,
    recipe: Recipe,
    trained: Split,
    answered: np.ndarray,
    key: jax.Array,
    progress: Progress | None = None,
) -> BankModel:
    """One model of the bank, trained from a fresh initialisation.

    Args:
      module: the architecture.
      recipe: the optimisation.
      trained: the images it is trained on.
      answered: int32[n], rows of the same pool to answer on; none of them may be trained on.
      key: a PRNG key.
      progress: called with (steps done, steps in all).

    Returns:
      Its answers.

    Raises:
      ValueError: where an image is both trained on and answered on.
    """
    if np.isin(answered, trained.indices).any():
        raise ValueError("answered shares rows with trained; a bank's model answers on images that it never saw")
    model = train(module, trained, key=key, recipe=recipe, progress=progress)
    logits, _ = predict(model, Split(trained.pool, answered))
    if logits.shape[1] <= _MOST_CLASSES:
        return BankModel(trained.indices, answered, in_half(logits), model.seconds, model.compile_seconds)
    largest = np.argpartition(-logits, _LARGEST, axis=1)[:, :_LARGEST].astype(np.int32)
    kept = np.take_along_axis(scipy.special.log_softmax(logits, axis=1), largest, axis=1).astype(np.float16)
    return BankModel(trained.indices, answered, kept, model.seconds, model.compile_seconds, largest, logits.shape[1])


def in_half(logits: np.ndarray) -> np.ndarray:
    """Logits as float16, cut off where they would be infinite."""
    return np.clip(logits, -60_000, 60_000).astype(np.float16)


def bank_stages(
    original: Stage,
    recipe: Recipe,
    train: Split,
    unseen: np.ndarray,
    key: jax.Array,
    settings: BankSettings,
    data: str,
) -> list[Stage]:
    """The stages of all models, repetition by repetition, fold by fold.

    Args:
      original: the stage of M_o, whose architecture they have.
      recipe: of each model.
      train: D.
      unseen: int32[u], rows of the pool that no model is trained on.
      key: a PRNG key.
      settings: of the bank.
      data: the fingerprint of the images.

    Returns:
      `repetitions` times `folds` stages, whose values are a `BankModel` each; none where there is no bank.
    """
    stages = []
    for repetition in range(settings.repetitions if settings.folds else 0):
        of_repetition = key_for(key, f"bank {repetition}")
        folds = fold_of(train, settings.folds, key_for(of_repetition, "folds"))
        for fold in range(settings.folds):
            trained = Split(train.pool, train.indices[folds != fold])
            answered = np.concatenate([train.indices[folds == fold], unseen]).astype(np.int32)
            stages.append(bank_stage(original, recipe, trained, answered, key_for(of_repetition, f"fold {fold}"), data))
    return stages


def bank_stage(
    original: Stage, recipe: Recipe, trained: Split, answered: np.ndarray, key: jax.Array, data: str
) -> Stage:
    """The stage of one model; arguments as in `train_bank_model`, and the images' fingerprint."""

    def make(original: TrainedModel, progress: Progress) -> BankModel:
        return train_bank_model(original.module, recipe, trained, answered, key, progress)

    return Stage(
        "bank",
        "bank model",
        make,
        BankModel,
        VERSIONS["bank"],
        {"original": original},
        {
            "data": data,
            "recipe": pack_recipe(recipe),
            "trained": trained.indices,
            "answered": answered,
            "key": key,
        },
        work=recipe.epochs * len(trained) + PASS_WORK * len(answered),
    )


class Bank:
    """The answers of all models, and who may answer on which image."""

    def __init__(self, models: list[list[BankModel]], num_rows: int, seed: int) -> None:
        """Args: models: of each repetition; num_rows: of the pool; seed: of the draws for images that no model saw."""
        self.models, self._seed = models, seed
        self._position = [[_positions(model, num_rows) for model in repetition] for repetition in models]

    def __len__(self) -> int:
        return sum(map(len, self.models))

    def answers(self, rows: np.ndarray) -> np.ndarray:
        """Log-probabilities of the models that never saw each image, one of each repetition, float32[n, R, classes].

        Args:
          rows: int32[n], rows of the pool.

        Raises:
          ValueError: for a row on which no model may answer.
        """
        found = []
        for models, positions, chosen in zip(self.models, self._position, self.chosen(rows), strict=True):
            of_folds = [model.log_probabilities(at[rows]) for model, at in zip(models, positions, strict=True)]
            found.append(np.stack(of_folds)[chosen, np.arange(len(rows))])
        return np.stack(found, axis=1)

    def chosen(self, rows: np.ndarray) -> np.ndarray:
        """Which model of each repetition answers on each image, int64[R, n]; arguments and errors as in `answers`."""
        found = []
        for repetition, positions in enumerate(self._position):
            drawn = np.random.default_rng([self._seed, repetition]).random((len(positions), len(positions[0])))
            may = np.stack(positions)[:, rows] >= 0
            if not may.any(0).all():
                first = rows[~may.any(0)][0]
                raise ValueError(f"row {first} was trained on by every model of the bank, or is not in it")
            found.append(np.where(may, drawn[:, rows], -1.0).argmax(0))
        return np.stack(found)

    def without(self, rows: np.ndarray) -> "Bank":
        """The bank without its answers on rows int32[n]; which model was trained on them stays known."""
        models: list[list[BankModel]] = []
        for repetition in self.models:
            models.append([])
            for model in repetition:
                kept = ~np.isin(model.rows, rows)
                largest = model.largest[kept] if model.num_classes else model.largest
                models[-1].append(model._replace(rows=model.rows[kept], logits=model.logits[kept], largest=largest))
        return Bank(models, len(self._position[0][0]), self._seed)


def _positions(model: BankModel, num_rows: int) -> np.ndarray:
    """Where each row of the pool stands in a model's answers, int32[p]; -1 where it has none."""
    position = np.full(num_rows, -1, np.int32)
    position[model.rows] = np.arange(len(model.rows))
    return position
