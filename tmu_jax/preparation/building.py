"""Preparing: what no request changes, computed once, stage by stage, so that it can be stopped and resumed."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from tmu_jax.boundary import checked
from tmu_jax.data import Dataset, ForgetProblem, Split
from tmu_jax.data.problem import check_removed
from tmu_jax.places import check_folder
from tmu_jax.preparation.bank import BankModel, BankSettings, bank_stages
from tmu_jax.preparation.heldout import heldout_rows
from tmu_jax.preparation.knowledge import know_alike
from tmu_jax.preparation.prepared import Prepared, bank_of
from tmu_jax.preparation.twin_model import twin_stage
from tmu_jax.stages import VERSIONS, Progress, Stage, compute, given, key_for, typed_key
from tmu_jax.store import StageStore
from tmu_jax.training import Adapter, ModuleLike, Recipe, TrainedModel, train
from tmu_jax.training.adapter import in_words
from tmu_jax.training.checking import refuse_misfit
from tmu_jax.training.module import fresh_bytes
from tmu_jax.training.packing import pack, pack_recipe, unpack_model, unpack_plain
from tmu_jax.twin import TwinPrediction
from tmu_jax.unlearning.unlearned import refuse_forgotten


@checked
def prepare(
    model: TrainedModel | ModuleLike,
    data: Dataset,
    *,
    key: jax.Array,
    heldout: int | Sequence[int] | np.ndarray | None = None,
    folds: int = 2,
    repetitions: int = 2,
    epochs_share: float = 0.5,
    recipe: Recipe | None = None,
    twin_epochs_share: float | None = None,
    removed: Sequence[int] | np.ndarray = (),
    folder: pathlib.Path | str | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> Prepared:
    """Computes what requests share: the original where it is not given, the twin model, the bank, the calibration.

    The twin model costs as much as one training, and so does the default bank of 2 × 2 models. Models come one after
    another; with a `folder` each is kept when it is done, and the same call again goes on after the last.

    Args:
      model: M_o, trained on all of `data`; or a module, which is trained here.
      data: the images; the held-out ones are among its test images.
      key: a PRNG key.
      heldout: how many test images stand for "never seen", in equal shares of the classes; or their rows in
        `data.test_images`; by default half of them, at most 1,000. They choose settings and fit the calibration. The
        other test images are what rehearsals measure the loss of test accuracy on, of the twin model after it forgot.
      folds: K, parts of D; each model of the bank is trained without one. 0: no bank, the published features.
      repetitions: R, how often D is split anew.
      epochs_share: of M_o's epochs, for each model of the bank.
      recipe: of M_o, for a module.
      twin_epochs_share: None: the twin model of the rehearsals is trained from scratch as M_o was, on D and the
        held-out images, so that M_o is a gold model of that problem. A share of M_o's epochs: M_o is warmed up again
        with them for so long; cheaper, but it keeps more of M_o, and its rehearsals are too kind.
      removed: rows of `data.pool` that earlier requests removed, such as `tmu_jax.Ledger.removed` gives: they are in
        none of the sets, and no model is trained on them.
      folder: where models are kept.
      progress: makes the progress function, called with (steps done, steps in all), of each named part.

    Returns:
      What `forget` and `rehearse` take.

    Raises:
      ValueError: before any work, for folds, held-out images, removed rows or a recipe that cannot be used, and for a
        model that does not fit the images, and for a folder that cannot be written to or has no room for the models.
    """
    settings = BankSettings(folds, repetitions, epochs_share)
    stage, module, gone = _declared(model, data, key, heldout, settings, recipe, twin_epochs_share, removed)
    keeper = None
    if folder is not None:
        store = StageStore(check_folder(f"folder={str(folder)!r}", folder))
        check_folder(f"folder={str(folder)!r}", folder, _room_for(_missing(stage, store), model, data))
        keeper = FolderKeeper(store, module)
    return dataclasses.replace(compute(stage, progress, keeper), removed=gone)


def missing_stages(
    model: TrainedModel,
    data: Dataset,
    *,
    key: jax.Array,
    heldout: int | None,
    folds: int,
    removed: Sequence[int] | np.ndarray,
    folder: pathlib.Path | str,
) -> list[Stage]:
    """What `prepare` would still train, called with the same arguments; arguments and errors as there."""
    settings = BankSettings(folds)
    stage, _, _ = _declared(model, data, key, heldout, settings, None, None, removed)
    return _missing(stage, StageStore(folder))


def _missing(stage: Stage, store: StageStore) -> list[Stage]:
    return [one for one in stage.with_ancestors() if one.is_kept and not store.has(one.name)]


def _room_for(missing: Sequence[Stage], model: TrainedModel | ModuleLike, data: Dataset) -> int:
    """About how many bytes are kept: the models, and twice the state of the one that is trained; answers are small."""
    if not missing:
        return 0
    if isinstance(model, TrainedModel):
        each = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(model.variables))
    else:
        each = fresh_bytes(model, data.pool.images.shape[1:])
    return each * (4 + sum(one.value is TrainedModel for one in missing))


def _declared(
    model: TrainedModel | ModuleLike,
    data: Dataset,
    key: jax.Array,
    heldout: int | Sequence[int] | np.ndarray | None,
    settings: BankSettings,
    recipe: Recipe | None,
    twin_epochs_share: float | None,
    removed: Sequence[int] | np.ndarray,
) -> tuple[Stage, ModuleLike, np.ndarray]:
    """The stage of a preparation, the module of its models, and the removed rows; all of them checked."""
    key, num_train = typed_key(key), len(data.train_labels)
    gone = check_removed(removed, len(data.pool))
    train_rows = Split(data.pool, np.setdiff1d(np.arange(num_train), gone).astype(np.int32))
    test = Split(data.pool, np.setdiff1d(np.arange(num_train, len(data.pool)), gone).astype(np.int32))
    heldout = min(1000, len(test) // 2) if heldout is None else heldout
    unseen = Split(data.pool, heldout_rows(data, heldout, key_for(key, "heldout"), gone))
    if isinstance(model, TrainedModel):
        if recipe is not None:
            raise ValueError("recipe has no use beside a trained model, which has its own")
        refuse_misfit(model, data.pool)
        refuse_forgotten(model, train_rows.indices, "data")
        model.check_retrainable()
        original, module, training = given(model, {"model": _contents(model)}), model.module, model.training_recipe
    else:
        module, training = model, recipe or Recipe()
        original = _training_stage(module, data, train_rows, key_for(key, "original"), training)
    stage = preparation_stage(
        original, training, train_rows, unseen, test, data.fingerprint, key, settings, twin_epochs_share
    )
    return stage, module, gone


def preparation_stage(
    original: Stage,
    training: Recipe,
    train_rows: Split,
    heldout: Split,
    test: Split,
    fingerprint: str,
    key: jax.Array,
    settings: BankSettings,
    twin_epochs_share: float | None = None,
    with_twin: bool = True,
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
      twin_epochs_share: as in `prepare`.
      with_twin: False: no twin model, and no rehearsals.
    """
    heldout = Split(heldout.pool, np.sort(heldout.indices))
    parents = {"original": original}
    if with_twin:
        twin_key = key_for(key, "twin")
        parents["twin"] = twin_stage(original, training, train_rows, heldout, fingerprint, twin_key, twin_epochs_share)
    unseen = np.union1d(test.indices, heldout.indices).astype(np.int32)
    bank_key = key_for(key, "bank")
    bank = bank_stages(original, settings.recipe(training), train_rows, unseen, bank_key, settings, fingerprint)
    parents |= {f"bank_{i}": stage for i, stage in enumerate(bank)}

    def make(
        original: TrainedModel, progress: Progress, twin: TrainedModel | None = None, **models: BankModel
    ) -> Prepared:
        bank = bank_of(list(models.values()), settings, len(train_rows.pool), key)
        one = original.training_recipe.epochs * len(train_rows)
        costs, seconds = {}, {}
        if twin is not None:
            costs["twin model"] = len(twin.losses) * (len(train_rows) + len(heldout)) / one
            seconds["twin model"] = twin.seconds
        if models:
            epochs = settings.recipe(original.training_recipe).epochs
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
            key=key,
            # Made from M_o, a twin model answers on held-out images as M_o itself does, which is what is to be told.
            know_alike=twin is not None and twin_epochs_share is None and know_alike(twin, original, train_rows),
            costs=costs,
            seconds=seconds,
        ).calibrated()

    # Which of the bank's models answer for a held-out image is drawn for every row of the pool.
    pool = len(train_rows.pool)
    made_from = {"heldout": heldout.indices, "test": test.indices, "key": key, "pool": pool}
    return Stage("prepared", "preparation", make, Prepared, parents=parents, made_from=made_from, is_kept=False)


