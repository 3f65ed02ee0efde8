"""The ledger: which images were ever asked to be forgotten, so that they stay out; without their ids or pixels."""

import contextlib
import dataclasses
import datetime
import pathlib
import weakref
from typing import Any

import numpy as np

from tmu_jax.boundary import checked
from tmu_jax.data import Dataset, ForgetProblem, HeldoutSource, Ratio, forget_indices
from tmu_jax.data.checks import name_some
from tmu_jax.data.copies import copies_note
from tmu_jax.preparation import Forgotten, look
from tmu_jax.preparation.judging import expected_of_gold, outcome_of
from tmu_jax.requests.copies import Copies, find_copies
from tmu_jax.requests.recognising import Hashed, image_codes
from tmu_jax.requests.record import Book, Request
from tmu_jax.training import TrainedModel
from tmu_jax.training.saving import state_of, weights_digest
from tmu_jax.unlearning import UnlearnedModel


class Ledger:
    """A record of deletion requests in a folder, which is only ever added to.

    Of each image it keeps an HMAC-SHA-256 of the id and one of the bytes, under a random salt of its own: with the
    images at hand it tells which of them were removed, also in another order and under other ids; without them it
    names nobody. Whoever holds the folder can test a guess, so keep it as you keep other personal data.
    """

    @checked
    def __init__(self, folder: pathlib.Path | str) -> None:
        """Opens it; nothing is written before the first request.

        Args:
          folder: where; made by the first request.

        Raises:
          ValueError: where the folder is a file, or its ledger is damaged: the file and the line are named.
        """
        path = pathlib.Path(folder)
        if path.exists() and not path.is_dir():
            raise ValueError(f"folder={folder} is no folder")
        self._book = Book(path)
        self._hashed: weakref.WeakKeyDictionary[Dataset, tuple[bytes, Hashed]] = weakref.WeakKeyDictionary()
        self._read()

    @property
    def requests(self) -> tuple[Request, ...]:
        """All requests so far, the first one first."""
        return tuple(self._read()[1].values())

    @checked
    def removed(self, data: Dataset, *, besides: int | None = None) -> np.ndarray:
        """Rows that any request removed, open or closed: what no later training may gather.

        An image is recognised by its bytes, and by its id where the data set was given ids (or is the same to the last
        bit). A copy that was left in training when the request was made stays.

        Args:
          data: the images, with the ids that they had, in any order.
          besides: the number of a request that does not count: what the others removed, where a model for this one is
            made.

        Returns:
          int32[k], rows of `data.pool`, ascending: training images, and behind them test images that show a removed
          picture. `prepare(…, removed=)` and `forget_indices(…, removed=)` take them.
        """
        salt, requests = self._read()
        others = [one for number, one in requests.items() if number != besides]
        return np.array(sorted(self._hashes(data, salt).gone(others)), np.int32)

    @checked
    def request(
        self,
        data: Dataset,
        ids: Any,
        *,
        with_copies: bool = False,
        model: TrainedModel | None = None,
        seed: int = 0,
        heldout_source: HeldoutSource = "test",
        ratio: Ratio = "dataset",
        dry_run: bool = False,
    ) -> ForgetProblem:
        """Opens a request; or goes on with the open one for the very same ids.

        Args:
          data: the images, those that were removed before included or not.
          ids: of the images to forget, see `Dataset.rows_of`.
          with_copies: take copies of them along, as `find_copies` finds them; else they are listed in the notes.
          model: the classifier, for near copies; None: equal pixels alone.
          seed: as in `tmu_jax.data.forget_indices`, and so are the next two.
          heldout_source: where held-out images come from.
          ratio: how many.
          dry_run: write nothing: the problem as it would be, with the number that the request would have.

        Returns:
          The problem, with the request's number. No set of it but `forget` holds an image that this or an earlier
          request removes; of copies that stay the notes tell.

        Raises:
          ValueError: before anything is written, for ids that are unknown, repeated, or removed by an earlier request:
            ten are named, the rest counted; and for held-out images that cannot be had.
        """
        rows = data.rows_of(ids)
        with contextlib.nullcontext() if dry_run else self._book.locked():
            salt, requests = self._read()
            hashed = self._hashes(data, salt)
            own = next((one for one in requests.values() if hashed.asks(one, rows)), None)
            gone = hashed.gone(one for one in requests.values() if one is not own)
            _refuse(data, rows, gone, requests)
            forget = rows if own is None else hashed.with_taken(own, rows)

            def problem_of(forget: np.ndarray) -> ForgetProblem:
                return forget_indices(
                    data, forget, seed, heldout_source, ratio, removed=[*gone, *hashed.test_copies(forget)]
                )

            problem = problem_of(forget)
            has_taken = own is not None and len(own.images) > own.num_asked
            # Of what was taken along the equal ones alone: likeness would spread.
            copies = find_copies(problem, None if has_taken else model)
            while with_copies and len(taken := copies.rows[copies.rows < len(data.train_labels)]):
                if own is not None:
                    raise ValueError(
                        f"with_copies=True would add {len(taken)} images to request {own.number}, which is open "
                        "without them; close it, then ask for the copies"
                    )
                forget = np.concatenate([forget, taken])
                problem = problem_of(forget)
                copies = find_copies(problem)
            if own is None:
                staying = copies.rows[copies.rows < len(data.train_labels)]
                own = _opened(hashed, rows, forget, staying, 1 + len(requests))
                if not dry_run:
                    self._book.append(salt, {"event": "opened", **dataclasses.asdict(own)})
        return dataclasses.replace(problem, request=own.number, notes=(*problem.notes, *_notes(data, copies)))

    @checked
    def close(self, problem: ForgetProblem, result: Forgotten | UnlearnedModel) -> Request:
        """Closes a request: its images are gone from `result`.

        Args:
          problem: from `request`.
          result: what `forget` or `unlearn` made of it.

        Returns:
          The request as it is recorded.

        Raises:
          TypeError: for another result.
          ValueError: for a problem of another ledger, a request that is closed already, a model that forgot other
            images, and where nothing was forgotten: the request stays open then.
        """
        model = result.model if isinstance(result, Forgotten) else result
        if not isinstance(model, UnlearnedModel):
            raise TypeError(f"result must be what forget() or unlearn() returns, got {type(result).__name__}")
        with self._book.locked():
            salt, requests = self._read()
            own = self._own(problem, salt, requests)
            if model.original is None:
                raise ValueError(
                    "result does not hold the model before, as a model that was saved and read does not; close the "
                    "request before saving, with what forget() or unlearn() returned"
                )
            if set(model.forget_indices.tolist()) != set(problem.forget.indices.tolist()):  # type: ignore[union-attr]
                raise ValueError(f"result is of a model that forgot other images than request {own.number} asks for")
            state, sentence = _outcome(problem, result)
            if state == "nothing forgotten":
                raise ValueError(f"request {own.number} stays open: {sentence}; try another method")
            closing = {
                "closed": _now(),
                "method": model.method,
                "outcome": state,
                "weights_before": weights_digest(state_of(model.original)),
                "weights_after": weights_digest(state_of(model)),
            }
            self._book.append(salt, {"event": "closed", "number": own.number, **closing})
        return dataclasses.replace(own, state="closed", **closing)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        requests = self.requests
        number = sum(one.state == "open" for one in requests)
        return f"Ledger({str(self._book.path.parent)!r}: {len(requests)} requests, {number} of them open)"

    def _read(self) -> tuple[bytes, dict[int, Request]]:
        """The salt, and the requests by their numbers."""
        salt, entries = self._book.read()
        found: dict[int, Request] = {}
        for line, entry in enumerate(entries, 2):
            event = entry.pop("event", None)
            try:
                if event == "opened":
                    lists = {name: tuple(value) for name, value in entry.items() if isinstance(value, list)}
                    found[entry["number"]] = Request(**{**entry, **lists})
                elif event == "closed":
                    found[entry["number"]] = dataclasses.replace(found[entry["number"]], **{**entry, "state": "closed"})
                else:
                    raise ValueError(f"event {event!r} is unknown")
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{self._book.path}, line {line} cannot be read: {error}") from error
        return salt, found

    def _hashes(self, data: Dataset, salt: bytes) -> Hashed:
        """The hashes of a data set, computed once."""
        known = self._hashed.get(data)
        if known is None or known[0] != salt:
            known = salt, Hashed.of(data, salt)
            self._hashed[data] = known
        return known[1]

    def _own(self, problem: ForgetProblem, salt: bytes, requests: dict[int, Request]) -> Request:
        """The open request that a problem is of."""
        if problem.request is None or problem.request not in requests:
            raise ValueError(f"problem has the number {problem.request}, which is no request of {self!r}")
        own = requests[problem.request]
        if sorted(image_codes(salt, problem.forget.images)) != sorted(own.images):
            raise ValueError(f"problem is not request {own.number} of {self!r}: it forgets other images")
        if own.state == "closed":
            raise ValueError(f"request {own.number} was closed on {own.closed} already")
        return own


