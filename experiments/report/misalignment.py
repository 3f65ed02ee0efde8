"""How far from gold, in one number; `tmu_jax.Rehearsal.misalignment` is the same of what a rehearsal promised."""

from typing import TypeVar

import numpy as np

Number = TypeVar("Number", float, np.ndarray)


def misalignment(agreement: Number, gap: Number, distance: Number, lost: Number) -> Number:
    """Disagreement, gap, lost test accuracy and a hundred activation distances, all in points, added up.

    Args:
        agreement: percent.
        gap: points.
        distance: activation distance.
        lost: points of test accuracy below gold's; what lies above counts nothing.
    """
    return 100 - agreement + gap + np.maximum(0.0, lost) + 100 * distance
