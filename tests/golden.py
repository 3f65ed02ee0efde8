"""Numbers of every kind of stage on a tiny problem: `python -m tests.golden` writes them anew to `tests/golden.json`.

It refuses where a kind's numbers have changed and no version has: raise `tmu_jax.stages.VERSIONS[kind]` (or the
method's `version`) first, so that what is kept on disk under the old code is not used for the new.
"""

import dataclasses
import json
import pathlib

import jax
import numpy as np

import tmu_jax
from tests.tiny import TinyNet, tiny_data
from tmu_jax.stages import VERSIONS, Stage, key_for
from tmu_jax.training import Recipe, TrainedModel
from tmu_jax.twin import TwinSettings, prediction_stage
from tmu_jax.unlearning import METHODS

PATH = pathlib.Path(__file__).with_name("golden.json")
RECIPE = Recipe(epochs=3, batch_size=20, learning_rate=0.02)


def stages() -> dict[str, Stage]:
    """A stage of every kind, by kind, parents first."""
    problem = tmu_jax.data.forget_subset(tiny_data(), target_classes=[0, 2], num_forget=8)
    key = jax.random.key(0)
    original = Stage(
        "training",
        "original model",
        lambda progress: tmu_jax.train(TinyNet(), problem.train, key=key_for(key, "original"), recipe=RECIPE),
        TrainedModel,
        VERSIONS["training"],
    )
    settings = TwinSettings(
        twin_recipe=dataclasses.replace(RECIPE, schedule="cosine"), enough_accuracy=0, eps_candidates=(2 / 255, 8 / 255)
    )
    prediction = prediction_stage(problem, original, key, settings)
    found = {stage.kind: stage for stage in prediction.with_ancestors()}
    for name, method in METHODS.items():
        if method.reference is None:
            found[name] = method.stage(problem, original, key, prediction if method.needs else None)
    return found


def versions(stage: Stage) -> dict[str, int]:
    """The versions that a stage's name holds, its ancestors' included."""
    return {one.kind: one.version for one in stage.with_ancestors()}


def numbers(value: object) -> list[float]:
    """A few numbers that change when anything of a value does: means and norms of its arrays."""
    if isinstance(value, TrainedModel):
        arrays = [*jax.tree.leaves(value.variables), *value.normalization, np.asarray(value.losses)]
    else:
        fields = value._asdict() if hasattr(value, "_asdict") else vars(value)
        arrays = [field for field in fields.values() if isinstance(field, np.ndarray)]
        arrays += [np.asarray(fields[name]) for name in ("eps", "success_shares") if name in fields]
    flat = [np.asarray(array, np.float64).ravel() for array in arrays]
    return [round(float(f(array)), 6) for array in flat if array.size for f in (np.mean, np.linalg.norm)]


def compute() -> dict[str, dict]:
    """What `golden.json` should hold: by kind, the versions behind its stage and its numbers."""
    values: dict[str, object] = {}
    for kind, stage in stages().items():
        parents = {argument: values[parent.kind] for argument, parent in stage.parents.items()}
        values[kind] = stage.make(**parents, progress=lambda done, total: None)
    return {kind: {"versions": versions(stage), "numbers": numbers(values[kind])} for kind, stage in stages().items()}


def agree(ours: list[float], theirs: list[float]) -> bool:
    """Whether numbers agree as two processors do."""
    return len(ours) == len(theirs) and bool(np.allclose(ours, theirs, rtol=5e-4, atol=1e-4))


def main() -> None:
    """Writes the numbers anew."""
    now = compute()
    for kind, before in json.loads(PATH.read_text()).items() if PATH.exists() else ():
        after = now.get(kind)
        if after and after["versions"] == before["versions"] and not agree(after["numbers"], before["numbers"]):
            raise SystemExit(f"the numbers of {kind!r} have changed and no version has; raise its version first")
    PATH.write_text("{\n" + ",\n".join(f'"{kind}": {json.dumps(entry)}' for kind, entry in now.items()) + "\n}\n")


if __name__ == "__main__":
    main()
