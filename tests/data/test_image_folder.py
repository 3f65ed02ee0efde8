"""Folders of images: order, choice and split, and every kind of bad file."""

import os
import re
import struct

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest

from tests.data.pictures import QUIET, SIZE, by_hand, encode, identities, picture, rows, write
from tmu_jax.data import decoding, forget_indices, from_image_folder, load_faces


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
    decode = decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda data, size: decoded.append(data) or decode(data, size))
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


def test_a_pipe_a_huge_file_and_a_link_to_itself_are_skipped_and_named(tmp_path):
    folder = write(tmp_path, identities(a=4, b=3))
    os.mkfifo(folder / "a" / "f.png")
    (folder / "b" / "loop.png").symlink_to("loop.png")
    (folder / "c").symlink_to("c")
    with (folder / "b" / "huge.png").open("wb") as file:
        file.truncate(1 << 40)  # A hole: it takes no room on the disk.
    result = from_image_folder(folder, **QUIET)
    assert result.skipped == (
        "a/f.png: damaged (it is no regular file)",
        "b/huge.png: damaged (its 1,100 GB are no image's)",
        "b/loop.png: cannot be read (Too many levels of symbolic links)",
        "1 file ignored: hidden, or by name no image",
    )
    assert np.bincount(result.data.pool.labels).tolist() == [4, 3]


def test_names_of_folders_and_files_are_escaped(tmp_path):
    red, broken = "\x1b[31mred", os.fsdecode(b"\xff")
    folder = write(tmp_path, identities(**{red: 3, broken: 3}) | {f"{red}/\x07.png": b"", f"{broken}/\x07.png": b""})
    result = from_image_folder(folder, **QUIET)
    assert result.data.class_names == ("\\x1b[31mred", "\\udcff")
    assert result.skipped == tuple(rf"{name}/\x07.png: damaged (it is empty)" for name in (r"\x1b[31mred", r"\udcff"))
    with pytest.raises(ValueError, match=r"bad: \\x1b\[31mred/\\x07\.png"):
        from_image_folder(folder, bad_files="refuse", **QUIET)


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
        ({"image_size": 32.0}, TypeError, "image_size=32.0 must be an integer"),
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
    monkeypatch.setattr(decoding, "decode", None)
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


def test_ids_are_the_paths_within_the_folder(tmp_path):
    folder = write(tmp_path, identities(ann=5, bob=4))
    data = from_image_folder(folder, **QUIET).data
    for name, image in zip(data.ids, data.train_images, strict=True):
        identity, number = name.split("/")
        expected = by_hand(picture(1000 * ("ann", "bob").index(identity) + int(number[:4])))
        np.testing.assert_array_equal(image, expected)
    assert data.rows_of([data.ids[3], data.ids[0]]).tolist() == [3, 0]
    official = write(
        tmp_path / "official", {f"train/{name}": content for name, content in identities(a=3, b=3).items()}
    )
    assert set(from_image_folder(official, **QUIET).data.ids) < set(identities(a=3, b=3))


def test_without_test_images_it_is_said_that_they_are_drawn(tmp_path):
    (note,) = from_image_folder(write(tmp_path, identities(a=4, b=4)), test_share=0.25, **QUIET).data.notes
    assert note.startswith("The test images are 25% of all images, drawn at random: a model that was trained on all of")


TRAIN, HELD = identities(a=3, b=4), {name: encode(picture(9000 + n)) for n, name in enumerate(identities(a=2, b=1))}


def check_apart(result, prefix):
    data = result.data
    assert data.ids.tolist() == sorted(TRAIN)
    numbers = [1000 * ("a", "b").index(name[0]) + int(name[2:6]) for name in sorted(TRAIN)]
    np.testing.assert_array_equal(data.train_images, [by_hand(picture(number)) for number in numbers])
    np.testing.assert_array_equal(data.test_images, [by_hand(picture(9000 + n)) for n in range(3)])
    assert data.train_labels.tolist() == [0] * 3 + [1] * 4
    assert data.test_labels.tolist() == [0, 0, 1]
    assert data.source == f"image folder with test images from {prefix}, 2 of 2 identities, 16x16"


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_a_folder_of_the_same_identities_beside_train_has_the_test_images(name, tmp_path):
    files = {f"train/{path}": content for path, content in TRAIN.items()}
    write(tmp_path, files | {f"{name}/{path}": content for path, content in HELD.items()})
    result = from_image_folder(tmp_path, **QUIET)
    check_apart(result, f"{name}/")
    assert result.data.notes == result.skipped == ()
    assert from_image_folder(tmp_path, test_share=0.9, seed=3, **QUIET).data.fingerprint == result.data.fingerprint


def test_a_folder_of_test_images_anywhere(tmp_path):
    write(tmp_path / "mine", TRAIN)
    write(tmp_path / "held", HELD)
    result = from_image_folder(tmp_path / "mine", test_folder=tmp_path / "held", **QUIET)
    check_apart(result, "held/")


def test_of_two_folders_with_test_images_one_serves(tmp_path):
    for part, files in (("train", TRAIN), ("test", HELD), ("val", identities(a=2, b=2))):
        write(tmp_path / part, files)
    result = from_image_folder(tmp_path, **QUIET)
    check_apart(result, "test/")
    assert result.data.notes == ("The folder val/ was not read.",)


