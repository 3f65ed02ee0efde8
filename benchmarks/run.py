"""A run over cases: first calls in fresh processes, comparisons, turns, floors; what is done is kept when it stops."""

import contextlib
import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence

import jax
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import first_call, floor, inputs, kernels, measure, scaling
from benchmarks.cases import Case
from benchmarks.client import Rivals
from benchmarks.files import save_arrays
from benchmarks.measure import Row, Say
from benchmarks.output import Report, without_paths

FAILURES = (RuntimeError, ValueError, TypeError, OSError, FloatingPointError)
"""What makes one case fail and leaves the others."""

SCALING = "scaling"


@dataclasses.dataclass
class Plan:
    """What is to be done.

    Attributes:
      cases: in order.
      scaling: whether the cost against images, classes and seeds is measured.
      repeats: turns of each case.
      first_calls: whether compile times and memory are measured, in two fresh processes a case.
      rivals: their process, or None.
      tiny: whether peaks and scaling are those of a test.
      plot: where the picture goes, without a suffix.
    """

    cases: Sequence[Case]
    scaling: bool
    repeats: int
    first_calls: bool
    rivals: Rivals | None
    tiny: bool
    plot: pathlib.Path


def run(plan: Plan, report: Report, say: Say) -> bool:
    """Does it and fills the report; returns False when it was interrupted (Ctrl-C), with `report.missing` set."""
    with tempfile.TemporaryDirectory() as kept:
        return _run(plan, report, say, pathlib.Path(kept))


def _run(plan: Plan, report: Report, say: Say, kept: pathlib.Path) -> bool:
    """`run` with an empty folder for our compiled C++."""
    names = [case.name for case in plan.cases] + [SCALING] * plan.scaling
    works: dict[str, floor.Work] = {}
    peaks: floor.Peaks | None = None
    done: set[str] = set()
    start = time.perf_counter()
    try:
        say("measuring this machine's peaks")
        peaks = floor.measure_peaks(plan.tiny)
        needs_native = any(case.kind != "table" for case in plan.cases) and jax.default_backend() == "cpu"
        if plan.first_calls and needs_native:
            try:
                note = f"our C++, which a machine compiles once: {first_call.compile_native(kept):.1f} s"
            except RuntimeError as error:
                note = str(error)
            report.notes.append(without_paths(note))
            say(f"  {note}")
        for number, case in enumerate(plan.cases, start=1):
            minutes = (time.perf_counter() - start) / 60
            say(f"[{number}/{len(plan.cases)}] {case.name} (after {minutes:.1f} min)")
            report.rows += measure_case(case, plan, works, say, kept)
            done.add(case.name)
        if plan.scaling:
            say("cost against images, classes and seeds")
            report.scaling = scaling.measure(say, plan.tiny)
            scaling.draw(report.scaling, plan.plot)
            done.add(SCALING)
        peaks = floor.best_peaks(peaks, floor.measure_peaks(plan.tiny))
    except KeyboardInterrupt:
        report.missing = [name for name in names if name not in done]
    if peaks is not None:
        report.peaks = peaks._asdict()
        for row in report.rows:
            if row.kernel in works:
                measure.set_floor(row, floor.floor_seconds(works[row.kernel], peaks))
    return not report.missing


def measure_case(case: Case, plan: Plan, works: dict[str, floor.Work], say: Say, kept: pathlib.Path) -> list[Row]:
    """The rows of a case; a failure on our side becomes a row with an error."""
    try:
        with _inputs(case) as (arrays, path), _fresh_programs() as cache:
            counted = floor.work(case, arrays)
            if counted is not None:
                works[case.name] = counted
            # A whole run's cold start has nothing, as a newcomer's.
            cpp = cache if case.kind == "table" else kept
            calls = _first_calls(case, path, cache, cpp, say) if plan.first_calls or case.kind == "table" else None
            if case.kind == "table":
                assert calls is not None
                rows = [_whole_run(case, calls[1])]
            else:
                target = 0.0 if plan.tiny else measure.TARGET_SECONDS
                rows = measure.measure(case, kernels.build(case, arrays), plan.rivals, path, plan.repeats, say, target)
    except FAILURES as error:
        say(f"  failed: {type(error).__name__}: {error}")
        return [Row(kernel=case.name, unit=case.unit, error=f"{type(error).__name__}: {error}")]
    for row in rows:
        if counted is not None:
            row.flops, row.bytes, row.flops_source = counted.flops, counted.bytes, counted.source
        if calls is not None:
            cold, warm = calls
            row.compile_seconds_cold, row.compile_seconds_warm = cold.compile_seconds, warm.compile_seconds
            row.first_call_seconds_cold, row.first_call_seconds_warm = cold.call_seconds, warm.call_seconds
            row.peak_bytes = max(filter(None, (cold.peak_bytes, warm.peak_bytes)), default=None)
        _say_row(row, say)
    return rows


@contextlib.contextmanager
def _inputs(case: Case) -> Iterator[tuple[inputs.Arrays, pathlib.Path]]:
    with tempfile.TemporaryDirectory() as folder:
        arrays = inputs.make_inputs(case)
        path = pathlib.Path(folder) / "inputs.npz"
        save_arrays(path, arrays)
        yield arrays, path


@contextlib.contextmanager
def _fresh_programs() -> Iterator[pathlib.Path]:
    """An empty compilation cache of a case's own; what is compiled is freed when the case is done."""
    before = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as name:
        try:
            yield pathlib.Path(name)
        finally:
            _use_cache(before)
            jax.clear_caches()


def _use_cache(folder: str | None) -> None:
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()  # JAX opens a cache once


def _first_calls(
    case: Case, path: pathlib.Path, cache: pathlib.Path, kept: pathlib.Path, say: Say
) -> tuple[first_call.FirstCall, first_call.FirstCall]:
    """The first call with an empty compilation cache, and with the one that this has filled."""
    cold = first_call.measure(case, path, cache, kept)
    say(f"  compiled in {cold.compile_seconds:.1f} s from an empty cache")
    warm = first_call.measure(case, path, cache, kept)
    say(f"  compiled in {warm.compile_seconds:.1f} s from a filled cache")
    # This process need not compile again what they have compiled.
    _use_cache(str(cache))
    return cold, warm


def _whole_run(case: Case, call: first_call.FirstCall) -> Row:
    row = Row(kernel=case.name, unit=case.unit)
    measure.fill(row, [call.process_seconds], [])
    return row


def _say_row(row: Row, say: Say) -> None:
    if row.error is not None or row.ours_seconds is None:
        return
    beside = "" if row.ratio is None else f", {row.rival} {row.rival_seconds:.3g} s: ratio {row.ratio:.2f}"
    say(f"  ours {row.ours_seconds:.3g} s{beside}")
