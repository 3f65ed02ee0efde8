"""Which recipes are rehearsed for a budget: a small grid that ships; which of them is taken, rehearsals alone say."""

from collections.abc import Callable

from tmu_jax.preparation.prepared import Prepared
from tmu_jax.preparation.rehearsal import Rehearsal, rehearse
from tmu_jax.stages import Progress
from tmu_jax.training import Recipe
from tmu_jax.unlearning import METHODS, Method

REWARM_PEAKS = (0.5, 1.0, 2.0)
TWIN_PEAKS = (0.5, 1.0)
"""Of the learning rate, as multiples of the training's own peak."""
RATES = (0.05, 0.1)
SOFT_EPOCHS = (6, 3, 1)
"""The most of these that leave at least one replayed image for each forgotten one."""
COPIES = 2


def candidates(training: Recipe, num_retained: int, num_forgotten: int, budget: float, bank: bool) -> list[Method]:
    """The recipes that spend a budget, for a request of this size.

    Args:
      training: M_o's recipe.
      num_retained: images of D_r.
      num_forgotten: images of D_f.
      budget: the share of retraining that unlearning may cost.
      bank: whether there is one; without it only what needs none.

    Returns:
      Methods with their options: `rewarm` and `rewarm_twin` with as large a part of D_r as the budget buys (the latter
      in one epoch and in two), `soft_twin` with as much replay.

    Raises:
      ValueError: where the budget buys no step.
    """
    if not 0 < budget <= 1:
        raise ValueError(f"budget={budget} must be above 0 and at most 1: it is a share of retraining")
    whole = training.epochs * num_retained
    images = budget * whole
    if images < training.batch_size:
        raise ValueError(
            f"budget={budget} of a retraining buys {images:.0f} images, less than one step of {training.batch_size}; "
            f"give at least {training.batch_size / whole:.2g}"
        )
    found = []
    epochs = max(1, int(images // num_retained))
    share = min(1.0, images / num_retained / epochs)
    for peak in REWARM_PEAKS:
        found.append(METHODS["rewarm"].configured(None, {"share": share, "epochs": epochs, "peak": peak}))
    if not bank:
        return found
    for epochs in (1, 2):
        part = min(1.0, (images / epochs - COPIES * num_forgotten) / num_retained)
        if part * num_retained < training.batch_size:
            continue
        for peak in TWIN_PEAKS:
            options = {"share": part, "epochs": epochs, "peak": peak, "copies": COPIES}
            found.append(METHODS["rewarm_twin"].configured(None, options))
    for epochs in SOFT_EPOCHS:
        replay = min(num_retained / num_forgotten, images / epochs / num_forgotten - 1)
        if replay >= 1:
            for rate in RATES:
                soft = {"replay": replay, "epochs": epochs, "rate": rate}
                found.append(METHODS["soft_twin"].configured(None, soft))
            break
    return found


def rehearse_candidates(
    prepared: Prepared,
    budget: float,
    *,
    size: int | None = None,
    repeats: int = 1,
    bank: bool = True,
    progress: Callable[[str], Progress] | None = None,
) -> list[Rehearsal]:
    """Rehearses every recipe of a budget; the best comes first.

    Args:
      prepared: from `prepare`.
      budget: the share of retraining that unlearning may cost.
      size: images forgotten at once; all held-out ones by default.
      repeats: random subsets of that size.
      bank: False leaves out what learns from a bank.
      progress: makes the progress function of each named part.
    """
    size = len(prepared.heldout) if size is None else size
    recipe, has_bank = prepared.original.recipe, bank and prepared.bank is not None
    found = [
        rehearse(prepared, method, size=size, repeats=repeats, progress=progress, **method.options)
        for method in candidates(recipe, len(prepared.train), size, budget, has_bank)
    ]
    return sorted(found, key=lambda rehearsal: rehearsal.misalignment)
