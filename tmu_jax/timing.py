"""Wall-clock seconds of a region, with the time that was spent on tracing and compiling told apart."""

import contextlib
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import jax

_NATIVE_EVENT = "/tmu_jax/compile/native_duration"
_COMPILE_EVENTS = frozenset(
    {
        _NATIVE_EVENT,
        "/jax/core/compile/jaxpr_trace_duration",
        "/jax/core/compile/jaxpr_to_mlir_module_duration",
        "/jax/core/compile/backend_compile_duration",
    }
)
_running: list["Stopwatch"] = []


class Stopwatch:
    """Times a `with` block; watches may be nested.

    JAX reports each compile stage when it ends. Stages nest (a traced function traces others), so their intervals are
    merged before they are added up. The caller waits for the device inside the block (`jax.block_until_ready`).

    Attributes:
      seconds: wall-clock seconds of the block without compilation.
      compile_seconds: seconds of tracing, lowering and compiling within the block, C++ for the CPU and cache look-ups
        included.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.compile_seconds = 0.0
        self._intervals: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        _running.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = time.perf_counter()
        _running.remove(self)
        self.compile_seconds = _union_length(self._intervals)
        self.seconds = end - self._start - self.compile_seconds

    def so_far(self) -> float:
        """What `seconds` would be if the block ended now."""
        return time.perf_counter() - self._start - _union_length(self._intervals)

    def add(self, duration: float) -> None:
        """Records a compile stage of `duration` seconds that ends now."""
        now = time.perf_counter()
        self._intervals.append((max(self._start, now - duration), now))


def add_elapsed(seconds: float) -> None:
    """Tells every running watch of seconds that went into its block before this process, which goes on from there."""
    for watch in _running:
        watch._start -= seconds


@contextlib.contextmanager
def compiling_native() -> Iterator[None]:
    """Tells every running watch that what is done inside is compilation, of code for this processor."""
    start = time.perf_counter()
    try:
        yield
    finally:
        jax.monitoring.record_event_duration_secs(_NATIVE_EVENT, time.perf_counter() - start)


def _union_length(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of (start, end) intervals."""
    length, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        if end > reached:
            length += end - max(start, reached)
            reached = end
    return length


def _on_event(event: str, duration_secs: float, **_: str | int) -> None:
    if event in _COMPILE_EVENTS:
        for watch in _running:
            watch.add(duration_secs)


jax.monitoring.register_event_duration_secs_listener(_on_event)
