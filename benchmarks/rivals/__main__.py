"""The rivals' process, in a Python environment of its own: `python -m benchmarks.rivals`.

It never imports JAX or `tmu_jax`. Requests come as one JSON object a line on the standard input, answers go as one a
line to the standard output; arrays travel in .npz files. The operations:

    {"op": "hello"}                                             -> {"versions": {...}}
    {"op": "probe"}                                             -> {"seconds": s}   of a small training step
    {"op": "prepare", "kind", "rival", "settings", "inputs"}    -> {}
    {"op": "check", "rival", "outputs"}                         -> {}               writes `outputs`
    {"op": "run", "rival", "count"}                             -> {"seconds", "processor_seconds"}
    {"op": "drop"}                                              -> {}               frees what was prepared

A request that fails is answered with {"error": "..."} and leaves the others as they are.
"""

import gc
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from benchmarks import cases
from benchmarks.arrays import load_arrays, save_arrays
from benchmarks.cases import THREADS

PACKAGES = ("torch", "torchattacks", "faiss-cpu", "scikit-learn", "torchunlearn", "numpy")

_BUILDERS = {
    "train": ("kernels", "Train"),
    "evaluation": ("kernels", "Evaluation"),
    "attack": ("kernels", "Attack"),
    "predictor": ("kernels", "Predictor"),
    "request": ("request", "Request"),
    "unlearning": ("unlearning", "Unlearning"),
    cases.FAISS: ("distances", "Faiss"),
    cases.SKLEARN: ("distances", "ScikitLearn"),
}
"""Module and class by rival, else by kind; imported when asked for."""


class Worker:
    """Answers requests; holds the rivals of the case at work."""

    def __init__(self) -> None:
        self._prepared: dict[str, Any] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "hello": self._hello, "probe": self._probe, "prepare": self._prepare, "check": self._check,
            "run": self._run, "drop": self._drop,
        }  # fmt: skip
        try:
            return operations[request["op"]](request)
        except Exception as error:
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}

    def _hello(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"versions": _versions()}

    def _probe(self, _: dict[str, Any]) -> dict[str, Any]:
        _set_torch_threads()
        return {"seconds": importlib.import_module("benchmarks.rivals.kernels").probe()}

    def _prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        kind, rival = request["kind"], request["rival"]
        module, name = _BUILDERS[rival if rival in _BUILDERS else kind]
        if module != "distances":
            _set_torch_threads()
        arrays = load_arrays(pathlib.Path(request["inputs"]))
        settings = {**request["settings"], "threads": THREADS}
        self._prepared[rival] = getattr(importlib.import_module(f"benchmarks.rivals.{module}"), name)(
            settings, arrays, rival
        )
        return {}

    def _check(self, request: dict[str, Any]) -> dict[str, Any]:
        save_arrays(pathlib.Path(request["outputs"]), self._prepared[request["rival"]].check())
        return {}

    def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        start = time.process_time()
        seconds = self._prepared[request["rival"]].run(request["count"])
        return {"seconds": seconds, "processor_seconds": time.process_time() - start}

    def _drop(self, _: dict[str, Any]) -> dict[str, Any]:
        self._prepared.clear()
        if "torch" in sys.modules:
            torch = importlib.import_module("torch")
            torch.compiler.reset()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        gc.collect()
        return {}


def _set_torch_threads() -> None:
    torch = importlib.import_module("torch")
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answers requests, a line each, until the end of the input."""
    worker = Worker()
    for line in requests:
        answers.write(json.dumps(worker.answer(json.loads(line))) + "\n")
        answers.flush()


def main() -> None:
    """Serves; what libraries print goes to the standard error, so that it cannot come between the answers."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
