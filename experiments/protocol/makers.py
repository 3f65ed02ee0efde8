"""Who made a stage: device, commit and versions of every process that had a part in it."""

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.report.files import write_whole
from tmu_jax.stages import Stage
from tmu_jax.text import parse_json

Maker = dict[str, str | None]
"""As `environment.made_by` gives it, or what of it differs."""
Makers = dict[str, dict[str, Any]]
"""By the names of stages, the `label` of each and `by`: its makers, the one that began it first."""

_UNKNOWN: Maker = {"git_revision": None}
_FILE = "makers.json"


def begun(folder: pathlib.Path, now: Maker) -> list[Maker]:
    """All who have been at work on a stage, kept beside the state of its trainings for whoever goes on with them.

    Args:
      folder: of that state.
      now: who begins, or goes on.

    Returns:
      `now`, last, after those who were at it before, where there is a state that one of them saved.
    """
    path, before = folder / _FILE, list[Maker]()
    if any(one.is_dir() for one in folder.glob("*")):
        try:
            before = [dict(maker) for maker in parse_json(path.read_text())]
        except (OSError, ValueError, TypeError):
            before = [_UNKNOWN]
    makers = [maker for maker in before if maker != now] + [now]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(makers))
    except OSError:  # A full disk must not end a training; who went on is unknown then, which is better than wrong.
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return makers


def held(stage: Stage, metadata: Mapping[str, Any]) -> Makers:
    """The makers of a stage on disk and of those that it was made from."""
    found: Makers = metadata.get("makers") or {stage.label: _UNKNOWN}
    if all("by" in made for made in found.values()):
        return found
    # Stages were named by their labels before, with one maker each.
    return {
        name if stage.parents else stage.name: {"label": name if stage.parents else stage.label, "by": [maker]}
        for name, maker in found.items()
    }


def elsewhere(makers: Makers, now: Maker) -> Makers:
    """What differs from `now` in those of the stages that others had a part in; of `now` itself nothing does."""
    found = {}
    for name, made in makers.items():
        by = [{key: value for key, value in maker.items() if now.get(key) != value} for maker in made["by"]]
        if any(by):
            found[name] = {"label": made["label"], "by": by}
    return found
