r"""The choices that the paper leaves open, each flipped alone against the default: which of them matter?

Run it as `python -m experiments.variants`. Every arm is `twin` with one setting changed (`OPEN`), on the same forgotten
images as the default; the report gives the differences in agreement and gap with their intervals. What the authors'
code does otherwise than their paper's text says is flipped alone, too, and all together (`AUTHORS`); each of these says
beforehand what it should do to Table 1, and the report shows that beside what came out.

Not yet run at full size (`python -m experiments.variants --preset paper`), nor on the synthetic images of today: on
earlier and easier ones `python -m experiments.variants --preset quick`, with the open choices alone, took 13 minutes on
two CPU cores. The authors' arms at a tenth of CIFAR-10, one seed, 14 minutes
(`results/variants-authors-cifar10-5000-small-resnet-cpu`):

    python -m experiments.variants --preset fast --arch small_resnet --num-train 5000 --requests combined \
        --num-forget 50 --flips authors

    without AF: agreement 65.2, gap 18.8; all together: 58.9 and 26.3 (default: 61.2 and 27.2; a second gold: 70.6, 1.4)
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

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
      forget_share: share of a class that is forgotten, of those of its images that are in D; 0: the run's number.
      expected: what it should do to Table 1, and why: written before it was measured, and not changed after. Empty for
        what was measured before anything was written.
    """

    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    twin_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    method: str = "twin"
    forget_share: float = 0.0
    expected: str = ""

    def applied(self, base: Settings, data: Dataset) -> Settings:
        """The settings of a run with the choice flipped."""
        twin_settings = dataclasses.replace(base.twin_settings, **self.twin_settings)
        changed = dataclasses.replace(base, twin_settings=twin_settings, **self.settings)
        if not self.forget_share:
            return changed
        # Classes may differ in size; a run forgets the same number of each.
        sizes = np.bincount(data.train_labels)
        in_training = sizes[sizes > 0].mean() * (1 - changed.tuned_share)
        return dataclasses.replace(changed, num_forget=max(1, round(self.forget_share * in_training)))


