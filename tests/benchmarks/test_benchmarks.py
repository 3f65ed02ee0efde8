"""The instrument: comparisons, turns, arithmetic, files, the rivals' protocol. No test here needs PyTorch but one."""

import argparse
import dataclasses
import json
import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import benchmarks.__main__ as program
from benchmarks import cases, first_call, floor, kernels, measure, output
from benchmarks.arrays import flatten, load_arrays, save_arrays, to_torch, unflatten
from benchmarks.client import RivalError, RivalProcess
from benchmarks.inputs import make_inputs
from benchmarks.measure import MismatchError, Row

CASE = cases.Case("toy", "toy", {}, "call", ("A", "B"), {"value": ("relative", 1e-3)})
DISTANCES = cases.Case(
    "distances-toy", "distances", {"num_queries": 7, "num_bank": 40, "columns": 8, "k": 5}, "search",
    (cases.SKLEARN,), {"distances": ("relative", 1e-4)},
)  # fmt: skip
OPTIONS = argparse.Namespace(scale="tiny", repeats=1, first_calls=False)
AGREE = {"A": [1.0, -4.0], "B": [1.0, -4.0]}


class Ours:
    """Takes two seconds a unit, by its own word."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def check(self) -> dict[str, np.ndarray]:
        return {"value": np.array([1.0, -4.0])}

    def run(self, count: int) -> float:
        self.log.append("ours")
        return 2.0 * count


class Fakes:
    """Rivals that take the given seconds a unit and give the given outputs."""

    def __init__(self, log: list[str], seconds: dict[str, float], values: dict[str, list[float]]) -> None:
        self.log, self.seconds, self.values, self.dropped = log, seconds, values, False

    def prepare(self, case: cases.Case, rival: str, inputs: pathlib.Path) -> None:
        pass

    def check(self, rival: str) -> dict[str, np.ndarray]:
        return {"value": np.array(self.values[rival])}

    def run(self, rival: str, count: int) -> float:
        self.log.append(rival)
        self.processor_seconds = 2 * self.seconds[rival] * count
        if self.seconds[rival] < 0:
            raise RivalError("broke")
        return self.seconds[rival] * count

    def drop(self) -> None:
        self.dropped = True


def measured(seconds, values, case=CASE, **options):
    log: list[str] = []
    fakes = Fakes(log, seconds, values)
    rows = measure.measure(case, Ours(log), fakes, pathlib.Path("none"), 3, lambda line: None, **options)
    assert fakes.dropped
    return rows, log


def test_sides_take_turns_and_ratios_are_rival_over_ours():
    rows, log = measured({"A": 5.0, "B": 1.0}, {"A": [1.0, -4.0], "B": [1.001, -4.001]})
    assert log[1:] == ["ours", "A", "B"] * 3  # the first run of ours only finds out how many units to time
    assert [row.ratio for row in rows] == [2.5, 0.5]
    assert [(row.ours_seconds, row.ours_min, row.ours_max, row.repeats) for row in rows] == [(2.0, 2.0, 2.0, 3)] * 2
    assert rows[1].differences["value"] == pytest.approx(0.001 / 4)


def test_processor_seconds_are_of_a_unit_and_their_ratio_is_rival_over_ours(monkeypatch):
    ticks = iter(range(0, 1000, 12))
    monkeypatch.setattr(measure.time, "process_time", lambda: float(next(ticks)))
    rows, _ = measured({"A": 4.5, "B": 1.0}, AGREE, dataclasses.replace(CASE, least=4))
    # Ours takes 12 s for 4 units; a fake says of itself that it works on two processors.
    assert [(row.ours_processor, row.rival_processor, row.processor_ratio) for row in rows] == [
        (3.0, 9.0, 3.0),
        (3.0, 2.0, 2 / 3),
    ]


def test_of_a_long_case_no_unit_is_spent_on_counting():
    long = dataclasses.replace(CASE, is_long=True)
    rows, log = measured({"A": 4.0, "B": 1.0}, AGREE, long, target_seconds=1000.0)
    assert log == ["ours", "A", "B"] * 3
    assert {row.units_per_repeat for row in rows} == {1}


def test_a_repeat_has_as_many_units_as_the_case_asks_for():
    rows, _ = measured({"A": 4.0, "B": 1.0}, AGREE, dataclasses.replace(CASE, least=7))
    assert {row.units_per_repeat for row in rows} == {7}
    assert [row.ratio for row in rows] == [2.0, 0.5]


def test_an_output_that_differs_aborts_its_row_alone():
    rows, log = measured({"A": 5.0, "B": 1.0}, {"A": [1.1, -4.0], "B": [1.0, -4.0]})
    assert "B" in log
    assert "A" not in log
    assert "value differs by 0.025 (relative)" in rows[0].error
    assert (rows[0].rival_seconds, rows[0].ratio, rows[0].ours_seconds) == (None, None, 2.0)
    assert (rows[1].error, rows[1].ratio) == (None, 0.5)


def test_a_rival_that_breaks_on_the_way_has_no_times():
    rows, log = measured({"A": -1.0, "B": 1.0}, AGREE)
    assert log[1:] == ["ours", "A", "B", "ours", "B", "ours", "B"]
    assert (rows[0].error, rows[0].rival_seconds, rows[0].ratio) == ("RivalError: broke", None, None)


def test_without_rivals_their_columns_are_empty():
    (row,) = measure.measure(CASE, Ours([]), None, pathlib.Path("none"), 2, lambda line: None)
    assert (row.ours_seconds, row.rival, row.rival_seconds, row.ratio, row.error) == (2.0, None, None, None, None)


def test_medians_spreads_and_floors():
    row = Row("kernel", "call")
    measure.fill(row, [3.0, 1.0, 2.0], [8.0, 5.0, 4.0, 90.0])
    assert (row.ours_seconds, row.ours_min, row.ours_max) == (2.0, 1.0, 3.0)
    assert (row.rival_seconds, row.rival_min, row.rival_max, row.ratio) == (6.5, 4.0, 90.0, 3.25)
    measure.set_floor(row, 0.5)
    assert (row.floor_seconds, row.floor_multiple) == (0.5, 4.0)


@pytest.mark.parametrize("theirs", [{}, {"value": np.zeros(3)}, {"value": np.array([1.0, np.nan])}])
def test_missing_misshapen_and_nan_outputs_are_mismatches(theirs):
    with pytest.raises(MismatchError, match="value"):
        measure.compare({"value": np.array([1.0, 2.0])}, theirs, {"value": ("absolute", 10.0)})


def test_work_that_is_counted_by_hand():
    assert floor.work(DISTANCES, make_inputs(DISTANCES)) == 2 * 7 * 40 * 8
    settings = {"num_samples": 5, "epochs": 2}
    # Three layers forward, three weight gradients, two input gradients, two operations each.
    expected = 2 * 10 * (2 * (192 + 2048 + 32) + 2048 + 32)
    assert floor.work(cases.Case("p", "predictor", settings, "fit"), {}) == expected


def test_work_of_a_network_is_that_of_direct_convolutions(monkeypatch):
    """One convolution and one dense layer, whose arithmetic is most of all."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            hidden = nn.Conv(64, (3, 3), padding="VALID", use_bias=False)(images)
            return nn.Dense(10, use_bias=False)(hidden.mean((1, 2))), hidden

    monkeypatch.setattr(floor, "classifier", lambda arch: Net())
    images = np.zeros((2, 10, 10, 16), np.uint8)
    variables = Net().init(jax.random.key(0), jnp.zeros((1, 10, 10, 16)))
    arrays = {"images": images, **flatten(jax.device_get(variables))}
    products = 2 * 2 * (8 * 8 * 64 * 9 * 16 + 64 * 10)

    def counted(kind, **settings):
        return floor.work(cases.Case(kind, kind, {"arch": "own", **settings}, "call"), arrays)

    assert counted("evaluation", block=2, num_images=6) == pytest.approx(3 * products, rel=0.02)
    # The first layer's input gradient is not needed in training; a gradient of the pixels needs no kernel's.
    assert counted("train", batch=2) == pytest.approx(2 * products, rel=0.1)
    one, two = (counted("attack", num_images=2, num_steps=steps) for steps in (1, 2))
    assert one > products
    assert two - one > 1.9 * products


