"""Progress on the terminal: one bar for the run, one for the stage at work, and a line for each finished stage."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tmu_jax.stages import Progress as StageProgress

LINE_SECONDS = 60.0
"""How often a stage at work is mentioned where there is no terminal to draw a bar on."""


class Display:
    """Shows a run and its current stage; use it as a context manager."""

    def __init__(self, console: Console) -> None:
        """Args: console: where to show it; a console that is no terminal gets the finished stages' lines alone."""
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._run = self._progress.add_task("run", total=None)
        self._stage = self._progress.add_task("", total=None, visible=False)
        self._current: tuple[str, float] | None = None
        self._last_line = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish_stage()
        self._progress.stop()

    def expect(self, total: int) -> None:
        """Says how many models and methods the run has to show."""
        self._progress.update(self._run, total=total)

    def advance(self) -> None:
        """One more of them is done."""
        self._finish_stage()
        self._progress.advance(self._run)

    def found(self, description: str) -> None:
        """A stage was there already."""
        self._finish_stage()
        self._progress.console.print(f"found    {description}", highlight=False, markup=False)

    def start(self, description: str) -> StageProgress:
        """A stage begins; returns the function that it calls with (done, total)."""
        self._finish_stage()
        self._current = (description, time.perf_counter())
        self._last_line = time.perf_counter()
        self._progress.reset(self._stage, description=description, total=None, visible=True)

        def update(done: int, total: int) -> None:
            self._progress.update(self._stage, completed=done, total=total)
            if not self._progress.console.is_terminal and time.perf_counter() - self._last_line > LINE_SECONDS:
                self._last_line = time.perf_counter()
                self._progress.console.print(f"     {done / total:4.0%} {description}", highlight=False, markup=False)

        return update

    def _finish_stage(self) -> None:
        if self._current is not None:
            description, start = self._current
            self._progress.console.print(
                f"{time.perf_counter() - start:7.1f}s {description}", highlight=False, markup=False
            )
            self._current = None
            self._progress.update(self._stage, visible=False)
