"""Images on demand are those in memory, read when they are asked for."""

import sys
import threading

import grain
import numpy as np
import PIL.Image
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

import tmu_jax
from tests.tiny import tiny_data
from tmu_jax.auditing.evidence import data_digest
from tmu_jax.data import demand
from tmu_jax.data.copies import exact_copies
from tmu_jax.data.demand import ImagesOnDemand, chunks, image_files, join, on_demand, read_ahead
from tmu_jax.requests.recognising import image_codes
from tmu_jax.stages import stage_hash
from tmu_jax.training import pixel_statistics

DATA = tiny_data()
IMAGES = DATA.train_images


class Source:
    """Counts what is read of it."""

    def __init__(self, images):
        self.images, self.read = images, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        self.read.append(int(row))
        return self.images[row]


def data_on_demand(data=DATA):
    arrays = on_demand(data.train_images), data.train_labels, on_demand(data.test_images), data.test_labels
    return tmu_jax.data.from_arrays(*arrays)


@pytest.mark.parametrize(
    "rows",
    [3, np.int32(7), slice(None), slice(5, 50, 7), np.array([9, 2, 2]), np.array([[1, 2], [3, 4]]), np.zeros(0, int),
     np.arange(200) % 3 == 0],
    ids=["int", "numpy int", "all", "slice", "repeated", "two axes", "none", "mask"],
)  # fmt: skip
def test_rows_are_those_of_the_array(rows):
    np.testing.assert_array_equal(on_demand(IMAGES)[rows], IMAGES[rows])


def test_it_looks_like_the_array():
    found = on_demand(IMAGES)
    assert (found.shape, found.dtype, found.ndim, found.nbytes, len(found)) == (
        IMAGES.shape, IMAGES.dtype, IMAGES.ndim, IMAGES.nbytes, len(IMAGES),
    )  # fmt: skip
    np.testing.assert_array_equal(np.stack(list(found)), IMAGES)


def test_calls_are_read_ahead_in_their_order_each_row_once(monkeypatch):
    monkeypatch.setattr(demand, "_PIECE", 3)
    source = Source(IMAGES)
    calls = [np.array([[5, 5, 9], [0, 9, 5]]), np.array([8]), np.array([199, 0, 7, 7])]
    for rows, found in zip(calls, read_ahead(on_demand(source), calls), strict=True):
        np.testing.assert_array_equal(found, IMAGES[rows])
    assert sorted(source.read) == [0, 0, 0, 5, 7, 8, 9, 199]  # 0 first of all, for its shape


def test_several_images_are_read_at_once():
    """Each waits for three more to be asked for."""
    together = threading.Barrier(4)

    class Slow(Source):
        def __getitem__(self, row):
            if self.read:
                together.wait(timeout=20)
            return super().__getitem__(row)

    calls = [np.array([row]) for row in range(4)]
    assert len(list(read_ahead(on_demand(Slow(IMAGES)), calls))) == 4


def test_parts_are_joined_and_read_in_chunks(monkeypatch):
    monkeypatch.setattr(demand, "_CHUNK", 64)
    whole = np.concatenate([IMAGES[:150], IMAGES[:20], IMAGES[150:]])
    joined = join([on_demand(IMAGES[:150]), IMAGES[:20], on_demand(IMAGES[150:])])
    assert isinstance(joined, ImagesOnDemand)
    assert [len(part) for part in chunks(joined)] == [64, 64, 64, 28]
    np.testing.assert_array_equal(np.concatenate(list(chunks(joined))), whole)
    assert isinstance(join([IMAGES, IMAGES]), np.ndarray)


