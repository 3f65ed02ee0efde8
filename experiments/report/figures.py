"""The only place where figures are averaged: over seeds, then over classes."""

import statistics
from typing import NamedTuple

import numpy as np


class Figures(NamedTuple):
    """What a mean is taken over, without the seeds and classes that have no figure at all.

    Attributes:
        seeds: of the rows.
        classes: of the columns, as text.
        values: float[seeds, classes], NaN where a seed lacks a class that another one has.
    """

    seeds: list[int]
    classes: list[str]
    values: np.ndarray

    @property
    def mean(self) -> float | None:
        """The mean over classes of the means over seeds: a class counts once, however many seeds measured it."""
        return statistics.fmean(self.by_class) if self.values.size else None

    @property
    def by_class(self) -> list[float]:
        """The mean over seeds of every class; exact, so that no order of summation shows in a rounded figure."""
        return [statistics.fmean(column[~np.isnan(column)]) for column in self.values.T]

    @property
    def by_seed(self) -> list[float]:
        """The mean over classes of every seed."""
        return [statistics.fmean(row) for row in self.values]

    @property
    def is_whole(self) -> bool:
        """Whether every seed has every class."""
        return not np.isnan(self.values).any()

    def is_measured_as(self, other: "Figures") -> bool:
        """Whether both have the same seeds and classes."""
        gaps = np.isnan(self.values), np.isnan(other.values)
        return self[:2] == other[:2] and np.array_equal(*gaps)
