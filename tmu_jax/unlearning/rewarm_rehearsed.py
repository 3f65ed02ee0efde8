"""Rewarm, then take up gold's outputs as a rehearsal of the very same rewarming foretells them.

A rewarmed model answers on D_f nearly as gold does, only too surely, and keeps too many. How gold's answers follow from
its own is learnt on the twin problem: the same rewarming of M_t, and M_o in gold's place. No bank is needed; where
there is one, its answers are learnt from too.
"""

import dataclasses

import jax

from tmu_jax.data import ForgetProblem
from tmu_jax.stages import Progress, ignore_progress
from tmu_jax.training import TrainedModel
from tmu_jax.unlearning import rewarm, soft_twin
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.needs import Foretell
from tmu_jax.unlearning.ranges import Range
from tmu_jax.unlearning.unlearned import UnlearnedModel

_TAUGHT = (
    "what the forgotten images were taught comes from the model itself, rewarmed without them: it was trained on them, "
    "and a rehearsal taught how its answers are to be read"
)


def run(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    *,
    prediction: Foretell,
    progress: Progress | None,
    share: float,
    epochs: int,
    peak: float,
    replay: float,
    settling_epochs: int,
    rate: float,
) -> UnlearnedModel:
    """Rewarms, asks what gold would answer, and fine-tunes D_f on that beside replayed images of D_r.

    Args:
      problem: the request.
      original: the model that is to forget.
      key: a PRNG key.
      prediction: tells labels and distributions from the rewarmed model.
      progress: called with (steps done, steps in all), of each of the two parts.
      share: of D_r, in each epoch of the rewarming.
      epochs: of the rewarming.
      peak: of its learning rate, as a multiple of the training's.
      replay: images of D_r beside each of D_f, in each epoch of the settling.
      settling_epochs: of the settling.
      rate: where its learning rate starts, as a multiple of the training's.
    """
    report = progress or ignore_progress
    rewarm_key, settle_key = jax.random.split(key)
    rewarming = rewarm.rewarm.configured(None, {"share": share, "epochs": epochs, "peak": peak})
    settling = soft_twin.soft_twin.configured(None, {"replay": replay, "epochs": settling_epochs, "rate": rate})
    warmed = rewarming.apply(problem, original, rewarm_key, progress=report)
    found = prediction(warmed, problem)
    settled = settling.apply(problem, warmed, settle_key, found, report)
    return dataclasses.replace(settled, original=original, notes=(*settled.notes, _TAUGHT))


def check(share: float, epochs: int, peak: float, replay: float, settling_epochs: int, rate: float) -> None:
    """Raises ValueError for options out of range."""
    rewarm.check(share, epochs, peak)
    if settling_epochs < 1 or settling_epochs != int(settling_epochs):
        raise ValueError(f"settling_epochs={settling_epochs} must be a whole number, at least 1")
    soft_twin.check(replay, settling_epochs, rate)


def draws(
    problem: ForgetProblem, share: float, epochs: int, peak: float, replay: float, settling_epochs: int, rate: float
) -> float:
    """Images of all epochs of both parts."""
    return rewarm.draws(problem, share, epochs, peak) + soft_twin.draws(problem, replay, settling_epochs, rate)


rewarm_rehearsed = Method(
    "rewarm_rehearsed",
    run=run,
    needs="rehearsal",
    options={"share": 1.0, "epochs": 1, "peak": 1.0, "replay": 2.0, "settling_epochs": 4, "rate": 0.2},
    ranges={
        "share": Range(0.3, 1.0),
        "epochs": Range(1, 3, "whole"),
        "peak": Range(0.25, 2.0, "log"),
        "settling_epochs": Range(1, 4, "whole"),
        "rate": Range(0.05, 0.5, "log"),
    },
    check=check,
    draws=draws,
)
