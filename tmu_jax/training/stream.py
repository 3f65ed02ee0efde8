"""Which rows a training draws, and in what order."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Stream(NamedTuple):
    """Which rows of the pool are drawn, how often, and beside which others.

    Attributes:
      groups: int32 row indices of each group; an epoch is one pass over the first, the others are cycled.
      shares: each group's share of every batch; they add up to 1.
    """

    groups: tuple[np.ndarray, ...]
    shares: tuple[float, ...] = (1.0,)

    def sizes(self, batch_size: int) -> list[int]:
        """How many rows of each group a batch holds."""
        if len(self.groups) != len(self.shares) or not all(len(group) for group in self.groups):
            lengths = [len(group) for group in self.groups]
            raise ValueError(f"groups of {lengths} rows, shares={self.shares}: give each share a group with rows in it")
        sizes = [round(share * batch_size) for share in self.shares]
        if sum(sizes) != batch_size or min(sizes) < 1:
            raise ValueError(f"shares={self.shares} do not divide a batch of {batch_size} into whole rows")
        return sizes

    def steps_per_epoch(self, batch_size: int) -> int:
        """Full batches in a pass over the first group; a group smaller than its share is cycled within one batch."""
        return max(1, len(self.groups[0]) // self.sizes(batch_size)[0])

    def epochs(self, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yields the row indices of one epoch after another, int32[steps, batch_size], without end."""
        steps = self.steps_per_epoch(batch_size)
        sources = [_cycle(group, rng) for group in self.groups]
        while True:
            if len(self.groups[0]) >= self.sizes(batch_size)[0]:
                sources[0] = _cycle(self.groups[0], rng)  # a partial batch is dropped, not carried over
            yield np.concatenate(
                [
                    np.fromiter(source, np.int32, count=steps * size).reshape(steps, size)
                    for source, size in zip(sources, self.sizes(batch_size), strict=True)
                ],
                axis=1,
            )


def _cycle(group: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    """Rows of the group in a random order, reshuffled after every pass."""
    while True:
        yield from rng.permutation(group)
