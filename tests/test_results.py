"""Every committed folder of results: its records parse, name their run, and give its report digit by digit."""

import json
import pathlib
import re
import shutil

import pytest
from matplotlib.figure import Figure

from experiments.ablation import EXPERIMENT as ABLATION
from experiments.cifar10 import EXPERIMENT as CIFAR10
from experiments.cifar100 import EXPERIMENT as CIFAR100
from experiments.compare import EXPERIMENT as COMPARE
from experiments.forget_size import EXPERIMENT as FORGET_SIZE
from experiments.protocol.records import RecordTable
from experiments.report.files import PROVENANCE, read_config, read_features, read_records, read_samples
from experiments.report.samples import disagreements
from experiments.report.write import standard, write_report
from experiments.requests import EXPERIMENT as REQUESTS
from experiments.variants import EXPERIMENT as VARIANTS

FOLDERS = sorted(path.parent for path in pathlib.Path(__file__).parents[1].glob("results/*/results.jsonl"))
BODIES = {kind.name: kind.body for kind in (ABLATION, CIFAR10, CIFAR100, COMPARE, FORGET_SIZE, REQUESTS, VARIANTS)}


def folders():
    return [pytest.param(path, id=path.name) for path in FOLDERS]


def test_there_are_results():
    assert len(FOLDERS) >= 6


@pytest.mark.parametrize("folder", folders())
def test_every_record_names_a_run_and_repeats_nothing_of_it(folder):
    config, records = read_config(folder), read_records(folder)
    assert {record["run"] for record in records} == set(config["runs"])
    for run in config["runs"].values():
        assert set(run) == set(PROVENANCE)
        assert run["command"].startswith(f"python -m experiments.{config['experiment']}")
    assert not {key for record in records for key in PROVENANCE} & {key for record in records for key in record}
    cells = [(*(record[k] for k in ("variant", "num_forget", "ratio", "request", "seed", "method", "target_class")),)
             for record in records]  # fmt: skip
    assert len(set(cells)) == len(cells)
    assert {record["variant"] for record in records} == set(config["arms"])


@pytest.mark.parametrize("folder", folders())
def test_the_samples_give_the_records(folder):
    records = read_records(folder)
    found = disagreements(records, read_samples(folder))
    assert not [(record["seed"], record["method"], record["target_class"], *rest) for record, *rest in found]


@pytest.mark.parametrize("folder", folders())
def test_every_record_has_its_samples_and_the_table_would_compute_nothing(folder):
    table = RecordTable(folder, {"runs": {"now": {}}})
    answered = {method for _, method in table._done} | {"floor_majority", "floor_count_matched"}
    assert {record["method"] for record in table.records} <= answered
    assert all(len(entry["NF"]) == len(entry["easy"]) for entry in read_features(folder))


@pytest.mark.parametrize("folder", folders())
def test_the_report_is_what_the_records_give(folder, tmp_path, monkeypatch):
    # Pictures aside: to draw one takes longer than all the rest.
    monkeypatch.setattr(Figure, "savefig", lambda *args, **options: None)
    for name in ("config.json", "results.jsonl", "samples.json.gz", "features.json.gz"):
        if (folder / name).exists():
            shutil.copy(folder / name, tmp_path)
    body = (BODIES[read_config(folder)["experiment"]] or standard)(tmp_path)
    assert write_report(tmp_path, body).read_text("utf-8") == (folder / "report.md").read_text("utf-8")
    shown = set(re.findall(r"\]\((.*?\.svg)\)", (folder / "report.md").read_text("utf-8")))
    assert shown == {path.name for path in folder.glob("*.svg")}
    assert not list(folder.glob("*.png"))


def test_results_are_small_enough_for_git():
    files = [path for folder in FOLDERS for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4_000_000


def test_a_changed_figure_is_found(tmp_path):
    """The oracle of the checks above: one figure moved by a tenth of a point."""
    folder = FOLDERS[0]
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    changed = next(r for r in records if "predictor_accuracy" in r)
    changed["predictor_accuracy"] += 0.1
    assert [key for _, key, _ in disagreements(records, read_samples(folder))] == ["predictor_accuracy"]
