"""The guide's examples run as written, one after another, on tiny files that lie where it says."""

import pathlib
import re
import sys
import types

import numpy as np
import PIL.Image
import pytest

from tests.data.pictures import encode, picture, write
from tests.data.test_tfds_builder import prepare

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "your-data.md"


class ImageFolder:
    """As torchvision's, with what the guide uses of it."""

    def __init__(self, folder):
        paths = sorted(pathlib.Path(folder).glob("*/*.png"))
        self.classes = sorted({path.parent.name for path in paths})
        self.samples = [(str(path), self.classes.index(path.parent.name)) for path in paths]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, row):
        path, label = self.samples[row]
        return PIL.Image.open(path).convert("RGB"), label


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [f"{part}/{name}" for part in ("train", "val") for name in ("ann/0002.png", "ann/0003.png", "bob/0001.png",
             "bob/0004.png")]  # fmt: skip
    write(tmp_path / "photos", {path: encode(picture(number)) for number, path in enumerate(paths)})
    table = [f"photos/{path},{path[-12:-9]},user-{n},{path.split('/')[0]}" for n, path in enumerate(paths)]
    write(tmp_path, {"photos.csv": "\n".join(["path,label,user,split", *table]).encode()})
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), np.uint8)
    labels = np.arange(50) % 2
    np.save("images.npy", images)
    np.save("labels.npy", labels)
    np.savez("photos.npz", x_train=images, y_train=labels, x_test=images[:4], y_test=labels[:4])
    prepare(tmp_path / "tensorflow_datasets", "tfrecord")
    torchvision = types.SimpleNamespace(datasets=types.SimpleNamespace(ImageFolder=ImageFolder))
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)


@pytest.mark.usefixtures("files")
def test_the_examples_run_as_written():
    scope: dict = {}
    found = []
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
        exec(block, scope)
        found.append((scope["rows"].tolist(), scope.get("data")))
    folder, table, arrays, npz, source, tfds, request = found
    assert (folder[0], table[0], arrays[0]) == ([0, 2], [3, 1], [7, 3])
    assert scope["found"].skipped == ()
    assert np.shares_memory(arrays[1].train_images, scope["images"])
    assert len(npz[1].train_labels) == 50
    assert source[1].rows_of(["bob/0001.png"]).tolist() == [2]
    assert source[1].train_images.shape == (4, 64, 64, 3)
    assert tfds[1] is request[1]
    assert scope["problem"].forget.indices.tolist() == [4, 2]
