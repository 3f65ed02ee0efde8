"""The twin model of a preparation, from which rehearsals forget held-out images."""

import dataclasses

import jax
import numpy as np

from tmu_jax.data import Split
from tmu_jax.stages import VERSIONS, Progress, Stage
from tmu_jax.training import Recipe, TrainedModel, train
from tmu_jax.training.packing import pack_recipe
from tmu_jax.twin import TwinSettings
from tmu_jax.twin.models import train_with_heldout


def twin_stage(
    original: Stage,
    training: Recipe,
    train_rows: Split,
    heldout: Split,
    fingerprint: str,
    key: jax.Array,
    epochs_share: float | None,
) -> Stage:
    """The stage of M_t, trained as M_o was, or made from it.

    Args:
      original: the stage of M_o.
      training: its recipe.
      train_rows: D.
      heldout: images that M_o never saw, of the same pool.
      fingerprint: of the images.
      key: a PRNG key.
      epochs_share: see `prepare`.

    Raises:
      ValueError: for a share out of range.
    """
    if epochs_share is None:
        known = Split(train_rows.pool, np.concatenate([train_rows.indices, heldout.indices]))
        version, settings, epochs = VERSIONS["training"], pack_recipe(training), training.epochs

        def make(original: TrainedModel, progress: Progress) -> TrainedModel:
            return train(original.module, known, key=key, recipe=training, progress=progress)
    else:
        warmed = _warming(training, epochs_share)
        version, settings, epochs = VERSIONS["twin_model"], warmed.part("twin_model"), warmed.twin_recipe.epochs

        def make(original: TrainedModel, progress: Progress) -> TrainedModel:
            return train_with_heldout(original, train_rows, heldout, key, warmed, progress)

    return Stage(
        "twin_model",
        "twin model",
        make,
        TrainedModel,
        version,
        {"original": original},
        {
            "data": fingerprint,
            "settings": settings,
            "key": key,
            "train": train_rows.indices,
            "heldout": heldout.indices,
        },
        work=epochs * (len(train_rows) + len(heldout)),
    )


def _warming(training: Recipe, epochs_share: float) -> TwinSettings:
    """How M_o is warmed up again into the twin model of a rehearsal, in a cycle as its training was.

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
