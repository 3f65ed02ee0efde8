"""The ledger: who was removed is recognised in any order and under any name, and named to nobody."""

import concurrent.futures
import dataclasses
import json
import os

import jax
import numpy as np
import pytest

import tmu_jax
from tests.patching import patch_everywhere
from tests.preparation.made import CALL, DATA, gathered_rows
from tests.tiny import TinyNet, noise_for_training, tiny_data
from tmu_jax import Ledger, training
from tmu_jax.training.saving import state_of, weights_digest

NAMES = np.array([f"person-{i}.png" for i in range(200)])
NAMED = dataclasses.replace(tiny_data(), train_ids=NAMES)


def arranged(data, order, names=None):
    """The data set with its training images in another order, and under other ids."""
    ids = data.train_ids[order] if names is None and data.train_ids is not None else names
    return dataclasses.replace(
        data, train_images=data.train_images[order], train_labels=data.train_labels[order], train_ids=ids
    )


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "deletions")


@pytest.fixture(scope="module")
def original():
    """A model that takes no time; that it has learnt nothing is no matter here."""
    split = tmu_jax.data.Split(NAMED.pool, np.arange(200, dtype=np.int32))
    return tmu_jax.train(TinyNet(), split, key=jax.random.key(0), recipe=training.Recipe(epochs=1, batch_size=50))


def retrained(problem, original):
    return tmu_jax.unlearn("retrain", problem, original, key=jax.random.key(1))


def closed(ledger, data, ids, original, monkeypatch):
    problem = ledger.request(data, ids)
    with monkeypatch.context() as patch:
        patch_everywhere(patch, training.fit, noise_for_training)
        ledger.close(problem, retrained(problem, original))
    return problem


def test_a_request_holds_what_was_asked_in_its_order(ledger):
    problem = ledger.request(NAMED, ["person-7.png", "person-3.png"], seed=5)
    same = tmu_jax.data.forget_indices(NAMED, [7, 3], seed=5)
    for name in ("train", "forget", "retain", "heldout", "test"):
        np.testing.assert_array_equal(getattr(problem, name).indices, getattr(same, name).indices)
    assert problem.request == 1
    assert ledger.requests[0].state == "open"
    assert "1 requests, 1 of them open" in repr(ledger)


@pytest.mark.parametrize("source", ["test", "train"])
def test_nothing_removed_is_in_any_set_of_a_later_request(ledger, original, monkeypatch, source):
    closed(ledger, NAMED, NAMES[:10], original, monkeypatch)
    ledger.request(NAMED, NAMES[10:15])  # stays open
    problem = ledger.request(NAMED, NAMES[40:44], heldout_source=source)
    for name in ("train", "forget", "retain", "heldout"):
        assert not np.isin(getattr(problem, name).indices, np.arange(15)).any(), name
    kept_out = 0 if source == "test" else 200 - 15 - len(problem.train)
    assert len(problem.train) == 185 - kept_out
    np.testing.assert_array_equal(ledger.removed(NAMED), [*range(15), *range(40, 44)])


def test_a_dry_run_is_the_request_as_it_would_be_and_writes_nothing(ledger, tmp_path):
    dry = ledger.request(NAMED, NAMES[:4], dry_run=True)
    assert not (tmp_path / "deletions").exists()
    real = ledger.request(NAMED, NAMES[:4])
    again = ledger.request(NAMED, NAMES[:4], dry_run=True)
    for problem in (dry, again):
        assert problem.request == real.request == 1
        np.testing.assert_array_equal(problem.retain.indices, real.retain.indices)
    with pytest.raises(ValueError, match=r"removed by request 1 \(open"):
        ledger.request(NAMED, NAMES[3:6], dry_run=True)
    assert ledger.request(NAMED, NAMES[10:12], dry_run=True).request == 2
    assert len(ledger.requests) == 1


def test_what_the_others_removed(ledger):
    ledger.request(NAMED, NAMES[:4])
    ledger.request(NAMED, NAMES[6:8])
    np.testing.assert_array_equal(ledger.removed(NAMED, besides=2), [0, 1, 2, 3])
    np.testing.assert_array_equal(ledger.removed(NAMED, besides=1), [6, 7])
    np.testing.assert_array_equal(ledger.removed(NAMED, besides=3), [0, 1, 2, 3, 6, 7])


