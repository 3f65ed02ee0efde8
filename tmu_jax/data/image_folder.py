"""Images in one folder for each class, such as the identities of a face data set."""

import os
import pathlib

from tmu_jax.boundary import checked
from tmu_jax.data.checks import name_some
from tmu_jax.data.decoding import read_file
from tmu_jax.data.identities import SUFFIXES, Choice, FolderData, Index, assemble

TEST_FOLDERS = ("test", "val", "valid", "validation")
"""Beside `train`; the first whose identities are those of `train` serves."""


@checked
def from_image_folder(
    folder: str | os.PathLike[str],
    *,
    test_folder: str | os.PathLike[str] | None = None,
    image_size: int = 64,
    num_classes: int | None = None,
    min_images: int = 2,
    test_share: float = 0.2,
    bad_files: str = "skip",
    seed: int = 0,
    name: str = "images",
    progress: bool = True,
) -> FolderData:
    """Reads a folder that holds one folder of images for each class, here called identity.

    The id of a training image is its path within the folder that is read, such as "n000001/0001_01.jpg".

    Args:
        folder: holds folders such as `n000001` with images such as `n000001/0001_01.jpg`, or holds a folder `train`
            of such folders, which is then read. The test images are those of a folder `test`, `val`, `valid` or
            `validation` beside `train`, the first whose identities `train` has too. VGGFace2's own `test` folder has
            other identities and is not read.
        test_folder: a folder of the same identities, with the test images. Its other identities are left out.
            None, and none beside `train`: the test images are drawn from the training images by `test_share`.
        image_size: height and width to give every image, 8 or more. The central square of an image, turned upright
            where its EXIF says so, is resized with an antialiasing bilinear filter. Grey, palette and CMYK images are
            converted to RGB; transparency is dropped.
        num_classes: how many identities to take, 2 or more: those with the most image files, ties by name. Where bad
            files leave one of them too few images, the next takes its place. None: all identities.
        min_images: the fewest readable images an identity may have, test images in a folder of their own not counted;
            2 or more.
        test_share: where no folder of test images is, the share of each identity's images to put into the test set,
            0..1, rounded to whole images; at least one is a test image and one a training image. An image's draw
            depends on nothing but the seed and the names of the identity and the image, so other identities, and
            mostly other images, do not change it.
        bad_files: "skip" leaves unreadable files and identities with fewer than two images out and names them;
            "refuse" decodes all the files of the identities chosen and then refuses if anything was bad.
        seed: seed of the draw, 0 or more.
        name: a name for reports.
        progress: show a progress bar.

    Returns:
        The data set, uint8[n, image_size, image_size, 3] images ordered by identity and name, and what was left out.
        `class_names` are the names of the folders, in order. `Dataset.source` and `Dataset.notes` say where the test
        images come from.

    Raises:
        FileNotFoundError: no such folder.
        TypeError: a number that is not an integer.
        ValueError: a value out of range, no images, too few identities, a folder of test images whose identities are
            in doubt, or bad files that are refused.
    """
    choice = Choice(image_size, num_classes, min_images, test_share, bad_files, seed, progress)
    place = _existing_folder("folder", folder)
    train_place = _train_folder(place)
    index = _list_identities(train_place)
    if not any(index.names.values()):
        raise ValueError(
            f"folder={str(folder)!r} holds no folders with images ({', '.join(SUFFIXES)}); it must hold one folder for "
            "each class, such as n000001 with n000001/0001_01.jpg, or a folder 'train' of such folders"
        )
    notes: list[str] = []
    test = None
    if test_folder is not None:
        test_place = _existing_folder("test_folder", test_folder)
        if test_place.resolve() == train_place.resolve():
            raise ValueError(
                f"test_folder={str(test_folder)!r} must be another folder than that of the training images"
            )
        test = _list_identities(test_place, f"{test_place.name}/")
    elif train_place != place:
        test = _find_beside(place, index, notes)
    source = "image folder" if test is None else f"image folder with test images from {test.prefix}"
    return assemble(index, choice, name, source, test, notes)


def index_folder(folder: pathlib.Path) -> Index:
    """Lists the images of a folder of identity folders, or of its folder `train`, by their names alone."""
    return _list_identities(_train_folder(folder))


def _existing_folder(argument: str, folder: str | os.PathLike[str]) -> pathlib.Path:
    place = pathlib.Path(folder).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"{argument}={str(folder)!r} does not exist")
    if not place.is_dir():
        raise ValueError(f"{argument}={str(folder)!r} is a file; it must be a folder with one folder of images a class")
    return place


def _train_folder(folder: pathlib.Path) -> pathlib.Path:
    train = folder / "train"
    holds_folders = train.is_dir() and any(p.is_dir() and not p.name.startswith(".") for p in train.iterdir())
    return train if holds_folders else folder


def _list_identities(folder: pathlib.Path, prefix: str = "") -> Index:
    names: dict[str, list[str]] = {}
    num_ignored = 0
    for identity in os.scandir(folder):
        if identity.name.startswith(".") or not _is_folder(identity):
            num_ignored += 1
            continue
        # A broken link counts as an image, to be reported as bad.
        entries = [(entry.name, _is_image_name(entry.name) and not _is_folder(entry)) for entry in os.scandir(identity)]
        names[identity.name] = [entry for entry, is_image in entries if is_image]
        num_ignored += len(entries) - len(names[identity.name])
    return Index(names, lambda identity, name: read_file(folder / identity / name), num_ignored, prefix)


def _find_beside(place: pathlib.Path, train: Index, notes: list[str]) -> Index | None:
    """The folder of test images beside `train`, if there is one of the same identities."""
    known = {identity for identity, names in train.names.items() if names}
    found = None
    for name in TEST_FOLDERS:
        index = _list_identities(place / name, f"{name}/") if (place / name).is_dir() else None
        if index is None or not (identities := {identity for identity, names in index.names.items() if names}):
            continue
        if not identities & known:
            notes.append(f"The folder {name}/ has other identities and was not read.")
        elif found is not None:
            notes.append(f"The folder {name}/ was not read.")
        elif others := sorted(identities - known):
            raise ValueError(
                f"folder={str(place)!r} holds train/ and {name}/, but train/ lacks some of the identities of {name}/: "
                f"{name_some(others)}. Pass test_folder={str(place / name)!r} to leave those out, or "
                f"folder={str(place / 'train')!r} to draw test images from train/"
            )
        else:
            found = index
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself, say.
        return False


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)
