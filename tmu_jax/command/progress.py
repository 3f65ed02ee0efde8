"""Progress on the terminal: a bar for the part at work, and a line for each part that is done."""

import sys
import time

from tqdm import tqdm

from tmu_jax.stages import Progress

_WORDS = {"twin_model": "twin model", "bank": "model of the bank", "prepared": "calibration"}


class Bars:
    """Makes the progress function of each part; use it as a context manager.

    All of it goes to stderr. Where that is no terminal the lines alone are written.
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._part, self._began = "", 0.0

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._finish(is_done=kind is None)

    def __call__(self, kind: str) -> Progress:
        """A part begins."""
        self._finish(is_done=True)
        self._part, self._began = _WORDS.get(kind, kind), time.perf_counter()
        bar = tqdm(desc=self._part, file=sys.stderr, disable=None, leave=False, unit="step")
        self._bar = bar

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return update

    def _finish(self, is_done: bool) -> None:
        if self._bar is not None:
            self._bar.close()
            if is_done:
                print(f"{time.perf_counter() - self._began:8.1f} s  {self._part}", file=sys.stderr)
            self._bar = None
