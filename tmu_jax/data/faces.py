"""Faces: VGGFace2 as TensorFlow Datasets prepared it, read without TensorFlow, or as a folder of identities.

Both give the same arrays: TFDS keeps the encoded images as they are, and both routes share `identities.assemble`.
VGGFace2 has no open download, so nothing is downloaded here.
"""

import os
import pathlib
import threading
from collections.abc import Callable
from typing import Any

from tmu_jax.boundary import checked
from tmu_jax.data import image_folder, sources, tfds_folder
from tmu_jax.data.identities import Choice, FolderData, Index, assemble

NAME = "vgg_face2"
FOLDERS = ("vgg_face2", "vggface2", "VGG-Face2", "VGGFace2")


@checked
def load_faces(
    data_dir: str | os.PathLike[str],
    *,
    image_size: int = 64,
    num_classes: int | None = None,
    min_images: int = 2,
    test_share: float = 0.2,
    bad_files: str = "skip",
    seed: int = 0,
    progress: bool = True,
) -> FolderData:
    """Loads faces from a prepared TFDS folder where there is one, else from a folder of identities.

    Args:
        data_dir: holds `vgg_face2/<version>/dataset_info.json`, or is such a version folder, or is a folder as
            `from_image_folder` reads.
        image_size: as in `from_image_folder`; so are all that follow.
        num_classes: how many identities to take.
        min_images: the fewest readable images an identity may have.
        test_share: the share of each identity's images for testing.
        bad_files: "skip" or "refuse".
        seed: seed of the split.
        progress: show progress bars.

    Returns:
        The data set, named "vgg_face2", and what was left out.

    Raises:
        FileNotFoundError: no faces there; the message says how to provide them.
        TypeError: a number that is not an integer.
        ValueError: as in `from_image_folder` and `read_prepared_faces`.
    """
    choice = Choice(image_size, num_classes, min_images, test_share, bad_files, seed, progress)
    place = pathlib.Path(data_dir).expanduser()
    version_dir = place if (place / "dataset_info.json").is_file() else tfds_folder.find_version(NAME, place)
    if version_dir is not None:
        return _read_prepared(version_dir, choice)
    index = image_folder.index_folder(place) if place.is_dir() else None
    if index is None or not any(index.names.values()):
        raise FileNotFoundError(_how_to_provide(data_dir, place))
    return assemble(index, choice, NAME, "image folder")


@checked
def read_prepared_faces(
    version_dir: str | os.PathLike[str],
    *,
    image_size: int = 64,
    num_classes: int | None = None,
    min_images: int = 2,
    test_share: float = 0.2,
    bad_files: str = "skip",
    seed: int = 0,
    progress: bool = True,
) -> FolderData:
    """Reads the "train" split of a prepared folder such as `vgg_face2/1.0.0`.

    The identities of its "test" split are others, and fewer; they are not read. All records are read once for their
    names; those of the chosen identities are read again and decoded.

    Args:
        version_dir: the folder with `dataset_info.json`. Its examples have an `image`, the identity in `class_id` or as
            the name of their `label`, and the image's name in `face_id` or `file_name`.
        image_size: as in `from_image_folder`; so are all that follow.
        num_classes: how many identities to take.
        min_images: the fewest readable images an identity may have.
        test_share: the share of each identity's images for testing.
        bad_files: "skip" or "refuse".
        seed: seed of the split.
        progress: show progress bars.

    Returns:
        The data set, named "vgg_face2", and what was left out: what `from_image_folder` gives for the same files.

    Raises:
        FileNotFoundError: no prepared folder.
        TypeError: a number that is not an integer.
        ValueError: a folder of another kind or an incomplete one, or as in `from_image_folder`.
    """
    choice = Choice(image_size, num_classes, min_images, test_share, bad_files, seed, progress)
    return _read_prepared(pathlib.Path(version_dir).expanduser(), choice)


