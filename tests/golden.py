"""Numbers of every kind of stage on tiny problems: `python -m tests.golden` writes them anew to `tests/golden.json`.

Beside one stage of each kind, by its kind: the twin problem with every choice other than the default, a training of
convolutions with flips and crops in one cycle, and each architecture run once.

It refuses where numbers have changed and no version has: raise `tmu_jax.stages.VERSIONS[kind]` (or the method's
`version`) first, so that what is kept on disk under the old code is not used for the new.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import tmu_jax
from tests.models.test_models import random_variables
from tests.tiny import TinyNet, tiny_data
from tmu_jax.data import Split
from tmu_jax.models import AllCNN, ResNet, ViT
from tmu_jax.preparation import BankSettings, Rehearsal
from tmu_jax.preparation.building import prediction_from_bank, preparation_stage
from tmu_jax.preparation.datamodels import datamodels_stage
from tmu_jax.preparation.foretelling import InRequest
from tmu_jax.preparation.rehearsal import foretelling_stage, rehearsal_stage
from tmu_jax.stages import VERSIONS, Progress, Stage, key_for
from tmu_jax.training import Recipe, TrainedModel, apply, predict
from tmu_jax.twin import TwinSettings, prediction_stage
from tmu_jax.unlearning import METHODS

PATH = pathlib.Path(__file__).with_name("golden.json")
RECIPE = Recipe(epochs=3, batch_size=20, learning_rate=0.02)
SETTINGS = TwinSettings(
    twin_recipe=dataclasses.replace(RECIPE, schedule="cosine"), enough_accuracy=0, eps_candidates=(2 / 255, 8 / 255)
)
OTHER_CHOICES = dataclasses.replace(
    SETTINGS,
    twin_replay=0.5,
    curriculum="first_epoch",
    curriculum_data="train",
    num_neighbors=3,
    bank="all",
    normalize_embeddings=False,
    attack_steps=3,
    attack_order="adversarial_target",
    features=("CF", "AF", "NF"),
    scaling="per_problem",
    threshold="count",
)
"""Every choice of the twin problem other than `SETTINGS` has it, and some of the numbers."""
ONE_CYCLE = Recipe(epochs=5, batch_size=12, learning_rate=0.05, schedule="onecycle", augment=True)
NETWORKS: dict[str, nn.Module] = {
    "small_resnet": tmu_jax.models.create("small_resnet", 3, jnp.float32),
    "resnet18": ResNet(3, stem_width=8, widths=(8, 8, 16, 16)),
    "allcnn": AllCNN(3),
    "vit": ViT(3, depth=1, width=24, num_heads=2, mlp_width=32),
}
"""Narrow or shallow where they can be."""


class Outcome(NamedTuple):
    """What a network gives, with the loss of each step of its training or the statistics of its batch."""

    logits: np.ndarray
    embeddings: np.ndarray
    others: np.ndarray


def stages() -> dict[str, Stage]:
    """Stages by what they are, parents first: one of every kind by its kind, then those of other choices."""
    problem = tmu_jax.data.forget_subset(tiny_data(), target_classes=[0, 2], num_forget=8)
    key = jax.random.key(0)

    original = Stage(
        "training",
        "original model",
        lambda progress: tmu_jax.train(TinyNet(), problem.train, key=key_for(key, "original"), recipe=RECIPE),
        TrainedModel,
        VERSIONS["training"],
    )
    keeping = dataclasses.replace(
        original,
        make=lambda progress: tmu_jax.train(
            TinyNet(),
            problem.train,
            key=key_for(key, "original"),
            recipe=RECIPE,
            updates_of=problem.forget.indices,
        ),
    )
    prediction = prediction_stage(problem, original, key, SETTINGS)
    found = {stage.kind: stage for stage in prediction.with_ancestors()}
    heldout = Split(problem.pool, problem.heldout.indices)
    of_bank = (original, RECIPE, problem.train, heldout, problem.test, "data", key, BankSettings())
    from_bank = prediction_from_bank(preparation_stage(*of_bank, with_twin=False), problem)
    found |= {stage.kind: stage for stage in from_bank.with_ancestors() if stage.is_kept}
    prepared = preparation_stage(*of_bank, twin_epochs_share=0.5)
    found["rehearsal"] = rehearsal_stage(prepared, METHODS["rewarm_twin"], 8, repeats=2)
    found["foretelling"] = learnt = foretelling_stage(
        prepared, rehearsal_stage(prepared, METHODS["rewarm_rehearsed"], 8)
    )
    datamodels = datamodels_stage(preparation_stage(*of_bank, with_twin=False))
    from_scratch = preparation_stage(*of_bank)
    found["rehearsal, twin model from scratch"] = rehearsal_stage(from_scratch, METHODS["rewarm_twin"], 8)
    # So few images are known otherwise by every training.
    known = dataclasses.replace(
        from_scratch,
        make=lambda **made: dataclasses.replace(from_scratch.make(**made), know_alike=True).calibrated(),
    )
    found["bank_prediction, of what is known"] = prediction_from_bank(known, problem)
    for name, method in METHODS.items():
        if method.reference is None:
            labels = {
                "prediction": prediction,
                "bank": from_bank,
                "rehearsal": learnt,
                "datamodels": datamodels,
                None: None,
            }[method.needs]
            # At their rates Adam goes far along rounding noise: the gradient of a bias before batch norm.
            if name in ("unsir", "datamodel_matching"):
                method = method.configured(dataclasses.replace(RECIPE, epochs=1))
            found[name] = method.stage(problem, keeping if method.needs_updates else original, key, labels)
    one_cycle = dataclasses.replace(RECIPE, schedule="onecycle")
    cycled = dataclasses.replace(
        original,
        make=lambda original, progress: dataclasses.replace(original, recipe=one_cycle),
        parents={"original": original},
    )
    of_cycled = prediction_stage(problem, cycled, key, SETTINGS).with_ancestors()
    found["curriculum, one cycle"] = next(stage for stage in of_cycled if stage.kind == "curriculum")
    of_both = dataclasses.replace(SETTINGS, curriculum_data="train_and_heldout", predictor_epochs=150)
    last = prediction_stage(problem, original, key, of_both)
    changed = [one for one in last.with_ancestors() if one.kind in ("curriculum", "prediction")]
    found |= {f"{one.kind}, G_c on D and D_test": one for one in changed}
    from_twin = dataclasses.replace(METHODS["twin"], start="twin", image_noise=0.05)
    found["twin, noisy, from the twin model"] = from_twin.stage(problem, original, key, prediction)
    of_others = prediction_stage(problem, original, key, OTHER_CHOICES).with_ancestors()
    found |= {f"{stage.kind}, other choices": stage for stage in of_others if stage is not original}
    runs = {name: functools.partial(run_network, module) for name, module in NETWORKS.items()}
    for name, make in ({"augmented, one cycle": train_network} | runs).items():
        found[f"training, {name}"] = Stage("training", "network", make, Outcome, VERSIONS["training"])
    return found


def train_network(progress: Progress) -> Outcome:
    """A residual network of one block after five steps on one batch, augmented in each, in one cycle."""
    images, labels = images_of_noise(12), np.arange(12, dtype=np.int32) % 3
    pool = tmu_jax.data.from_arrays(images, labels, images, labels).pool
    split, module = Split(pool, np.arange(12, dtype=np.int32)), ResNet(3, 8, widths=(8,), blocks=(1,), strides=(2,))
    model = tmu_jax.train(module, split, key=jax.random.key(1), recipe=ONE_CYCLE)
    return Outcome(*predict(model, split), np.asarray(model.losses))


def run_network(module: nn.Module, progress: Progress) -> Outcome:
    """A network with variables of noise, in train mode on four images; to initialise it takes longer to compile."""
    images = jnp.asarray(images_of_noise(4) / np.float32(255))
    variables = random_variables(module, images)
    (logits, embeddings), updates = jax.jit(lambda variables: apply(module, variables, images, train=True))(variables)
    statistics = [np.ravel(leaf) for leaf in jax.tree.leaves(updates)]
    return Outcome(np.asarray(logits), np.asarray(embeddings), np.concatenate([*statistics, np.zeros(1)]))


def images_of_noise(count: int) -> np.ndarray:
    """uint8[count, 16, 16, 3]."""
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)


def versions(stage: Stage) -> dict[str, int]:
    """The versions that a stage's name holds, its ancestors' included."""
    return {one.kind: one.version for one in stage.with_ancestors()}


def arrays_of(value: object) -> list[np.ndarray]:
    """The arrays of a value, flat, in float64."""
    if isinstance(value, TrainedModel):
        arrays = [*jax.tree.leaves(value.variables), *value.normalization, np.asarray(value.losses)]
    elif isinstance(value, InRequest):
        arrays = [*value.calibration.heldout, np.asarray([value.calibration.rest, value.calibration.sharpening])]
    elif isinstance(value, Rehearsal):
        figures = (value.forget_accuracy, value.gap, value.agreement, value.distance, value.test_loss)
        arrays = [np.asarray(figure) for figure in (*figures, (value.gold_accuracy, value.share))]
    else:
        fields = value._asdict() if hasattr(value, "_asdict") else vars(value)
        arrays = [field for field in fields.values() if isinstance(field, np.ndarray)]
        arrays += [np.asarray(fields[name]) for name in ("eps", "success_shares") if name in fields]
    return [np.asarray(array, np.float64).ravel() for array in arrays]


def numbers(value: object) -> list[float]:
    """A few numbers that change when anything of a value does: means and norms of its arrays."""
    arrays = [array for array in arrays_of(value) if array.size]
    return [round(float(f(array)), 6) for array in arrays for f in (np.mean, np.linalg.norm)]


def values_of(found: dict[str, Stage]) -> dict[str, Any]:
    """What stages give, each computed once."""
    values: dict[int, object] = {}
    for one in [one for stage in found.values() for one in stage.with_ancestors()]:
        if id(one) not in values:
            parents = {argument: values[id(parent)] for argument, parent in one.parents.items()}
            values[id(one)] = one.make(**parents, progress=lambda done, total: None)
    return {what: values[id(stage)] for what, stage in found.items()}


def compute() -> dict[str, dict]:
    """What `golden.json` should hold: by what it is, the versions behind a stage and its numbers."""
    found = stages()
    return {
        what: {"versions": versions(found[what]), "numbers": numbers(value)} for what, value in values_of(found).items()
    }


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