def prediction_from_bank(prepared: Stage, problem: ForgetProblem) -> Stage:
    """The stage of the labels and distributions of a request, from a preparation, whose costs it has."""

    def make(prepared: Prepared, progress: Progress) -> TwinPrediction:
        seconds = {part.replace(" ", "_"): seconds for part, seconds in prepared.seconds.items()}
        return dataclasses.replace(prepared.prediction(problem), seconds_by_part=seconds)

    return Stage(
        "bank_prediction",
        "labels of the bank",
        make,
        TwinPrediction,
        VERSIONS["bank_prediction"],
        {"prepared": prepared},
        {"forget": problem.forget.indices},
    )


class FolderKeeper:
    """Keeps models and banks in a folder, by the names of their stages."""

    def __init__(self, store: StageStore, module: ModuleLike) -> None:
        """Args: store: the folder; module: of every model in it."""
        self._store, self._module = store, module

    def value(self, stage: Stage, make: Callable[[], Any]) -> Any:
        """The value of a stage: found, or made and kept."""
        saved = self._store.load_or_make(stage.name, lambda: pack(make()))
        return unpack_model(saved, self._module) if stage.value is TrainedModel else unpack_plain(stage.value, saved)


def _training_stage(module: ModuleLike, data: Dataset, rows: Split, key: jax.Array, recipe: Recipe) -> Stage:
    return Stage(
        "original",
        "original model",
        lambda progress: train(module, rows, key=key, recipe=recipe, progress=progress),
        TrainedModel,
        VERSIONS["training"],
        made_from={
            "data": data.fingerprint,
            "module": _known_by(module),
            "recipe": pack_recipe(recipe),
            "rows": rows.indices,
            "key": key,
        },
        work=recipe.epochs * len(rows),
    )


def _contents(model: TrainedModel) -> dict[str, Any]:
    """What a model is known by: its architecture and recipe in words, and its arrays."""
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(model.variables)}
    normalization = {name: np.asarray(array) for name, array in model.normalization._asdict().items()}
    recipe = pack_recipe(model.training_recipe)
    return {"module": _known_by(model.module), "recipe": recipe, **arrays, **normalization}


def _known_by(module: ModuleLike) -> Any:
    """What a module is known by: an adapter says itself what it is made from."""
    return module if isinstance(module, Adapter) else in_words(module)
