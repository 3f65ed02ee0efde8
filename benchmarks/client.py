"""The rivals' process, seen from ours."""

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
from types import TracebackType
from typing import Any, Protocol, Self

from benchmarks.arrays import Arrays, load_arrays
from benchmarks.cases import Case

ROOT = pathlib.Path(__file__).resolve().parent.parent
"""The folder that holds the package `benchmarks`."""


class RivalError(RuntimeError):
    """A rival cannot do what was asked: it is not installed, does not compile, or fails."""


class Rivals(Protocol):
    """What the measurement asks of the rivals.

    Attributes:
      processor_seconds: of all threads, in the last `run`.
    """

    processor_seconds: float

    def prepare(self, case: Case, rival: str, inputs: pathlib.Path) -> None:
        """Builds a rival's side of a case. Raises `RivalError` where that fails, as the others do."""

    def check(self, rival: str) -> Arrays:
        """The rival's outputs; its first call, so it compiles."""

    def run(self, rival: str, count: int) -> float:
        """Seconds of `count` units of work."""

    def drop(self) -> None:
        """Frees what was prepared."""


class RivalProcess:
    """Rivals in a Python environment of their own; use it as a context manager.

    Attributes:
      versions: of its Python and packages.
      processor_seconds: of all its threads, in the last `run`.
    """

    processor_seconds = 0.0

    def __init__(self, python: str, wait_policy: str | None = None) -> None:
        """Starts the process.

        Args:
          python: its interpreter.
          wait_policy: OMP_WAIT_POLICY, how its threads wait for each other; None leaves it as it is.

        Raises:
          RivalError: when it does not start.
        """
        self._folder = tempfile.TemporaryDirectory()
        self._log = pathlib.Path(self._folder.name) / "log"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if wait_policy is not None:
            environment["OMP_WAIT_POLICY"] = wait_policy
        try:
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    [python, "-m", "benchmarks.rivals"], cwd=self._folder.name, env=environment, text=True,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            self._folder.cleanup()
            raise RivalError(f"the rivals' Python does not start: {error}") from error
        try:
            self.versions: dict[str, str] = self._ask(op="hello")["versions"]
        except RivalError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._folder.cleanup()

    def prepare(self, case: Case, rival: str, inputs: pathlib.Path) -> None:
        self._ask(op="prepare", kind=case.kind, rival=rival, settings=case.settings, inputs=str(inputs))

    def check(self, rival: str) -> Arrays:
        outputs = pathlib.Path(self._folder.name) / "outputs.npz"
        self._ask(op="check", rival=rival, outputs=str(outputs))
        return load_arrays(outputs)

    def run(self, rival: str, count: int) -> float:
        answer = self._ask(op="run", rival=rival, count=count)
        self.processor_seconds = answer["processor_seconds"]
        return answer["seconds"]

    def drop(self) -> None:
        self._ask(op="drop")

    def probe(self) -> float:
        """Seconds of a small training step in PyTorch."""
        return self._ask(op="probe")["seconds"]

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RivalError(f"the rivals' process ended: {self._log.read_text().strip()[-300:] or 'no message'}")
        answer = json.loads(line)
        if "error" in answer:
            raise RivalError(answer["error"])
        return answer


def start_rivals(python: str) -> tuple[RivalProcess, str]:
    """Starts the rivals with the OpenMP wait policy that is the quicker one for them on this machine, now.

    By default OpenMP's threads wait actively. Where other work takes a core away from one of them, the others then
    burn theirs, and PyTorch is many times slower than it need be; on a quiet machine the default is the quicker.

    Args:
      python: their interpreter.

    Returns:
      The process, and a sentence on the choice.

    Raises:
      RivalError: when it does not start.
    """
    active = RivalProcess(python)
    passive = None
    try:
        passive = RivalProcess(python, "PASSIVE")
        policies = {"active": (active.probe(), active), "passive": (passive.probe(), passive)}
    except RivalError:  # without PyTorch there is nothing to choose
        if passive is not None:
            passive.close()
        return active, "their OpenMP threads wait as they do by default"
    best = min(policies, key=lambda name: policies[name][0])
    for name, (_, process) in policies.items():
        if name != best:
            process.close()
    seconds = ", ".join(f"{name} {1000 * probed:.0f} ms" for name, (probed, _) in policies.items())
    return policies[best][1], f"their OpenMP threads wait in the way that was the quicker: {best} (a probe: {seconds})"