OPEN: dict[str, Flip] = {
    "held-out images kept out of training": Flip({"heldout_source": "train"}),
    "Eq. 3 over the class": Flip({"ratio": "class"}),
    "Eq. 3 dropped: all held-out images": Flip({"ratio": "all"}),
    "NF: bank of all classes": Flip(twin_settings={"bank": "all"}),
    "NF: embeddings not normalised": Flip(twin_settings={"normalize_embeddings": False}),
    "AF: adversarial output as target": Flip(twin_settings={"attack_order": "adversarial_target"}),
    "AF: eps fixed at 1/255": Flip(twin_settings={"eps_candidates": (1 / 255,)}),
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
"""What the paper leaves open."""

ALONE: dict[str, Flip] = {
    "unlearning from M_t": Flip(
        {"unlearning_start": "twin"},
        expected="Agreement and gap stay within a point: M_t and M_o are both right on nearly all of D_f, and the same "
        "wrong labels are taught. A_t rises by at most D_test's share of the test images, which M_t was trained on.",
    ),
    "predictor of NF and CF": Flip(
        twin_settings={"features": ("NF", "CF")},
        expected="Agreement and gap stay within a point: AF tells least of the three features, and 100 labels are few "
        "to weigh a third one by.",
    ),
    "CF: G_c on all of D, D_f included": Flip(
        twin_settings={"curriculum_data": "train", "curriculum_share": 1.0},
        expected="Agreement up by 1 to 2 points where the default's G_c has a fifth of D, for one that has learnt more "
        "tells more; about 0 where it has all of D already. That it saw D_f and not D_test lowers CF on D_f after two "
        "epochs a little, and scaling each problem by itself takes that out again.",
    ),
    "AF: eps fixed at 4/255": Flip(
        twin_settings={"eps_candidates": (4 / 255,)},
        expected="Agreement down by less than a point: at 4/255 nearly every attack succeeds, so AF tells easy from "
        "hard less well. The gap does not move.",
    ),
    "D is 75 %, M_t tuned on the rest": Flip(
        {"heldout_source": "test", "tuned_share": 0.25},
        expected="Agreement down by 1 to 3 points and the gap up: M_t never saw the images whose features the "
        "predictor learns from, while M_o was trained on D_f, so that NF and AF mean different things in the two "
        "problems. A_t of every model, gold's too, down by 1 to 3 points with a quarter less to train on.",
    ),
    "D_f is a tenth of the class": Flip(
        forget_share=0.1,
        expected="Agreement up by 1 to 2 points and the gap down, where that is more than the default's D_f: Eq. 3 "
        "gives the predictor as many more labels. Gold's A_f falls by up to a point with the tenth of its class.",
    ),
    "predictor trained 200 epochs": Flip(
        twin_settings={"predictor_epochs": 200},
        expected="More of D_f is predicted hard, so A_f falls; the gap with it, by less than 2 points, since the "
        "default keeps too many. Agreement stays within a point.",
    ),
    "noise on the fine-tuning's images": Flip(
        {"unlearning_noise": 0.05},
        expected="A_f up by 1 to 3 points and the gap with it: the wrong labels are learnt on other pixels than those "
        "that are tested. A_t down by up to 2 points, agreement within a point. It is there for membership, which "
        "Table 1 does not show.",
    ),
}
"""What the authors' code does otherwise than their text, each alone. How much noise is not known: 0.05 is ours."""

AUTHORS: dict[str, Flip] = ALONE | {
    "the authors' code": Flip(
        {name: value for flip in ALONE.values() for name, value in flip.settings.items()},
        {name: value for flip in ALONE.values() for name, value in flip.twin_settings.items()},
        forget_share=0.1,
        expected="Agreement within 2 points of the default's: more labels and a better G_c speak for it, features of "
        "images that M_t never saw against it. A_f nearer to the original's than to gold's, and the gap up, by the "
        "noise. A_t down by 2 to 4 points, most of it with the quarter of D.",
    ),
    "CF: G_c on D and D_test": Flip(
        twin_settings={"curriculum_data": "train_and_heldout", "curriculum_share": 1.0},
        expected="As with G_c on all of D, and up to half a point of agreement more, for it knows D_f and D_test "
        "alike. The images' own training lowers CF of both, most where it was large, so it cannot be much more.",
    ),
}
"""All of the authors' code; the last is how Section 4.3 of the paper may be read, with two parts to train G_c on."""

FLIPS = OPEN | AUTHORS
"""Those that equal the run's own default are left out."""


@dataclasses.dataclass(frozen=True)
class Options(RequestOptions, RunOptions, DataOptions):
    """Flip each choice that the paper leaves open, alone, and measure what it does to `twin`; the authors' code too.

    A preset only sets the defaults of the other options. Started again with the same --output, a run continues where
    it stopped; classes, seeds and sizes may be added.
    """

    flips: Literal["all", "open", "authors"] = "all"
    """open: what the paper leaves open. authors: what the authors' code does otherwise than the paper's text. A folder
    may be continued with others."""


def arms(settings: Settings, options: Any, data: Dataset) -> list[Settings]:
    """The default, and an arm for each flip that changes something."""
    base = dataclasses.replace(settings, methods=("original", "retrain", "twin"))
    found = [base]
    for name, flip in {"all": FLIPS, "open": OPEN, "authors": AUTHORS}[getattr(options, "flips", "all")].items():
        changed = flip.applied(base, data)
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
    body=partial(report_variants.body, expected={name: flip.expected for name, flip in FLIPS.items() if flip.expected}),
    source=cifar("cifar10"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return command.main(EXPERIMENT, Options, arguments)


if __name__ == "__main__":
    leave(main())
