"""Finding, downloading and loading the data sets by name.

CIFAR is looked for in these places, without any network; the first that has it serves. In each, the folder of official
files comes first, then the official archive, then a folder prepared by TensorFlow Datasets:

* `data_dir` when given, and nowhere else (it may itself be the folder of official files, or the archive);
* otherwise the folder that the environment variable TMU_JAX_DATA names, `./data`, `~/data`, the cache folder where
  `download=True` puts the archive, the folder that TFDS_DATA_DIR names, and `~/tensorflow_datasets`.
"""

import os
import pathlib
from typing import Literal, NamedTuple, get_args

from tmu_jax.boundary import checked
from tmu_jax.data import cifar, synthetic, tfds_folder
from tmu_jax.data.types import Dataset

DatasetName = Literal["cifar10", "cifar100", "synthetic"]
NAMES: tuple[str, ...] = get_args(DatasetName)
URLS = {name: f"https://www.cs.toronto.edu/~kriz/{files.archive}" for name, files in cifar.FILES.items()}


class Location(NamedTuple):
    """Where a data set would be read from.

    Attributes:
        kind: "folder" or "archive" of official files, "tfds", or "generated".
        path: the folder or file; None for generated data.
    """

    kind: str
    path: pathlib.Path | None

    def __str__(self) -> str:
        return self.kind if self.path is None else f"{self.kind} {self.path}"


@checked
def load(
    name: DatasetName, data_dir: str | os.PathLike[str] | None = None, download: bool = False, seed: int = 0
) -> Dataset:
    """Loads a data set by name.

    Args:
        name: "cifar10", "cifar100" (with its 100 fine labels) or "synthetic".
        data_dir: where to look for CIFAR, and where to put a download; without it the places listed in this module.
        download: get the official archive (about 170 MB, its MD5 checked) when CIFAR is found nowhere.
        seed: seed of the synthetic images; CIFAR has none.

    Returns:
        The data set. All sources of CIFAR give the same arrays, in the official order.

    Raises:
        FileNotFoundError: CIFAR is found nowhere; the message says how to provide it.
        ConnectionError: the download failed.
        ValueError: an unknown name, or a file that is not the official one.
        pickle.UnpicklingError: a file that names anything but NumPy arrays.
    """
    location = locate(name, data_dir)
    if location is None and download:
        location = Location("archive", _download(name, data_dir))
    if location is None:
        raise FileNotFoundError(_how_to_provide(name, data_dir))
    if location.path is None:
        return synthetic.generate(seed=seed)
    readers = {"folder": cifar.read_folder, "archive": cifar.read_archive, "tfds": tfds_folder.read_prepared}
    return readers[location.kind](name, location.path)


@checked
def locate(name: DatasetName, data_dir: str | os.PathLike[str] | None = None) -> Location | None:
    """Says where `load` would read a data set from, by the names of files alone: nothing is opened or downloaded.

    Args:
        name: "cifar10", "cifar100" or "synthetic".
        data_dir: as in `load`.

    Returns:
        The place, or None where there is none.

    Raises:
        ValueError: an unknown name.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {NAMES}, got {name!r}")
    if name == "synthetic":
        return Location("generated", None)
    for place in places(data_dir):
        found = _official(cifar.FILES[name], place)
        if found is None and (version_dir := tfds_folder.find_version(name, place)):
            found = Location("tfds", version_dir)
        if found is not None:
            return found
    return None


def places(data_dir: str | os.PathLike[str] | None) -> list[pathlib.Path]:
    """The folders that are looked through, best first: `data_dir` alone where it is given."""
    if data_dir is not None:
        return [pathlib.Path(data_dir).expanduser()]
    usual = [
        os.environ.get("TMU_JAX_DATA"),
        "data",
        "~/data",
        _cache_dir(),
        os.environ.get("TFDS_DATA_DIR"),
        "~/tensorflow_datasets",
    ]
    return [pathlib.Path(place).expanduser() for place in usual if place]


def _official(files: cifar.Files, place: pathlib.Path) -> Location | None:
    for folder in (place, place / files.folder):
        if (folder / files.train[0]).is_file() and (folder / files.meta).is_file():
            return Location("folder", folder)
    for archive in (place, place / files.archive):
        if archive.name == files.archive and archive.is_file():
            return Location("archive", archive)
    return None


def _cache_dir() -> pathlib.Path:
    import pooch

    return pathlib.Path(pooch.os_cache("tmu_jax"))


def _download(name: str, data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Gets the official archive with a progress bar; a file with another MD5 is not kept."""
    import pooch

    files = cifar.FILES[name]
    folder = _cache_dir() if data_dir is None else pathlib.Path(data_dir).expanduser()
    try:
        archive = pooch.retrieve(
            URLS[name], known_hash=f"md5:{cifar.MD5[files.archive]}", fname=files.archive, path=folder, progressbar=True
        )
    except OSError as error:
        raise ConnectionError(
            f"could not download {URLS[name]} ({error}); get it by other means and pass its place as data_dir"
        ) from error
    return pathlib.Path(archive)


def _how_to_provide(name: str, data_dir: str | os.PathLike[str] | None) -> str:
    files = cifar.FILES[name]
    searched = places(data_dir)
    if data_dir is None:
        found = f"{files.title} was not found in any of {', '.join(map(str, searched))}"
    elif not searched[0].exists():
        found = f"data_dir={str(data_dir)!r} does not exist"
    else:
        found = f"data_dir={str(data_dir)!r} holds no {files.title}"
    return (
        f"{found}. Provide it in one of three ways: (1) put the official folder {files.folder} or archive "
        f"{files.archive} there, or pass its place as data_dir; (2) pass a TensorFlow Datasets folder with a "
        f"prepared {name}; (3) pass download=True to get {URLS[name]}"
    )