def test_dense_and_convolution_weights_in_pytorch_layout():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 5, 5, 3), np.float32)
    conv = nn.Conv(4, (3, 2), padding="VALID", use_bias=False)
    variables = conv.init(jax.random.key(0), images)
    state = to_torch({"params/conv/kernel": np.asarray(variables["params"]["kernel"])})
    kernel = state["conv.weight"]
    assert kernel.shape == (4, 3, 3, 2)
    windows = np.lib.stride_tricks.sliding_window_view(images.transpose(0, 3, 1, 2), (3, 2), axis=(2, 3))
    expected = np.einsum("nchwij,ocij->nhwo", windows, kernel)  # what torch.nn.functional.conv2d computes
    np.testing.assert_allclose(conv.apply(variables, images), expected, atol=1e-5)
    dense = to_torch({"params/head/kernel": np.arange(6.0).reshape(2, 3), "params/head/bias": np.zeros(3)})
    assert dense["head.weight"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert set(dense) == {"head.weight", "head.bias"}


def test_attention_and_batch_norm_weights_in_pytorch_names():
    rng = np.random.default_rng(0)
    projection, merge = rng.random((6, 3, 2, 4)), rng.random((2, 4, 6))
    state = to_torch({
        "params/attention_0/query_key_value/kernel": projection,
        "params/attention_0/output/kernel": merge,
        "params/norm/scale": np.ones(2),
        "batch_stats/norm/mean": np.zeros(2),
        "batch_stats/norm/var": np.ones(2),
    })  # fmt: skip
    tokens, mixed = rng.random((5, 6)), rng.random((5, 2, 4))
    split = (tokens @ state["attention_0.query_key_value.weight"].T).reshape(5, 3, 2, 4)
    np.testing.assert_allclose(split, np.einsum("nd,dthe->nthe", tokens, projection))
    merged = mixed.reshape(5, 8) @ state["attention_0.output.weight"].T
    np.testing.assert_allclose(merged, np.einsum("nhe,hed->nd", mixed, merge))
    assert {"norm.weight", "norm.running_mean", "norm.running_var"} <= set(state)


def test_arrays_survive_flattening_and_a_file(tmp_path):
    tree = {"params": {"a": {"kernel": np.ones(2, np.float32)}, "b": np.zeros(1)}, "n": np.array(3)}
    save_arrays(tmp_path / "a.npz", flatten(tree))
    found = load_arrays(tmp_path / "a.npz")
    assert set(found) == {"params/a/kernel", "params/b", "n"}
    assert unflatten(found, "params")["a"]["kernel"].dtype == np.float32
    np.testing.assert_array_equal(unflatten(found)["params"]["a"]["kernel"], np.ones(2))


def test_rivals_answer_over_their_protocol(tmp_path):
    """End to end with scikit-learn, which this environment has too."""
    arrays = make_inputs(DISTANCES)
    save_arrays(tmp_path / "inputs.npz", arrays)
    with RivalProcess(sys.executable) as process:
        (row,) = measure.measure(
            DISTANCES, kernels.build(DISTANCES, arrays), process, tmp_path / "inputs.npz", 2, lambda line: None, 0.0
        )
        assert row.error is None
        assert row.ratio == pytest.approx(row.rival_seconds / row.ours_seconds)
        with pytest.raises(RivalError, match="KeyError"):
            process.run("nobody", 1)
        process.drop()


def test_rivals_that_do_not_start_are_an_error(tmp_path):
    with pytest.raises(RivalError, match="does not start"):
        RivalProcess(str(tmp_path / "no-python"))


def test_the_command_writes_its_rows_and_says_that_there_are_no_rivals(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TMU_JAX_RIVALS_PYTHON", raising=False)
    path = tmp_path / "bench.json"
    arguments = ["--scale", "tiny", "--only", "distances", "predictor", "--repeats", "2", "--no-first-calls"]
    assert program.main([*arguments, "--output", str(path)]) == 0
    assert capsys.readouterr().out.startswith("No rivals")
    found = json.loads(path.read_text())
    assert {"device", "versions", "command", "rows"} <= set(found)
    assert [row["kernel"] for row in found["rows"]] == ["distances-20x100x16", "predictor-40"]
    for row in found["rows"]:
        assert (row["rival"], row["rival_seconds"], row["ratio"]) == (None, None, None)
        assert row["floor_multiple"] == pytest.approx(row["ours_seconds"] / row["floor_seconds"])
    assert str(tmp_path) not in path.read_text()
    assert "| distances-20x100x16 |" in path.with_suffix(".md").read_text()


def test_a_misspelt_option_is_one_line(capsys):
    assert program.main(["--reapets", "2"]) == 2
    said = capsys.readouterr().out
    assert said.startswith("error: Unrecognized options")
    assert "--reapets" in said


def test_an_interrupted_run_keeps_what_it_has_and_names_the_rest(monkeypatch):
    def stop(case, *_):
        if case.kind == "predictor":
            raise KeyboardInterrupt
        return [Row(case.name, case.unit, ours_seconds=1.0)]

    monkeypatch.setattr(program, "measure_case", stop)
    report = output.Report("cpu", {}, {}, "python -m benchmarks", 1)
    chosen = program.choose(cases.cases("tiny"), ["distances", "predictor"])
    assert not program.run(chosen, OPTIONS, None, report, lambda line: None)
    assert [row.kernel for row in report.rows] == ["distances-20x100x16"]
    assert report.missing == ["predictor-40"]
    assert "interrupted: predictor-40" in output.markdown(report)


def test_a_failure_of_ours_is_a_row_with_an_error(monkeypatch):
    def fail(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(kernels, "build", fail)
    (row,) = program.measure_case(DISTANCES, OPTIONS, None, 1e9, lambda line: None)
    assert (row.error, row.ours_seconds) == ("RuntimeError: no", None)


def test_a_whole_run_is_timed_with_what_the_first_has_compiled(monkeypatch):
    calls = iter([first_call.FirstCall(9.0, 30.0), first_call.FirstCall(1.0, 20.0)])
    folders = []
    monkeypatch.setattr(first_call, "measure", lambda case, arrays, cache: folders.append(cache) or next(calls))
    (row,) = program.measure_case(cases.Case("t", "table", {}, "run"), OPTIONS, None, 1e9, lambda line: None)
    assert (row.ours_seconds, row.compile_seconds_cold, row.compile_seconds_warm) == (20.0, 9.0, 1.0)
    assert folders[0] == folders[1]


@pytest.mark.slow
def test_a_first_call_is_quicker_to_compile_from_a_filled_cache(tmp_path):
    cold, warm = (first_call.measure(DISTANCES, make_inputs(DISTANCES), tmp_path) for _ in range(2))
    assert any((tmp_path / "programs").iterdir())
    assert 0 < warm.compile_seconds < cold.compile_seconds < cold.process_seconds


def test_cases_are_found_by_name_and_by_part():
    every = cases.cases("full")
    assert len({case.name for case in every}) == len(every)
    assert program.choose(every, ()) == every
    assert [case.name for case in program.choose(every, ["predictor-1000"])] == ["predictor-1000"]
    assert len(program.choose(every, ["predictor"])) == 2
    with pytest.raises(ValueError, match="nonsense"):
        program.choose(every, ["nonsense"])


@pytest.mark.parametrize("scale", cases.SCALES)
def test_every_case_is_json_and_has_our_side(scale):
    for case in cases.cases(scale):
        assert case.kind in kernels.BUILDERS
        assert json.loads(json.dumps(dataclasses.asdict(case)))["settings"] == case.settings


def test_no_path_of_a_machine_is_written():
    assert program.command(["--rivals-python", "/home/me/bin/python"]) == "python -m benchmarks --rivals-python PATH"
    assert output.without_paths("no\nsuch file: '/home/me/a.txt'") == "no such file: '…/a.txt'"
    assert output.without_paths("seconds/step and 4/255") == "seconds/step and 4/255"


def test_losses_of_the_torch_model_are_ours():
    pytest.importorskip("torch")
    from benchmarks.rivals.kernels import Train

    case = next(case for case in cases.cases("tiny") if case.name == "train-step-small_resnet-16")
    arrays = make_inputs(case)
    theirs = Train(case.settings, arrays, cases.EAGER).check()
    measure.compare(kernels.build(case, arrays).check(), theirs, case.tolerances)
