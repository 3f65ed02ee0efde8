"""A user's own folder: images by class, a module that restores their model, and lists of ids."""

import pathlib
import sys

import jax
import numpy as np
from PIL import Image

import tmu_jax
from tests.preparation.made import RECIPE
from tests.tiny import TinyNet

NUM_TRAIN, NUM_TEST, CLASSES = 40, 30, ("ant", "bee", "cat")
SIZE = 8
GIVEN = ["--model", "users:restore", "--data", "train", "--test", "val", "--image-size", "8"]
FORGET = [*GIVEN, "--ledger", "deletions", "--heldout", "42"]


def make_images(folder: pathlib.Path) -> None:
    """`train/` and `val/`, noisy 8×8 pictures around one pattern a class: a model is wrong on some it never saw."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(60, 196, (len(CLASSES), SIZE, SIZE, 3))
    for part, count in (("train", NUM_TRAIN), ("val", NUM_TEST)):
        for label, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(patterns[label] + rng.normal(0, 220, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{part}-{label}-{i:02d}.png")


def make_user(folder: pathlib.Path) -> None:
    """All of it: the images, the trained model in `v1/`, `users.py` with `restore()`, and `asked.csv`."""
    make_images(folder)
    data = tmu_jax.data.from_image_folder(folder / "train", test_folder=folder / "val", image_size=8, progress=False)
    every = tmu_jax.data.Split(data.data.pool, np.arange(NUM_TRAIN * len(CLASSES), dtype=np.int32))
    tmu_jax.train(TinyNet(len(CLASSES)), every, key=jax.random.key(0), recipe=RECIPE).save(folder / "v1")
    (folder / "users.py").write_text(
        "import jax\n"
        "import tmu_jax\n"
        "from tests.tiny import TinyNet\n\n\n"
        "def restore():\n"
        f"    return tmu_jax.load('v1', TinyNet({len(CLASSES)}))\n\n\n"
        "def soft():\n"
        "    module, model = TinyNet(3), restore()\n"
        "    apply = lambda variables, images: jax.nn.softmax(module.apply(variables, images, train=False)[0])\n"
        "    return tmu_jax.wrap(apply, model.variables, normalization=model.normalization)\n\n\n"
        "def number():\n"
        "    return 5\n\n\n"
        "def broken():\n"
        "    raise RuntimeError('no checkpoint')\n"
    )
    names = [f"{name}/train-{label}-{i:02d}.png" for label, name in enumerate(CLASSES) for i in range(4)]
    (folder / "asked.csv").write_text("image_id,why\n" + "".join(f"{name},art. 17\n" for name in names))
    (folder / "later.txt").write_text("".join(f"train-{label}-{i:02d}.png\n" for label in range(3) for i in (10, 11)))


def enter(monkeypatch, folder: pathlib.Path) -> None:
    """The user's shell: what their modules leave behind in the process is taken away again."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "users", raising=False)