def test_the_removed_are_known_in_another_order_under_other_names_and_from_the_file_alone(ledger, tmp_path):
    ledger.request(NAMED, NAMES[[3, 5]])
    order = np.random.default_rng(0).permutation(200)
    again = Ledger(tmp_path / "deletions")
    where = np.flatnonzero(np.isin(order, [3, 5]))
    np.testing.assert_array_equal(again.removed(arranged(NAMED, order)), where)
    np.testing.assert_array_equal(again.removed(arranged(NAMED, order, names=NAMES)), np.union1d(where, [3, 5]))
    nameless = dataclasses.replace(arranged(NAMED, order), train_ids=None)
    np.testing.assert_array_equal(again.removed(nameless), where)


def test_an_id_is_known_where_its_picture_was_changed(ledger):
    ledger.request(NAMED, ["person-3.png"])
    brighter = dataclasses.replace(NAMED, train_images=NAMED.train_images | 1)
    np.testing.assert_array_equal(ledger.removed(brighter), [3])


def test_a_row_number_is_no_name_once_the_rows_have_shifted(ledger):
    data = tiny_data()
    ledger.request(data, [3])
    shifted = arranged(data, np.arange(1, 200))
    np.testing.assert_array_equal(ledger.removed(shifted), [2])
    assert ledger.request(shifted, [3]).forget.indices.tolist() == [3]  # another image than before


def test_a_test_image_of_the_same_picture_is_not_held_out(ledger):
    images = NAMED.test_images.copy()
    images[7] = NAMED.train_images[3]
    data = dataclasses.replace(NAMED, test_images=images)
    problem = ledger.request(data, ["person-3.png"], ratio="all")
    assert 207 not in problem.heldout.indices
    assert len(problem.heldout) == 19
    np.testing.assert_array_equal(ledger.removed(data), [3, 207])
    assert 207 not in ledger.request(data, ["person-11.png"], ratio="all").heldout.indices


def test_neither_ids_nor_pixels_are_in_the_folder(ledger, tmp_path):
    ledger.request(NAMED, NAMES[:3])
    written = b"".join(file.read_bytes() for file in (tmp_path / "deletions").iterdir())
    assert b"person" not in written
    assert NAMED.train_images[0].tobytes()[:8] not in written
    one, other = (Ledger(tmp_path / name) for name in ("a", "b"))
    for ledger in (one, other):
        ledger.request(NAMED, NAMES[:3])
    assert not set(one.requests[0].ids) & set(other.requests[0].ids)  # each has its own salt
    assert not set(one.requests[0].images) & set(other.requests[0].images)


def test_an_open_request_is_resumed_by_its_very_ids(ledger):
    first = ledger.request(NAMED, NAMES[[3, 5, 9]])
    again = ledger.request(NAMED, NAMES[[9, 3, 5]])
    assert again.request == first.request == 1
    np.testing.assert_array_equal(again.forget.indices, [9, 3, 5])
    np.testing.assert_array_equal(again.retain.indices, first.retain.indices)
    assert len(ledger.requests) == 1
    with pytest.raises(ValueError, match=r"person-3.png, person-5.png, removed by request 1 \(open"):
        ledger.request(NAMED, NAMES[[3, 5]])


def test_the_removed_are_refused_by_name_ten_and_the_rest_counted(ledger, original, monkeypatch):
    closed(ledger, NAMED, NAMES[:14], original, monkeypatch)
    with pytest.raises(ValueError, match=r"person-9.png and 4 more, removed by request 1 \(closed") as error:
        ledger.request(NAMED, NAMES[:16])
    assert "person-10" not in str(error.value)
    assert len(ledger.requests) == 1


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["person-1.png", "nobody", "none"], "2 are unknown: nobody, none"),
        (["person-1.png", "person-1.png"], "asked for more than once: person-1.png"),
        ([], "must name at least one image"),
        (NAMES, "all 200 training images"),
    ],
)
def test_ids_that_cannot_be_asked_for_leave_nothing_behind(ledger, ids, said):
    with pytest.raises(ValueError, match=said):
        ledger.request(NAMED, ids)
    assert ledger.requests == ()


def twice():
    """Image 3 three times more: as 11, as 150 with another label, and once changed a little, as 20."""
    images = NAMED.train_images.copy()
    images[[11, 150]] = images[3]
    return dataclasses.replace(NAMED, train_images=images)


