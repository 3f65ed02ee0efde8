"""Which recipes are rehearsed for a budget: a small grid that ships; which of them is taken, rehearsals alone say."""

import math
from collections.abc import Callable, Collection, Sequence

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
LEARN_FROM = ("rehearsal", "bank")
"""What a method may learn gold's outputs from."""
SETTLING = 0.2
"""Of the budget, for what follows a rewarming."""
SETTLING_EPOCHS = (4, 2, 1)
SETTLING_RATE = 0.2
REPEATS = 3


def repeats_of(size: int, num_heldout: int) -> int:
    """How many subsets a request is rehearsed on: of few images one says little, and of many it costs enough."""
    return REPEATS if REPEATS * size <= num_heldout else 1


def candidates(
    training: Recipe, num_retained: int, num_forgotten: int, budget: float, learn_from: Collection[str] = LEARN_FROM
) -> list[Method]:
    """The recipes that spend a budget, for a request of this size.

    Args:
      training: M_o's recipe.
      num_retained: images of D_r.
      num_forgotten: images of D_f.
      budget: the share of retraining that unlearning may cost.
      learn_from: those of `LEARN_FROM` that there are.

    Returns:
      Methods with their options: `rewarm`, `rewarm_rehearsed` and `rewarm_twin` with as large a part of D_r as the
      budget buys (the last in one epoch and in two), `soft_twin` with as much replay.

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
    if "rehearsal" in learn_from:
        found += _rehearsed(num_retained, num_forgotten, images, training.batch_size)
    if "bank" not in learn_from:
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


def _rehearsed(num_retained: int, num_forgotten: int, images: float, batch_size: int) -> list[Method]:
    """Four fifths of the images for the rewarming, one for the settling, where that is one of each kind at least."""
    settling, rewarming = SETTLING * images, (1 - SETTLING) * images
    replays = [(epochs, settling / epochs / num_forgotten - 1) for epochs in SETTLING_EPOCHS]
    possible = [(epochs, replay) for epochs, replay in replays if replay >= 1]
    if not possible or settling < batch_size:
        return []
    settling_epochs, replay = possible[0]
    epochs = math.ceil(rewarming / num_retained)
    options = {
        "share": rewarming / num_retained / epochs,
        "epochs": epochs,
        "replay": min(num_retained / num_forgotten, replay),
        "settling_epochs": settling_epochs,
        "rate": SETTLING_RATE,
    }
    method = METHODS["rewarm_rehearsed"]
    return [method.configured(None, {**options, "peak": peak}) for peak in TWIN_PEAKS]


def rehearse_candidates(
    prepared: Prepared,
    budget: float,
    size: int | None = None,
    sizes: tuple[int, int] | None = None,
    *,
    repeats: int = 1,
    alike: bool = True,
    progress: Callable[[str], Progress] | None = None,
) -> list[Rehearsal]:
    """Rehearses every recipe of a budget; the best comes first.

    Args:
      prepared: from `prepare`.
      budget: the share of retraining that unlearning may cost.
      size: images forgotten at once; all held-out ones by default.
      sizes: (images of D_r, images of D_f) of the request that the recipes are for; by default D and `size`.
      repeats: random subsets of that size.
      alike: False leaves out what learns of held-out images how gold answers on forgotten ones.
      progress: makes the progress function of each named part.

    Raises:
      FloatingPointError: where every recipe diverges.
    """
    size = len(prepared.heldout) if size is None else size
    learn_from = LEARN_FROM if prepared.bank is not None else ("rehearsal",)
    recipe = prepared.original.training_recipe
    tried = candidates(recipe, *(sizes or (len(prepared.train), size)), budget, learn_from if alike else ())
    found = rehearse_all(prepared, tried, size=size, repeats=repeats, progress=progress)
    return sorted((one for one in found if one is not None), key=lambda rehearsal: rehearsal.misalignment)


def rehearse_all(
    prepared: Prepared,
    methods: Sequence[Method],
    *,
    size: int | None,
    repeats: int,
    progress: Callable[[str], Progress] | None,
) -> list[Rehearsal | None]:
    """Rehearses one recipe after another; None of one that diverges, which no choice can fall on.

    Raises:
      FloatingPointError: where all of them diverge.
    """
    found: list[Rehearsal | None] = []
    error = None
    for method in methods:
        try:
            found.append(rehearse(prepared, method, size=size, repeats=repeats, progress=progress))
        except FloatingPointError as diverged:
            found.append(None)
            error = diverged
    if error is not None and not any(found):
        raise error
    return found