def _opened(hashed: Hashed, rows: np.ndarray, forget: np.ndarray, staying: np.ndarray, number: int) -> Request:
    return Request(
        number=number,
        time=_now(),
        ids=tuple(hashed.ids[row] for row in forget),
        images=tuple(hashed.images[row] for row in forget),
        num_asked=len(rows),
        stays=tuple(hashed.ids[row] for row in staying),
        is_named=hashed.is_named,
        data=hashed.data,
    )


def _refuse(data: Dataset, rows: np.ndarray, gone: dict[int, int], requests: dict[int, Request]) -> None:
    """Raises ValueError where an image was removed before."""
    again = [row for row in rows.tolist() if row in gone]
    if not again:
        return
    numbers = sorted({gone[row] for row in again})
    words = ", ".join(f"request {number} ({requests[number].state}, of {requests[number].time})" for number in numbers)
    raise ValueError(
        f"ids holds {name_some(data.ids[again])}, removed by {words}; leave them out, or go on with an open request by "
        "asking for exactly its ids"
    )


def _notes(data: Dataset, copies: Copies) -> tuple[str, ...]:
    """The sentences on copies, by the images' ids."""

    def name(row: int) -> str:
        num_train = len(data.train_labels)
        return str(data.ids[row]) if row < num_train else f"test image {row - num_train}"

    return (*copies_note(copies.exact, names=name), *copies_note(copies.near, "nearly equal to", name))


def _outcome(problem: ForgetProblem, result: Forgotten | UnlearnedModel) -> tuple[str, str]:
    """What became of the request, and the sentence on it."""
    if isinstance(result, Forgotten):
        return result.outcome, result.reason
    assert result.original is not None
    findings = look(problem, result.original)
    expected = expected_of_gold(problem, findings, result.original)
    found = outcome_of(problem, findings, result.original, result, expected)
    return found.state, found.sentence


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
