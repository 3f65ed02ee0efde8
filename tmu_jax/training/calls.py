"""The calls of the compiled loop: as many steps each as end soon enough to stop a training between two of them."""

import math
from collections.abc import Iterator

import numpy as np

from tmu_jax.data import Pool
from tmu_jax.training.images import Call, in_calls, is_resident

STEPS_PER_CALL = 64
"""At most."""
_MOST_BYTES = 2**28
"""Of the images of a call that do not lie on the device already."""
SECONDS = 4.0
"""About how long a call takes at most; a signal is heard when it ends."""
FIRST_STEPS = 2
"""Of the first two calls: the one compiles, the other tells how long a step takes."""


class Pace:
    """Calls as long as they may be, of a step at least."""

    def __init__(self, most: int, is_bound: bool) -> None:
        """Args: most: steps of a call; is_bound: whether time bounds them, else every call takes the most."""
        self._most, self._is_bound = most, is_bound
        self._calls = 0
        self._seconds_per_step: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether calls go on at this length."""
        return not self._is_bound or self._seconds_per_step is not None

    def steps(self) -> int:
        """Of the next calls."""
        if not self._is_bound:
            return self._most
        if self._seconds_per_step is None:
            return min(FIRST_STEPS, self._most)
        return max(1, min(self._most, int(SECONDS / max(self._seconds_per_step, 1e-9))))

    def took(self, count: int, seconds: float) -> None:
        """Told of each call: its steps and its time."""
        self._calls += 1
        if self._calls > 1:
            self._seconds_per_step = seconds / count


def calls(
    pool: Pool, rows: np.ndarray, first: int, pace: Pace, per_call: int
) -> Iterator[tuple[int, int, np.ndarray, Call]]:
    """The calls of an epoch from a step on: its first step, how many steps, their rows filled up, and their images."""
    start = first
    while start < len(rows):
        length = pace.steps()
        starts = range(start, len(rows) if pace.is_known else min(start + length, len(rows)), length)
        counts = [min(length, len(rows) - one) for one in starts]
        filled = [pad_steps(rows[one : one + count], per_call) for one, count in zip(starts, counts, strict=True)]
        yield from zip(starts, counts, filled, in_calls(pool, filled), strict=True)
        start = starts[-1] + counts[-1]


def steps_per_call(pool: Pool, batch_size: int) -> int:
    """As many as a call takes of a pool that lies on the device, or as the memory for their images holds."""
    of_a_step = batch_size * math.prod(pool.images.shape[1:])
    return STEPS_PER_CALL if is_resident(pool) else min(STEPS_PER_CALL, max(1, _MOST_BYTES // of_a_step))


def pad_steps(rows: np.ndarray, length: int) -> np.ndarray:
    """Repeats the last of the leading axis up to a length, so that one program serves every length."""
    return np.pad(rows, [(0, length - len(rows))] + [(0, 0)] * (rows.ndim - 1), mode="edge")
