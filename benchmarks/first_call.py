"""The first call of a case in a fresh process, as a newcomer meets it: `python -m benchmarks.first_call FOLDER`.

The folder holds `case.json` and `inputs.npz`; `result.json` is written there. The compilation cache is the folder that
JAX_COMPILATION_CACHE_DIR names: empty for a cold start, filled by an earlier process for a warm one.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from benchmarks.cases import Case
from benchmarks.files import load_arrays, root

_TRAIN = ("tmu_jax.training.loop", "train_steps")
_PREDICT = ("tmu_jax.training.inference", "predict_rows")
_ATTACK = ("tmu_jax.twin.features", "attack_rows")
_NEAREST = ("tmu_jax.twin.neighbors", "_nearest")
_PREDICTOR = (("tmu_jax.twin.predictor", "_fit_alone"), ("tmu_jax.twin.predictor", "_fit"))
PROGRAMS = {
    "train": (_TRAIN,),
    "evaluation": (_PREDICT,),
    "attack": (_ATTACK,),
    "distances": (_NEAREST,),
    "predictor": _PREDICTOR,
    "request": (_TRAIN, _PREDICT, _ATTACK, _NEAREST, *_PREDICTOR),
}
"""The compiled functions of each kind, whose memory is asked for."""


class FirstCall(NamedTuple):
    """A first call in a fresh process.

    Attributes:
      compile_seconds: tracing, lowering and compiling, cache look-ups included; our C++ too, where it is not kept yet.
      call_seconds: the whole first call, compilation included.
      process_seconds: from the start of the process to its end.
      peak_bytes: of the largest compiled program: arguments, outputs and temporaries, our C++'s too; of a whole run:
        see `most_held_bytes`. None where it is not known.
    """

    compile_seconds: float
    call_seconds: float
    process_seconds: float
    peak_bytes: int | None


_COMPILE_NATIVE = """
from tmu_jax.cpu import native
from tmu_jax.timing import Stopwatch
with Stopwatch() as watch:
    for group in (native.CONVOLUTIONS, native.ATTENTION):
        if not native.is_available(group):
            raise SystemExit(f"{group} were not compiled")
print(watch.compile_seconds)
"""


def compile_native(kept: pathlib.Path) -> float:
    """Compiles all of our C++ in a fresh process and returns the seconds; on Linux it is kept in this folder.

    Raises:
      RuntimeError: when it cannot be compiled, with the end of what was said.
    """
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE_NATIVE], env=_environment(kept), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"our C++ is not used: {done.stderr.strip()[-500:]}")
    return float(done.stdout)


def _environment(kept: pathlib.Path) -> dict[str, str]:
    """Of a fresh process that finds this package, and on Linux keeps our C++ in a folder when it has been compiled."""
    paths = [str(root()), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "XDG_CACHE_HOME": str(kept)}


def measure(case: Case, inputs: pathlib.Path, cache: pathlib.Path, kept: pathlib.Path) -> FirstCall:
    """Runs the first call of a case in a fresh process with this compilation cache.

    Args:
      case: the case.
      inputs: its .npz file.
      cache: folder of compiled programs.
      kept: folder of our compiled C++.

    Returns:
      Its times and memory.

    Raises:
      RuntimeError: when the process fails, with the end of what it said.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "case.json").write_text(json.dumps(dataclasses.asdict(case)))
        (folder / "inputs.npz").symlink_to(inputs.resolve())
        environment = {**_environment(kept), "JAX_COMPILATION_CACHE_DIR": str(cache)}
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.first_call", name],
            cwd=name, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"first call of {case.name} failed: {done.stderr.strip()[-500:]}")
        result = json.loads((folder / "result.json").read_text())
    return FirstCall(process_seconds=seconds, **result)


def main(folder: pathlib.Path) -> int:
    """The fresh process."""
    from benchmarks.kernels import build
    from tmu_jax import use_compilation_cache
    from tmu_jax.timing import Stopwatch

    use_compilation_cache()
    case = Case(**json.loads((folder / "case.json").read_text()))
    kernel = build(case, load_arrays(folder / "inputs.npz"))
    with recorded(PROGRAMS.get(case.kind, ())) as calls, Stopwatch() as watch:
        kernel.run(1)
    result = {
        "compile_seconds": watch.compile_seconds,
        "call_seconds": watch.compile_seconds + watch.seconds,
        "peak_bytes": most_held_bytes() if case.kind == "table" else peak_bytes(calls),
    }
    (folder / "result.json").write_text(json.dumps(result))
    return 0


Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


@contextlib.contextmanager
def recorded(programs: tuple[tuple[str, str], ...]) -> Iterator[list[Call]]:
    """Lists the calls of compiled functions, given by module and name, their arrays as shapes."""
    import jax

    calls: list[Call] = []

    def shape(value: Any) -> Any:
        if isinstance(value, jax.Array | np.ndarray):
            return jax.ShapeDtypeStruct(value.shape, value.dtype)
        return value

    def recording(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append((function, *jax.tree.map(shape, (args, kwargs))))
            return function(*args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for module_name, name in programs:
            module = importlib.import_module(module_name)
            if hasattr(module, name):
                stack.enter_context(mock.patch.object(module, name, recording(getattr(module, name))))
        yield calls


def peak_bytes(calls: list[Call]) -> int | None:
    """Arguments, outputs and temporaries of the largest of these programs, in bytes; None where it is not known.

    And what functions of our own, which programs call, hold beside them after these calls.
    """
    from tmu_jax.cpu import native

    sizes = []
    for function, args, kwargs in {repr(call): call for call in calls}.values():
        stats = function.lower(*args, **kwargs).compile().memory_analysis()  # type: ignore[attr-defined]
        if stats is not None:
            sizes.append(
                stats.argument_size_in_bytes
                + stats.output_size_in_bytes
                + stats.temp_size_in_bytes
                - stats.alias_size_in_bytes
            )
    return max(sizes) + native.scratch_bytes() if sizes else None


def most_held_bytes() -> int | None:
    """The most memory held so far: the device's where it keeps count, else, on Linux, this process's."""
    import jax

    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    # Not getrusage: its maximum outlives exec, so a fresh process would begin with its parent's.
    status = pathlib.Path("/proc/self/status")
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
    return int(fields["VmHWM"].split()[0]) * 1024 if "VmHWM" in fields else None


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
