"""The library's public boundary as calls that would work, of which one argument at a time is replaced.

No call trains: where work would begin, `BeganError` is raised in its place.
"""

import functools
import inspect
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import PIL.Image

import tmu_jax
from tests.tiny import TinyNet, tiny_data
from tmu_jax.data import Split
from tmu_jax.preparation import BankSettings, Prepared
from tmu_jax.training import Recipe

DATA = tiny_data()
KEY = jax.random.key(0)
LEFT_ALONE = ("progress", "download")
"""Arguments that are not replaced: bars, and a network."""


class BeganError(Exception):
    """The work would begin now: every check has passed."""


def begin(*args: Any, **kwargs: Any) -> None:
    """In place of what takes long."""
    raise BeganError


class Call(NamedTuple):
    """A function and arguments that it takes.

    Attributes:
      function: what is called.
      given: the arguments that it needs, by name.
      others: what an error may name in the place of an argument, by the argument's name.
    """

    function: Callable[..., Any]
    given: Mapping[str, Any]
    others: Mapping[str, tuple[str, ...]] = {}

    def arguments(self) -> list[str]:
        """The names of those that can be replaced."""
        parameters = inspect.signature(self.function).parameters.values()
        return [p.name for p in parameters if p.kind != p.VAR_KEYWORD and p.name not in LEFT_ALONE]


def make_files(folder: pathlib.Path) -> None:
    """A folder of images of two classes, a table of them, an archive, a saved model, and a ledger with a request."""
    for name in ("ant", "bee"):
        for part in ("train", "val"):
            (folder / part / name).mkdir(parents=True)
            for i in range(2):
                PIL.Image.new("RGB", (8, 8), (90 * len(part), i, 0)).save(folder / part / name / f"{i}.png")
    lines = [
        f"train/{name}/{i}.png,{name},{part}" for name in ("ant", "bee") for i, part in ((0, "train"), (1, "test"))
    ]
    (folder / "table.csv").write_text("\n".join(["path,label,part", *lines]))
    arrays = {"x_train": DATA.train_images, "y_train": DATA.train_labels}
    np.savez(folder / "arrays.npz", **arrays, x_test=DATA.test_images, y_test=DATA.test_labels)
    model().save(folder / "model", "msgpack")
    tmu_jax.save_prepared(prepared(), folder / "prepared")
    tmu_jax.Ledger(folder / "ledger").request(DATA, ["7"])


@functools.cache
def model() -> tmu_jax.TrainedModel:
    """Nothing that was trained."""
    module = TinyNet()
    variables = module.init(KEY, np.zeros((1, 4, 4, 3), np.float32))
    return tmu_jax.wrap(module, variables, recipe=Recipe(epochs=2, batch_size=20))


@functools.cache
def prepared() -> Prepared:
    """Of that model, as if it had been prepared without a bank."""
    first, others = (np.arange(*ends, dtype=np.int32) for ends in ((0, 80), (80, len(DATA.pool))))
    sets = {"train": first, "heldout": others[:20], "test": others}
    splits = {name: Split(DATA.pool, rows) for name, rows in sets.items()}
    return Prepared(model(), model(), model(), **splits, bank=None, bank_settings=BankSettings(0), key=KEY)


@functools.cache
def problem() -> tmu_jax.data.ForgetProblem:
    """Two images of each of two classes."""
    return tmu_jax.data.forget_indices(DATA, [0, 4, 1, 5])


