"""Images in one folder for each class, such as the identities of a face data set."""

import os
import pathlib
import stat

from tmu_jax.data.identities import SUFFIXES, Choice, FolderData, Index, assemble


def from_image_folder(
    folder: str | os.PathLike[str],
    *,
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

    Args:
        folder: holds folders such as `n000001` with images such as `n000001/0001_01.jpg`, or holds a folder `train`
            of such folders, which is then read. VGGFace2's own `test` folder has other identities and is not read.
        image_size: height and width to give every image, 8 or more. The central square of an image, turned upright
            where its EXIF says so, is resized with an antialiasing bilinear filter. Grey, palette and CMYK images are
            converted to RGB; transparency is dropped.
        num_classes: how many identities to take, 2 or more: those with the most image files, ties by name. Where bad
            files leave one of them too few images, the next takes its place. None: all identities.
        min_images: the fewest readable images an identity may have, 2 or more.
        test_share: the share of each identity's images to put into the test set, 0..1, rounded to whole images; at
            least one is a test image and one a training image. An image's draw depends on nothing but the seed and
            the names of the identity and the image, so other identities, and mostly other images, do not change it.
        bad_files: "skip" leaves unreadable files and identities with fewer than two images out and names them;
            "refuse" decodes all the files of the identities chosen and then refuses if anything was bad.
        seed: seed of the draw, 0 or more.
        name: a name for reports.
        progress: show a progress bar.

    Returns:
        The data set, uint8[n, image_size, image_size, 3] images ordered by identity and name, and what was left out.
        `class_names` are the names of the folders, in order.

    Raises:
        FileNotFoundError: no such folder.
        TypeError: a number that is not an integer.
        ValueError: a value out of range, no images, too few identities, or bad files that are refused.
    """
    choice = Choice(image_size, num_classes, min_images, test_share, bad_files, seed, progress)
    place = pathlib.Path(folder).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"folder={str(folder)!r} does not exist")
    if not place.is_dir():
        raise ValueError(f"folder={str(folder)!r} is a file; it must be a folder with one folder of images a class")
    index = index_folder(place)
    if not any(index.names.values()):
        raise ValueError(
            f"folder={str(folder)!r} holds no folders with images ({', '.join(SUFFIXES)}); it must hold one folder for "
            "each class, such as n000001 with n000001/0001_01.jpg, or a folder 'train' of such folders"
        )
    return assemble(index, choice, name, "image folder")


def index_folder(folder: pathlib.Path) -> Index:
    """Lists the images of a folder of identity folders, or of its folder `train`, by their names alone."""
    train = folder / "train"
    if train.is_dir() and any(path.is_dir() and not path.name.startswith(".") for path in train.iterdir()):
        folder = train
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
    return Index(names, lambda identity, name: _read_file(folder / identity / name), num_ignored)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself, say.
        return False


def _read_file(path: pathlib.Path) -> bytes:
    # A pipe would be waited for without end.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")
    return path.read_bytes()


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)
