"""`tmu-jax prepare`: what all requests share, once."""

import pathlib
from typing import Any

import jax
import numpy as np

from tmu_jax.command import inputs, keeping, options, planning
from tmu_jax.command.inputs import about
from tmu_jax.command.keeping import Start
from tmu_jax.command.progress import Bars
from tmu_jax.command.saying import say
from tmu_jax.data import Dataset, Split
from tmu_jax.preparation import Prepared
from tmu_jax.preparation import prepare as library_prepare
from tmu_jax.preparation.building import missing_stages
from tmu_jax.requests import Ledger
from tmu_jax.stages import Stage
from tmu_jax.training import TrainedModel

_TIMED = 1000
KEPT = 8
"""Models in a ledger's folder, about: in service, original, twin, what a request left, and one's state in training."""


def prepare(chosen: options.Prepare) -> bool:
    """Runs the command; True."""
    inputs.check_seed("--seed", chosen.seed)
    inputs.check_number("--folds", chosen.folds, 0)
    folder = inputs.check_new_folder("--ledger", chosen.ledger)
    ledger = open_ledger(folder)
    model = inputs.read_model(chosen.model)
    data, left_out = inputs.read_data(chosen.data, chosen.test, chosen.image_size)
    inputs.check_fit(chosen.model, model, data)
    start = keeping.find_start(
        ledger, folder, model, data, seed=chosen.seed, heldout=chosen.heldout, folds=chosen.folds
    )
    removed = ledger.removed(data)
    stages = missing(start, data, removed, folder)
    say(
        [
            f"prepare for requests on {described(data)}",
            *left_out_line(left_out),
            *([f"  {start.why}"] if start.why else []),
        ]
    )
    say(planning.plan(start.model, some_rows(data, removed), planning.of_stages(stages)).lines())
    inputs.check_new_folder("--ledger", chosen.ledger, KEPT * bytes_of(start.model))
    if chosen.dry_run:
        return True
    with keeping.alone(folder):
        prepared = prepared_of(start, data, removed, folder)
    say([str(prepared), f"kept in {folder}; requests to forget start from it"])
    return True


def open_ledger(folder: pathlib.Path) -> Ledger:
    """The ledger in a folder."""
    with about("--ledger", folder):
        return Ledger(folder)


def missing(start: Start, data: Dataset, removed: np.ndarray, folder: pathlib.Path) -> list[Stage]:
    """What is still to be trained, before any request."""
    if start.prepared is not None:
        return []
    with about("--model and --data", "cannot be prepared"):
        return missing_stages(start.model, data, folder=folder / keeping.PREPARED, **_call(start, removed))


def prepared_of(start: Start, data: Dataset, removed: np.ndarray, folder: pathlib.Path) -> Prepared:
    """The preparation that a request starts from; what is missing of it is trained."""
    if start.prepared is not None:
        return start.prepared
    keeping.keep_settings(folder, start)
    with Bars() as bars:
        return library_prepare(
            start.model, data, folder=folder / keeping.PREPARED, progress=bars, **_call(start, removed)
        )


def described(data: Dataset) -> str:
    """How many images of which kind, and where from."""
    height, width, channels = data.train_images.shape[1:]
    return (
        f"{len(data.train_labels):,} training and {len(data.test_labels):,} test images, {height} x {width} x "
        f"{channels}, {data.num_classes} classes ({data.source})"
    )


def left_out_line(left_out: tuple[str, ...]) -> list[str]:
    return [f"  left out of the data: {len(left_out)}, the first: {left_out[0]}"] if left_out else []


def some_rows(data: Dataset, removed: np.ndarray) -> Split:
    """Training images to time steps on; what was removed is not gathered for that either."""
    left = np.setdiff1d(np.arange(len(data.train_labels)), removed)
    return Split(data.pool, left[:_TIMED].astype(np.int32))


def bytes_of(model: TrainedModel) -> int:
    """How many bytes a model's variables take."""
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(model.variables))


def _call(start: Start, removed: np.ndarray) -> dict[str, Any]:
    """What both planning and preparing hand to the library."""
    settings = start.settings
    return {
        "key": jax.random.key(settings.seed),
        "heldout": settings.heldout,
        "folds": settings.folds,
        "removed": removed,
    }
