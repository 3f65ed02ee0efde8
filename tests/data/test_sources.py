"""Loading by name against tiny files of the official formats, and the checks on arrays."""

import functools
import hashlib
import http.server
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tarfile
import threading

import numpy as np
import PIL.Image
import pytest

from tmu_jax.data import Dataset, Location, cifar, from_arrays, load, locate, sources, subset, tfds_folder

NUM_IMAGES = {"data_batch_1": 3, "data_batch_2": 2, "data_batch_3": 4, "data_batch_4": 1, "data_batch_5": 2, "test": 5}


def python2_pickle(value) -> bytes:
    """Protocol 2 as Python 2 wrote it, byte strings and NumPy 1's names included; today's pickle cannot."""

    def emit(value) -> bytes:
        if isinstance(value, bytes):
            return b"T" + struct.pack("<i", len(value)) + value
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, list):
            return b"](" + b"".join(map(emit, value)) + b"e"
        if isinstance(value, dict):
            return b"}(" + b"".join(emit(key) + emit(item) for key, item in value.items()) + b"u"
        dtype = b"cnumpy\ndtype\n" + emit(b"u1") + emit(0) + emit(1) + b"\x87R"
        dtype += b"(" + emit(3) + emit(b"|") + b"NNN" + emit(-1) + emit(-1) + emit(0) + b"tb"
        shape = emit(value.shape[0]) + emit(value.shape[1]) + b"\x86"
        array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + emit(0) + b"\x85" + emit(b"b") + b"\x87R"
        return array + b"(" + emit(1) + shape + dtype + b"\x89" + emit(value.tobytes()) + b"tb"

    return b"\x80\x02" + emit(value) + b"."


