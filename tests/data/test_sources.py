"""Loading by name against tiny files of the official formats."""

import functools
import hashlib
import http.server
import os
import pathlib
import pickle
import subprocess
import sys
import threading

import pytest

from tmu_jax.data import Dataset, Location, cifar, load, locate, sources

pytestmark = pytest.mark.usefixtures("nothing_of_this_machine")


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
        "heavy = {'jax', 'flax', 'scipy', 'pandas', 'matplotlib', 'tensorflow', 'tensorflow_datasets', 'pooch', 'PIL'};"
        "print(sorted(heavy & set(sys.modules)))"
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
