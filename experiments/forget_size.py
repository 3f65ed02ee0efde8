"""Figure 3: from one image to the whole class, how good are the labels, and how near is the result to gold?

Run it as `python -m experiments.forget_size`. The paper claims that the twin method's advantage over bad teacher grows
with the size. It does not name its class; ours is the first (`--classes` takes others, or several).

Not yet run at full size (`python -m experiments.forget_size --preset paper`), nor on CIFAR-10. The small version ran
on synthetic images of an earlier and easier kind, where beside the original and the second gold models all took 3.5
minutes on two CPU cores (records in the history alone):

    python -m experiments.forget_size --preset quick --arch small_resnet --seeds 0

    twin at 50 images: gap 10.0 [2.0, 20.0], agreement 90.0 [80.0, 98.0], A_f 88.0 [78.0, 96.0], A_t 83.40
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal

import tmu_jax
from experiments.protocol import command
from experiments.protocol.experiment import Experiment, cifar
from experiments.protocol.options import FAST, PAPER, QUICK, DataOptions, MethodOptions, RunOptions
from experiments.protocol.requests import make_requests
from experiments.protocol.settings import Settings
from experiments.report import forget_size as report_forget_size
from tmu_jax.data import Dataset
from tmu_jax.resuming import leave

METHODS = ("original", "retrain", "bad_teacher", "twin")
QUICK_SIZES = ("1", "50", "all")
PAPER_SIZES = ("1", "100", "500", "1000", "2000", "4000", "all")


@dataclasses.dataclass(frozen=True)
class Options(MethodOptions, RunOptions, DataOptions):
    """Forget from one image to a whole class, and measure labels, gap and agreement of each size (Fig. 3).

    A preset only sets the defaults of the other options. Started again with the same --output, a run continues where
    it stopped; classes, seeds, methods and sizes may be added.
    """

    sizes: tuple[str, ...] | None = None
    """Forgotten images of the class, numbers or "all". Default: 1 50 all in quick, else 1 100 … 4000 all."""
    ratios: tuple[Literal["dataset", "class", "all"], ...] = ("dataset", "class", "all")
    """Sizes of D_test to compare: Eq. 3 over the data set, over the class, all test images. The first is for every
    method, the others for those that use D_test."""
    classes: tuple[str, ...] | None = None
    """Classes to forget images of, one request each. Default: the first."""
    methods: tuple[str, ...] = METHODS
    """Unlearning methods, by name."""


def arms(settings: Settings, options: Any, data: Dataset) -> list[Settings]:
    """An arm for each size and ratio; a ratio that a size does not admit is left out."""
    sizes = [_size(text) for text in options.sizes]
    if len(set(sizes)) < len(sizes) or not sizes or not options.ratios:
        raise ValueError(f"sizes={list(options.sizes)} and ratios={list(options.ratios)} must name each once")
    found = []
    for size in sizes:
        for ratio in options.ratios:
            first = ratio == options.ratios[0]
            # Without anything left of the class there is no twin problem, whose size a ratio would choose.
            methods = options.methods if first else tuple(m for m in options.methods if tmu_jax.METHODS[m].needs)
            if not methods or (size == "all" and not first):
                continue
            arm = dataclasses.replace(
                settings,
                variant=f"{size}, {ratio}",
                num_forget=size,
                ratio="dataset" if size == "all" else ratio,
                methods=methods,
                share_curriculum=False,
            )
            try:
                make_requests(arm, data)
            except ValueError:
                if first:
                    raise
                continue
            found.append(arm)
    return found


def _size(text: str) -> Any:
    if text == "all":
        return text
    if not re.fullmatch("[1-9][0-9]{,8}", text):
        raise ValueError(f"sizes holds {text!r}; a size is a number of images from 1 on, or all")
    return int(text)


def describe(settings: Settings, options: Any) -> list[str]:
    """Further differences from the paper's setting."""
    found = []
    if tuple(options.sizes) != PAPER_SIZES:
        found.append(f"sizes {', '.join(options.sizes)} instead of {', '.join(PAPER_SIZES)}")
    return found


EXPERIMENT = Experiment(
    name="forget_size",
    dataset="cifar10",
    title="CIFAR-10",
    num_train=50_000,
    presets={
        name: {key: value for key, value in preset.items() if key not in ("requests", "num_forget")} | {"sizes": sizes}
        for name, preset, sizes in (
            ("quick", QUICK, QUICK_SIZES),
            ("fast", FAST, PAPER_SIZES),
            ("paper", PAPER, PAPER_SIZES),
        )
    },
    num_classes=1,
    arms=arms,
    describe=describe,
    body=report_forget_size.body,
    source=cifar("cifar10"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return command.main(EXPERIMENT, Options, arguments)


if __name__ == "__main__":
    leave(main())
