"""Image folders against Pillow by hand, with every kind of bad file; the prepared TFDS folder against the folder."""

import io
import pathlib
import re
import struct
import sys

import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.ImageOps
import pytest

from tmu_jax.data import from_image_folder, image_folder, load_faces, read_prepared_faces

SIZE = 16
QUIET = {"image_size": SIZE, "progress": False}


def picture(seed: int, width: int = 24, height: int = 20, mode: str = "RGB") -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def encode(image: PIL.Image.Image, file_format: str = "png", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def by_hand(image: PIL.Image.Image, size: int = SIZE) -> np.ndarray:
    """The central square, resized."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.convert("RGB").resize((size, size), PIL.Image.Resampling.BILINEAR, box))


def write(folder: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def identities(**counts: int) -> dict[str, bytes]:
    """PNG files of different images, as many for each identity as is said."""
    return {
        f"{identity}/{number:04d}_01.png": encode(picture(1000 * row + number))
        for row, (identity, count) in enumerate(counts.items())
        for number in range(count)
    }


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def check_single(tmp_path, content: bytes, expected: np.ndarray, name: str = "0009.png") -> None:
    """The one file of interest lies among others; its pixels must be in the data set."""
    folder = write(tmp_path / "images", {**identities(a=3, b=3), f"a/{name}": content})
    result = from_image_folder(folder, **QUIET)
    data = result.data
    assert result.skipped == ()
    assert np.bincount(data.pool.labels).tolist() == [4, 3]
    assert expected.tobytes() in rows(data.pool.images[data.pool.labels == 0])


@pytest.mark.parametrize(("width", "height"), [(24, 20), (20, 25), (16, 16), (7, 9), (300, 11)])
@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp", "bmp"])
def test_values_are_those_of_pillow_by_hand(width, height, file_format, tmp_path):
    content = encode(picture(7, width, height), file_format)
    expected = by_hand(PIL.Image.open(io.BytesIO(content)))
    suffix = {"png": "PNG", "jpeg": "Jpg", "webp": "webp", "bmp": "bmp"}[file_format]
    check_single(tmp_path, content, expected, f"0009.{suffix}")


def test_square_image_of_the_right_size_is_kept_bit_by_bit(tmp_path):
    image = picture(7, SIZE, SIZE)
    check_single(tmp_path, encode(image), np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA"])
def test_other_png_modes_become_rgb(mode, tmp_path):
    image = picture(7, mode="L").convert("LA") if mode == "LA" else picture(7, mode=mode)
    check_single(tmp_path, encode(image), by_hand(image))


def test_transparency_is_dropped(tmp_path):
    opaque = picture(7)
    image = opaque.copy()
    image.putalpha(PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24), np.uint8)))
    check_single(tmp_path, encode(image), by_hand(opaque))


def test_palette_with_transparency_raises_no_warning(tmp_path):
    image = picture(7, mode="P")
    check_single(tmp_path, encode(image, transparency=bytes(range(256))), by_hand(image))


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    content = encode(picture(7, mode="CMYK"), "jpeg")
    image = PIL.Image.open(io.BytesIO(content))
    assert image.mode == "CMYK"
    check_single(tmp_path, content, by_hand(image), "0009.jpeg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    content = encode(picture(7, 30, 20), "jpeg", exif=exif)
    upright = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(content)))
    assert upright.size == ((30, 20) if orientation < 5 else (20, 30))
    check_single(tmp_path, content, by_hand(upright), "0009.jpg")


TEXT_ORIENTATION = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\2\0\0\0\2A\0\0\0\0\0\0\0"


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", TEXT_ORIENTATION])
@pytest.mark.parametrize("file_format", ["jpeg", "png", "webp"])
def test_damaged_exif_does_not_make_an_image_bad(exif, file_format, tmp_path):
    content = encode(picture(7), file_format, exif=exif)
    expected = by_hand(PIL.Image.open(io.BytesIO(encode(picture(7), file_format))))
    check_single(tmp_path, content, expected, f"0009.{file_format}")


def test_order_names_and_shapes(tmp_path):
    folder = write(tmp_path, identities(zoe=5, ann=20))
    result = from_image_folder(folder, name="faces", **QUIET)
    data = result.data
    assert (data.name, data.class_names, data.num_classes) == ("faces", ("ann", "zoe"), 2)
    assert data.source == "image folder, 2 of 2 identities, 16x16"
    assert data.train_images.shape == (20, SIZE, SIZE, 3)
    assert data.train_images.dtype == data.test_images.dtype == np.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    assert data.train_labels.tolist() == [0] * 16 + [1] * 4
    assert data.test_labels.tolist() == [0] * 4 + [1]
    ann = [by_hand(picture(1000 + n)).tobytes() for n in range(20)]
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        positions = [ann.index(image.tobytes()) for image in images[labels == 0]]
        assert positions == sorted(positions)


@pytest.mark.parametrize(
    ("count", "share", "num_test"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.2, 2), (10, 0.26, 3), (7, 0.99, 6)]
)
def test_share_is_rounded_and_leaves_one_on_each_side(count, share, num_test, tmp_path):
    data = from_image_folder(write(tmp_path, identities(a=count, b=count)), test_share=share, **QUIET).data
    assert np.bincount(data.test_labels).tolist() == [num_test] * 2
    assert np.bincount(data.train_labels).tolist() == [count - num_test] * 2


def test_split_is_repeatable_and_knows_its_seed(tmp_path):
    folder = write(tmp_path, identities(a=20, b=20))
    first, again, other = (from_image_folder(folder, seed=seed, **QUIET).data for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint
    assert rows(first.test_images) != rows(other.test_images)
    assert rows(first.pool.images) == rows(other.pool.images)
    assert not rows(first.test_images) & rows(first.train_images)


def test_split_of_an_identity_does_not_depend_on_others(tmp_path):
    files = identities(a=20, b=20, c=15)
    full = from_image_folder(write(tmp_path / "full", files), **QUIET).data
    fewer = {name: content for name, content in files.items() if not name.startswith("a/")}
    part = from_image_folder(write(tmp_path / "part", fewer), **QUIET).data
    assert part.class_names == ("b", "c")
    for label, name in enumerate(part.class_names):
        before, now = full.test_labels == full.class_names.index(name), part.test_labels == label
        np.testing.assert_array_equal(full.test_images[before], part.test_images[now])


def test_images_of_one_name_are_drawn_apart(tmp_path):
    data = from_image_folder(write(tmp_path, identities(a=40, b=40)), **QUIET).data
    numbers = [{by_hand(picture(1000 * row + n)).tobytes(): n for n in range(40)} for row in range(2)]
    drawn = [{numbers[row][image.tobytes()] for image in data.test_images[data.test_labels == row]} for row in (0, 1)]
    assert len(drawn[0]) == len(drawn[1]) == 8
    assert drawn[0] != drawn[1]


def test_identities_with_the_most_images_are_taken_ties_by_name(tmp_path):
    tied = dict.fromkeys("dgkbhcfjlia", 4)
    folder = write(tmp_path, identities(**tied, e=9, z=3))
    data = from_image_folder(folder, num_classes=6, **QUIET).data
    assert data.class_names == tuple("abcdef")
    assert data.source == "image folder, 6 of 13 identities, 16x16"


def test_only_the_chosen_identities_are_decoded(tmp_path, monkeypatch):
    decoded = []
    decode = image_folder.decode
    monkeypatch.setattr(image_folder, "decode", lambda data, size: decoded.append(data) or decode(data, size))
    from_image_folder(write(tmp_path, identities(a=2, b=4, c=3)), num_classes=2, **QUIET)
    assert len(decoded) == 7


def test_next_identity_replaces_one_that_bad_files_leave_too_small(tmp_path):
    files = identities(a=3, b=5, c=4, d=3)
    files.update({f"b/{number:04d}_01.png": b"" for number in range(4)})
    result = from_image_folder(write(tmp_path, files), num_classes=2, **QUIET)
    assert result.data.class_names == ("a", "c")
    assert result.data.source == "image folder, 2 of 4 identities, 16x16, 4 bad files skipped"
    assert len(result.skipped) == 5
    assert "b: 1 readable image, fewer than min_images=2" in result.skipped


def test_all_identities_that_min_images_admits(tmp_path):
    result = from_image_folder(write(tmp_path, identities(a=3, b=5, c=4, d=2)), min_images=4, **QUIET)
    assert result.data.class_names == ("b", "c")
    assert result.skipped == ("2 identities with fewer than min_images=4 image files",)


def test_train_folder_of_the_official_layout_is_read(tmp_path):
    files = identities(a=3, b=3)
    official = {f"train/{name}": content for name, content in files.items()}
    official |= {f"test/{name}": content for name, content in identities(y=3, z=9).items()}
    data = from_image_folder(write(tmp_path / "official", official), **QUIET).data
    assert data.fingerprint == from_image_folder(write(tmp_path / "plain", files), **QUIET).data.fingerprint


def test_identity_may_be_called_train(tmp_path):
    assert from_image_folder(write(tmp_path, identities(train=3, b=3)), **QUIET).data.class_names == ("b", "train")


JPEG = encode(picture(5), "jpeg")
BAD = {
    "a/cut.jpg": (JPEG[:-20], r"truncated \(image file is truncated .*\)"),
    "a/head.jpg": (JPEG[:300], r"truncated \(Truncated File Read\)"),
    "a/cut.png": (encode(picture(5))[:700], r"truncated \(image file is truncated\)"),
    "a/cut.webp": (encode(picture(5), "webp")[:-20], r"damaged \(could not create decoder object\)"),
    "a/empty.jpg": (b"", r"damaged \(it is empty\)"),
    "a/text.jpg": (b"not an image at all", "not a JPEG, PNG, WebP or BMP image"),
    "a/gif.jpg": (encode(picture(5), "gif"), "not a JPEG, PNG, WebP or BMP image"),
    "a/deep.png": (encode(PIL.Image.new("I;16", (20, 20), 500)), r"damaged \(its mode I;16 has more than 8 bits.*\)"),
}


@pytest.fixture(params=BAD)
def bad(request, tmp_path):
    content, message = BAD[request.param]
    return write(tmp_path / "faces", {**identities(a=4, b=3), request.param: content}), request.param, message


def test_bad_file_is_skipped_and_named(bad, tmp_path):
    folder, name, message = bad
    result = from_image_folder(folder, **QUIET)
    assert len(result.skipped) == 1
    assert re.fullmatch(f"{name}: {message}", result.skipped[0])
    clean = from_image_folder(write(tmp_path / "clean", identities(a=4, b=3)), **QUIET).data
    assert result.data.fingerprint == clean.fingerprint
    assert result.data.source == "image folder, 2 of 2 identities, 16x16, 1 bad file skipped"


def test_bad_file_is_refused_by_name(bad):
    folder, name, message = bad
    with pytest.raises(
        ValueError, match=rf'"refuse", and 1 of .*: {name}: {message}\. bad_files="skip" would'
    ) as error:
        from_image_folder(folder, bad_files="refuse", **QUIET)
    assert str(folder) not in str(error.value)


def test_clean_folder_is_not_refused(tmp_path):
    result = from_image_folder(write(tmp_path, identities(a=3, b=3)), bad_files="refuse", **QUIET)
    assert result.skipped == ()


def test_refusal_comes_after_all_files_and_names_at_most_ten(tmp_path):
    folder = write(tmp_path, identities(a=3, b=3) | {f"{'ab'[n % 2]}/bad{n:02d}.jpg": b"" for n in range(13)})
    with pytest.raises(ValueError, match="and 13 of the files and identities are bad: a/bad00") as error:
        from_image_folder(folder, bad_files="refuse", **QUIET)
    assert str(error.value).count("it is empty") == 10
    assert "b/bad05.jpg" in str(error.value)
    assert "; ...." in str(error.value)


def test_truncated_images_are_found_whatever_the_callers_setting(tmp_path, monkeypatch):
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    folder = write(tmp_path, identities(a=4, b=3) | {"a/cut.jpg": BAD["a/cut.jpg"][0]})
    assert len(from_image_folder(folder, **QUIET).skipped) == 1
    assert PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_huge_images_are_bad_and_raise_no_warning(tmp_path):
    bomb = bytearray(encode(picture(5), "bmp"))
    folder = write(tmp_path, identities(a=4, b=3))
    for side, message in ((9_000, r"9000x9000 pixels are more than 50,000,000"), (20_000, "decompression bomb")):
        bomb[18:26] = struct.pack("<ii", side, side)
        write(folder, {"b/bomb.bmp": bytes(bomb)})
        (sentence,) = from_image_folder(folder, **QUIET).skipped
        assert sentence.startswith("b/bomb.bmp: damaged (")
        assert message in sentence


def test_broken_link_is_named_without_a_path(tmp_path):
    folder = write(tmp_path, identities(a=4, b=3))
    (folder / "a" / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    result = from_image_folder(folder, **QUIET)
    assert result.skipped == ("a/link.jpg: cannot be read (No such file or directory)",)


def test_empty_identity_and_identity_with_one_image_are_named(tmp_path):
    folder = write(tmp_path, identities(a=3, b=3, c=1))
    (folder / "d").mkdir()
    result = from_image_folder(folder, **QUIET)
    assert result.data.class_names == ("a", "b")
    assert result.skipped == ("c: 1 image file, an identity needs 2", "d: 0 image files, an identity needs 2")
    with pytest.raises(ValueError, match=r"2 of the files and identities are bad: c: 1 image file.*; d: 0 image files"):
        from_image_folder(folder, bad_files="refuse", **QUIET)


def test_identity_left_with_one_readable_image_is_named(tmp_path):
    files = identities(a=3, b=3, c=2) | {"c/0000_01.png": b"x"}
    result = from_image_folder(write(tmp_path, files), **QUIET)
    assert result.data.class_names == ("a", "b")
    assert result.skipped == (
        "c/0000_01.png: not a JPEG, PNG, WebP or BMP image",
        "c: 1 readable image, fewer than min_images=2",
    )


def test_hidden_and_other_files_are_ignored_but_counted(tmp_path):
    others = {name: b"x" for name in ("a/Thumbs.db", "a/notes.txt", "b/._0001_01.png", "list.csv", ".git/x.png")}
    files = identities(a=3, b=3)
    result = from_image_folder(write(tmp_path / "with", files | others), bad_files="refuse", **QUIET)
    assert result.skipped == ("5 files ignored: hidden, or by name no image",)
    clean = from_image_folder(write(tmp_path / "without", files), **QUIET).data
    assert result.data.fingerprint == clean.fingerprint
    assert result.data.source == clean.source


def test_progress_bar_is_shown_when_asked_for(tmp_path, capfd):
    folder = write(tmp_path, identities(a=3, b=3))
    from_image_folder(folder, **QUIET)
    assert capfd.readouterr().err == ""
    from_image_folder(folder, image_size=SIZE)
    assert "decoding: 100%" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image_size": 7}, ValueError, "image_size must be 8 or more, got 7"),
        ({"image_size": 32.0}, TypeError, "image_size must be an integer, got 32.0"),
        ({"num_classes": 1}, ValueError, "num_classes must be 2 or more, got 1"),
        ({"num_classes": 4}, ValueError, r"num_classes must be at most 3, .*min_images=2 image files, got 4"),
        ({"num_classes": 3, "min_images": 4}, ValueError, r"at most 2, .*min_images=4 image files, got 3"),
        ({"min_images": 5}, ValueError, r"identities with at least min_images=5 image files must be 2 or more, got 1"),
        ({"min_images": 1}, ValueError, "min_images must be 2 or more, got 1"),
        ({"test_share": 0}, ValueError, "test_share must lie between 0 and 1, both excluded, got 0"),
        ({"test_share": 1.0}, ValueError, r"test_share .*got 1\.0"),
        ({"test_share": float("nan")}, ValueError, "test_share .*got nan"),
        ({"bad_files": "ignore"}, ValueError, r"bad_files must be one of \('skip', 'refuse'\), got 'ignore'"),
        ({"seed": -1}, ValueError, "seed must be 0 or more, got -1"),
    ],
)
def test_wrong_values_are_refused_before_decoding(changes, error, message, tmp_path, monkeypatch):
    monkeypatch.setattr(image_folder, "decode", None)
    folder = write(tmp_path, identities(a=3, b=4, c=5))
    for load in (from_image_folder, load_faces):
        with pytest.raises(error, match=message):
            load(folder, **{**QUIET, **changes})


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder='.*none' does not exist"):
        from_image_folder(tmp_path / "none")
    write(tmp_path, {"file.jpg": b"x"})
    with pytest.raises(ValueError, match=r"folder='.*file\.jpg' is a file; it must be a folder"):
        from_image_folder(tmp_path / "file.jpg")
    with pytest.raises(ValueError, match=r"holds no folders with images .*n000001/0001_01\.jpg"):
        from_image_folder(tmp_path)
    write(tmp_path, {"a/notes.txt": b"x"})
    with pytest.raises(ValueError, match="holds no folders with images"):
        from_image_folder(tmp_path)


def test_too_few_readable_identities_say_how_many_there_are(tmp_path):
    files = identities(a=3, b=3, c=3) | {f"c/{number:04d}_01.png": b"" for number in range(2)}
    with pytest.raises(ValueError, match=r"num_classes must be at most 2, .*min_images=2 readable images, got 3"):
        from_image_folder(write(tmp_path, files), num_classes=3, **QUIET)


def write_tfds(
    data_dir: pathlib.Path, files: dict[str, bytes], file_format: str, official: bool = True, num_missing: int = 0
) -> pathlib.Path:
    """Prepares faces as TFDS would, shuffled and in two shards, without TensorFlow.

    `official` has the features `file_name` and `label`; otherwise they are `face_id` and `class_id` beside a label.
    """
    import array_record.python.array_record_module as array_record
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    folder = data_dir / "vgg_face2" / "1.0.0"
    folder.mkdir(parents=True)
    class_names = sorted({name.split("/")[0] for name in files} | {"n999999"})
    texts = ("file_name",) if official else ("class_id", "face_id")
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=len(class_names))}
    features = tfds.features.FeaturesDict(features | {text: tfds.features.Text() for text in texts})
    features["label"].names = class_names
    features.save_config(folder)
    shards = np.array_split(np.random.default_rng(3).permutation(sorted(files)), 2)
    for number, shard in enumerate(shards):
        records = []
        for name in map(str, shard):
            identity, filename = name.split("/")
            values = {"file_name": name} if official else {"class_id": identity, "face_id": filename.split(".")[0]}
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(files[name])
            example.features.feature["label"].int64_list.value.append(class_names.index(identity))
            for key, value in values.items():
                example.features.feature[key].bytes_list.value.append(value.encode())
            records.append(example.SerializeToString())
        path = folder / f"vgg_face2-train.{file_format}-{number:05d}-of-00002"
        if file_format == "array_record":
            writer = array_record.ArrayRecordWriter(str(path), "group_size:1")
            for record in records:
                writer.write(record)
            writer.close()
        else:
            framed = [struct.pack("<QI", len(record), 0) + record + struct.pack("<I", 0) for record in records]
            path.write_bytes(b"".join(framed))
    lengths = ", ".join(f'"{len(shard) + num_missing}"' for shard in shards)
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    split = f'{{"name": "train", "shardLengths": [{lengths}], "filepathTemplate": "{template}"}}'
    (folder / "dataset_info.json").write_text(
        f'{{"name": "vgg_face2", "version": "1.0.0", "fileFormat": "{file_format}", "splits": [{split}]}}'
    )
    return folder


FACES = identities(n000001=6, n000002=3, n000003=9, n000005=6) | {
    "n000001/0007_01.png": b"damaged",
    "n000005/0010_01.png": encode(picture(5, mode="L")),
}


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_prepared_tfds_folder_gives_what_the_folder_gives(file_format, official, num_classes, tmp_path):
    version_dir = write_tfds(tmp_path / "tfds", FACES, file_format, official)
    write(tmp_path / "folder", FACES)
    options = {**QUIET, "num_classes": num_classes, "seed": 4}
    prepared = read_prepared_faces(version_dir, **options)
    folder = from_image_folder(tmp_path / "folder", name="vgg_face2", **options)
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(prepared.data, field), getattr(folder.data, field))
    assert prepared.data.fingerprint == folder.data.fingerprint
    num_taken = num_classes or 4
    assert prepared.data.source == (
        f"prepared TFDS vgg_face2 1.0.0, {num_taken} of 4 identities, 16x16, 1 bad file skipped"
    )
    suffix = ".png" if official else ""
    assert prepared.skipped == (f"n000001/0007_01{suffix}: not a JPEG, PNG, WebP or BMP image",)
    for data_dir in (tmp_path / "tfds", version_dir, tmp_path / "folder"):
        assert load_faces(data_dir, **options).data.fingerprint == folder.data.fingerprint
    assert "tensorflow" not in sys.modules


def test_prepared_folder_refuses_bad_files_by_name(tmp_path):
    version_dir = write_tfds(tmp_path, FACES, "array_record")
    with pytest.raises(ValueError, match=r"1 of the files and identities are bad: n000001/0007_01\.png"):
        read_prepared_faces(version_dir, bad_files="refuse", **QUIET)


def test_wrong_prepared_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no dataset_info\.json"):
        read_prepared_faces(tmp_path)
    short = write_tfds(tmp_path / "short", FACES, "tfrecord", num_missing=1)
    with pytest.raises(ValueError, match="holds 26 train examples instead of 28; prepare it again"):
        read_prepared_faces(short, **QUIET)
    twice = FACES | {"n000003/0001_01.jpg": JPEG}
    twice = write_tfds(tmp_path / "twice", twice, "tfrecord", official=False)
    with pytest.raises(ValueError, match="holds n000003/0001_01 twice"):
        read_prepared_faces(twice, **QUIET)
    info = short / "dataset_info.json"
    info.write_text(info.read_text().replace('"name": "train"', '"name": "validation"'))
    with pytest.raises(ValueError, match=r"must have a split 'train' .*got the splits \['validation'\]"):
        read_prepared_faces(short, **QUIET)


def test_no_faces_names_the_two_ways(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_dir='.*none' does not exist\..*no open download.*\(1\).*\(2\)"):
        load_faces(tmp_path / "none")
    write(tmp_path, {"cifar10/3.0.2/dataset_info.json": b"{}"})
    with pytest.raises(
        FileNotFoundError, match=r"holds no faces\..*n000001/0001_01\.jpg.*vgg_face2/1\.0\.0/dataset_in"
    ):
        load_faces(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        load_faces(tmp_path / "cifar10" / "3.0.2" / "dataset_info.json")
