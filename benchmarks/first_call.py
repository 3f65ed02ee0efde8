"""The first call of a case in a fresh process, as a newcomer meets it: `python -m benchmarks.first_call FOLDER`.

The folder holds `case.json` and `inputs.npz`; `result.json` is written there. Compiled programs are kept in a folder
that is empty for a cold start and filled by an earlier process for a warm one; of a whole run so is our C++ (on
Linux), which the other cases find compiled.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from benchmarks.arrays import Arrays, load_arrays, save_arrays
from benchmarks.cases import Case
from benchmarks.client import ROOT


class FirstCall(NamedTuple):
    """A first call in a fresh process.

    Attributes:
      compile_seconds: tracing, lowering and compiling, cache look-ups included, our C++ too where it is compiled.
      process_seconds: from the start of the process to its end.
    """

    compile_seconds: float
    process_seconds: float


def measure(case: Case, arrays: Arrays, cache: pathlib.Path) -> FirstCall:
    """Runs the first call of a case in a fresh process with this folder of compiled programs.

    Raises:
      RuntimeError: when the process fails, with the end of what it said.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "case.json").write_text(json.dumps(dataclasses.asdict(case)))
        save_arrays(folder / "inputs.npz", arrays)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "JAX_COMPILATION_CACHE_DIR": str(cache / "programs"),
        }
        if case.kind == "table":
            environment["XDG_CACHE_HOME"] = str(cache)
        command = [sys.executable, "-m", "benchmarks.first_call", name]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=name, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"first call of {case.name} failed: {done.stderr.strip()[-500:]}")
        return FirstCall(json.loads((folder / "result.json").read_text()), seconds)


def main(folder: pathlib.Path) -> None:
    """The fresh process."""
    from benchmarks.kernels import build
    from tmu_jax import use_compilation_cache
    from tmu_jax.timing import Stopwatch

    use_compilation_cache()
    case = Case(**json.loads((folder / "case.json").read_text()))
    kernel = build(case, load_arrays(folder / "inputs.npz"))
    with Stopwatch() as watch:
        kernel.run(1)
    (folder / "result.json").write_text(json.dumps(watch.compile_seconds))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
