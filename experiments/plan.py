"""What a run is to do: its settings, its forget requests, and whether an output folder may hold it."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import tmu_jax
from tmu_jax import twin
from tmu_jax.data import Dataset, ForgetProblem
from tmu_jax.training import Recipe
from tmu_jax.unlearning import METHODS

FLOORS = "floors"
MAY_GROW = ("classes", "num_forget", "seeds", "methods")
"""Settings that may differ from those of an output folder: they add cells and alter none."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that determines a run's cells, with nothing left to choose.

    Attributes:
      experiment: the command's name.
      dataset: name of the data set.
      data_fingerprint: of its contents, after `num_train` was applied.
      preset: which preset set the defaults.
      arch: architecture.
      num_train: number of training images.
      recipe: how the original and the gold models are trained.
      requests: "each" (one request a class) or "combined" (one request over all classes).
      classes: classes to forget images of.
      num_forget: forgotten images of each class.
      seeds: one repetition each.
      methods: names in `METHODS`.
      heldout_source: "test" or "train".
      ratio: "dataset", "class" or "all".
      twin_settings: of the twin problem.
      compute: backend and version of the package; models made by two of them do not mix in one table.
    """

    experiment: str
    dataset: str
    data_fingerprint: str
    preset: str
    arch: str
    num_train: int
    recipe: Recipe
    requests: str
    classes: tuple[int, ...]
    num_forget: int
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    heldout_source: str = "test"
    ratio: str = "dataset"
    twin_settings: twin.TwinSettings = twin.DEFAULT_SETTINGS
    compute: str = dataclasses.field(default_factory=lambda: f"{jax.default_backend()}, tmu_jax {tmu_jax.__version__}")

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


@dataclasses.dataclass(frozen=True)
class Request:
    """One forget request of a run.

    Attributes:
      name: "class 3" or "all classes".
      seed: the repetition.
      problem: the request itself.
      shared_forget: int32, forgotten rows of every request that shares this one's curriculum model.
    """

    name: str
    seed: int
    problem: ForgetProblem
    shared_forget: np.ndarray


def check_methods(methods: Sequence[str]) -> None:
    """Raises ValueError for a name that is no method, or a repeated one."""
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ValueError(f"methods holds {unknown[0]!r}; choose from {' '.join(METHODS)}")
    if len(set(methods)) < len(methods):
        raise ValueError(f"methods={list(methods)} names one twice")
    if not methods:
        raise ValueError(f"methods is empty; choose from {' '.join(METHODS)}")
    if FLOORS in methods:
        raise ValueError(f"methods holds {FLOORS!r}, which names the floors; register the method under another name")


def make_requests(settings: Settings, data: Dataset) -> list[Request]:
    """All forget requests of a run, checked before any long work starts.

    Args:
      settings: of the run.
      data: its data set.

    Returns:
      The requests, seed by seed.

    Raises:
      ValueError: when a request cannot be made from this data.
    """
    for name in ("classes", "seeds"):
        values = getattr(settings, name)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name}={list(values)} must name at least one, each once")

    def subset(classes: Sequence[int], seed: int) -> ForgetProblem:
        return tmu_jax.data.forget_subset(
            data,
            target_classes=classes,
            num_forget=settings.num_forget,
            seed=seed,
            heldout_source=settings.heldout_source,
            ratio=settings.ratio,
        )

    requests = []
    for seed in settings.seeds:
        if settings.requests == "combined":
            problem = subset(settings.classes, seed)
            requests.append(Request("all classes", seed, problem, problem.forget.indices))
            continue
        # One curriculum model serves the requests of all classes, those that are added later included.
        every = np.concatenate(
            [tmu_jax.data.forget_rows(data, c, settings.num_forget, seed) for c in range(data.num_classes)]
        )
        requests += [Request(f"class {c}", seed, subset([c], seed), every) for c in settings.classes]
    return requests


def check_output(settings: Settings, output: pathlib.Path) -> None:
    """Refuses an output folder whose cells this run would alter.

    Args:
      settings: of the new run.
      output: its folder.

    Raises:
      ValueError: naming the fields that differ.
    """
    path = output / "config.json"
    if not path.exists():
        return
    before, now = _flat(json.loads(path.read_text()).get("settings", {})), _flat(settings.plain())
    may_grow = [name for name in MAY_GROW if not (name == "classes" and settings.requests == "combined")]
    differing = [name for name in now if name not in may_grow and before.get(name) != now[name]]
    if differing:
        changes = "; ".join(f"{name}: {_short(before.get(name))} there, now {_short(now[name])}" for name in differing)
        raise ValueError(f"output={output} holds another run ({changes}); choose another --output or those settings")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `outer.inner: value`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
