"""A preparation as a folder: between requests, and from one process to the next."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from tmu_jax.boundary import checked, shown
from tmu_jax.data import Dataset, Pool, Split
from tmu_jax.preparation.bank import BankModel, BankSettings
from tmu_jax.preparation.prepared import Prepared, bank_of
from tmu_jax.preparation.rehearsal import Rehearsal
from tmu_jax.stages import stage_hash
from tmu_jax.store import Saved, StageStore
from tmu_jax.training import ModuleLike, TrainedModel
from tmu_jax.training.packing import pack, unpack_model, unpack_plain
from tmu_jax.unlearning.loading import restored

_NAME = "preparation"
_MODELS = ("original", "twin", "model")


@checked
def save_prepared(prepared: Prepared, folder: pathlib.Path | str) -> None:
    """Writes all of a preparation but the images, in the place of one that is there.

    Args:
      prepared: from `prepare`, or what a request left.
      folder: where; made where it is not there.
    """
    parts: dict[str, Saved] = {}
    for name in _MODELS:
        model = getattr(prepared, name)
        if model is not None and not (name == "model" and model is prepared.original):
            parts[name] = pack(as_trained(model))
    models = [] if prepared.bank is None else [model for of_one in prepared.bank.models for model in of_one]
    parts |= {f"bank_{i}": pack(model) for i, model in enumerate(models)}
    rows = {name: getattr(prepared, name).indices for name in ("train", "heldout", "test")}
    rows["removed"] = prepared.removed
    rows |= {f"forgotten_{i}": gone for i, gone in enumerate(prepared.forgotten)}
    arrays: dict[str, Any] = {name: part.arrays for name, part in parts.items()}
    arrays |= {"rows": rows, "key": np.asarray(jax.random.key_data(prepared.key))}
    learnt = {f"rehearsal_{i}": one.answers for i, one in enumerate(prepared.rehearsals) if one.answers is not None}
    arrays |= {"answers": learnt} if learnt else {}
    models_kept = {name: getattr(prepared, name) for name in parts if name in _MODELS}
    metadata = {
        "unlearned": {name: model.kept() for name, model in models_kept.items()},
        "parts": {name: part.metadata for name, part in parts.items()},
        "key_impl": str(jax.random.key_impl(prepared.key)),
        "data": contents(prepared.train.pool),
        "know_alike": prepared.know_alike,
        "num_bank": len(models),
        "num_forgotten": len(prepared.forgotten),
        "bank_settings": dataclasses.asdict(prepared.bank_settings),
        "rehearsals": [dataclasses.asdict(dataclasses.replace(one, answers=None)) for one in prepared.rehearsals],
        "costs": dict(prepared.costs),
        "seconds": dict(prepared.seconds),
    }
    StageStore(folder).save(_NAME, Saved(arrays, metadata))


@checked
def load_prepared(folder: pathlib.Path | str, data: Dataset, module: ModuleLike) -> Prepared:
    """Reads what `save_prepared` wrote.

    Args:
      folder: where.
      data: the images that it was prepared on.
      module: the architecture of its models.

    Returns:
      The preparation; its calibration is fitted anew, which takes seconds. Its models know which rows they forgot, but
      not the models that did (`UnlearnedModel.forgotten_before`).

    Raises:
      FileNotFoundError: when there is none.
      ValueError: when it is damaged, of other images, or kept by a version that does not say what its models forgot.
    """
    said: list[str] = []
    store = StageStore(folder, warn=said.append)
    saved = store.load(_NAME)
    if saved is None:
        if said:
            raise ValueError(said[0])
        raise FileNotFoundError(f"folder={shown(str(folder))} holds no preparation; `save_prepared` writes one")
    parts, rows = saved.metadata["parts"], saved.arrays["rows"]
    if contents(data.pool) != saved.metadata["data"]:
        raise ValueError(
            f"data is not what the preparation in {shown(str(folder))} was made on; give the same images in their order"
        )
    splits = {name: Split(data.pool, rows[name]) for name in ("train", "heldout", "test")}

    def part(name: str) -> Saved:
        return Saved(saved.arrays[name], parts[name])

    unlearned = saved.metadata.get("unlearned")
    if unlearned is None:
        raise ValueError(
            f"folder={shown(str(folder))} was kept by an earlier version, which does not say what its models forgot; "
            "prepare anew"
        )
    read = {name: restored(unpack_model(part(name), module), unlearned[name]) for name in _MODELS if name in parts}
    models = [unpack_plain(BankModel, part(f"bank_{i}")) for i in range(saved.metadata["num_bank"])]
    settings = BankSettings(**saved.metadata["bank_settings"])
    learnt = saved.arrays.get("answers", {})
    key = jax.random.wrap_key_data(saved.arrays["key"], impl=saved.metadata["key_impl"])
    bank = bank_of(models, settings, len(data.pool), key)
    return Prepared(
        model=read.get("model", read["original"]),
        original=read["original"],
        twin=read.get("twin"),
        train=splits["train"],
        heldout=splits["heldout"],
        test=splits["test"],
        bank=bank,
        bank_settings=settings,
        key=key,
        know_alike=saved.metadata.get("know_alike", False),
        forgotten=tuple(rows[f"forgotten_{i}"] for i in range(saved.metadata["num_forgotten"])),
        removed=rows["removed"],
        rehearsals=tuple(
            Rehearsal(**{**one, "answers": learnt.get(f"rehearsal_{i}")})
            for i, one in enumerate(saved.metadata["rehearsals"])
        ),
        costs=saved.metadata["costs"],
        seconds=saved.metadata["seconds"],
    ).calibrated()


def as_trained(model: TrainedModel) -> TrainedModel:
    """The classifier alone, without what an unlearned one knows of its request."""
    return TrainedModel(**{field.name: getattr(model, field.name) for field in dataclasses.fields(TrainedModel)})


def contents(pool: Pool) -> str:
    """A hash of a pool's images and labels."""
    return stage_hash({"images": pool.images, "labels": pool.labels})
