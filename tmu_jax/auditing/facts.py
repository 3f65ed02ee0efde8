"""What an audit knows without running a model: rows, likeness, settings, cost, versions; as JSON values."""

import platform
from importlib import metadata
from typing import Any

import jax
import numpy as np

import tmu_jax
from tmu_jax import devices
from tmu_jax.auditing.reading import LEVEL
from tmu_jax.data import ForgetProblem
from tmu_jax.data.copies import is_copies_note
from tmu_jax.preparation import Forgotten, Prepared, look
from tmu_jax.requests import Copies, find_copies
from tmu_jax.training import TrainedModel
from tmu_jax.training.packing import pack_recipe
from tmu_jax.unlearning import UnlearnedModel

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn")


def rows(problem: ForgetProblem, result: Forgotten | TrainedModel, model: TrainedModel) -> dict[str, Any]:
    """How many images were asked for and forgotten, and how the two differ; None where the model does not know."""
    asked = problem.forget.indices
    forgotten = model.forget_indices if isinstance(model, UnlearnedModel) else None
    if isinstance(result, Forgotten):
        forgotten = result.prepared.forgotten[-1]
    if forgotten is None:
        return {"asked": len(asked), "forgotten": None, "missing": None, "extra": None}
    missing, extra = (len(np.setdiff1d(*pair)) for pair in ((asked, forgotten), (forgotten, asked)))
    return {"asked": len(asked), "forgotten": len(forgotten), "missing": missing, "extra": extra}


def looked_at(
    problem: ForgetProblem, result: Forgotten | TrainedModel, prepared: Prepared | None, original: TrainedModel
) -> dict[str, float | bool | None]:
    """Whether D_f is drawn like held-out images, and whether those were kept from the model, as `look` found.

    By what `forget` found already; else by the preparation, where there is one, or the model before alone.
    """
    found = result.findings if isinstance(result, Forgotten) else look(problem, prepared or original)
    draw = found["random_draw"]
    return {"likeness": draw.value, "alike": draw.holds, "unseen": found["heldout_unseen"].holds}


def copies(problem: ForgetProblem, original: TrainedModel, known: Copies | None) -> dict[str, int]:
    """How many copies of forgotten images stay in training, by kind; looked for where nobody has."""
    found = find_copies(problem, original) if known is None else known
    counts = {"equal pixels": found.exact, "near copy": found.near}
    return {kind: int(np.isin(pairs[:, 1], problem.retain.indices).sum()) for kind, pairs in counts.items()}


def class_counts(problem: ForgetProblem) -> dict[str, int]:
    classes, counts = np.unique(problem.forget.labels, return_counts=True)
    return {str(c): int(count) for c, count in zip(classes, counts, strict=True)}


def settings(
    problem: ForgetProblem, result: Forgotten | TrainedModel, model: TrainedModel, seed: int
) -> dict[str, Any]:
    method = model.method if isinstance(model, UnlearnedModel) else ""
    notes = model.notes if isinstance(model, UnlearnedModel) else ()
    if isinstance(result, Forgotten):
        method, notes = result.method, result.notes
    # Those of the request may name images, others' too; the files go to people who must not learn of them.
    return {
        "method": method,
        "notes": [note for note in notes if note not in problem.notes and not is_copies_note(note)],
        "training": pack_recipe(model.recipe),
        "audit": {"seed": seed, "level": LEVEL},
    }


def cost(
    result: Forgotten | TrainedModel, model: TrainedModel, original: TrainedModel, seconds: float
) -> dict[str, Any]:
    parts = model.seconds_by_part if isinstance(model, UnlearnedModel) else {}
    return {
        "seconds": model.seconds,
        "seconds_by_part": dict(parts),
        "share": result.share if isinstance(result, Forgotten) else None,
        "training_seconds": original.seconds,
        "audit_seconds": seconds,
    }


def rehearsal(result: Forgotten | TrainedModel) -> dict[str, Any] | None:
    if not isinstance(result, Forgotten) or result.rehearsal is None:
        return None
    of = result.rehearsal
    intervals = {name: getattr(of, name)._asdict() for name in ("agreement", "gap", "distance", "test_loss")}
    return {"size": of.size, "repeats": of.repeats, "untouched": dict(of.untouched), **intervals}


def versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in _PACKAGES}
    return {
        "tmu_jax": tmu_jax.__version__,
        **packages,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": f"{jax.default_backend()} {devices.describe()}",
    }


def named(value: object) -> Any:
    """NumPy numbers as numbers; what a recipe holds beside values by its name."""
    if isinstance(value, np.generic):
        return value.item()
    return getattr(value, "__qualname__", type(value).__qualname__)
