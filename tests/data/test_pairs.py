"""Sources that give images one by one, against the arrays that they hold."""

import numpy as np
import PIL.Image
import pytest

from tmu_jax.data import from_arrays, from_source

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 10, 12, 3), np.uint8)
LABELS = np.arange(12) % 3
PLAIN = from_arrays(IMAGES, LABELS, IMAGES[:3], LABELS[:3], name="source")
QUIET = {"progress": False}


class Source:
    """As torchvision's: by number, and without an end where it is iterated over."""

    def __init__(self, elements, **attributes):
        self._elements = elements
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self._elements)

    def __getitem__(self, row):
        return self._elements[row % len(self._elements)]


def pairs(count=12, image=lambda pixels: pixels, label=int):
    return [(image(pixels), label(c)) for pixels, c in zip(IMAGES[:count], LABELS, strict=False)]


def scaled(pixels):
    """As torchvision's `ToTensor`."""
    return (pixels.transpose(2, 0, 1) / 255).astype(np.float32)


@pytest.mark.parametrize(
    ("image", "label", "options"),
    [
        (lambda pixels: pixels, int, {}),
        (PIL.Image.fromarray, int, {}),
        (PIL.Image.fromarray, np.int64, {}),
        (lambda pixels: pixels, lambda c: np.asarray(c)[None], {}),
        (scaled, str, {"pixel_range": (0, 1), "channels": "first"}),
    ],
)
def test_pairs(image, label, options):
    for wrap in (Source, list, tuple):
        sources = (wrap(pairs(count, image, label)) for count in (12, 3))
        data = from_source(*sources, **options, **QUIET)
        assert data.fingerprint == PLAIN.fingerprint


def test_parts_beyond_image_and_label_are_said_not_to_be_read():
    triples = [(*pair, f"img{row}") for row, pair in enumerate(pairs())]
    data = from_source(triples, triples[:3], **QUIET)
    assert data.fingerprint == PLAIN.fingerprint
    assert data.notes == ("of 3 parts an element image and label were read alone; ids go in by ids=",)
    assert from_source(pairs(), pairs(3), **QUIET).notes == ()


def test_tensors_scaled_by_a_transform_are_asked_about():
    with pytest.raises(ValueError, match=r'train_images .* look like \[n, channels.*pass channels="first" if'):
        from_source(pairs(12, scaled), pairs(3, scaled), **QUIET)
    with pytest.raises(TypeError, match=r"pass pixel_range=\(0, 1\) if 1 is white"):
        from_source(pairs(12, scaled), pairs(3, scaled), channels="first", **QUIET)


def test_classes_that_the_source_names():
    sources = Source(pairs(), classes=["a", "b", "c"]), pairs(3)
    assert from_source(*sources, **QUIET).class_names == ("a", "b", "c")
    assert from_source(*sources, ["d", "e", "f"], **QUIET).class_names == ("d", "e", "f")
    # Names that do not fit the labels are none.
    assert from_source(Source(pairs(), classes=["a", "b"]), pairs(3), **QUIET).class_names == PLAIN.class_names


class ClassLabel:
    def __init__(self, *names):
        self.names = list(names)


def test_mappings():
    features = {"coarse": ClassLabel("x", "y"), "img": object(), "fine_label": ClassLabel("a", "b", "c")}
    rows = [
        {"img": PIL.Image.fromarray(image), "fine_label": int(c), "coarse": 0, "who": f"u{n}"}
        for n, (image, c) in enumerate(zip(IMAGES, LABELS, strict=True))
    ]
    data = from_source(Source(rows, features=features), Source(rows[:3]), id_key="who", **QUIET)
    assert data.fingerprint == from_arrays(IMAGES, LABELS, IMAGES[:3], LABELS[:3], "abc", "source").fingerprint
    assert data.rows_of(["u7"]).tolist() == [7]
    other = [{"x": row["img"], "y": row["fine_label"], "label": 9} for row in rows]
    named = from_source(other, other[:3], image_key="x", label_key="y", ids=range(50, 62), **QUIET)
    assert named.fingerprint == PLAIN.fingerprint
    assert named.rows_of([51]).tolist() == [1]
    with pytest.raises(ValueError, match="one of image, img, pixel_values; pass image_key, got the keys x, y, label"):
        from_source(other, other, **QUIET)
    with pytest.raises(ValueError, match="train must give mappings with label_key='z', got the keys x, y, label"):
        from_source(other, other, image_key="x", label_key="z", **QUIET)


def test_images_of_differing_sizes_need_a_size():
    rows = [(image[:, : 12 - n % 2], int(c)) for n, (image, c) in enumerate(zip(IMAGES, LABELS, strict=True))]
    with pytest.raises(
        ValueError, match="train_images must be of one size, got 10x12 and 10x11 pixels; pass image_size"
    ):
        from_source(rows, rows, **QUIET)
    assert from_source(rows, rows, image_size=8, **QUIET).train_images.shape == (12, 8, 8, 3)


class Flipping(Source):
    """Every image is flipped by a coin of its own."""

    def __getitem__(self, row):
        image, label = super().__getitem__(row)
        return (image[:, ::-1] if self.coins.random() < 0.5 else image), label


def test_a_random_transform_is_found():
    for seed in range(5):
        flipping = Flipping(pairs(), coins=np.random.default_rng(seed))
        for sources, argument in (((flipping, pairs(3)), "train"), ((pairs(), flipping), "test")):
            with pytest.raises(
                ValueError, match=f"{argument} gives other pixels each time image . is read; pass a source"
            ):
                from_source(*sources, **QUIET)


class Iterated:
    """As a `tf.data.Dataset`."""

    def __init__(self, elements):
        self._elements = elements

    def as_numpy_iterator(self):
        return iter(self._elements)


def test_a_data_set_of_tf_data():
    rows = [{"image": image, "label": c} for image, c in zip(IMAGES, LABELS, strict=True)]
    assert from_source(Iterated(rows), Iterated(rows[:3]), **QUIET).fingerprint == PLAIN.fingerprint


class Loader:
    batch_size = 4

    def __len__(self):
        return 3


class Frame(Source):
    iloc = None


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        (
            Loader(),
            TypeError,
            "train must have a length and give .* got a Loader; this one gives batches: pass its .dat",
        ),
        ({"train": [], "test": []}, TypeError, "got a dict; pass one of its splits, train, test"),
        (Frame([]), TypeError, r"got a Frame; tmu_jax\.data\.from_csv takes a frame"),
        (iter(pairs()), TypeError, "got a list_iterator$"),
        ("folder", TypeError, "got a str$"),
        ([], ValueError, "train must hold at least one image, got none"),
        (IMAGES, ValueError, r"train must give pairs \(image, label\) or mappings, got a ndarray"),
        ([(IMAGES[0],)], ValueError, r"must give pairs \(image, label\) or mappings, got a tuple"),
    ],
)
def test_what_is_no_source_is_refused(train, error, message):
    with pytest.raises(error, match=message):
        from_source(train, pairs(3), **QUIET)


def test_pairs_have_no_keys():
    with pytest.raises(
        ValueError, match="id_key='who' needs elements that are mappings, but train gives pairs; use ids="
    ):
        from_source(pairs(), pairs(3), id_key="who", **QUIET)


def test_progress_bar_is_shown_when_asked_for(capfd):
    from_source(pairs(), pairs(3), **QUIET)
    assert capfd.readouterr().err == ""
    from_source(pairs(), pairs(3))
    assert "reading test: 100%" in capfd.readouterr().err
