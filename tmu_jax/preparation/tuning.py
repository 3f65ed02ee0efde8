"""A method's recipe by rehearsal: so many tries, its own recipe the first, and no gold model."""

from collections.abc import Callable
from typing import NamedTuple

from tmu_jax.boundary import checked
from tmu_jax.data.checks import check_seed
from tmu_jax.preparation.grid import rehearse_all
from tmu_jax.preparation.prepared import Prepared
from tmu_jax.preparation.rehearsal import Rehearsal
from tmu_jax.stages import Progress
from tmu_jax.unlearning import Method, MethodName, as_method
from tmu_jax.unlearning.ranges import attempt

MOST_TRIES = 1000
"""What is beyond would run for weeks, and is a slip of the keyboard."""


class Tuned(NamedTuple):
    """What a search came to.

    Attributes:
      method: with the recipe that rehearsed best.
      rehearsals: of every try, the method's own recipe first; None of one that diverged.
    """

    method: Method
    rehearsals: tuple[Rehearsal | None, ...]


@checked
def tune(
    prepared: Prepared,
    method: MethodName | Method,
    *,
    tries: int = 8,
    size: int | None = None,
    repeats: int = 1,
    seed: int = 0,
    progress: Callable[[str], Progress] | None = None,
) -> Tuned:
    """Rehearses a method's own recipe and others within its ranges, and takes the best.

    Args:
      prepared: from `prepare`.
      method: a name in `METHODS`, or a method; it has ranges.
      tries: how many recipes are rehearsed, the method's own among them.
      size: how many held-out images are forgotten at once; all of them by default.
      repeats: how many random subsets of that size.
      seed: of the recipes that are tried.
      progress: makes the progress function of each named part.

    Returns:
      The method with the recipe of the least `misalignment`, and all rehearsals.

    Raises:
      ValueError: for a method without ranges or without a rehearsal, and as `rehearse`.
      FloatingPointError: where every try diverges.
    """
    own = as_method(method)
    if not 1 <= tries <= MOST_TRIES:
        raise ValueError(f"tries={tries} must lie in 1..{MOST_TRIES}")
    check_seed("seed", seed)
    methods = [attempt(own, number, seed) for number in range(tries)]
    found = rehearse_all(prepared, methods, size=size, repeats=repeats, progress=progress)
    known = [(one.misalignment, number) for number, one in enumerate(found) if one is not None]
    return Tuned(methods[min(known)[1]], tuple(found))
