"""Amnesiac unlearning: the updates of the steps whose batch held a forgotten image are taken back.

    θ = θ_o − Σ over steps s with a row of D_f in their batch of Δθ_s,   Δθ_s = θ after step s − θ before it

The original's training must have kept that sum: `train(…, updates_of=rows)` keeps it for the rows that are named, and
for no others. It is a sum over the steps with any of them, so it serves a request for exactly those rows: of a part of
them, or of two groups, the sum is another one.

An update of momentum holds gradients of earlier steps, and a gradient lives on in later updates; what is taken back is
what a step did, as in the text, whatever it was made of. Later steps started from where the forgotten ones had led, so
the result is no model that was ever trained without them; where nearly every step held a forgotten image it is nearly
the initial one. The text then fine-tunes for a while: `repair` epochs on D_r, by the training's own recipe.

The authors' code takes back what is named "weight" or "bias" alone, so the running statistics of batch norm stay as D_f
moved them; here they are variables as all others, and `statistics=0` leaves them. It reads each update from a file and
passes over any that cannot be read. Some programs give this name to the same paper's other method, learning random
labels, which is `random_labeling`.

References:
  Graves, Nagisetty and Ganesh, Amnesiac Machine Learning, 2021 (arXiv 2010.10981), Amnesiac Unlearning.
"""

import dataclasses

import jax
import numpy as np

from tmu_jax.data import ForgetProblem
from tmu_jax.stages import Progress
from tmu_jax.training import Stream, TrainedModel, Updates, fit, predict
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.relabelling import equal_weights, true_targets
from tmu_jax.unlearning.unlearned import UnlearnedModel, with_parameters, with_variables


def kept_updates(problem: ForgetProblem, original: TrainedModel) -> tuple[Updates, int]:
    """What the original's training kept, and which of its groups is D_f.

    Raises:
      ValueError: where it kept nothing, or nothing of exactly these rows.
    """
    if original.updates is None:
        raise ValueError(
            "original.updates=None: method 'amnesiac' takes back updates that the original's training kept; train it "
            "by tmu_jax.train(…, updates_of=problem.forget.indices). A model that was wrapped, or has forgotten "
            "before, has none"
        )
    return original.updates, original.updates.number_of(problem.forget.indices)


def check_request(problem: ForgetProblem, original: TrainedModel) -> None:
    """Raises ValueError as `kept_updates`."""
    kept_updates(problem, original)


def run(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    *,
    progress: Progress | None,
    statistics: int,
    repair: int,
) -> UnlearnedModel:
    """Takes the updates back, and fine-tunes where asked.

    Args:
      problem: the request.
      original: the model that is to forget, with the updates of D_f.
      key: a PRNG key, of the fine-tuning.
      progress: called with (steps done, steps in all) of it.
      statistics: 1: the updates of all variables; 0: of the parameters alone.
      repair: epochs of fine-tuning on D_r, at the rates of the training's recipe; 0: none.

    Raises:
      ValueError: as `kept_updates`.
      FloatingPointError: where the result's outputs are not finite, as by a variance that has become negative.
    """
    updates, group = kept_updates(problem, original)
    others = tuple(name for name in original.variables if name != "params")
    variables = updates.without(original.variables, group, () if statistics else others)
    undone = int(updates.steps[group])
    notes = [f"{undone} of {updates.total_steps} steps of the training held a forgotten image, and were taken back"]
    if repair:
        recipe = dataclasses.replace(original.training_recipe, epochs=repair)
        stream, targets, weights = Stream((problem.retain.indices,)), true_targets(problem), equal_weights(problem)
        variables, losses = fit(
            original.module,
            variables,
            original.normalization,
            problem.pool,
            stream,
            targets,
            weights,
            recipe,
            key,
            progress=progress,
        )
        return with_variables(original, variables, losses, notes)
    found = with_parameters(dataclasses.replace(original, variables=variables), variables["params"], notes)
    if not np.isfinite(predict(found, problem.forget)[0]).all():
        raise FloatingPointError(
            f"the outputs are not finite after {undone} of {updates.total_steps} steps were taken back: a running "
            "variance may have become negative; statistics=0 leaves such statistics as they are"
        )
    return found


def check(statistics: int, repair: int) -> None:
    """Raises ValueError for options out of range."""
    if statistics not in (0, 1):
        raise ValueError(f"statistics={statistics} must be 0 or 1")
    if repair < 0 or repair != int(repair):
        raise ValueError(f"repair={repair} must be a whole number of epochs, 0 or more")


amnesiac = Method(
    "amnesiac",
    run=run,
    options={"statistics": 1, "repair": 0},
    check=check,
    check_request=check_request,
    needs_updates=True,
    draws=lambda problem, statistics, repair: repair * len(problem.retain),
)
