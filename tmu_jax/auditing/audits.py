"""The audit of a request: what was asked and done, what can be shown of it, and what cannot."""

import dataclasses
import datetime
import json
import pathlib
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tmu_jax.auditing import evidence, facts, page, reading, telling
from tmu_jax.auditing.measuring import Seen, measure
from tmu_jax.auditing.reading import Check, Outcome
from tmu_jax.boundary import checked
from tmu_jax.data import ForgetProblem
from tmu_jax.data.checks import check_seed
from tmu_jax.data.ids import as_ids
from tmu_jax.preparation import Forgotten, Prepared
from tmu_jax.requests import Copies
from tmu_jax.text import ascii_text, html_table
from tmu_jax.timing import Stopwatch
from tmu_jax.training import TrainedModel
from tmu_jax.training.saving import state_of, weights_digest
from tmu_jax.unlearning import UnlearnedModel


class Written(NamedTuple):
    """Where an audit lies, and the salt of its ids, which no file holds: give it to the requester alone."""

    page: pathlib.Path
    evidence: pathlib.Path
    salt: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """What an audit found; `print` it, or `write` it.

    Attributes:
      document: all of it as JSON values, without ids; what the evidence holds.
      ids: of the images that were asked for, in the request's order.
    """

    document: Mapping[str, Any]
    ids: tuple[str, ...]

    @property
    def outcome(self) -> Outcome:
        """One of "passed", "failed", and "nothing shown" where the untouched model would have come out the same."""
        return self.document["outcome"]

    @property
    def passed(self) -> bool:
        """Whether no check failed, and an untouched model would have failed one."""
        return self.outcome == "passed"

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(Check(**check) for check in self.document["checks"])

    @property
    def figures(self) -> Mapping[str, Any]:
        """Every figure with its interval, see `reading.read`."""
        return self.document["figures"]

    @property
    def findings(self) -> tuple[str, ...]:
        """What was found, a sentence each."""
        return telling.findings(self.document)

    @property
    def not_shown(self) -> tuple[str, ...]:
        """What must not be concluded from it, a sentence each."""
        return telling.not_shown(self.document)

    def write(
        self,
        page_path: pathlib.Path | str = "answer.html",
        evidence_path: pathlib.Path | str = "evidence.json",
        *,
        key: evidence.PrivateKey | None = None,
        password: bytes | None = None,
        salt: str | None = None,
    ) -> Written:
        """Writes a page that may be attached to the answer, and the evidence for it.

        Args:
          page_path: an HTML page in one file, in plain words. It holds no id.
          evidence_path: JSON: hashes of data, weights and page, salted ids, settings, versions, every measured value.
          key: signs the evidence: an Ed25519 private key, or its PEM file. None: unsigned, and the page says so.
          password: of the PEM file.
          salt: of the ids; drawn at random where None.

        Returns:
          The paths and the salt. Who has an id and the salt finds the id in the evidence (`tmu_jax.verify`).

        Raises:
          FileNotFoundError: when the key's file is not there.
          ValueError: when it holds no Ed25519 key.
        """
        signer = None if key is None else evidence.private_key(key, password)
        salt = secrets.token_hex(32) if salt is None else salt
        document = dict(self.document)
        document["request"] = {
            **document["request"],
            "ids": {"algorithm": "HMAC-SHA-256", "values": evidence.salted(self.ids, salt)},
        }
        by = None if signer is None else evidence.public_key(signer.public_key())
        content = page.render(document, by, pathlib.Path(page_path).name, pathlib.Path(evidence_path).name).encode(
            "utf-8"
        )
        document["page"] = {"sha256": evidence.sha256(content)}
        document["signature"] = None if signer is None else evidence.sign(document, signer)
        written = Written(pathlib.Path(page_path), pathlib.Path(evidence_path), salt)
        written.page.write_bytes(content)
        written.evidence.write_text(json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n", "utf-8")
        return written

    def __str__(self) -> str:
        lines = [f"audit: {self.outcome}"]
        lines += [f"  {check.status:11s} {check.name:11s} {check.sentence}" for check in self.checks]
        lines += [f"  {sentence}" for sentence in self.findings]
        return ascii_text("\n".join([*lines, "not shown:", *(f"  {sentence}" for sentence in self.not_shown)]))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [(f"{check.name}: {check.status}", check.sentence) for check in self.checks]
        rows += [("found", sentence) for sentence in self.findings]
        return html_table(f"Audit: {self.outcome}", [*rows, *(("not shown", sentence) for sentence in self.not_shown)])


@checked
def audit(
    problem: ForgetProblem,
    result: Forgotten | TrainedModel,
    *,
    original: TrainedModel | None = None,
    gold: TrainedModel | None = None,
    second_gold: TrainedModel | None = None,
    prepared: Prepared | None = None,
    copies: Copies | None = None,
    ids: Sequence[str] | np.ndarray | None = None,
    seed: int = 0,
) -> Audit:
    """Looks for the forgotten images in a model, and says what that shows.

    An untouched model fails; one that was retrained without the images passes, but for one audit in twenty
    (`reading.LEVEL`). What neither could show is called "nothing shown".

    Args:
      problem: the request, as it was asked for.
      result: what `forget` returned, or a model.
      original: the model before; an `UnlearnedModel` knows its own.
      gold: a model retrained without the images, where there is one: then the distances to it are measured too.
      second_gold: another one, for what honest answers differ by.
      prepared: the preparation that the request started from: its bank tells best whether the request is a random draw
        of its classes, and whether held-out images were trained on. `forget` has told already; without either the
        model before is asked.
      copies: what `find_copies` found to stay; looked for where None, near copies by the model before.
      ids: what each image of `problem.forget` was asked for by; the number of its row by default.
      seed: of the probe's folds.

    Returns:
      The audit.

    Raises:
      TypeError: for a result that is neither.
      ValueError: without a model before, or for ids that do not fit the request.
    """
    check_seed("seed", seed)
    model = result.model if isinstance(result, Forgotten) else result
    if not isinstance(model, TrainedModel):
        raise TypeError(f"result must be what forget returned or a TrainedModel, got {type(result).__name__}")
    if original is None and isinstance(model, UnlearnedModel):
        original = model.original
    if original is None:
        raise ValueError("original is needed: this result does not carry the model that was to forget")
    if second_gold is not None and gold is None:
        raise ValueError("second_gold has no use without gold; give both, or gold alone")
    known_ids = _ids(ids, problem)
    problem = dataclasses.replace(problem, heldout=problem.heldout_images)
    with Stopwatch() as watch:
        prediction = model.prediction if isinstance(model, UnlearnedModel) else None
        if isinstance(result, Forgotten):
            prediction = result.prediction
        models = [None if one is None else Seen(one, problem) for one in (original, model, gold, second_gold)]
        before, after, beside, second = models
        assert before is not None
        assert after is not None
        probability = None if prediction is None else prediction.probability
        measured = measure(problem, before, after, beside, second, probability, seed)
        weights = {"before": weights_digest(state_of(original)), "after": weights_digest(state_of(model))}
        about = {
            **facts.rows(problem, result, model),
            "changed": weights["before"] != weights["after"],
            "copies": facts.copies(problem, original, copies),
            **facts.looked_at(problem, result, prepared, original),
        }
        figures, checks, outcome = reading.read(measured, about)
    num_images = 1 + int(max(part.indices.max(initial=-1) for part in (problem.train, problem.test)))
    document = {
        "schema": evidence.SCHEMA,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "request": {"asked": len(known_ids), "class_counts": facts.class_counts(problem)},
        "about": about,
        "data": {"images": num_images, "sha256": evidence.data_digest(problem.pool, num_images)},
        "weights": weights,
        "settings": facts.settings(problem, result, model, seed),
        "cost": facts.cost(result, model, original, watch.seconds),
        "rehearsal": facts.rehearsal(result),
        "debt": dict(result.debt) if isinstance(result, Forgotten) else {},
        "versions": facts.versions(),
        "measured": measured,
        "figures": figures,
        "checks": [dataclasses.asdict(check) for check in checks],
        "outcome": outcome,
    }
    return Audit(json.loads(evidence.canonical(json.loads(json.dumps(document, default=facts.named)))), known_ids)


def _ids(ids: Sequence[str] | np.ndarray | None, problem: ForgetProblem) -> tuple[str, ...]:
    if ids is None:
        return tuple(str(row) for row in problem.forget.indices.tolist())
    found = tuple(as_ids("ids", ids).tolist())
    if len(found) != len(problem.forget):
        raise ValueError(f"ids has {len(found)} entries, the request {len(problem.forget)} images; give one for each")
    if len(set(found)) < len(found):
        twice = next(one for one, count in Counter(found).items() if count > 1)
        raise ValueError(f"ids holds {twice!r} twice; each image has its own")
    return found
