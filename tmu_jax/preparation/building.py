"""Preparing: what no request changes, computed once, stage by stage, so that it can be stopped and resumed."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from tmu_jax.data import Dataset, ForgetProblem, Split
from tmu_jax.preparation.bank import BankModel, BankSettings, bank_stages
from tmu_jax.preparation.prepared import Prepared, bank_of, calibrate
from tmu_jax.stages import VERSIONS, Progress, Stage, compute, given, key_for
from tmu_jax.store import StageStore
from tmu_jax.training import Recipe, TrainedModel, train
from tmu_jax.training.packing import pack, unpack_model, unpack_plain
from tmu_jax.twin import TwinPrediction, TwinSettings
from tmu_jax.twin.models import train_with_heldout


def twin_settings(training: Recipe, epochs_share: float) -> TwinSettings:
    """How the twin model of a rehearsal is trained: warmed up again with the held-out images, as the training was.

    A rehearsal is only as good as its twin model: M_t must know the held-out images as deeply as M_o knows D_f, and
    owe M_o as little as may be, which is gold there. A short fine-tuning at a small rate does neither.

    Args:
      training: M_o's recipe.
      epochs_share: epochs of the cycle, as a share of the training's.

    Raises:
      ValueError: for a share out of range.
    """
    if not 0 < epochs_share <= 1:
        raise ValueError(f"twin_epochs_share={epochs_share} must be above 0 and at most 1")
    epochs = max(1, round(epochs_share * training.epochs))
    recipe = dataclasses.replace(training, epochs=epochs, schedule="onecycle")
    return TwinSettings(twin_recipe=recipe, max_twin_epochs=epochs)


def prepare(
    model: TrainedModel | nn.Module,
    data: Dataset,
    *,
    key: jax.Array,
    heldout: int | Iterable[int] | None = None,
    folds: int = 2,
    repetitions: int = 2,
    epochs_share: float = 0.5,
    recipe: Recipe | None = None,
    twin_epochs_share: float = 0.5,
    folder: pathlib.Path | str | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> Prepared:
    """Computes what requests share: the original where it is not given, the twin model, the bank, the calibration.

    The default bank of 2 × 2 models costs as much as one training. Models come one after another; with a `folder` each
    is kept when it is done, and the same call again goes on after the last.

    Args:
      model: M_o, trained on all of `data`; or a module, which is trained here.
      data: the images; the held-out ones are among its test images.
      key: a PRNG key.
      heldout: how many test images stand for "never seen", in equal shares of the classes; or their rows in
        `data.test_images`; by default half of them, at most 1,000. They choose settings and fit the calibration:
        report test accuracy on the others.
      folds: K, parts of D; each model of the bank is trained without one. 0: no bank, the published features.
      repetitions: R, how often D is split anew.
      epochs_share: of M_o's epochs, for each model of the bank.
      recipe: of M_o, for a module.
      twin_epochs_share: of M_o's epochs, for the twin model of the rehearsals.
      folder: where models are kept.
      progress: makes the progress function, called with (steps done, steps in all), of each named part.

    Returns:
      What `forget` and `rehearse` take.

    Raises:
      ValueError: before any work, for folds, held-out images or a recipe that cannot be used.
    """
    settings = BankSettings(folds, repetitions, epochs_share)
    num_train = len(data.train_labels)
    train_rows = Split(data.pool, np.arange(num_train, dtype=np.int32))
    test = Split(data.pool, np.arange(num_train, len(data.pool), dtype=np.int32))
    heldout = min(1000, len(test) // 2) if heldout is None else heldout
    unseen = Split(data.pool, heldout_rows(data, heldout, key_for(key, "heldout")))
    if isinstance(model, TrainedModel):
        if recipe is not None:
            raise ValueError("recipe has no use beside a trained model, which has its own")
        original, module, training = given(model, {"model": _contents(model)}), model.module, model.recipe
    else:
        module, training = model, recipe or Recipe()
        original = _training_stage(module, data, train_rows, key_for(key, "original"), training)
    keeper = None if folder is None else FolderKeeper(StageStore(folder), module)
    stage = preparation_stage(
        original, training, train_rows, unseen, test, data.fingerprint, key, settings, twin_epochs_share
    )
    return compute(stage, progress, keeper)


def preparation_stage(
    original: Stage,
    training: Recipe,
    train_rows: Split,
    heldout: Split,
    test: Split,
    fingerprint: str,
    key: jax.Array,
    settings: BankSettings,
    twin_epochs_share: float | None = 0.5,
) -> Stage:
    """The stages of a preparation; the last one's value is a `Prepared`, and is not kept: it takes seconds.

    Args:
      original: the stage of M_o.
      training: its recipe.
      train_rows: D.
      heldout: images that M_o never saw, of the same pool.
      test: all test images, of the same pool.
      fingerprint: of the images.
      key: a PRNG key.
      settings: of the bank.
      twin_epochs_share: of the twin model; None: no twin model, and no rehearsals.
    """
    heldout = Split(heldout.pool, np.sort(heldout.indices))
    parents = {"original": original}
    if twin_epochs_share is not None:
        of_twin = twin_settings(training, twin_epochs_share)
        parents["twin"] = _twin_stage(original, train_rows, heldout, fingerprint, key_for(key, "twin"), of_twin)
    unseen = np.union1d(test.indices, heldout.indices).astype(np.int32)
    bank_key = key_for(key, "bank")
    bank = bank_stages(original, settings.recipe(training), train_rows, unseen, bank_key, settings, fingerprint)
    parents |= {f"bank_{i}": stage for i, stage in enumerate(bank)}

    def make(
        original: TrainedModel, progress: Progress, twin: TrainedModel | None = None, **models: BankModel
    ) -> Prepared:
        bank = bank_of(list(models.values()), settings, len(train_rows.pool), key)
        one = original.recipe.epochs * len(train_rows)
        costs, seconds = {}, {}
        if twin is not None:
            costs["twin model"] = len(twin.losses) * (len(train_rows) + len(heldout)) / one
            seconds["twin model"] = twin.seconds
        if models:
            epochs = settings.recipe(original.recipe).epochs
            costs["bank"] = sum(epochs * len(model.trained) for model in models.values()) / one
            seconds["bank"] = sum(model.seconds for model in models.values())
        return Prepared(
            model=original,
            original=original,
            twin=twin,
            train=train_rows,
            heldout=heldout,
            test=test,
            bank=bank,
            bank_settings=settings,
            calibration=None if bank is None else calibrate(bank, original, heldout),
            key=key,
            costs=costs,
            seconds=seconds,
        )

    made_from = {"heldout": heldout.indices, "test": test.indices, "key": key}
    return Stage("prepared", "preparation", make, Prepared, parents=parents, made_from=made_from, is_kept=False)


def prediction_from_bank(prepared: Stage, problem: ForgetProblem) -> Stage:
    """The stage of the labels and distributions of a request, from the preparation's; its costs are the bank's."""

    def make(prepared: Prepared, progress: Progress) -> TwinPrediction:
        found = prepared.prediction(problem)
        return dataclasses.replace(found, seconds_by_part={"bank": prepared.seconds["bank"]})

    return Stage(
        "bank_prediction",
        "labels of the bank",
        make,
        TwinPrediction,
        VERSIONS["bank_prediction"],
        {"prepared": prepared},
        {"forget": problem.forget.indices},
    )


def _twin_stage(
    original: Stage, train_rows: Split, heldout: Split, fingerprint: str, key: jax.Array, settings: TwinSettings
) -> Stage:
    return Stage(
        "twin_model",
        "twin model",
        lambda original, progress: train_with_heldout(original, train_rows, heldout, key, settings, progress),
        TrainedModel,
        VERSIONS["twin_model"],
        {"original": original},
        {
            "data": fingerprint,
            "settings": settings.part("twin_model"),
            "key": key,
            "train": train_rows.indices,
            "heldout": heldout.indices,
        },
        work=settings.twin_recipe.epochs * (len(train_rows) + len(heldout)),
    )


def heldout_rows(data: Dataset, heldout: int | Iterable[int], key: jax.Array) -> np.ndarray:
    """Rows of the pool that are held out, int32[u], ascending.

    Args:
      data: the images.
      heldout: how many test images, in equal shares of the classes; or their rows in `data.test_images`.
      key: a PRNG key.

    Raises:
      TypeError: rows that are no integers.
      ValueError: rows out of range or named twice, more images than there are, or a trained class without any.
    """
    num_train, labels = len(data.train_labels), data.test_labels
    if isinstance(heldout, int | np.integer):
        if not 2 <= heldout <= len(labels):
            raise ValueError(f"heldout={heldout} must be at least 2 and at most {len(labels)}, the test images")
        order = np.asarray(jax.random.permutation(key, len(labels)))
        # The first of every class, then the second of every class, and so on: equal shares as far as there are images.
        turn = np.empty(len(labels), np.int64)
        for c in np.unique(labels):
            of_class = order[labels[order] == c]
            turn[of_class] = np.arange(len(of_class))
        rows = order[np.argsort(turn[order], kind="stable")][:heldout]
    else:
        rows = np.asarray(list(heldout))
        if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
            raise TypeError(f"heldout must be a number or rows of the test images, got {rows.dtype}{list(rows.shape)}")
        if len(rows) < 2 or rows.min() < 0 or rows.max() >= len(labels) or len(np.unique(rows)) < len(rows):
            raise ValueError(f"heldout must name at least 2 of the {len(labels)} test images, each once")
    without = np.setdiff1d(data.train_labels, labels[rows])
    if len(without):
        raise ValueError(f"heldout holds no image of class {data.class_names[without[0]]!r}; each class needs one")
    return np.sort(num_train + rows).astype(np.int32)


class FolderKeeper:
    """Keeps models and banks in a folder, by the names of their stages."""

    def __init__(self, store: StageStore, module: nn.Module) -> None:
        """Args: store: the folder; module: of every model in it."""
        self._store, self._module = store, module

    def find(self, stage: Stage) -> Any | None:
        """The value of a stage, or None where it is not there."""
        saved = self._store.load(stage.name)
        if saved is None:
            return None
        return unpack_model(saved, self._module) if stage.value is TrainedModel else unpack_plain(stage.value, saved)

    def keep(self, stage: Stage, value: Any) -> None:
        """Keeps it."""
        self._store.save(stage.name, pack(value))


def _training_stage(module: nn.Module, data: Dataset, rows: Split, key: jax.Array, recipe: Recipe) -> Stage:
    return Stage(
        "original",
        "original model",
        lambda progress: train(module, rows, key=key, recipe=recipe, progress=progress),
        TrainedModel,
        VERSIONS["training"],
        made_from={
            "data": data.fingerprint,
            "module": repr(module),
            "recipe": dataclasses.asdict(recipe),
            "rows": rows.indices,
            "key": key,
        },
        work=recipe.epochs * len(rows),
    )


def _contents(model: TrainedModel) -> dict[str, Any]:
    """What a model is known by: its architecture and recipe in words, and its arrays."""
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(model.variables)}
    normalization = {name: np.asarray(array) for name, array in model.normalization._asdict().items()}
    return {"module": repr(model.module), "recipe": dataclasses.asdict(model.recipe), **arrays, **normalization}