class Fake:
    """A small set in the official layout; `images` and `labels` are what loading it must give."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch):
        self.name, self.layout = name, cifar.FILES[name]
        rng = np.random.default_rng(1)
        self.class_names = ("cat", "dog", "owl")
        self.content, self.images, self.labels = {}, [], []
        for filename in (*self.layout.train, self.layout.test):
            count = NUM_IMAGES.get(filename, 5)
            images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
            labels = rng.integers(0, 3, count).tolist()
            rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(count, -1)
            batch = {b"data": rows, self.layout.labels_key: labels, b"coarse_labels": [0] * count, b"batch_label": b"x"}
            self.content[filename] = python2_pickle(batch)
            self.images.append(images)
            self.labels.append(labels)
        names = [class_name.encode() for class_name in self.class_names]
        self.content[self.layout.meta] = python2_pickle({self.layout.names_key: names, b"num_vis": 3072})
        for filename, content in self.content.items():
            monkeypatch.setitem(cifar.MD5, f"{self.layout.folder}/{filename}", hashlib.md5(content).hexdigest())
        monkeypatch.setitem(cifar.MD5, self.layout.archive, hashlib.md5(self.archive).hexdigest())

    @functools.cached_property
    def archive(self) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as tar:
            for filename, content in self.content.items():
                member = tarfile.TarInfo(f"{self.layout.folder}/{filename}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return stream.getvalue()

    def write_folder(self, place: pathlib.Path) -> pathlib.Path:
        folder = place / self.layout.folder
        folder.mkdir(parents=True)
        for filename, content in self.content.items():
            (folder / filename).write_bytes(content)
        return folder

    def write_archive(self, place: pathlib.Path) -> pathlib.Path:
        (place / self.layout.archive).write_bytes(self.archive)
        return place / self.layout.archive

    def check(self, data: Dataset) -> None:
        np.testing.assert_array_equal(data.train_images, np.concatenate(self.images[:-1]))
        np.testing.assert_array_equal(data.train_labels, np.concatenate(self.labels[:-1]))
        np.testing.assert_array_equal(data.test_images, self.images[-1])
        np.testing.assert_array_equal(data.test_labels, self.labels[-1])
        assert data.train_images.dtype == data.test_images.dtype == np.uint8
        assert data.train_labels.dtype == data.test_labels.dtype == np.int32
        assert data.class_names == self.class_names
        assert data.name == self.name


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    for variable in ("TMU_JAX_DATA", "TFDS_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(home)


@pytest.fixture(params=["cifar10", "cifar100"])
def fake(request, monkeypatch) -> Fake:
    return Fake(request.param, monkeypatch)


@pytest.fixture
def fake10(monkeypatch) -> Fake:
    return Fake("cifar10", monkeypatch)


def test_official_folder_itself_or_inside_data_dir(fake, tmp_path):
    folder = fake.write_folder(tmp_path / "data")
    for data_dir in (folder, folder.parent, str(folder.parent)):
        assert locate(fake.name, data_dir) == Location("folder", folder)
        data = load(fake.name, data_dir)
        fake.check(data)
        assert data.source == f"official {fake.layout.title} python files (MD5 checked)"


def test_official_archive_itself_or_inside_data_dir_is_read_without_extracting(fake, tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    archive = fake.write_archive(place)
    for data_dir in (archive, place):
        assert locate(fake.name, data_dir) == Location("archive", archive)
        fake.check(load(fake.name, data_dir))
    assert list(place.iterdir()) == [archive]


def test_folder_and_archive_have_one_fingerprint(fake10, tmp_path):
    folder, archive = fake10.write_folder(tmp_path), fake10.write_archive(tmp_path)
    first, second = load("cifar10", folder), load("cifar10", archive)
    assert first.fingerprint == second.fingerprint
    assert len(first.fingerprint) == 64
    changed = first.test_images.copy()
    changed[0, 0, 0, 0] ^= 1
    other = Dataset(
        "cifar10", "x", first.train_images, first.train_labels, changed, first.test_labels, first.class_names
    )
    assert other.fingerprint != first.fingerprint


@pytest.mark.parametrize("place", ["TMU_JAX_DATA", "./data", "~/data", "cache"])
def test_places_searched_without_data_dir(fake10, place, tmp_path, monkeypatch):
    assert locate("cifar10") is None
    monkeypatch.chdir(tmp_path)
    folder = {
        "TMU_JAX_DATA": tmp_path / "elsewhere",
        "./data": tmp_path / "data",
        "~/data": tmp_path / "home" / "data",
        "cache": tmp_path / "home" / "cache" / "tmu_jax",
    }[place]
    fake10.write_folder(folder)
    if place == "TMU_JAX_DATA":
        monkeypatch.setenv("TMU_JAX_DATA", str(folder))
    fake10.check(load("cifar10"))


@pytest.mark.parametrize("damage", ["cut", "altered"])
def test_file_with_another_md5_is_named_and_refused(fake10, damage, tmp_path):
    folder = fake10.write_folder(tmp_path)
    right = fake10.content["data_batch_3"]
    wrong = right[: len(right) // 2] if damage == "cut" else right[:-10] + b"0" + right[-9:]
    (folder / "data_batch_3").write_bytes(wrong)
    with pytest.raises(ValueError, match="data_batch_3 is not the official file") as caught:
        load("cifar10", tmp_path)
    assert hashlib.md5(right).hexdigest() in str(caught.value)
    assert hashlib.md5(wrong).hexdigest() in str(caught.value)


def test_cut_archive_is_refused(fake10, tmp_path):
    (tmp_path / fake10.layout.archive).write_bytes(fake10.archive[:-100])
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz is not the official file"):
        load("cifar10", tmp_path)


def test_missing_batch_file_is_named(fake10, tmp_path):
    (fake10.write_folder(tmp_path) / "data_batch_4").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_4"):
        load("cifar10", tmp_path)


class _Malicious:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickle_that_calls_a_command_is_refused(fake10, protocol, tmp_path, monkeypatch):
    evidence = tmp_path / "evidence"
    content = pickle.dumps({1: _Malicious(f"touch {evidence}")}, protocol)
    (fake10.write_folder(tmp_path) / "data_batch_1").write_bytes(content)
    monkeypatch.setitem(cifar.MD5, "cifar-10-batches-py/data_batch_1", hashlib.md5(content).hexdigest())
    with pytest.raises(pickle.UnpicklingError, match=r"data_batch_1: the pickle asks for \w+\.system"):
        load("cifar10", tmp_path)
    assert not evidence.exists()
    pickle.loads(content)
    assert evidence.exists()


def test_nothing_found_names_the_three_ways(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"data_dir='.*empty' does not exist.*\(1\).*\(2\).*\(3\).*kriz/cifar-100"
    ):
        load("cifar100", tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no CIFAR-10\. Provide"):
        load("cifar10", tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="CIFAR-10 was not found in any of data, "):
        load("cifar10")


def test_data_dir_is_the_only_place_searched_when_given(fake10, tmp_path):
    fake10.write_folder(tmp_path / "home" / "data")
    assert locate("cifar10") is not None
    assert locate("cifar10", tmp_path / "empty") is None


def test_unknown_name_is_refused():
    for call in (load, locate):
        with pytest.raises(ValueError, match=r"name must be one of .*got 'mnist'"):
            call("mnist")


def test_importing_the_data_package_imports_nothing_heavy():
    """Run with a bare parent package, since `tmu_jax` itself imports the models."""
    script = (
        "import sys, types; parent = types.ModuleType('tmu_jax'); parent.__path__ = [sys.argv[1]];"
        "sys.modules['tmu_jax'] = parent; import tmu_jax.data;"
        "print(sorted({'jax', 'flax', 'tensorflow', 'tensorflow_datasets', 'pooch', 'PIL'} & set(sys.modules)))"
    )
    package = pathlib.Path(sources.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", script, str(package)], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder served on this machine under the address of the official archives."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    for name, layout in cifar.FILES.items():
        monkeypatch.setitem(sources.URLS, name, f"http://127.0.0.1:{server.server_port}/{layout.archive}")
    yield folder
    server.shutdown()
    thread.join(timeout=10)
    server.server_close()


@pytest.mark.parametrize("given", [True, False])
def test_download_goes_to_data_dir_or_the_cache_and_is_found_again(fake10, served, given, tmp_path, capfd):
    fake10.write_archive(served)
    data_dir = tmp_path / "target" if given else None
    fake10.check(load("cifar10", data_dir, download=True))
    assert "100%" in capfd.readouterr().err
    folder = data_dir or tmp_path / "home" / "cache" / "tmu_jax"
    (served / fake10.layout.archive).unlink()
    assert locate("cifar10", data_dir) == Location("archive", folder / fake10.layout.archive)
    fake10.check(load("cifar10", data_dir, download=True))


def test_download_with_another_checksum_is_refused_and_not_kept(fake10, served, tmp_path):
    (served / fake10.layout.archive).write_bytes(fake10.archive + b"more")
    with pytest.raises(ValueError, match=hashlib.md5(fake10.archive).hexdigest()):
        load("cifar10", tmp_path / "target", download=True)
    assert list((tmp_path / "target").iterdir()) == []


def test_failed_download_says_what_to_do(served, tmp_path):
    with pytest.raises(ConnectionError, match=r"could not download http://127.*404.*data_dir"):
        load("cifar10", tmp_path / "target", download=True)


def test_official_addresses():
    assert sources.URLS == {
        "cifar10": "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "cifar100": "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    }


def write_tfds(fake: Fake, data_dir: pathlib.Path, file_format: str, with_id: bool = True) -> pathlib.Path:
    """Prepares a set as TFDS would, in shuffled order and two training shards, without TensorFlow."""
    import array_record.python.array_record_module as array_record
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    folder = data_dir / fake.name / "3.0.2"
    folder.mkdir(parents=True)
    features = {"image": tfds.features.Image(shape=(32, 32, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
    if with_id:
        features["id"] = tfds.features.Text()
    features = tfds.features.FeaturesDict(features)
    features["label"].names = list(fake.class_names)
    features.save_config(folder)
    splits = []
    arrays = {
        "train": (np.concatenate(fake.images[:-1]), np.concatenate(fake.labels[:-1])),
        "test": (fake.images[-1], np.asarray(fake.labels[-1])),
    }
    for split, (images, labels) in arrays.items():
        shuffled = np.random.default_rng(3).permutation(len(labels))
        shards = np.array_split(shuffled, 2 if split == "train" else 1)
        for number, shard in enumerate(shards):
            records = []
            for row in shard:
                png = io.BytesIO()
                PIL.Image.fromarray(images[row]).save(png, "png")
                example = tf_example_pb2.Example()
                example.features.feature["image"].bytes_list.value.append(png.getvalue())
                example.features.feature["label"].int64_list.value.append(int(labels[row]))
                if with_id:
                    example.features.feature["id"].bytes_list.value.append(f"{split}_{row:05d}".encode())
                records.append(example.SerializeToString())
            path = folder / f"{fake.name}-{split}.{file_format}-{number:05d}-of-{len(shards):05d}"
            if file_format == "array_record":
                writer = array_record.ArrayRecordWriter(str(path), "group_size:1")
                for record in records:
                    writer.write(record)
                writer.close()
            else:
                framed = [struct.pack("<QI", len(record), 0) + record + struct.pack("<I", 0) for record in records]
                path.write_bytes(b"".join(framed))
        lengths = ", ".join(f'"{len(shard)}"' for shard in shards)
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        splits.append(f'{{"name": "{split}", "shardLengths": [{lengths}], "filepathTemplate": "{template}"}}')
    (folder / "dataset_info.json").write_text(
        f'{{"name": "{fake.name}", "version": "3.0.2", "fileFormat": "{file_format}", "splits": [{", ".join(splits)}]}}'
    )
    return folder


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_prepared_tfds_folder_gives_the_official_order(fake, file_format, tmp_path, monkeypatch):
    folder = write_tfds(fake, tmp_path, file_format)
    num_train = sum(map(len, fake.labels[:-1]))
    monkeypatch.setattr(tfds_folder, "NUM_EXAMPLES", {"train": num_train, "test": 5})
    assert locate(fake.name, tmp_path) == Location("tfds", folder)
    data = load(fake.name, tmp_path)
    fake.check(data)
    assert data.source == f"prepared TFDS {fake.name} 3.0.2"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    fake.check(load(fake.name))
    assert "tensorflow" not in sys.modules


def test_incomplete_or_old_tfds_folder_is_refused(fake10, tmp_path):
    write_tfds(fake10, tmp_path / "few", "array_record")
    with pytest.raises(ValueError, match="12 distinct train examples instead of 50000"):
        load("cifar10", tmp_path / "few")
    write_tfds(fake10, tmp_path / "old", "array_record", with_id=False)
    with pytest.raises(ValueError, match="no 'id' feature"):
        load("cifar10", tmp_path / "old")
    folder = write_tfds(fake10, tmp_path / "cut", "tfrecord")
    shard = folder / "cifar10-test.tfrecord-00000-of-00001"
    for cut in (3, shard.stat().st_size - 6):
        with pytest.raises(ValueError, match="ends within a record"):
            list(tfds_folder._tfrecords(_shorten(shard, cut)))


def _shorten(path: pathlib.Path, cut: int) -> pathlib.Path:
    shorter = path.with_name(f"cut-{cut}")
    shorter.write_bytes(path.read_bytes()[:-cut])
    return shorter


def test_newest_tfds_version_is_taken(tmp_path):
    for version in ("3.0.2", "3.0.10", "2.9.0", "notes"):
        (tmp_path / "cifar10" / version).mkdir(parents=True)
        (tmp_path / "cifar10" / version / "dataset_info.json").touch()
    assert tfds_folder.find_version("cifar10", tmp_path) == tmp_path / "cifar10" / "3.0.10"


def arrays(**changes):
    rng = np.random.default_rng(0)
    given = {
        "train_images": rng.integers(0, 256, (6, 4, 5, 1), np.uint8),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": rng.integers(0, 256, (3, 4, 5, 1), np.uint8),
        "test_labels": [2, 1, 0],
    }
    return given | changes


def test_from_arrays_keeps_values_and_makes_the_types():
    given = arrays()
    data = from_arrays(**given, class_names=["a", "b", "c", "d"], name="mine")
    assert (data.name, data.source, data.class_names, data.num_classes) == ("mine", "arrays", ("a", "b", "c", "d"), 4)
    assert data.train_images is given["train_images"]
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    np.testing.assert_array_equal(data.test_labels, [2, 1, 0])
    as_integers = from_arrays(**{**given, "train_images": given["train_images"].astype(np.int64)})
    np.testing.assert_array_equal(as_integers.train_images, given["train_images"])
    assert as_integers.train_images.dtype == np.uint8
    assert as_integers.class_names == ("class_0", "class_1", "class_2")


IMAGES = arrays()["train_images"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train_images": IMAGES[0]}, ValueError, r"train_images must have shape \[n, height.*got \[4, 5, 1\]"),
        ({"test_images": IMAGES[:0]}, ValueError, r"test_images .*got \[0, 4, 5, 1\]"),
        ({"train_images": IMAGES / 255}, TypeError, r"train_images must be uint8.*float64 within .*numpy\.rint\(255"),
        ({"train_images": np.where(IMAGES > 200, np.nan, 0.5)}, TypeError, "of them not a number"),
        ({"train_images": IMAGES.astype(np.int32) - 1000}, ValueError, r"train_images must lie in 0\.\.255, got -"),
        ({"train_images": IMAGES.astype(np.int32) * 2}, ValueError, "train_images must lie in"),
        ({"train_images": IMAGES > 3}, TypeError, "train_images must be uint8.*got bool"),
        ({"test_images": IMAGES[:3, :, :4]}, ValueError, r"one shape, got \(4, 5, 1\) and \(4, 4, 1\)"),
        ({"train_labels": [0.0] * 6}, TypeError, "train_labels must be integers, got float64"),
        ({"train_labels": np.eye(6, dtype=int)}, ValueError, r"train_labels must have shape \[n\], got \[6, 6\]"),
        ({"train_labels": [0, 1, 2, 0, 1]}, ValueError, "one label for each of 6 images, got 5"),
        ({"test_labels": [0, -1, 2]}, ValueError, "test_labels must be 0 or more, got -1"),
        ({"class_names": ["a", "b"]}, ValueError, "train_labels must lie below the 2 class_names, got 2"),
        ({"train_labels": [0] * 6, "test_labels": [0] * 3}, ValueError, "at least 2 classes, got 1"),
    ],
)
def test_from_arrays_refuses_wrong_arrays(changes, error, message):
    with pytest.raises(error, match=message):
        from_arrays(**arrays(**changes))


def test_subset_keeps_the_shares_of_the_classes():
    rng = np.random.default_rng(0)
    labels = rng.choice(4, size=501, p=[0.1, 0.2, 0.3, 0.4]).astype(np.int32)
    images = rng.integers(0, 256, (501, 3, 3, 1), np.uint8)
    data = from_arrays(images, labels, images[:9], labels[:9])
    for num_train in (1, 50, 333, 501):
        part = subset(data, num_train, seed=5)
        assert len(part.train_labels) == num_train
        shares = np.bincount(labels) * num_train / 501
        assert np.abs(np.bincount(part.train_labels, minlength=4) - shares).max() < 1
        kept = {image.tobytes() for image in part.train_images}
        assert len(kept) == num_train
        assert kept <= {image.tobytes() for image in images}
        assert part.test_images is data.test_images
        again, other = subset(data, num_train, seed=5), subset(data, num_train, seed=6)
        assert again.fingerprint == part.fingerprint
        assert (other.fingerprint == part.fingerprint) == (num_train == 501)
    assert subset(data, 501).fingerprint == data.fingerprint
    assert "50 of 501 training images" in subset(data, 50).source


@pytest.mark.parametrize(
    ("num_train", "seed", "error"), [(0, 0, ValueError), (7, 0, ValueError), (2.0, 0, TypeError), (2, -1, ValueError)]
)
def test_subset_refuses_wrong_numbers(num_train, seed, error):
    with pytest.raises(error, match=r"num_train|seed"):
        subset(from_arrays(**arrays()), num_train, seed)


def test_reprs_hold_no_arrays():
    data = from_arrays(**arrays())
    for value in (data, data.pool):
        assert len(repr(value)) < 150
    assert "6 training and 3 test images" in repr(data)