def _read_prepared(version_dir: pathlib.Path, choice: Choice) -> FolderData:
    import tqdm

    if not (version_dir / "dataset_info.json").is_file():
        raise FileNotFoundError(f"version_dir={str(version_dir)!r} holds no dataset_info.json")
    builder = tfds_folder.import_tfds().builder_from_directory(version_dir)
    parse = _parser(builder, version_dir)
    records, read_record = tfds_folder.indexed_records(builder, "train")
    num_examples = builder.info.splits["train"].num_examples
    places: dict[str, dict[str, Any]] = {}
    num_found = 0
    bar = tqdm.tqdm(records, "reading names", total=num_examples, unit=" images", disable=not choice.progress)
    for place, record in bar:
        identity, name, _ = parse(record)
        of_identity = places.setdefault(identity, {})
        if name in of_identity:
            raise ValueError(f"{version_dir} holds {identity}/{name} twice; prepare it again")
        of_identity[name] = place
        num_found += 1
    if num_found != num_examples:
        raise ValueError(f"{version_dir} holds {num_found} train examples instead of {num_examples}; prepare it again")
    lock = threading.Lock()

    def read(identity: str, name: str) -> bytes:
        with lock:
            return parse(read_record(places[identity][name]))[2]

    index = Index(places, read)
    return assemble(index, choice, NAME, f"prepared TFDS {NAME} {version_dir.name}")


def _parser(builder: Any, version_dir: pathlib.Path) -> Callable[[bytes], tuple[str, str, bytes]]:
    """A function from a record to the identity, the image's name and the encoded image."""
    features = builder.info.features
    identity_key = next((key for key in ("class_id", "label") if key in features), None)
    name_key = next((key for key in ("face_id", "file_name") if key in features), None)
    if "train" not in builder.info.splits or "image" not in features or identity_key is None or name_key is None:
        raise ValueError(
            f"{version_dir} must have a split 'train' and the features image, class_id or label, and face_id or "
            f"file_name; got the splits {sorted(builder.info.splits)} and the features {sorted(features)}"
        )
    decoders = {"image": tfds_folder.import_tfds().decode.SkipDecoding()}
    class_names = features["label"].names if identity_key == "label" else None

    def parse(record: bytes) -> tuple[str, str, bytes]:
        example = features.deserialize_example_np(record, decoders=decoders)
        identity = example[identity_key]
        named = _text(identity) if class_names is None else class_names[int(identity)]
        return named, pathlib.PurePosixPath(_text(example[name_key])).name, example["image"]

    return parse


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _how_to_provide(data_dir: str | os.PathLike[str], place: pathlib.Path) -> str:
    found = "holds no faces" if place.is_dir() else "is no folder" if place.exists() else "does not exist"
    return (
        f"data_dir={str(data_dir)!r} {found}. VGGFace2 has no open download; provide it in one of two ways: (1) a "
        "folder with one folder of images for each identity, such as n000001/0001_01.jpg, n000001/0002_01.jpg, "
        "n000002/0001_01.jpg, or a folder that holds these in 'train'; (2) a TensorFlow Datasets folder with a "
        f"prepared {NAME}, such as {NAME}/1.0.0/dataset_info.json"
    )


def locate_faces(data_dir: str | os.PathLike[str] | None = None) -> pathlib.Path | None:
    """Says what `load_faces` should be given: nothing is opened.

    Args:
        data_dir: taken as it is when given. Otherwise a folder named "vgg_face2", "vggface2", "VGG-Face2" or "VGGFace2"
            is looked for in the places where `tmu_jax.data.load` looks for CIFAR.

    Returns:
        The folder, None where there is none.
    """
    if data_dir is not None:
        given = pathlib.Path(data_dir).expanduser()
        return given if given.is_dir() else None
    candidates = [place / name for place in sources.places(None) for name in FOLDERS]
    found = next((folder for folder in candidates if folder.is_dir()), None)
    if found is not None and tfds_folder.find_version(NAME, found.parent) is not None:
        return found.parent
    return found
