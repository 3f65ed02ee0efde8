"""Which rehearsal a request goes by: those at hand where they fit it, or new ones."""

import dataclasses
import math
from collections.abc import Callable

from tmu_jax.data import ForgetProblem
from tmu_jax.preparation.grid import rehearse_candidates, repeats_of
from tmu_jax.preparation.prepared import Prepared
from tmu_jax.preparation.rehearsal import Rehearsal
from tmu_jax.stages import Progress
from tmu_jax.unlearning import METHODS, Method, as_method


def choose(
    prepared: Prepared,
    problem: ForgetProblem,
    budget: float,
    alike: bool,
    progress: Callable[[str], Progress] | None = None,
) -> tuple[Prepared, Rehearsal]:
    """The best rehearsed recipe within a budget; rehearses where those at hand do not do.

    Returns:
      The preparation with its rehearsals, and the one that is best, whatever it costs within the budget.
    """
    if not is_rehearsed(prepared, problem, budget, alike):
        size = _size(prepared, problem)
        repeats = repeats_of(size, len(prepared.heldout))
        sizes = len(problem.retain), len(problem.forget)
        found = rehearse_candidates(prepared, budget, size, sizes, repeats=repeats, alike=alike, progress=progress)
        prepared = dataclasses.replace(prepared, rehearsals=(*prepared.rehearsals, *found))
    fitting = _fitting(prepared, problem, budget, alike)
    return prepared, min((one for _, one in fitting), key=lambda rehearsal: rehearsal.misalignment)


def is_rehearsed(prepared: Prepared, problem: ForgetProblem, budget: float, alike: bool) -> bool:
    """Whether a rehearsal at hand is of about the request's size and spends at least half of the budget."""
    return any(cost > budget / 2 for cost, _ in _fitting(prepared, problem, budget, alike))


def nearest(prepared: Prepared, method: Method, size: int) -> Rehearsal | None:
    """The rehearsal of this very recipe that is nearest in size."""
    recipe = (method.name, dict(method.options), method.own_recipe)
    same = [one for one in prepared.rehearsals if (one.method, one.options, one.recipe) == recipe]
    return min(same, key=lambda one: abs(math.log(one.size / size)), default=None)


def _fitting(prepared: Prepared, problem: ForgetProblem, budget: float, alike: bool) -> list[tuple[float, Rehearsal]]:
    """Rehearsals of about the request's size within the budget, each with its cost as a share of a retraining."""
    ours = [one for one in prepared.rehearsals if one.method in METHODS]  # There may be others of a user's own.
    known = [(as_method(one.method).configured(None, one.options), one) for one in ours]
    size = _size(prepared, problem)
    found = [
        (prepared.share(method, problem), one)
        for method, one in known
        if size / 2 <= one.size <= size * 2 and (alike or method.needs is None) and one.recipe == method.own_recipe
    ]
    return [(cost, one) for cost, one in found if cost <= 1.05 * budget]


def _size(prepared: Prepared, problem: ForgetProblem) -> int:
    return min(len(problem.forget), len(prepared.heldout))
