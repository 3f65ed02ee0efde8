"""What records say of who made the stages that they rest on: other commits, the two gold models, trainings resumed."""

import io
import shutil

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from experiments.protocol import environment, makers
from experiments.protocol import run as runner
from experiments.protocol.graph import Graph
from experiments.protocol.progress import Display
from experiments.protocol.requests import make_requests
from experiments.report import write as report
from experiments.report.files import read_records
from tests.patching import patch_everywhere
from tests.protocol.test_run import CONFIG, run, settings, tiny_architecture  # noqa: F401
from tests.tiny import TinyNet, noise_for_training, tiny_data
from tmu_jax import training
from tmu_jax.stages import Stage
from tmu_jax.training import calls

DATA = tiny_data()
FIRST, SECOND = {"git_revision": "first"}, {"git_revision": "second"}


@pytest.fixture
def now(monkeypatch):
    """Who makes stages now; to be changed at will."""
    maker = {"device": "cpu", "git_revision": "first", "jax": "1"}
    monkeypatch.setattr(environment, "made_by", lambda: dict(maker))
    return maker


@pytest.fixture
def untrained(monkeypatch):
    patch_everywhere(monkeypatch, training.fit, noise_for_training)


def graph_of(arm):
    return Graph(arm, make_requests(arm, DATA)[0], TinyNet())


def told(records):
    """By method and label what its records say of others' part."""
    return {
        record["method"]: {made["label"]: made["by"] for made in record.get("made_elsewhere", {}).values()}
        for record in records
    }


def test_a_record_says_what_another_commit_made(untrained, now, tmp_path):
    """The gold model of one commit is not taken for that of another, which records it; nor what was made from it."""
    first = run(settings(DATA, methods=("finetune",)), DATA, tmp_path)
    assert not any("made_elsewhere" in record for record in first)
    now |= SECOND
    arm = settings(DATA, methods=("finetune", "twin"))
    second = run(arm, DATA, tmp_path)
    assert told(second)["finetune"] == {}  # Its record is the first run's, as it was.
    assert told(second)["twin"] == {label: [FIRST] for label in ("original model", "gold model")}
    now |= {"git_revision": "third", "device": "gpu"}
    graph = graph_of(arm)
    shutil.rmtree(tmp_path / "stages" / graph.model("twin").name)
    (tmp_path / "results.jsonl").unlink()
    third = run(arm, DATA, tmp_path)
    assert told(third)["finetune"] == {
        label: [FIRST | {"device": "cpu"}] for label in ("original model", "gold model", "finetune")
    }
    assert told(third)["twin"]["twin model"] == [SECOND | {"device": "cpu"}]
    assert not {"twin", "second gold model"} & set(told(third)["twin"])
    labels = {stage.name: stage.label for stage in graph.stages(["finetune", "twin", "floors"])}
    named = {name: made["label"] for record in third for name, made in record["made_elsewhere"].items()}
    assert named.items() <= labels.items()
    page = report.write_report(tmp_path).read_text()
    assert "gold model: made with device cpu, git_revision first, unlike the run that records it (seed 0)" in page


@pytest.mark.parametrize(("remade", "kept"), [("gold", "second gold model"), ("second_gold", "gold model")])
def test_the_two_gold_models_of_a_request_are_told_apart(untrained, now, tmp_path, remade, kept):
    arm = settings(DATA, methods=("finetune",))
    run(arm, DATA, tmp_path)
    now |= SECOND
    shutil.rmtree(tmp_path / "stages" / getattr(graph_of(arm), remade).name)
    (tmp_path / "results.jsonl").unlink()
    records = run(arm, DATA, tmp_path)
    assert told(records)["floor_gold_gold"] == {label: [FIRST] for label in ("original model", kept)}
    assert f"- {kept}: made with git_revision first" in report.write_report(tmp_path).read_text()


def test_two_stages_of_one_label_are_two(now):
    stages = [Stage("curriculum", "curriculum model", None, object, made_from={"of": of}) for of in ("one", "other")]
    held = {}
    for stage, maker in zip(stages, (FIRST, SECOND), strict=True):
        held |= makers.held(stage, {"makers": {stage.name: {"label": stage.label, "by": [maker]}}})
    assert [made["by"] for made in makers.elsewhere(held, {"git_revision": "third"}).values()] == [[FIRST], [SECOND]]
    assert [made["by"] for made in makers.elsewhere(held, SECOND).values()] == [[FIRST]]