def test_a_folder_of_other_identities_is_not_read(tmp_path):
    for part, files in (("train", TRAIN), ("test", identities(y=3, z=9)), ("val", HELD)):
        write(tmp_path / part, files)
    result = from_image_folder(tmp_path, **QUIET)
    check_apart(result, "val/")
    assert result.data.notes == ("The folder test/ has other identities and was not read.",)
    write(tmp_path, {"valid/loose.jpg": b"", "validation": b""})
    check_apart(from_image_folder(tmp_path, **QUIET), "val/")


def test_identities_in_doubt_are_asked_about_and_left_out_when_told(tmp_path):
    for part, files in (("train", TRAIN), ("val", HELD | identities(z=2))):
        write(tmp_path / part, files)
    with pytest.raises(
        ValueError, match=r"train/ lacks some of the identities of val/: z\. Pass test_folder='.*val' to"
    ):
        from_image_folder(tmp_path, **QUIET)
    result = from_image_folder(tmp_path, test_folder=tmp_path / "val", **QUIET)
    check_apart(result, "val/")
    assert result.skipped == ("val/z: no such identity to train on",)
    assert from_image_folder(tmp_path / "train", **QUIET).data.source == "image folder, 2 of 2 identities, 16x16"


def test_an_identity_without_test_images_and_bad_files_are_named(tmp_path):
    files = {"a/0001_01.png": HELD["a/0001_01.png"], "b/cut.png": b"", "b/notes.txt": b""}
    for part, written in (("train", TRAIN | {"b/bad.jpg": b"text"}), ("val", files)):
        write(tmp_path / part, written)
    result = from_image_folder(tmp_path, **QUIET)
    assert result.data.test_labels.tolist() == [0]
    assert result.data.notes == ("There are no test images of b.",)
    assert result.skipped == (
        "b/bad.jpg: not a JPEG, PNG, WebP or BMP image",
        "val/b/cut.png: damaged (it is empty)",
        "1 file ignored: hidden, or by name no image",
    )
    assert result.data.source.endswith("16x16, 2 bad files skipped")
    (tmp_path / "train" / "b" / "bad.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of the files and identities are bad: val/b/cut\.png: damaged"):
        from_image_folder(tmp_path, bad_files="refuse", **QUIET)


def test_wrong_folders_of_test_images_are_refused(tmp_path):
    write(tmp_path / "mine", TRAIN)
    for folder, error, message in (
        (tmp_path / "none", FileNotFoundError, r"test_folder='.*none' does not exist"),
        (tmp_path / "mine", ValueError, "test_folder=.* must be another folder than that of the training images"),
        (write(tmp_path / "other", identities(y=3)), ValueError, "'other/' must hold images of .* a, b; it holds .* y"),
    ):
        with pytest.raises(error, match=message):
            from_image_folder(tmp_path / "mine", test_folder=folder, **QUIET)


def spoiled() -> dict[str, tuple[bytes, str | None]]:
    """Twenty files of every kind, with what is wrong with them, or None where they are images all the same."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    frames = [picture(n) for n in range(3)]
    moving = {"save_all": True, "append_images": frames[1:]}
    bomb = bytearray(encode(picture(5), "bmp"))
    bomb[18:26] = struct.pack("<ii", 30_000, 30_000)
    png = bytearray(encode(picture(5)))
    png[len(png) // 2] ^= 255
    deep = np.arange(400, dtype=np.uint16).reshape(20, 20)
    return {name: (content, message) for name, (content, message) in BAD.items()} | {
        "a/zeros.png": (bytes(1000), "not a JPEG, PNG, WebP or BMP image"),
        "a/page.jpg": (b"<html><script>alert(1)</script></html>", "not a JPEG, PNG, WebP or BMP image"),
        "a/bomb.bmp": (bytes(bomb), r"damaged \(Image size .* decompression bomb DOS attack\.\)"),
        "a/flipped.png": (bytes(png), r"damaged \(.*\)"),
        "a/deeper.png": (encode(PIL.Image.fromarray(deep)), r"damaged \(its mode I;16 has more than 8 bits.*\)"),
        "a/tail.jpg": (JPEG + b"trailing", None),
        "a/cmyk.jpg": (encode(picture(5, mode="CMYK"), "jpeg"), None),
        "a/turned.jpg": (encode(picture(5), "jpeg", exif=exif), None),
        "a/moving.webp": (encode(frames[0], "webp", **moving), None),
        "a/moving.png": (encode(frames[0], "png", **moving), None),
        "a/really.jpg": (encode(picture(5), "png"), None),
        "a/dot.png": (encode(PIL.Image.new("RGB", (1, 1))), None),
    }


def test_of_twenty_spoiled_files_each_is_decoded_or_named(tmp_path):
    files = spoiled()
    assert len(files) == 20
    folder = write(tmp_path, identities(a=4, b=3) | {name: content for name, (content, _) in files.items()})
    result = from_image_folder(folder, **QUIET)
    named = dict(sentence.split(": ", 1) for sentence in result.skipped)
    bad = {name: message for name, (_, message) in files.items() if message is not None}
    assert named.keys() == bad.keys()
    for name, message in bad.items():
        assert re.fullmatch(message, named[name]), named[name]
    assert len(result.data.pool) == 7 + len(files) - len(bad)
    moving = by_hand(picture(0))
    assert sum(image.tobytes() == moving.tobytes() for image in result.data.pool.images) == 2
    assert result.data.train_ids.dtype.kind == "U"


def test_given_in_the_place_of_its_data_set_it_says_which_part_to_give(tmp_path):
    found = from_image_folder(write(tmp_path, identities(a=4, b=4)), **QUIET)
    with pytest.raises(TypeError, match=r"must be a Dataset, not a FolderData; give its \.data"):
        forget_indices(found, [0])
