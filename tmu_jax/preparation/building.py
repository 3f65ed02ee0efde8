"""Preparing: what no request changes, computed once, stage by stage, so that it can be stopped and resumed."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from tmu_jax.data import Dataset, Split
from tmu_jax.preparation.bank import BankModel, BankSettings, bank_stages
from tmu_jax.preparation.calibration import Calibration, fit_calibration
from tmu_jax.preparation.prepared import Prepared, bank_of
from tmu_jax.stages import VERSIONS, Keeper, Progress, Stage, compute, given, key_for
from tmu_jax.store import StageStore
from tmu_jax.training import Recipe, TrainedModel, predict, train
from tmu_jax.training.packing import pack, unpack_model, unpack_plain
from tmu_jax.twin import TwinSettings
from tmu_jax.twin.models import train_with_heldout

TWIN_SETTINGS = TwinSettings(twin_replay=0.2)
"""Of the twin model of a rehearsal: a fifth of D is replayed beside the held-out images."""


def prepare(
    model: TrainedModel | nn.Module,
    data: Dataset,
    *,
    key: jax.Array,
    heldout: int | Iterable[int] = 1000,
    folds: int = 2,
    repetitions: int = 2,
    epochs_share: float = 0.5,
    recipe: Recipe | None = None,
    twin_settings: TwinSettings = TWIN_SETTINGS,
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
        `data.test_images`. They choose settings and fit the calibration: report test accuracy on the others.
      folds: K, parts of D; each model of the bank is trained without one. 0: no bank, the published features.
      repetitions: R, how often D is split anew.
      epochs_share: of M_o's epochs, for each model of the bank.
      recipe: of M_o, for a module.
      twin_settings: of the twin model.
      folder: where models are kept.
      progress: makes the progress function, called with (steps done, steps in all), of each named part.

    Returns:
      What `forget` and `rehearse` take.

    Raises:
      ValueError: before any work, for folds, held-out images or a recipe that cannot be used.
    """
    settings = BankSettings(folds, repetitions, epochs_share)
    train_rows = Split(data.pool, np.arange(len(data.train_labels), dtype=np.int32))
    unseen = heldout_rows(data, heldout, key_for(key, "heldout"))
    if isinstance(model, TrainedModel):
        if recipe is not None:
            raise ValueError("recipe has no use beside a trained model, which has its own")
        original, module, training = given(model, {"model": _contents(model)}), model.module, model.recipe
    else:
        module, training = model, recipe or Recipe()
        original = _training_stage(module, data, train_rows, key_for(key, "original"), training)
    keeper = None if folder is None else FolderKeeper(StageStore(folder), module)
    stage = preparation_stage(original, training, data, train_rows, unseen, key, settings, twin_settings)
    return compute(stage, progress, keeper)


def preparation_stage(
    original: Stage,
    training: Recipe,
    data: Dataset,
    train_rows: Split,
    unseen: np.ndarray,
    key: jax.Array,
    settings: BankSettings,
    twin_settings: TwinSettings = TWIN_SETTINGS,
) -> Stage:
    """The stages of a preparation; the last one's value is a `Prepared`, and is not kept: it takes seconds.

    Args:
      original: the stage of M_o.
      training: its recipe.
      data: the images.
      train_rows: D.
      unseen: int32[u], rows of the pool that are held out, ascending.
      key: a PRNG key.
      settings: of the bank.
      twin_settings: of the twin model.
    """
    pool = data.pool
    outside = np.arange(len(data.train_labels), len(pool), dtype=np.int32)
    twin_key = key_for(key, "twin")
    heldout = Split(pool, unseen)
    twin = Stage(
        "twin_model",
        "twin model",
        lambda original, progress: train_with_heldout(
            original, train_rows, heldout, twin_key, twin_settings, progress
        ),
        TrainedModel,
        VERSIONS["twin_model"],
        {"original": original},
        {
            "data": data.fingerprint,
            "settings": twin_settings.part("twin_model"),
            "key": twin_key,
            "train": train_rows.indices,
            "heldout": unseen,
        },
        work=twin_settings.twin_recipe.epochs * (twin_settings.twin_replay * len(train_rows) + len(unseen)),
    )
    bank = bank_stages(
        original, settings.recipe(training), train_rows, outside, key_for(key, "bank"), settings, data.fingerprint
    )
    parents = {"original": original, "twin": twin, **{f"bank_{i}": stage for i, stage in enumerate(bank)}}

    def make(original: TrainedModel, twin: TrainedModel, progress: Progress, **models: BankModel) -> Prepared:
        return assemble(data, train_rows, heldout, original, twin, list(models.values()), settings, twin_settings, key)

    made_from = {"heldout": unseen, "key": key}
    return Stage("prepared", "preparation", make, Prepared, parents=parents, made_from=made_from, is_kept=False)


def assemble(
    data: Dataset,
    train_rows: Split,
    heldout: Split,
    original: TrainedModel,
    twin: TrainedModel,
    models: list[BankModel],
    settings: BankSettings,
    twin_settings: TwinSettings,
    key: jax.Array,
) -> Prepared:
    """Puts the parts together and fits the calibration; arguments as in `preparation_stage`."""
    bank = bank_of(models, settings, len(data.pool), key)
    calibration: Calibration | None = None
    if bank is not None:
        gold = np.asarray(jax.nn.softmax(predict(original, heldout)[0]))
        calibration = fit_calibration(bank.answers(heldout.indices), heldout.labels, gold)
    training = original.recipe.epochs * len(train_rows)
    twin_epoch = twin_settings.twin_replay * len(train_rows) + len(heldout)
    costs = {"twin model": len(twin.losses) * twin_epoch / training}
    seconds = {"twin model": twin.seconds}
    if models:
        epochs = settings.recipe(original.recipe).epochs
        costs["bank"] = sum(epochs * len(model.trained) for model in models) / training
        seconds["bank"] = sum(model.seconds for model in models)
    return Prepared(
        data=data,
        model=original,
        original=original,
        twin=twin,
        train=train_rows,
        heldout=heldout,
        bank=bank,
        bank_settings=settings,
        calibration=calibration,
        key=key,
        costs=costs,
        seconds=seconds,
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