def test_copies_stay_and_are_listed_or_go_along(ledger, tmp_path):
    data = twice()
    problem = ledger.request(data, ["person-3.png"])
    note = "2 images that stay are equal to forgotten ones (person-11.png of person-3.png, person-150.png"
    assert any(one.startswith(note) for one in problem.notes)
    assert np.isin([11, 150], problem.retain.indices).all()
    np.testing.assert_array_equal(ledger.removed(data), [3])  # the copies were known, and stayed
    assert ledger.request(data, ["person-11.png"]).request == 2
    with pytest.raises(ValueError, match="would add 1 images to request 2"):
        ledger.request(data, ["person-11.png"], with_copies=True)
    other = Ledger(tmp_path / "other")
    problem = other.request(data, ["person-3.png"], with_copies=True)
    np.testing.assert_array_equal(problem.forget.indices, [3, 11, 150])
    assert problem.notes == ()
    np.testing.assert_array_equal(other.removed(data), [3, 11, 150])
    for wanted in (True, False):  # resumed as it is recorded
        again = other.request(data, ["person-3.png"], with_copies=wanted)
        np.testing.assert_array_equal(again.forget.indices, [3, 11, 150])
    shuffled = arranged(dataclasses.replace(data, train_ids=None), np.arange(199, -1, -1))
    np.testing.assert_array_equal(other.removed(shuffled), [49, 188, 196])


def test_a_removed_image_that_returns_under_another_id_is_gone_too(ledger):
    ledger.request(NAMED, ["person-3.png"])
    np.testing.assert_array_equal(ledger.removed(twice()), [3, 11, 150])


def test_a_closed_request_says_what_became_of_it(ledger, original, monkeypatch):
    problem = closed(ledger, NAMED, NAMES[:4], original, monkeypatch)
    one = ledger.requests[0]
    assert (one.state, one.method, one.outcome, one.num_asked) == ("closed", "retrain", "forgotten", 4)
    assert one.weights_before == weights_digest(state_of(original))
    assert len(one.weights_after) == 64
    assert one.weights_after != one.weights_before
    assert one.closed >= one.time
    assert one.time.endswith("+00:00")
    assert one.data == NAMED.fingerprint
    with pytest.raises(ValueError, match=r"was closed on .* already"):
        ledger.close(problem, retrained(problem, original))


def test_what_does_not_close_a_request(ledger, original, tmp_path):
    problem, other = (ledger.request(NAMED, ids) for ids in (NAMES[:4], NAMES[4:9]))
    untouched = tmu_jax.unlearn("original", problem, original, key=jax.random.key(1))
    with pytest.raises(ValueError, match="request 1 stays open: nothing was forgotten"):
        ledger.close(problem, untouched)
    with pytest.raises(ValueError, match="forgot other images than request 2"):
        ledger.close(other, untouched)
    with pytest.raises(TypeError, match="not a TrainedModel"):
        ledger.close(problem, original)
    read = tmu_jax.load(retrained(problem, original).save(tmp_path / "saved"), original.module)
    with pytest.raises(ValueError, match="result does not hold the model before"):
        ledger.close(problem, read)
    with pytest.raises(ValueError, match="the number None, which is no request"):
        ledger.close(tmu_jax.data.forget_indices(NAMED, range(4)), untouched)
    stranger = Ledger(tmp_path / "another")
    stranger.request(NAMED, NAMES[50:52])
    with pytest.raises(ValueError, match="is not request 1 of"):
        stranger.close(problem, untouched)
    assert [one.state for one in ledger.requests] == ["open", "open"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: [lines[0], lines[1].replace(b'"number": 1', b'"number": 7'), lines[2]], "line 2 is damaged"),
        (lambda lines: [lines[0], lines[2]], "line 2 is damaged"),  # one left out
        (lambda lines: [lines[0], lines[2], lines[1]], "line 2 is damaged"),
        (lambda lines: [*lines[:2], lines[2][:40]], "line 3 is damaged: it is no JSON"),
        (lambda lines: [*lines[:2], b"[" * 100_000], "line 3 is damaged: it is no JSON"),
        (lambda lines: [*lines[:2], b"[1]"], "line 3 is damaged: it is no JSON object"),
        (lambda lines: [lines[0].replace(b'"format": 1', b'"format": 2'), *lines[1:]], "of format 2"),
        (lambda lines: [b"{}", *lines[1:]], "line 1 is damaged: it holds no salt"),
        (lambda lines: [], "line 1 is damaged"),
    ],
)
def test_damage_is_named_by_file_and_line(ledger, tmp_path, damage, said):
    for ids in (NAMES[:2], NAMES[2:4]):
        ledger.request(NAMED, ids)
    path = tmp_path / "deletions" / "ledger.jsonl"
    path.write_bytes(b"\n".join(damage(path.read_bytes().splitlines())))
    with pytest.raises(ValueError, match=rf"ledger\.jsonl.*{said}"):
        Ledger(tmp_path / "deletions")
    with pytest.raises(ValueError, match=said):
        ledger.request(NAMED, NAMES[5:7])


