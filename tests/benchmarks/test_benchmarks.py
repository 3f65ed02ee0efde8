"""The instrument: comparisons, turns, arithmetic, files, the rivals' protocol. No test here needs PyTorch but one."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import cases, first_call, floor, kernels, measure, output, scaling, weights
from benchmarks import run as runs
from benchmarks.__main__ import choose, command, main
from benchmarks.cases import Case
from benchmarks.client import RivalError, RivalProcess
from benchmarks.files import load_arrays, save_arrays
from benchmarks.inputs import make_inputs
from benchmarks.measure import MismatchError, Row
from tests.cpu.test_native import needs_compiler
from tmu_jax import training
from tmu_jax.twin import features

TINY = cases.SCALES["tiny"]
ISSUE_FIELDS = {
    "kernel", "ours_seconds", "rival", "rival_seconds", "ratio", "floor_seconds", "floor_multiple",
    "compile_seconds_cold", "compile_seconds_warm", "peak_bytes",
}  # fmt: skip
CASE = cases.Case("toy", "toy", {}, "call", ("A", "B"), {"value": ("relative", 1e-3)})
DISTANCES = cases.Case(
    "distances-toy", "distances", {"num_queries": 7, "num_bank": 40, "columns": 8, "k": 5}, "search",
    (cases.SKLEARN,), {"distances": ("relative", 1e-4)},
)  # fmt: skip


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

    def check(self, rival: str) -> tuple[dict[str, np.ndarray], float]:
        return {"value": np.array(self.values[rival])}, 0.5

    def run(self, rival: str, count: int) -> float:
        self.log.append(rival)
        if self.seconds[rival] < 0:
            raise RivalError("broke")
        return self.seconds[rival] * count

    def drop(self) -> None:
        self.dropped = True


def measured(
    seconds: dict[str, float], values: dict[str, list[float]], repeats: int = 3
) -> tuple[list[Row], list[str]]:
    log: list[str] = []
    fakes = Fakes(log, seconds, values)
    rows = measure.measure(CASE, Ours(log), fakes, pathlib.Path("none"), repeats, lambda line: None)
    assert fakes.dropped
    return rows, log[1:]  # the first run of ours only finds out how many units to time


def test_sides_take_turns_and_ratios_are_rival_over_ours():
    rows, log = measured({"A": 5.0, "B": 1.0}, {"A": [1.0, -4.0], "B": [1.001, -4.001]})
    assert log == ["ours", "A", "B"] * 3
    assert [row.ratio for row in rows] == [2.5, 0.5]
    assert [(row.ours_seconds, row.ours_min, row.ours_max, row.repeats) for row in rows] == [(2.0, 2.0, 2.0, 3)] * 2
    assert rows[1].differences["value"] == pytest.approx(0.001 / 4)


class Costly(Ours):
    """Takes seven seconds more for every call."""

    def run(self, count: int) -> float:
        return 7.0 + super().run(count)


@pytest.mark.parametrize(("least", "is_direct"), [(2, False), (4, False), (5, True), (6, True)])
def test_what_a_call_costs_counts_once_in_a_call(least, is_direct):
    """Extrapolated from calls of one unit and of several, or timed directly."""
    log: list[str] = []
    case = dataclasses.replace(CASE, least=least, call_units=5)
    fakes = Fakes(log, {"A": 4.0, "B": 1.0}, {"A": [1.0, -4.0], "B": [1.0, -4.0]})
    for row in measure.measure(case, Costly(log), fakes, pathlib.Path(), 5, lambda _: None):
        assert row.units_per_repeat == row.rival_units_per_repeat == least
        assert row.ours_seconds == pytest.approx(2.0 + 7.0 / max(5, least))
        assert row.rival_seconds == pytest.approx(fakes.seconds[row.rival])
    # Every turn begins with a unit that is not timed.
    runs = [2 if is_direct or turn >= measure.TURNS_FOR_CALLS else 3 for turn in range(5)]
    assert log[1:] == [side for number in runs for side in ("ours", "A", "B") for _ in range(number)]


def test_a_disturbed_call_shifts_no_later_turn():
    """A call takes 7 seconds and 2 more a unit; the one that tells it in the second turn takes ten times as long."""
    seconds = iter([9.0, 15.0, 9.0, 9.0, 15.0, 90.0, 9.0, 15.0, 9.0, 9.0, 15.0, 9.0, 15.0])
    turns = measure._Turns(lambda count: next(seconds), 4, 16)
    found = [turns() for _ in range(5)]
    assert [*found[:1], *found[2:]] == pytest.approx([2 + 7 / 16] * 4)


def test_one_unit_does_not_tell_what_a_call_costs():
    with pytest.raises(ValueError, match="least=1 with call_units=5: at least 2 units"):
        measure._Turns(float, 1, 5)


def test_of_a_long_case_no_unit_is_spent_on_counting():
    log: list[str] = []
    fakes = Fakes(log, {"A": 4.0, "B": 1.0}, {"A": [1.0, -4.0], "B": [1.0, -4.0]})
    case = dataclasses.replace(CASE, is_long=True)
    for row in measure.measure(case, Ours(log), fakes, pathlib.Path(), 5, lambda _: None, target_seconds=1000.0):
        assert row.units_per_repeat == row.rival_units_per_repeat == 1
    assert log == ["ours", "A", "B"] * 5


def test_an_output_that_differs_aborts_its_row_alone():
    rows, log = measured({"A": 5.0, "B": 1.0}, {"A": [1.1, -4.0], "B": [1.0, -4.0]})
    assert "B" in log
    assert "A" not in log
    assert "value differs by 0.025 (relative)" in rows[0].error
    assert (rows[0].rival_seconds, rows[0].ratio, rows[0].ours_seconds) == (None, None, 2.0)
    assert rows[1].error is None
    assert rows[1].ratio == 0.5


def test_a_rival_that_breaks_on_the_way_has_no_times():
    rows, log = measured({"A": -1.0, "B": 1.0}, {"A": [1.0, -4.0], "B": [1.0, -4.0]})
    assert log == ["ours", "A", "B", "ours", "B", "ours", "B"]
    assert rows[0].error == "RivalError: broke"
    assert (rows[0].rival_seconds, rows[0].ratio) == (None, None)


def test_without_rivals_their_columns_are_empty():
    (row,) = measure.measure(CASE, Ours([]), None, pathlib.Path("none"), 2, lambda line: None)
    assert row.ours_seconds == 2.0
    assert (row.rival, row.rival_seconds, row.ratio, row.error) == (None, None, None, None)


def test_medians_and_spreads():
    row = Row("kernel", "call")
    measure.fill(row, [3.0, 1.0, 2.0], [8.0, 5.0, 4.0, 90.0])
    assert (row.ours_seconds, row.ours_min, row.ours_max) == (2.0, 1.0, 3.0)
    assert (row.rival_seconds, row.rival_min, row.rival_max, row.ratio) == (6.5, 4.0, 90.0, 3.25)


@pytest.mark.parametrize("theirs", [{}, {"value": np.zeros(3)}, {"value": np.array([1.0, np.nan])}])
def test_missing_misshapen_and_nan_outputs_are_mismatches(theirs):
    with pytest.raises(MismatchError, match="value"):
        measure.compare({"value": np.array([1.0, 2.0])}, theirs, {"value": ("absolute", 10.0)})


def test_floor_is_the_slower_of_computing_and_moving():
    peaks = floor.Peaks({"float32": 100.0}, bytes_per_second=10.0)
    assert floor.floor_seconds(floor.Work(500.0, 20.0, floor.BY_HAND), peaks) == 5.0
    assert floor.floor_seconds(floor.Work(500.0, 80.0, floor.BY_HAND), peaks) == 8.0
    assert floor.floor_seconds(floor.Work(None, 80.0, floor.BY_XLA), peaks) is None
    row = Row("kernel", "call", ours_seconds=20.0)
    measure.set_floor(row, 8.0)
    assert (row.floor_seconds, row.floor_multiple) == (8.0, 2.5)


def test_best_peaks_keep_the_better_of_each():
    better = floor.best_peaks(floor.Peaks({"float32": 3.0}, 5.0), floor.Peaks({"float32": 2.0}, 7.0))
    assert better == floor.Peaks({"float32": 3.0}, 7.0)


def test_distances_and_predictor_work_is_counted_by_hand():
    arrays = make_inputs(DISTANCES)
    assert floor.work(DISTANCES, arrays).flops == 2 * 7 * 40 * 8
    # Three layers forward, three weight gradients, two input gradients, two operations each.
    assert floor._predictor_flops(10) == 2 * 10 * (2 * (192 + 2048 + 32) + 2048 + 32)


def test_plain_flops_of_a_convolution_are_those_of_the_direct_algorithm():
    from tmu_jax.models.layers import conv_layer

    layer = conv_layer(jnp.float32, jnp.float32)(8, (3, 3), padding="VALID")
    images = jnp.zeros((2, 10, 10, 4))
    variables = layer.init(jax.random.key(0), images)
    assert floor._flops(layer.apply, variables, images) == 2 * 2 * 8 * 8 * 8 * 9 * 4


def test_flops_of_layers_that_compiled_code_computes_are_counted():
    from tmu_jax.models.dense import dot_general

    layer, inputs = nn.Dense(64, use_bias=False, dot_general=dot_general), jnp.zeros((50, 32))
    assert floor._flops(layer.apply, layer.init(jax.random.key(0), inputs), inputs) == 2 * 50 * 32 * 64


def test_dense_and_convolution_weights_in_pytorch_layout():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 5, 5, 3), np.float32)
    conv = nn.Conv(4, (3, 2), padding="VALID", use_bias=False)
    variables = conv.init(jax.random.key(0), images)
    state = weights.to_torch({"params/conv/kernel": np.asarray(variables["params"]["kernel"])})
    kernel = state["conv.weight"]
    assert kernel.shape == (4, 3, 3, 2)
    windows = np.lib.stride_tricks.sliding_window_view(images.transpose(0, 3, 1, 2), (3, 2), axis=(2, 3))
    expected = np.einsum("nchwij,ocij->nhwo", windows, kernel)  # what torch.nn.functional.conv2d computes
    np.testing.assert_allclose(conv.apply(variables, images), expected, atol=1e-5)
    dense = weights.to_torch({"params/head/kernel": np.arange(6.0).reshape(2, 3), "params/head/bias": np.zeros(3)})
    assert dense["head.weight"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert set(dense) == {"head.weight", "head.bias"}


def test_attention_and_batch_norm_weights_in_pytorch_names():
    rng = np.random.default_rng(0)
    projection, merge = rng.random((6, 3, 2, 4)), rng.random((2, 4, 6))
    state = weights.to_torch({
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


def test_flatten_and_unflatten_are_inverse():
    tree = {"params": {"a": {"kernel": np.ones(2)}, "b": np.zeros(1)}, "batch_stats": {"a": {"mean": np.ones(1)}}}
    flat = weights.flatten(tree)
    assert set(flat) == {"params/a/kernel", "params/b", "batch_stats/a/mean"}
    assert weights.unflatten(flat, "params").keys() == tree["params"].keys()
    np.testing.assert_array_equal(weights.unflatten(flat, "params")["a"]["kernel"], np.ones(2))


def test_arrays_survive_a_file(tmp_path):
    save_arrays(tmp_path / "a.npz", {"params/a/kernel": np.ones(2, np.float32), "n": np.array(3)})
    found = load_arrays(tmp_path / "a.npz")
    assert set(found) == {"params/a/kernel", "n"}
    assert found["params/a/kernel"].dtype == np.float32


def test_rivals_answer_over_their_protocol(tmp_path):
    """End to end with scikit-learn, which this environment has too."""
    arrays = make_inputs(DISTANCES)
    save_arrays(tmp_path / "inputs.npz", arrays)
    with RivalProcess(sys.executable) as process:
        assert process.threads >= 1
        (row,) = measure.measure(
            DISTANCES, kernels.build(DISTANCES, arrays), process, tmp_path / "inputs.npz", 2, lambda line: None, 0.0
        )
        assert row.error is None
        assert row.ratio == pytest.approx(row.rival_seconds / row.ours_seconds)
        assert row.rival_first_call_seconds > 0
        with pytest.raises(RivalError, match="KeyError"):
            process.run("nobody", 1)
        process.drop()


def test_rivals_that_do_not_start_are_an_error(tmp_path):
    with pytest.raises(RivalError, match="does not start"):
        RivalProcess(str(tmp_path / "no-python"))


def test_the_command_writes_the_schema_and_says_that_there_are_no_rivals(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TMU_JAX_RIVALS_PYTHON", raising=False)
    path = tmp_path / "bench.json"
    assert main(["--scale", "tiny", "--only", "distances", "predictor", "--repeats", "2", "--no-first-calls",
                 "--output", str(path)]) == 0  # fmt: skip
    assert capsys.readouterr().out.startswith("No rivals")
    found = json.loads(path.read_text())
    assert {"device", "versions", "command", "rows"} <= set(found)
    assert [row["kernel"] for row in found["rows"]] == ["distances-20x100x16", "predictor-40"]
    for row in found["rows"]:
        assert set(row) >= ISSUE_FIELDS
        assert (row["rival"], row["rival_seconds"], row["ratio"]) == (None, None, None)
        assert row["floor_multiple"] == pytest.approx(row["ours_seconds"] / row["floor_seconds"])
    assert str(tmp_path) not in path.read_text()
    assert "| distances-20x100x16 |" in path.with_suffix(".md").read_text()


def test_an_interrupted_run_keeps_what_it_has_and_names_the_rest(tmp_path, monkeypatch):
    chosen = choose(cases.cases(TINY), frozenset(), ["distances", "predictor"])

    def stop(case, *_):
        if case.kind == "predictor":
            raise KeyboardInterrupt
        return [Row(case.name, case.unit, ours_seconds=1.0)]

    monkeypatch.setattr(runs, "measure_case", stop)
    report = output.Report("cpu", {}, {}, "python -m benchmarks", 1, "tiny")
    plan = runs.Plan(chosen, True, 1, False, None, True, tmp_path / "plot")
    assert not runs.run(plan, report, lambda line: None)
    assert [row.kernel for row in report.rows] == ["distances-20x100x16"]
    assert report.missing == ["predictor-40", "scaling"]
    assert "interrupted: predictor-40, scaling" in output.markdown(report)


def test_a_failure_of_ours_is_a_row_with_an_error(monkeypatch, tmp_path):
    def fail(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(runs.kernels, "build", fail)
    plan = runs.Plan((DISTANCES,), False, 1, False, None, True, tmp_path)
    (row,) = runs.measure_case(DISTANCES, plan, {}, lambda line: None, tmp_path)
    assert (row.error, row.ours_seconds) == ("RuntimeError: no", None)


@pytest.mark.parametrize("fails", [False, True])
def test_the_first_calls_share_a_cache_that_is_empty_and_the_timed_process_then_uses_it(fails, monkeypatch, tmp_path):
    used: list[pathlib.Path] = []

    def first(case, inputs, cache, kept):
        assert kept == tmp_path
        assert jax.config.jax_compilation_cache_dir == before
        assert bool(list(cache.iterdir())) == bool(used)
        (cache / "program").touch()
        used.append(cache)
        return first_call.FirstCall(process_seconds=3.0, compile_seconds=2.0, call_seconds=2.5, peak_bytes=1)

    def build(case, arrays):
        assert used[0] == used[1] == pathlib.Path(jax.config.jax_compilation_cache_dir)
        if fails:
            raise RuntimeError("no")
        return Ours([])

    monkeypatch.setattr(runs.first_call, "measure", first)
    monkeypatch.setattr(runs.kernels, "build", build)
    before = jax.config.jax_compilation_cache_dir
    plan = runs.Plan((DISTANCES,), False, 1, True, None, True, tmp_path)
    (row,) = runs.measure_case(DISTANCES, plan, {}, lambda line: None, tmp_path)
    assert (row.error, row.compile_seconds_cold) == (("RuntimeError: no", None) if fails else (None, 2.0))
    assert jax.config.jax_compilation_cache_dir == before
    assert not used[0].exists()


def test_the_floor_of_an_attack_counts_its_gradients_and_one_forward_pass():
    (case,) = (case for case in cases.cases(TINY) if case.kind == "attack")
    arrays = make_inputs(case)
    one, two, five = (
        floor.work(dataclasses.replace(case, settings={**case.settings, "num_steps": steps}), arrays).flops
        for steps in (1, 2, 5)
    )
    step = two - one
    assert five == pytest.approx(one + 4 * step)
    # A gradient of the pixels is a forward pass and one as dear; what is left of one step is the last forward pass.
    assert step == pytest.approx(2 * (one - step), rel=0.1)


def test_the_floor_of_a_request_counts_the_images_of_its_programs(monkeypatch):
    """Against a whole request, whose three large programs count what they are given and return zeros."""
    (case,) = (case for case in cases.cases(TINY) if case.kind == "request")
    split = training.Blocks.split
    found = dict.fromkeys(("train_step", "forward", "attack_step"), 0)
    sizes = []

    def splitting(blocks, indices):
        for rows, count in split(blocks, indices):
            sizes.append(count)
            yield rows, count

    def train_steps(state, images, targets, weights, normalization, rows, rates, steps, *_, **__):
        found["train_step"] += int(steps) * rows.shape[1]
        return state, jnp.zeros(len(rows))

    def predict_rows(variables, normalization, images, rows, *_, **__):
        found["forward"] += sizes[-1]
        return jnp.zeros((*rows.shape, 10)), jnp.zeros((*rows.shape, 256))

    def attack_rows(variables, normalization, images, rows, labels, blocks, radii, num_radii, *, module, num_steps):
        found["forward"] += sizes[-1] * int(num_radii)
        found["attack_step"] += sizes[-1] * (1 + int(num_radii) * (num_steps - 1))
        return jnp.zeros((*rows.shape, 10)), jnp.zeros((len(radii), *rows.shape, 10))

    monkeypatch.setattr(training.Blocks, "split", splitting)
    monkeypatch.setattr(training, "train_steps", train_steps)
    monkeypatch.setattr(training, "predict_rows", predict_rows)
    monkeypatch.setattr(features, "attack_rows", attack_rows)
    kernel = kernels.build(case, arrays := make_inputs(case))  # whose original model is trained
    found.update(dict.fromkeys(found, 0))
    kernel.run(1)

    def counted(name):
        """FLOPs where an image costs one in this program, and nothing in the others."""
        for other in ("forward", "attack_step"):
            monkeypatch.setattr(floor._Counter, other, lambda _, count, cost=float(other == name): cost * count)
        cost = float(name == "train_step")
        monkeypatch.setattr(floor._Counter, "train_step", lambda _, count: (cost * count, 0.0))
        return floor.work(case, arrays).flops

    assert {name: counted(name) - counted("nothing") for name in found} == found


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_held_is_the_most_there_was():
    code = (
        "import numpy as np; from benchmarks.first_call import most_held_bytes as most; import jax; jax.devices();"
        "first = most(); np.ones(2**26 // 8); second = most(); print(first, second, most())"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    first, second, third = map(int, done.stdout.split())
    assert second - first == pytest.approx(2**26, rel=0.5)
    assert third == second


def test_on_an_accelerator_the_memory_held_is_the_devices(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"peak_bytes_in_use": 77}

    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert first_call.most_held_bytes() == 77


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="the folder of compiled C++ is set for Linux")
def test_first_call_is_quicker_to_compile_from_a_filled_cache_and_with_cpp_that_is_kept(tmp_path):
    native_seconds = first_call.compile_native(tmp_path / "kept")
    save_arrays(tmp_path / "inputs.npz", make_inputs(DISTANCES))
    folders = [tmp_path / name for name in ("inputs.npz", "cache", "kept")]
    found = [first_call.measure(DISTANCES, *folders) for _ in range(2)]
    assert any((tmp_path / "cache").iterdir())
    assert found[0].compile_seconds < native_seconds
    assert 0 < found[1].compile_seconds < found[1].call_seconds < found[1].process_seconds
    assert found[0].peak_bytes == found[1].peak_bytes > 40 * 8 * 4


def test_a_whole_run_compiles_our_cpp_too(monkeypatch, tmp_path):
    folders = []

    def first(case, inputs, cache, kept):
        folders.append((cache, kept))
        return first_call.FirstCall(process_seconds=3.0, compile_seconds=2.0, call_seconds=2.5, peak_bytes=1)

    monkeypatch.setattr(runs.first_call, "measure", first)
    plan = runs.Plan((), False, 1, True, None, True, tmp_path)
    table = Case("table-1-quick", "table", {"preset": "quick", "dataset": "synthetic"}, "whole run", repeats=1)
    runs.measure_case(table, plan, {}, lambda line: None, tmp_path)
    assert [kept for _, kept in folders] == [cache for cache, _ in folders]
    assert tmp_path not in folders[0]


def test_cpp_that_does_not_compile_is_said_and_stops_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("TMU_JAX_NATIVE", "0")
    report, said = output.Report("cpu", {}, {}, "python -m benchmarks", 1, "tiny"), []
    monkeypatch.setattr(runs, "measure_case", lambda *_: [])
    assert runs.run(runs.Plan((DISTANCES,), False, 1, True, None, True, tmp_path), report, said.append)
    assert [note for note in report.notes if "C++ is not used" in note]


def test_cases_are_found_by_name_and_by_part():
    every = cases.cases(cases.SCALES["cpu"])
    assert len({case.name for case in every}) == len(every)
    assert [case.name for case in choose(every, frozenset(), ["predictor-1000"])] == ["predictor-1000"]
    assert len(choose(every, frozenset(), ["predictor"])) == 2
    assert choose(every, frozenset(), ["scaling"]) == ()
    with pytest.raises(ValueError, match="nonsense"):
        choose(every, frozenset(), ["nonsense"])
    gpu = cases.SCALES["gpu"]
    assert "table-1-paper" not in {case.name for case in choose(cases.cases(gpu), cases.optional(gpu), ())}


@pytest.mark.parametrize("scale", cases.SCALES.values(), ids=lambda scale: scale.name)
def test_every_case_is_json_and_has_our_side(scale):
    for case in cases.cases(scale):
        assert case.kind in kernels.BUILDERS
        assert json.loads(json.dumps(dataclasses.asdict(case)))["settings"] == case.settings


def test_no_path_of_a_machine_is_written():
    assert command(["--rivals-python", "/home/me/bin/python"]) == "python -m benchmarks --rivals-python PATH"
    assert output.without_paths("no\nsuch file: '/home/me/a.txt'") == "no such file: '…/a.txt'"
    assert output.without_paths("seconds/step and 4/255") == "seconds/step and 4/255"


def test_scaling_fits_a_line_and_draws_it(tmp_path):
    def cost(images, classes, seeds):
        return 1.0 + 0.25 * images * classes * seeds

    found = scaling.measure(lambda line: None, tiny=True, measured=cost)
    assert all(len(part["sizes"]) >= 4 for part in found.values())
    assert found["images"]["per_unit"] == pytest.approx(0.25)
    assert found["classes"]["per_unit"] == pytest.approx(0.25 * scaling.TINY_BASE_IMAGES)
    assert found["seeds"]["worst"] == pytest.approx(0, abs=1e-9)
    scaling.draw(found, tmp_path / "plot")
    assert {path.suffix for path in tmp_path.iterdir()} == {".svg", ".png"}


def test_losses_of_the_torch_model_are_ours():
    pytest.importorskip("torch")
    from benchmarks.rival_kernels import Train

    case = next(case for case in cases.cases(TINY) if case.name == "train-step-small_resnet-16-float32")
    arrays = make_inputs(case)
    theirs = Train(case.settings, arrays, cases.EAGER).check()
    measure.compare(kernels.build(case, arrays).check(), theirs, case.tolerances)