def test_a_data_set_has_the_names_and_hashes_of_that_in_memory():
    found = data_on_demand()
    assert isinstance(found.pool.images, ImagesOnDemand)
    assert found.fingerprint == DATA.fingerprint
    assert stage_hash({"images": found.pool.images}) == stage_hash({"images": DATA.pool.images})
    assert data_digest(found.pool, 200) == data_digest(DATA.pool, 200)
    assert image_codes(b"salt", found.pool.images) == image_codes(b"salt", DATA.pool.images)
    rows = np.array([3, 1, 150], np.int32)
    for one, other in zip(*(pixel_statistics(tmu_jax.data.Split(d.pool, rows)) for d in (found, DATA)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_request_finds_its_copies_and_its_augmented_held_out_images():
    labels = np.arange(40, dtype=np.int32) % 2
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    images[31] = images[4]
    few = images[:3], labels[:3]
    memory = tmu_jax.data.from_arrays(images, labels, *few)
    lazy = tmu_jax.data.from_arrays(on_demand(images), labels, *few)
    (one, other) = (
        tmu_jax.data.forget_indices(data, [4, 6, 8, 10, 5, 7], ratio="class", seed=1) for data in (memory, lazy)
    )
    assert other.notes == one.notes
    assert exact_copies(other).tolist() == [[4, 31]]
    assert len(other.pool) > 43
    np.testing.assert_array_equal(other.heldout.images, one.heldout.images)


def test_files_are_decoded_as_a_folder_of_them_is(tmp_path):
    names = []
    for c, color in enumerate(("red", "blue")):
        (tmp_path / color).mkdir()
        for i in range(4):
            pixels = np.random.default_rng([c, i]).integers(0, 256, (12, 10 + i, 3)).astype(np.uint8)
            names.append(tmp_path / color / f"{i}.png")
            PIL.Image.fromarray(pixels).save(names[-1])
    folder = tmu_jax.data.from_image_folder(tmp_path, image_size=8, progress=False).data
    files = image_files([tmp_path / name for name in folder.ids], 8)
    np.testing.assert_array_equal(files[:], folder.train_images)
    names[5].write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"image 5, '.*1\.png': not a JPEG"):
        list(chunks(image_files(names, 8)))


def test_records_are_read_by_grain(tmp_path):
    writer = ArrayRecordWriter(str(tmp_path / "images"), "group_size:1")
    for image in IMAGES:
        writer.write(image.tobytes())
    writer.close()
    records = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(str(tmp_path / "images")))
    images = on_demand(records.map(lambda record: np.frombuffer(record, np.uint8).reshape(4, 4, 3)))
    np.testing.assert_array_equal(np.concatenate(list(chunks(images))), IMAGES)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (5, TypeError, "source must have a length and give source.i., got int"),
        ([], ValueError, "at least one image"),
        (np.zeros((3, 4, 4), np.uint8), TypeError, r"uint8.height, width, channels., got uint8\[4, 4\]"),
        (np.zeros((3, 4, 4, 3)), TypeError, "got float64"),
    ],
)
def test_what_is_no_source_of_images_is_refused(source, error, words):
    with pytest.raises(error, match=words):
        on_demand(source)


def test_an_image_of_another_shape_is_named():
    images = on_demand([np.zeros((4, 4, 3), np.uint8)] * 3 + [np.zeros((4, 5, 3), np.uint8)])
    with pytest.raises(ValueError, match=r"image 3 must be uint8\[4, 4, 3\] as the first one is, got uint8\[4, 5, 3\]"):
        list(chunks(images))


def test_what_cannot_be_asked_of_images_on_demand():
    few = DATA.test_images, DATA.test_labels
    with pytest.raises(ValueError, match="image_size are for images in memory"):
        tmu_jax.data.from_arrays(on_demand(IMAGES), DATA.train_labels, *few, image_size=8)
    with pytest.raises(TypeError, match="test_images must be uint8"):
        tmu_jax.data.from_arrays(on_demand(IMAGES), DATA.train_labels, few[0] / 255, few[1])
    with pytest.raises(ValueError, match="images of one shape"):
        tmu_jax.data.from_arrays(on_demand(IMAGES), DATA.train_labels, few[0][:, :3], few[1])


def test_without_grain_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r"pip install 'tmu-jax\[grain\]'"):
        on_demand(IMAGES)