def test_a_write_that_fails_leaves_the_ledger_as_it_was(ledger, tmp_path, monkeypatch):
    ledger.request(NAMED, NAMES[:2])
    before = (tmp_path / "deletions" / "ledger.jsonl").read_bytes()

    def no_space(handle):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match="no space"):
            ledger.request(NAMED, NAMES[2:4])
    assert (tmp_path / "deletions" / "ledger.jsonl").read_bytes() == before
    assert sorted(file.name for file in (tmp_path / "deletions").iterdir()) == ["ledger.jsonl", "ledger.lock"]
    assert ledger.request(NAMED, NAMES[2:4]).request == 2


def test_several_writers_lose_nothing(tmp_path):
    """Each with a ledger of its own, as processes have; a lock on the file keeps them apart."""

    def write(i):
        return Ledger(tmp_path / "deletions").request(NAMED, [NAMES[i]]).request

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(write, range(16)))
    assert sorted(numbers) == list(range(1, 17))
    requests = Ledger(tmp_path / "deletions").requests
    assert [one.number for one in requests] == list(range(1, 17))
    np.testing.assert_array_equal(Ledger(tmp_path / "deletions").removed(NAMED), range(16))


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is no folder"):
        Ledger(tmp_path / "file")


def test_every_line_is_json_a_person_can_read(ledger, tmp_path):
    ledger.request(NAMED, NAMES[:1])
    lines = [json.loads(line) for line in (tmp_path / "deletions" / "ledger.jsonl").read_text().splitlines()]
    assert [sorted(line)[:2] for line in lines] == [["code", "format"], ["closed", "code"]]
    assert lines[1]["event"] == "opened"


def test_ten_requests_in_turn_gather_no_removed_image_and_neither_does_what_comes_after(ledger, monkeypatch):
    """Every row that any training step gathered, counted: by the requests, a preparation, a training, a retraining."""
    now = tmu_jax.prepare(TinyNet(), DATA, **CALL)
    removed = np.zeros(0, int)
    for i in range(10):
        ids = np.arange(4 * i, 4 * i + 4)
        problem = ledger.request(DATA, ids)
        with gathered_rows(monkeypatch) as rows:
            found = tmu_jax.forget(now, problem, method=("rewarm", "soft_twin")[i % 2])
        gathered = np.unique(np.concatenate([part.ravel() for part in rows]))
        assert not np.isin(gathered, removed).any(), i
        assert len(gathered) > 10
        if found.outcome != "nothing forgotten":
            ledger.close(problem, found)
        now, removed = found.prepared, np.concatenate([removed, ids])
    np.testing.assert_array_equal(ledger.removed(DATA), removed)
    last = ledger.request(DATA, [60, 61])
    gone = ledger.removed(DATA)
    with gathered_rows(monkeypatch) as rows:
        fresh = tmu_jax.prepare(TinyNet(), DATA, **CALL, removed=gone[gone < 60])
        tmu_jax.forget(fresh, last, method="rewarm")
        tmu_jax.train(TinyNet(), last.retain, key=CALL["key"], epochs=1)
        tmu_jax.unlearn("retrain", last, now.model, key=CALL["key"])
        tmu_jax.unlearn("finetune", last, now.model, key=CALL["key"])
    gathered = np.unique(np.concatenate([part.ravel() for part in rows]))
    assert not np.isin(gathered, removed).any()
    assert np.isin(np.setdiff1d(np.arange(200), [*removed, 60, 61]), gathered).all()