def test_makers_as_they_were_written_before_are_read():
    """By label, one each; or none at all."""
    gold = Stage("gold", "second gold model", None, object)
    twin = Stage("twin", "twin", None, object, parents={"original": gold})
    assert makers.held(gold, {}) == {gold.name: {"label": gold.label, "by": [{"git_revision": None}]}}
    assert makers.held(gold, {"makers": {"gold model": FIRST}}) == {gold.name: {"label": gold.label, "by": [FIRST]}}
    assert makers.held(twin, {"makers": {"original model": FIRST, "twin": SECOND}}) == {
        "original model": {"label": "original model", "by": [FIRST]},
        "twin": {"label": "twin", "by": [SECOND]},
    }


class KilledError(Exception):
    """As if the process had ended; a KeyboardInterrupt would save first."""


@pytest.fixture
def kill(monkeypatch):
    """Ends the gold model's training at a step, which is the only one that is noted; None: never."""
    plan, steps, start = {"at": None}, [], Display.start

    def watched(display, description):
        report_step = start(display, description)

        def step(done, total):
            if description.startswith("gold model"):
                steps.append(done)
                if plan["at"] is not None and done >= plan["at"]:
                    raise KilledError
            report_step(done, total)

        return step

    monkeypatch.setattr(Display, "start", watched)
    return plan, steps


def test_a_training_that_two_commits_had_a_part_in_names_both(now, kill, monkeypatch, tmp_path):
    plan, steps = kill
    monkeypatch.setattr(calls, "STEPS_PER_CALL", 4)
    arm = settings(DATA, methods=("finetune",))

    def begin():
        config = {"experiment": "test", **CONFIG}
        return runner.run([arm], DATA, tmp_path, config, Console(file=io.StringIO()), save_every=0.0)

    plan["at"] = 20
    with pytest.raises(KilledError):
        begin()
    plan["at"], stopped = None, len(steps)
    now |= SECOND
    second = told(begin())
    assert steps[stopped] > steps[0]  # It went on from what was saved.
    gold = {"original model": [FIRST], "gold model": [FIRST, {}]}
    assert second == {"finetune": gold} | {f"floor_{name}": gold for name in ("gold_gold", "majority", "count_matched")}
    assert "gold model: made in part with git_revision first, unlike the" in report.write_report(tmp_path).read_text()
    (tmp_path / "results.jsonl").unlink()
    now |= {"git_revision": "third"}
    assert told(begin())["finetune"]["gold model"] == [FIRST, SECOND]
    assert not list((tmp_path / "stages" / ".partial").iterdir())


def test_who_was_at_a_stage_is_kept_beside_what_was_saved_of_it(tmp_path):
    folder = tmp_path / "gold-1"
    assert makers.begun(folder, FIRST) == [FIRST]
    assert makers.begun(folder, SECOND) == [SECOND]  # Nothing was saved: it began anew.
    (folder / "loop-1").mkdir()
    assert makers.begun(folder, SECOND) == [SECOND]
    assert makers.begun(folder, FIRST) == [SECOND, FIRST]
    assert makers.begun(folder, SECOND) == [FIRST, SECOND]
    for damage in ("", "5", "[5]", "{"):
        (folder / "makers.json").write_text(damage)
        assert makers.begun(folder, FIRST) == [{"git_revision": None}, FIRST]


def test_a_disk_that_takes_no_note_of_the_maker_leaves_it_unknown(tmp_path, monkeypatch):
    folder = tmp_path / "gold-1"
    makers.begun(folder, FIRST)
    (folder / "loop-1").mkdir()

    def full(path, text):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(makers, "write_whole", full)
        assert makers.begun(folder, SECOND) == [FIRST, SECOND]
    assert makers.begun(folder, SECOND) == [{"git_revision": None}, SECOND]


def test_models_at_chance_are_noted_and_said_on_the_last_screen(monkeypatch, tmp_path):
    def zeros(module, variables, *args, **options):
        return {**variables, "params": jax.tree.map(jnp.zeros_like, variables["params"])}, [1.0]

    patch_everywhere(monkeypatch, training.fit, zeros)
    run(settings(DATA, methods=("original", "finetune")), DATA, tmp_path)
    notes = {record["method"]: record["notes"] for record in read_records(tmp_path)}
    starts = {method: [note[:17] for note in found if "learnt nothing" in note] for method, found in notes.items()}
    assert starts["original"] == ["The gold model ge", "The original mode"]
    assert starts["finetune"] == ["The gold model ge"]
    console = Console(file=io.StringIO(), width=100)
    report.print_table(tmp_path, console)
    assert "The gold or original model is at chance in 1 of 1 requests" in console.file.getvalue()
    # Labels alone; of a whole class they are known without a predictor.
    run(
        settings(DATA, requests="each", classes=(1,), num_forget=50, methods=("twin",), unlearn=False),
        DATA,
        tmp_path / "2",
    )
    (labels,) = (record for record in read_records(tmp_path / "2") if record["method"] == "twin")
    assert "learnt nothing" in labels["notes"][-1]