def calls(folder: pathlib.Path) -> dict[str, Call]:
    """By name, with the files of `make_files`."""
    data, asked, wrapped = tmu_jax.data, problem(), model()
    of_labels = {"class_names": ("labels",), "image_size": ("images",), "channels": ("images",)}
    arrays = {
        f"{split}_{what}": getattr(DATA, f"{split}_{what}")
        for split in ("train", "test")
        for what in ("images", "labels")
    }
    either = {name: (name, name.replace("train", "test"), name.split("_")[1]) for name in arrays}
    table = {"csv": folder / "table.csv", "image_column": "path", "label_column": "label", "split_column": "part"}
    of_table = {**of_labels, "image_folder": ("files",), "csv": ("table",), "test_csv": ("test_share", "table")}
    of_table |= {"test_share": ("split_column",), "delimiter": ("column",), "encoding": ("column",)}
    source = list(zip(DATA.train_images, DATA.train_labels.tolist(), strict=True))[:8]
    pairs, of_pairs = {"train": source, "test": source, "progress": False}, {**of_labels, "train": ("test",)}
    of_pairs |= {"test": ("train",), "ids": ("id",)}
    of_files = {"paths": ("image 0",)}
    of_folder = {"test_folder": ("test folder",)}
    small = {"image_size": 8, "progress": False}
    ledger = tmu_jax.Ledger(folder / "ledger")
    of_request = {"request": ("indices", "problem")}
    return {
        "from_arrays": Call(data.from_arrays, arrays, {**of_labels, **either}),
        "from_csv": Call(data.from_csv, {**table, **small}, of_table),
        "from_image_folder": Call(data.from_image_folder, {"folder": folder, **small}, of_folder),
        "from_npz": Call(data.from_npz, {"path": folder / "arrays.npz"}, of_labels),
        "from_source": Call(data.from_source, pairs, of_pairs),
        "subset": Call(data.subset, {"data": DATA, "num_train": 20}),
        "on_demand": Call(data.on_demand, {"source": DATA.train_images}),
        "image_files": Call(data.image_files, {"paths": [folder / "train/ant/0.png"], "image_size": 8}, of_files),
        "forget_subset": Call(data.forget_subset, {"data": DATA, "target_classes": [1], "num_forget": 3}),
        "forget_rows": Call(data.forget_rows, {"data": DATA, "target_class": 1, "num_forget": 3}),
        "forget_indices": Call(data.forget_indices, {"data": DATA, "indices": [0, 4]}),
        "rows_of": Call(DATA.rows_of, {"ids": ["5"]}),
        "locate": Call(data.locate, {"name": "cifar10"}),
        "recipe": Call(Recipe, {}),
        "twin_settings": Call(tmu_jax.TwinSettings, {}),
        "bank_settings": Call(BankSettings, {}),
        "wrap": Call(tmu_jax.wrap, {"module_or_apply": TinyNet(), "variables": wrapped.unwrap()}),
        "train": Call(tmu_jax.train, {"model": TinyNet(), "data": asked.train, "key": KEY}),
        "unlearn": Call(tmu_jax.unlearn, {"method": "twin", "problem": asked, "original": wrapped, "key": KEY}),
        "prepare": Call(tmu_jax.prepare, {"model": wrapped, "data": DATA, "key": KEY}),
        "forget": Call(tmu_jax.forget, {"prepared": prepared(), "request": [0, 5], "budget": 0.5}, of_request),
        "rehearse": Call(tmu_jax.rehearse, {"prepared": prepared(), "method": "rewarm"}),
        "tune": Call(tmu_jax.tune, {"prepared": prepared(), "method": "finetune"}),
        "tuned": Call(tmu_jax.tuned, {"method": "finetune"}),
        "load_prepared": Call(
            tmu_jax.load_prepared, {"folder": folder / "prepared", "data": DATA, "module": model().module}
        ),
        "evaluate": Call(tmu_jax.evaluate, {"problem": asked, "model": wrapped, "gold": wrapped}),
        "audit": Call(tmu_jax.audit, {"problem": asked, "result": wrapped, "original": wrapped}),
        "look": Call(tmu_jax.look, {"problem": asked, "prepared_or_model": wrapped}),
        "find_copies": Call(tmu_jax.find_copies, {"problem": asked}),
        "check": Call(tmu_jax.check, {"model": wrapped, "data": DATA}),
        "predict": Call(tmu_jax.predict, {"model": wrapped, "data": asked.forget}),
        "load": Call(tmu_jax.load, {"folder": folder / "model", "module": wrapped}),
        "ledger": Call(tmu_jax.Ledger, {"folder": folder / "ledger"}),
        "request": Call(ledger.request, {"data": DATA, "ids": ["3"], "dry_run": True}),
        "verify": Call(tmu_jax.verify, {"evidence_path": folder / "table.csv"}),
    }
