"""Compares outputs, then times our side and the rivals in turns. Without JAX, so that it is tested without kernels."""

import dataclasses
import functools
import pathlib
import statistics
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from benchmarks.cases import Case
from benchmarks.client import RivalError, Rivals

TARGET_SECONDS = 1.0
"""How long our side works in one repeat, about, so that starting and stopping the clock does not matter."""

MOST_UNITS = 1000

TURNS_FOR_CALLS = 3
"""In how many turns it is measured what a call costs."""

Say = Callable[[str], None]


class MismatchError(ValueError):
    """A rival's outputs are not ours."""


class Ours(Protocol):
    """Our side of a case."""

    def check(self) -> dict[str, np.ndarray]:
        """The outputs to compare; the first call."""

    def run(self, count: int) -> float:
        """Seconds of `count` units of work."""


@dataclasses.dataclass
class Row:
    """One line of the table: a kernel beside one rival, or alone. Seconds are medians of a unit of work."""

    kernel: str
    unit: str
    ours_seconds: float | None = None
    ours_min: float | None = None
    ours_max: float | None = None
    rival: str | None = None
    rival_seconds: float | None = None
    rival_min: float | None = None
    rival_max: float | None = None
    ratio: float | None = None
    floor_seconds: float | None = None
    floor_multiple: float | None = None
    compile_seconds_cold: float | None = None
    compile_seconds_warm: float | None = None
    first_call_seconds_cold: float | None = None
    first_call_seconds_warm: float | None = None
    rival_first_call_seconds: float | None = None
    peak_bytes: int | None = None
    flops: float | None = None
    flops_source: str | None = None
    bytes: float | None = None
    repeats: int = 0
    units_per_repeat: int = 0
    rival_units_per_repeat: int | None = None
    differences: dict[str, float] = dataclasses.field(default_factory=dict)
    tolerances: dict[str, tuple[str, float]] = dataclasses.field(default_factory=dict)
    error: str | None = None


def compare(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], tolerances: Mapping[str, tuple[str, float]]
) -> dict[str, float]:
    """The largest difference of each output; see `Case.tolerances`.

    Raises:
      MismatchError: when an output is missing, of another shape, not finite, or differs by more than it may.
    """
    differences = {}
    for name, (kind, most) in tolerances.items():
        if name not in ours or name not in theirs:
            raise MismatchError(f"{name} is missing on {'our' if name not in ours else 'the rival'} side")
        mine, other = np.asarray(ours[name], np.float64), np.asarray(theirs[name], np.float64)
        if mine.shape != other.shape:
            raise MismatchError(f"{name} has shape {mine.shape} here and {other.shape} there")
        difference = float(np.max(np.abs(mine - other), initial=0.0))
        if kind == "relative":
            difference /= max(float(np.max(np.abs(mine), initial=0.0)), np.finfo(np.float64).tiny)
        if not difference <= most:
            raise MismatchError(f"{name} differs by {difference:.2g} ({kind}), more than {most:g}")
        differences[name] = difference
    return differences


def alternate(
    ours: Callable[[], float],
    rivals: dict[str, Callable[[], float]],
    repeats: int,
    failed: Callable[[str, RivalError], None],
) -> tuple[list[float], dict[str, list[float]]]:
    """Times ours, rival A, rival B, ours, rival A, ...: what disturbs the machine disturbs all alike.

    Args:
      ours: runs one repeat and returns the seconds of a unit.
      rivals: likewise, by name.
      repeats: turns.
      failed: told of a rival that fails, which then has no more turns and no times.

    Returns:
      Seconds of a unit in each repeat, ours and the rivals'.
    """
    mine: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repeats):
        mine.append(ours())
        for name in list(theirs):
            try:
                theirs[name].append(rivals[name]())
            except RivalError as error:
                del theirs[name]
                failed(name, error)
    return mine, theirs


