"""`tmu-jax check`, `audit` and `verify`: nothing is trained but a few timed steps, and no model is changed."""

import pathlib

import numpy as np

from tmu_jax.auditing import audit as library_audit
from tmu_jax.auditing import verify as library_verify
from tmu_jax.command import inputs, options, preparing, writing
from tmu_jax.command.inputs import RefusedError, about
from tmu_jax.command.saying import say
from tmu_jax.data import Dataset, ForgetProblem
from tmu_jax.data.problem import forget_indices
from tmu_jax.training.checking import check as library_check


def check(chosen: options.Check) -> bool:
    """Runs the command; whether the model fits the data."""
    model = inputs.read_model(chosen.model)
    data, left_out = inputs.read_data(chosen.data, chosen.test, chosen.image_size)
    with about("--expected-accuracy", chosen.expected_accuracy):
        found = library_check(model, data, chosen.expected_accuracy)
    say([preparing.described(data), *data.notes, *preparing.left_out_line(left_out), str(found)])
    return not found.problems


def audit(chosen: options.Audit) -> bool:
    """Runs the command; whether the audit did not fail."""
    inputs.check_seed("--seed", chosen.seed)
    inputs.check_key(chosen.key)
    output = inputs.check_new_folder("--output", chosen.output or chosen.folder)
    for name in ("answer.html", "evidence.json"):
        if (output / name).exists():
            raise RefusedError(f"--output {output}: holds {name} already; give another folder")
    ids = inputs.read_ids(chosen.ids)
    like = inputs.read_model(chosen.model)
    result = inputs.saved_model("FOLDER", chosen.folder, like)
    before = like if chosen.before is None else inputs.saved_model("--before", chosen.before, like)
    gold = None if chosen.gold is None else inputs.saved_model("--gold", chosen.gold, like)
    data, _ = inputs.read_data(chosen.data, chosen.test, chosen.image_size)
    problem = _problem(chosen, data, inputs.rows_of(data, chosen.ids, ids))
    found = library_audit(
        problem, result, original=before, gold=gold, ids=writing.ids_of(data, problem), seed=chosen.seed
    )
    output.mkdir(parents=True, exist_ok=True)
    written = found.write(output / "answer.html", output / "evidence.json", key=chosen.key)
    say(
        [
            str(found),
            f"written: {written.page}, {written.evidence}",
            "the salt of the evidence's ids, which is shown this once (for the requester alone):",
            written.salt,
        ]
    )
    return found.outcome != "failed"


def _problem(chosen: options.Audit, data: Dataset, rows: np.ndarray) -> ForgetProblem:
    removed = np.zeros(0, np.int64)
    if chosen.ledger is not None:
        if not (pathlib.Path(chosen.ledger) / "ledger.jsonl").is_file():
            raise RefusedError(
                f"--ledger {chosen.ledger}: holds no ledger.jsonl; name the folder that forget was given"
            )
        removed = np.setdiff1d(preparing.open_ledger(pathlib.Path(chosen.ledger)).removed(data), rows)
    with about("--ids", chosen.ids):
        return forget_indices(data, rows, chosen.seed, removed=removed)


def verify(chosen: options.Verify) -> bool:
    """Runs the command; whether all that was looked at fits."""
    if (chosen.ids is None) != (chosen.salt is None):
        raise RefusedError("--ids and --salt: are of use together alone; give both or neither")
    if chosen.data is None and (chosen.test is not None or chosen.image_size is not None):
        raise RefusedError("--test and --image-size: are of use only beside --data")
    ids = None if chosen.ids is None else inputs.read_ids(chosen.ids)
    salt = chosen.salt
    if salt is not None and pathlib.Path(salt).is_file():
        salt = pathlib.Path(salt).read_text("ascii").strip()
    model = None if chosen.model is None else inputs.model_folder(chosen.model)
    if model is not None and not model.is_dir():
        raise RefusedError(f"--model {chosen.model}: is no folder; give what forget wrote, or a saved model")
    data = None if chosen.data is None else inputs.read_data(chosen.data, chosen.test, chosen.image_size)[0]
    with about("EVIDENCE", chosen.evidence):
        found = library_verify(
            chosen.evidence, page=chosen.page, public_key=chosen.public_key, model=model, data=data, ids=ids, salt=salt
        )
    say([str(found)])
    return found.ok
