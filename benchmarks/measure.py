"""Compares outputs, then times our side and the rivals in turns. Without JAX, so that it is tested without kernels."""

import dataclasses
import functools
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from benchmarks.arrays import Arrays
from benchmarks.cases import Case
from benchmarks.client import RivalError, Rivals

TARGET_SECONDS = 1.0
"""How long our side works in one repeat, about, so that starting and stopping the clock does not matter."""

MOST_UNITS = 1000

Say = Callable[[str], None]


class MismatchError(ValueError):
    """A rival's outputs are not ours."""


class Ours(Protocol):
    """Our side of a case, see `kernels.Kernel`."""

    def check(self) -> Arrays: ...

    def run(self, count: int) -> float: ...


@dataclasses.dataclass
class Row:
    """One line of the table: a kernel beside one rival, or alone. Seconds are medians of a unit of work.

    Processor seconds are those of all threads together; other work on the machine lengthens them little.
    """

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
    ours_processor: float | None = None
    rival_processor: float | None = None
    processor_ratio: float | None = None
    floor_seconds: float | None = None
    floor_multiple: float | None = None
    compile_seconds_cold: float | None = None
    compile_seconds_warm: float | None = None
    repeats: int = 0
    units_per_repeat: int = 0
    differences: dict[str, float] = dataclasses.field(default_factory=dict)
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
      repeats: turns.
      say: told what is going on.
      target_seconds: see `TARGET_SECONDS`.

    Returns:
      A row for each rival, with an error and no times where its outputs differ or it fails; without rivals, one row.
    """
    outputs = ours.check()
    names = case.rivals if rivals is not None else ()
    rows = {name: Row(case.name, case.unit, rival=name) for name in names}
    running: dict[str, Callable[[], float]] = {}

    def failed(name: str, error: Exception) -> None:
        rows[name].error = f"{type(error).__name__}: {error}"
        say(f"  {name}: {rows[name].error}")

    used: dict[str | None, list[float]] = {name: [] for name in (None, *names)}

    def our_turn() -> float:
        start = time.process_time()
        seconds = _unit_seconds(ours.run, count)
        used[None].append((time.process_time() - start) / count)
        return seconds

    def their_turn(name: str, units: int) -> float:
        assert rivals is not None
        seconds = _unit_seconds(functools.partial(rivals.run, name), units)
        used[name].append(rivals.processor_seconds / units)
        return seconds

    try:
        count = 1 if case.is_long else max(case.least, _units(ours.run, MOST_UNITS, target_seconds))
        for name, row in rows.items():
            assert rivals is not None
            try:
                rivals.prepare(case, name, inputs)
                row.differences = compare(outputs, rivals.check(name), case.tolerances)
                worst = ", ".join(f"{key} {value:.1e}" for key, value in row.differences.items())
                say(f"  {name}: outputs agree ({worst})")
                run = functools.partial(rivals.run, name)
                # A slower rival takes fewer units in a repeat.
                units = _units(run, count, target_seconds) if count > case.least else count
                running[name] = functools.partial(their_turn, name, max(case.least, units))
            except (RivalError, MismatchError) as error:
                failed(name, error)
        mine, theirs_by_name = alternate(our_turn, running, repeats, failed)
    finally:
        if rivals is not None and names:
            rivals.drop()
    found = list(rows.values()) or [Row(case.name, case.unit)]
    for row in found:
        row.units_per_repeat = count
        theirs = theirs_by_name.get(row.rival or "", [])
        fill(row, mine, theirs)
        fill_processor(row, used[None], used[row.rival] if theirs else [])
    return found


def _units(run: Callable[[int], float], most: int, target_seconds: float) -> int:
    """How many units take the target's seconds, judged by one."""
    return max(1, min(most, round(target_seconds / max(run(1), 1e-9))))


def _unit_seconds(run: Callable[[int], float], count: int) -> float:
    return run(count) / count


def fill(row: Row, ours: list[float], theirs: list[float]) -> None:
    """Writes medians, spreads and their ratio (above 1: we are faster) into a row."""
    row.repeats = len(ours)
    row.ours_seconds, row.ours_min, row.ours_max = statistics.median(ours), min(ours), max(ours)
    if theirs:
        row.rival_seconds, row.rival_min, row.rival_max = statistics.median(theirs), min(theirs), max(theirs)
        row.ratio = row.rival_seconds / row.ours_seconds


def fill_processor(row: Row, ours: list[float], theirs: list[float]) -> None:
    """Writes the medians of processor seconds and their ratio into a row."""
    row.ours_processor = statistics.median(ours)
    if theirs:
        row.rival_processor = statistics.median(theirs)
        row.processor_ratio = row.rival_processor / row.ours_processor if row.ours_processor else None


def set_floor(row: Row, floor: float | None) -> None:
    """Writes the floor, and how many times as long we take, into a row."""
    row.floor_seconds = floor
    if floor and row.ours_seconds is not None:
        row.floor_multiple = row.ours_seconds / floor
