"""The choices that the paper leaves open, each flipped alone against the default: which of them matter?

Run it as `python -m experiments.variants`. Every arm is `twin` with one setting changed (`FLIPS`), on the same
forgotten images as the default; the report gives the differences in agreement and gap with their intervals.

Not yet run at full size (`python -m experiments.variants --preset paper`), nor on the synthetic images of today: on
earlier and easier ones `python -m experiments.variants --preset quick` took 13 minutes on two CPU cores.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.protocol import command
from experiments.protocol.experiment import Experiment, cifar
from experiments.protocol.options import PRESETS, DataOptions, RequestOptions, RunOptions
from experiments.protocol.settings import Settings
from experiments.report import variants as report_variants
from tmu_jax.data import Dataset
from tmu_jax.resuming import leave


@dataclasses.dataclass(frozen=True)
class Flip:
    """One choice, flipped.

    Attributes:
      settings: fields of `Settings` that change.
      twin_settings: fields of `TwinSettings` that change.
      method: the method, where that is what changes.
    """

    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    twin_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    method: str = "twin"


FLIPS: dict[str, Flip] = {
    "held-out images kept out of training": Flip({"heldout_source": "train"}),
    "Eq. 3 over the class": Flip({"ratio": "class"}),
    "Eq. 3 dropped: all held-out images": Flip({"ratio": "all"}),
    "NF: bank of all classes": Flip(twin_settings={"bank": "all"}),
    "NF: embeddings not normalised": Flip(twin_settings={"normalize_embeddings": False}),
    "AF: adversarial output as target": Flip(twin_settings={"attack_order": "adversarial_target"}),
    "AF: eps fixed at 1/255": Flip(twin_settings={"eps_candidates": (1 / 255,)}),
    "AF: eps fixed at 4/255": Flip(twin_settings={"eps_candidates": (4 / 255,)}),
    "CF: G_c on 20 % of D": Flip(twin_settings={"curriculum_share": 0.2}),
    "CF: G_c on all of D": Flip(twin_settings={"curriculum_share": 1.0}),
    "CF: loss of the first fine-tuning epoch": Flip(twin_settings={"curriculum": "first_epoch"}),
    "scaling by the twin problem alone": Flip(twin_settings={"scaling": "twin"}),
    "scaling by each problem": Flip(twin_settings={"scaling": "per_problem"}),
    "predictor in batches of 128": Flip(twin_settings={"predictor_batch_size": 128}),
    "threshold by count": Flip(twin_settings={"threshold": "count"}),
    "threshold at 0.5": Flip(twin_settings={"threshold": "half"}),
    "negative gradient on the hard": Flip(method="twin_negative_gradient"),
    "twin model on a fifth of D": Flip(twin_settings={"twin_replay": 0.2}),
    "unlearning at a constant rate": Flip({"unlearning_schedule": "constant"}),
}
"""Those that equal the run's own default are left out."""


@dataclasses.dataclass(frozen=True)
class Options(RequestOptions, RunOptions, DataOptions):
    """Flip each choice that the paper leaves open, alone, and measure what it does to `twin`.

    A preset only sets the defaults of the other options. Started again with the same --output, a run continues where
    it stopped; classes, seeds and sizes may be added.
    """


def arms(settings: Settings, options: Any, data: Dataset) -> list[Settings]:
    """The default, and an arm for each flip that changes something."""
    base = dataclasses.replace(settings, methods=("original", "retrain", "twin"))
    found = [base]
    for name, flip in FLIPS.items():
        twin_settings = dataclasses.replace(base.twin_settings, **flip.twin_settings)
        changed = dataclasses.replace(base, twin_settings=twin_settings, **flip.settings)
        if changed != base or flip.method != "twin":
            found.append(dataclasses.replace(changed, variant=name, methods=(flip.method,)))
    return found


EXPERIMENT = Experiment(
    name="variants",
    dataset="cifar10",
    title="CIFAR-10",
    num_train=50_000,
    presets=PRESETS,
    arms=arms,
    body=report_variants.body,
    source=cifar("cifar10"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return command.main(EXPERIMENT, Options, arguments)


if __name__ == "__main__":
    leave(main())