def measure(
    case: Case,
    ours: Ours,
    rivals: Rivals | None,
    inputs: pathlib.Path,
    repeats: int,
    say: Say,
    target_seconds: float = TARGET_SECONDS,
) -> list[Row]:
    """Compares and times a case.

    Args:
      case: the case.
      ours: our side.
      rivals: the rivals, or None where there are none.
      inputs: the case's .npz file, for the rivals.
      repeats: turns; the case's own number where it has one.
      say: told what is going on.
      target_seconds: see `TARGET_SECONDS`.

    Returns:
      A row for each rival, with an error and no times where its outputs differ or it fails; without rivals, one row.
    """
    repeats = case.repeats or repeats
    outputs = ours.check()
    names = case.rivals if rivals is not None else ()
    rows = {name: _row(case, name) for name in names}
    running: dict[str, Callable[[], float]] = {}

    def failed(name: str, error: Exception) -> None:
        rows[name].error = f"{type(error).__name__}: {error}"
        say(f"  {name}: {rows[name].error}")

    try:
        count = 1 if case.is_long else max(case.least, _units(ours.run, MOST_UNITS, target_seconds))
        for name, row in rows.items():
            assert rivals is not None
            try:
                rivals.prepare(case, name, inputs)
                theirs, row.rival_first_call_seconds = rivals.check(name)
                row.differences = compare(outputs, theirs, case.tolerances)
                worst = ", ".join(f"{key} {value:.1e}" for key, value in row.differences.items())
                say(f"  {name}: outputs agree ({worst})")
                run = functools.partial(rivals.run, name)
                # A slower rival takes fewer units in a repeat.
                units = _units(run, count, target_seconds) if count > case.least else count
                row.rival_units_per_repeat = max(case.least, units)
                running[name] = _Turns(run, row.rival_units_per_repeat, case.call_units)
            except (RivalError, MismatchError) as error:
                failed(name, error)
        mine, theirs_by_name = alternate(_Turns(ours.run, count, case.call_units), running, repeats, failed)
    finally:
        if rivals is not None and names:
            rivals.drop()
    found = list(rows.values()) or [_row(case, None)]
    for row in found:
        row.units_per_repeat = count
        fill(row, mine, theirs_by_name.get(row.rival or "", []))
    return found


def _units(run: Callable[[int], float], most: int, target_seconds: float) -> int:
    """How many units take the target's seconds, judged by one."""
    return max(1, min(most, round(target_seconds / max(run(1), 1e-9))))


class _Turns:
    """Repeats of one side; calling it is a repeat and returns its seconds of a unit.

    Args:
      run: seconds of so many units of work in one call.
      count: units in a repeat.
      call_units: units of a call that counts, see `Case.call_units`.
    """

    def __init__(self, run: Callable[[int], float], count: int, call_units: int) -> None:
        if 1 == count < call_units:
            raise ValueError(f"least=1 with call_units={call_units}: at least 2 units tell what a call costs")
        self.run, self.count, self.call_units = run, count, call_units
        self.beyond: list[float] = []  # what a call costs beyond its units

    def __call__(self) -> float:
        if self.call_units > 1:
            # While the others had their turns a virtual machine may have given freed memory back to its host.
            self.run(1)
        seconds = self.run(self.count)
        if self.count >= self.call_units:
            return seconds / self.count
        if len(self.beyond) < TURNS_FOR_CALLS:
            self.beyond.append((self.count * self.run(1) - seconds) / (self.count - 1))
        # The median, so that one call that was disturbed does not shift all turns.
        call = statistics.median(self.beyond)
        return (seconds - call) / self.count + call / self.call_units


def fill(row: Row, ours: list[float], theirs: list[float]) -> None:
    """Writes medians, spreads and their ratio (above 1: we are faster) into a row."""
    row.repeats = len(ours)
    row.ours_seconds, row.ours_min, row.ours_max = statistics.median(ours), min(ours), max(ours)
    if theirs:
        row.rival_seconds, row.rival_min, row.rival_max = statistics.median(theirs), min(theirs), max(theirs)
        row.ratio = row.rival_seconds / row.ours_seconds


def set_floor(row: Row, floor: float | None) -> None:
    """Writes the floor, and how many times as long we take, into a row."""
    row.floor_seconds = floor
    if floor and row.ours_seconds is not None:
        row.floor_multiple = row.ours_seconds / floor


def _row(case: Case, rival: str | None) -> Row:
    return Row(kernel=case.name, unit=case.unit, rival=rival, tolerances=case.tolerances if rival else {})
