"""The experiment on faces that the paper names and whose table is lost: 10 of 100 VGGFace2 identities, one by one.

Run it as `python -m experiments.vggface2 --data-dir FOLDER`, where FOLDER holds one folder of images for each identity
(`n000001/0001_01.jpg`, …) or a prepared TFDS `vgg_face2`. VGGFace2 has no open download; without it, the embedded
synthetic set stands in. Bad files are named and left out, or refused with `--bad-files refuse`.

Not yet run at full size (`python -m experiments.vggface2 --preset paper --data-dir FOLDER`), nor on real faces.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Literal

import tmu_jax
from experiments.protocol import command
from experiments.protocol.experiment import Experiment, Source
from experiments.protocol.options import FAST, PAPER, QUICK, MethodOptions, RequestOptions, RunOptions
from experiments.protocol.settings import Settings
from tmu_jax.data import Dataset
from tmu_jax.resuming import leave

NUM_FORGOTTEN = 10


@dataclasses.dataclass(frozen=True)
class FaceOptions:
    """Where the faces come from."""

    dataset: Literal["auto", "vgg_face2", "synthetic"] = "auto"
    """Images: auto takes VGGFace2 where it is found on this machine, else the embedded synthetic set."""
    data_dir: pathlib.Path | None = None
    """Folder of identity folders, or one with a prepared TFDS vgg_face2. Default: vgg_face2 in the usual places."""
    num_identities: int = 100
    """Identities to take: those with the most images."""
    image_size: int = 64
    """Height and width that the central square of every image is resized to."""
    test_share: float = 0.2
    """Share of each identity's images that are kept for testing."""
    bad_files: Literal["skip", "refuse"] = "skip"
    """Damaged images and empty identities: skip names them and goes on, refuse stops before any training."""


@dataclasses.dataclass(frozen=True)
class Options(MethodOptions, RequestOptions, RunOptions, FaceOptions):
    """Forget images of VGGFace2 identities and measure how well each method agrees with retraining.

    A preset only sets the defaults of the other options. Started again with the same --output, a run continues where
    it stopped; classes, seeds, methods and sizes may be added.
    """

    augment: bool | None = None
    """Random flips and crops in every training. Default: False in quick, else True."""
    classes: tuple[str, ...] | None = None
    """Identities to forget images of, by number or by name. Default: the first 10 by name."""


def load(options: Options) -> tuple[Dataset, list[str]]:
    """The faces, and what was left out of them."""
    place = tmu_jax.data.locate_faces(options.data_dir)
    if place is None:
        where = "in the usual places" if options.data_dir is None else f"at data_dir={options.data_dir}"
        raise FileNotFoundError(f"no VGGFace2 {where}; it has no open download: give the folder of its identities")
    found = tmu_jax.data.load_faces(
        place,
        image_size=options.image_size,
        num_classes=options.num_identities,
        test_share=options.test_share,
        bad_files=options.bad_files,
    )
    return found.data, list(found.skipped)


def describe(settings: Settings, options: Options) -> list[str]:
    """Further differences from the paper's setting."""
    if settings.dataset != EXPERIMENT.dataset:
        return []
    found = []
    if options.num_identities != FaceOptions.num_identities:
        found.append(f"{options.num_identities} identities instead of {FaceOptions.num_identities}")
    if options.image_size != FaceOptions.image_size:
        found.append(f"images of {options.image_size} pixels instead of {FaceOptions.image_size}")
    if len(settings.classes) != NUM_FORGOTTEN:
        found.append(f"{len(settings.classes)} identities forgotten instead of {NUM_FORGOTTEN}")
    return found


EXPERIMENT = Experiment(
    name="vggface2",
    dataset="vgg_face2",
    title="VGGFace2",
    num_train=None,
    presets={"quick": QUICK, "fast": FAST | {"augment": True}, "paper": PAPER | {"augment": True}},
    num_classes=NUM_FORGOTTEN,
    source=Source(load, lambda options: tmu_jax.data.locate_faces(options.data_dir)),
    provide="--data-dir FOLDER, or --dataset synthetic",
    describe=describe,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return command.main(EXPERIMENT, Options, arguments)


if __name__ == "__main__":
    leave(main())
