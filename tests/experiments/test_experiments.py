"""The experiments beside the main one: their arms, their reports, their plan, all on a tiny problem."""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import tmu_jax
from experiments import ablation, cifar10, cifar100, forget_size, variants, vggface2
from experiments import all as series
from experiments.protocol import command, experiment
from experiments.protocol import run as runner
from experiments.protocol.forecast import Forecast, forecast
from experiments.protocol.graph import Graph
from experiments.protocol.requests import make_requests
from experiments.report import write as report
from experiments.report.files import read_records
from tests.patching import patch_everywhere
from tests.protocol.test_run import CONFIG, settings
from tests.tiny import TinyNet, noise_for_training, tiny_data
from tmu_jax import training, twin
from tmu_jax.training import Recipe


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch):
    monkeypatch.setitem(tmu_jax.models.ARCHITECTURES, "tiny", lambda num_classes, dtype: TinyNet(num_classes))


def run(arms, data, output, **options):
    config = {"experiment": arms[0].experiment, **CONFIG}
    return runner.run(arms, data, output, config, Console(file=io.StringIO()), **options)


def finish(kind, arms, data, output):
    """Runs the arms and writes the report; returns the records and the report's text."""
    records = run(arms, data, output)
    body = kind.body(output)
    text = report.write_report(output, body).read_text()
    report.print_table(output, Console(file=io.StringIO(), width=100), body)
    return records, text


# The arms


def test_every_flip_changes_one_thing(data):
    base = settings(data, twin_settings=twin.TwinSettings(scaling="per_problem"))
    options = variants.Options(flips="open")
    arms = variants.arms(base, options, data)
    default, flips = arms[0], arms[1:]
    assert default.variant == "default"
    for arm in flips:
        same = dataclasses.replace(arm, variant="default", methods=default.methods)
        changed = [f.name for f in dataclasses.fields(same) if getattr(same, f.name) != getattr(default, f.name)]
        if changed == ["twin_settings"]:
            before, now = (dataclasses.asdict(s.twin_settings) for s in (default, arm))
            changed = [name for name in now if now[name] != before[name]]
        assert len(changed) == 1 if arm.methods == ("twin",) else changed == []
    # What the default has already is no flip.
    assert {"scaling by each problem", "threshold at 0.5", "CF: G_c on 20 % of D"}.isdisjoint(a.variant for a in flips)
    assert {"scaling by the twin problem alone", "threshold by count", "CF: G_c on all of D"} <= {
        a.variant for a in flips
    }
    assert len(flips) == len(variants.OPEN) - 3


def test_the_authors_arms_are_their_codes_differences_alone_and_together(data):
    """Written down anew from what their code does, not read from the flips."""
    base = settings(data, num_forget=3)
    default, *arms = variants.arms(base, variants.Options(flips="authors"), data)
    other_data = {"curriculum_data": "train", "curriculum_share": 1.0}
    alone = {
        "unlearning from M_t": {"unlearning_start": "twin"},
        "predictor of NF and CF": {"features": ("NF", "CF")},
        "CF: G_c on all of D, D_f included": other_data,
        "AF: eps fixed at 4/255": {"eps_candidates": (4 / 255,)},
        "D is 75 %, M_t tuned on the rest": {"tuned_share": 0.25},
        "D_f is a tenth of the class": {"num_forget": 5},
        "predictor trained 200 epochs": {"predictor_epochs": 200},
        "noise on the fine-tuning's images": {"unlearning_noise": 0.05},
    }
    # A tenth of 50 images of a class, and of the 37.5 that D keeps of it.
    together = {name: value for changes in alone.values() for name, value in changes.items()} | {"num_forget": 4}
    both = {"curriculum_data": "train_and_heldout", "curriculum_share": 1.0}
    expected = alone | {"the authors' code": together, "CF: G_c on D and D_test": both}
    # The run's own radius is 4/255.
    del expected["AF: eps fixed at 4/255"]
    found = {}
    for arm in arms:
        flat = [vars(one) | vars(one.twin_settings) for one in (default, arm)]
        changed = {name: value for name, value in flat[1].items() if value != flat[0][name]}
        found[arm.variant] = {k: v for k, v in changed.items() if k not in ("twin_settings", "variant", "methods")}
    del expected["the authors' code"]["eps_candidates"]
    assert found == expected
    assert {arm.methods for arm in arms} == {("twin",)}


def test_every_arm_of_the_authors_code_says_beforehand_what_it_should_do(data):
    assert all(flip.expected for flip in variants.AUTHORS.values())
    assert len({flip.expected for flip in variants.AUTHORS.values()}) == len(variants.AUTHORS)


def test_the_ablation_has_every_choice_of_features_and_unlearns_nothing(data):
    arms = ablation.arms(settings(data), None, data)
    assert [arm.variant for arm in arms] == ["NF", "AF", "CF", "NF+AF", "NF+CF", "AF+CF", "NF+AF+CF"]
    assert not any(arm.unlearn for arm in arms)


def test_sizes_and_ratios_that_cannot_be_are_left_out_or_refused(data):
    options = forget_size.Options(sizes=("1", "8", "all"), ratios=("dataset", "class", "all"))
    arms = forget_size.arms(settings(data, requests="each", classes=(1,)), options, data)
    names = [arm.variant for arm in arms]
    # 8 of 50: all ratios; the whole class has no twin problem whose size a ratio would choose.
    assert names == ["1, dataset", "1, class", "1, all", "8, dataset", "8, class", "8, all", "all, dataset"]
    assert arms[0].methods == options.methods
    assert arms[1].methods == ("twin",)
    for sizes, words in ((("0",), "sizes holds '0'"), (("x",), "sizes holds 'x'"), (("51",), "num_forget")):
        with pytest.raises(ValueError, match=words):
            forget_size.arms(settings(data, requests="each"), dataclasses.replace(options, sizes=sizes), data)


def test_a_ratio_that_a_size_does_not_admit_is_left_out(data):
    # Eq. 3 over the class at 49 of 50 asks for 2,450 held-out images of a class with 20.
    options = forget_size.Options(sizes=("49",))
    arms = forget_size.arms(settings(data, requests="each", classes=(1,)), options, data)
    assert [arm.variant for arm in arms] == ["49, dataset", "49, all"]


def test_cifar100s_classes_are_the_papers_by_name():
    names = (*[f"other{i}" for i in range(90)], *cifar100.CLASSES)
    assert len(set(names)) == 100
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 100
    images = rng.integers(0, 256, (200, 1, 1, 3)).astype(np.uint8)
    data = tmu_jax.data.from_arrays(images, labels, images, labels, class_names=names, name="cifar100")
    options, _ = experiment.choose(cifar100.EXPERIMENT, cifar100.Options(dataset="cifar100", preset="paper"))
    plain = experiment.settings_of(cifar100.EXPERIMENT, options, data)
    assert [names[c] for c in plain.classes] == list(cifar100.CLASSES)
    assert (plain.recipe.epochs, plain.recipe.augment, plain.num_forget) == (60, True, 100)
    with_name = experiment.settings_of(cifar100.EXPERIMENT, dataclasses.replace(options, classes=("fox", "0")), data)
    assert with_name.classes == (0, names.index("fox"))
    short = experiment.shortfalls(cifar100.EXPERIMENT, options, plain)
    assert short == ["200 training images instead of 50,000"]


@pytest.mark.parametrize("module", [cifar10, cifar100, ablation, variants, forget_size, vggface2])
def test_the_papers_preset_differs_in_the_data_alone(module, monkeypatch):
    """On the embedded set, `--preset paper` is short of the paper's setting in the images, and says no more."""
    monkeypatch.setattr(experiment.jax, "default_backend", lambda: "cpu")
    options, _ = experiment.choose(module.EXPERIMENT, module.Options(dataset="synthetic", preset="paper"))
    plain = experiment.settings_of(module.EXPERIMENT, options, tmu_jax.data.load("synthetic"))
    for phrase in experiment.shortfalls(module.EXPERIMENT, options, plain):
        assert "images instead" in phrase


@pytest.mark.parametrize("module", [cifar10, cifar100, ablation, variants, forget_size, vggface2])
def test_the_fast_preset_takes_a_third_of_the_papers_epochs(module, monkeypatch):
    monkeypatch.setattr(experiment.jax, "default_backend", lambda: "cpu")
    fast, paper = (
        experiment.choose(module.EXPERIMENT, module.Options(dataset="synthetic", preset=preset))[0]
        for preset in ("fast", "paper")
    )
    assert 3 * fast.epochs == paper.epochs
    changes = {"epochs": paper.epochs, "learning_rate": paper.learning_rate, "schedule": paper.schedule}
    assert dataclasses.replace(fast, preset="paper", output=paper.output, **changes) == paper


# Seeds


def test_split_training_and_unlearning_have_seeds_of_their_own(data, tmp_path, monkeypatch):
    """Holding one of the three still leaves the stages that depend on it alone untouched."""
    patch_everywhere(monkeypatch, training.fit, noise_for_training)
    base = settings(data, seeds=(0, 1), methods=("finetune",))

    def stages(name, **held):
        run([dataclasses.replace(base, **held)], data, tmp_path / name)
        return {
            kind: len(list((tmp_path / name / "stages").glob(f"{kind}-*"))) for kind in ("original", "gold", "finetune")
        }

    # A gold model is made twice for each request: the second is the floor.
    assert stages("free") == {"original": 2, "gold": 4, "finetune": 2}
    assert stages("training", training_seed=0) == {"original": 1, "gold": 4, "finetune": 2}
    assert stages("both", training_seed=0, split_seed=0) == {"original": 1, "gold": 2, "finetune": 2}
    records = read_records(tmp_path / "both")
    assert {(r["seed"], r["split_seed"], r["training_seed"], r["unlearning_seed"]) for r in records} == {
        (0, 0, 0, 0),
        (1, 0, 0, 1),
    }
    gold = {r["seed"]: r["forget_accuracy"] for r in records if r["method"] == "floor_gold_gold"}
    assert gold[0] == gold[1]


# Runs and reports


def test_the_ablation_end_to_end(data, tmp_path):
    arms = ablation.arms(settings(data, experiment="ablation"), None, data)
    records, text = finish(ablation.EXPERIMENT, arms, data, tmp_path)
    kinds = {path.name.split("-")[0] for path in (tmp_path / "stages").glob("[!.]*")}
    assert kinds == {"original", "gold", "twin_model", "curriculum", "features", "prediction"}
    assert len(list((tmp_path / "stages").glob("features-*"))) == 1
    assert len(list((tmp_path / "stages").glob("prediction-*"))) == len(arms)
    predictors = [r for r in records if r["method"] == "twin" and r["target_class"] == "all"]
    assert len(predictors) == len(arms)
    assert all("forget_accuracy" not in r and r["predictor_accuracy"] is not None for r in predictors)
    assert "majority" in text
    for arm in arms:
        assert f"| {arm.variant} " in text


def test_the_variants_end_to_end(data, tmp_path):
    chosen = ("held-out images kept out of training", "threshold by count", "negative gradient on the hard")
    arms = variants.arms(settings(data, experiment="variants"), None, data)
    arms = [arm for arm in arms if arm.variant in ("default", *chosen)]
    records, text = finish(variants.EXPERIMENT, arms, data, tmp_path)
    assert {r["variant"] for r in records} == {"default", *chosen}
    assert (tmp_path / "variants.svg").stat().st_size > 1000
    pooled = {r["variant"]: r for r in records if r["target_class"] == "all" and r["method"].startswith("twin")}
    difference = pooled["threshold by count"]["agreement"] - pooled["default"]["agreement"]
    row = next(line for line in text.splitlines() if line.startswith("| threshold by count"))
    assert f"{round(difference, 1) + 0.0:.1f}" in row
    # Everything but the held-out source shares the original and the gold models.
    assert len(list((tmp_path / "stages").glob("original-*"))) == 2
    assert len(list((tmp_path / "stages").glob("gold-*"))) == 4


@pytest.mark.slow
def test_the_authors_code_end_to_end(data, tmp_path, monkeypatch):
    """Every arm runs; the report shows what was expected beside what came out, and compares no other images."""
    patch_everywhere(monkeypatch, training.fit, noise_for_training)
    arms = variants.arms(settings(data, experiment="variants"), variants.Options(flips="authors"), data)
    records, text = finish(variants.EXPERIMENT, arms, data, tmp_path)
    assert {r["variant"] for r in records} == {arm.variant for arm in arms}
    lines = text.splitlines()
    foretold = lines[next(i for i, line in enumerate(lines) if "What was expected, and what came out" in line) :]
    for arm in arms[1:]:
        pooled = next(
            r for r in records if (r["variant"], r["method"], r["target_class"]) == (arm.variant, "twin", "all")
        )
        row = next(line for line in foretold if line.startswith(f"| {arm.variant} "))
        assert variants.AUTHORS[arm.variant].expected in row
        assert f"{pooled['test_accuracy']:.2f}" in row
        is_other = pooled["num_forget"] != 8
        assert is_other == (arm.variant in ("D_f is a tenth of the class", "the authors' code"))
        assert (f"({pooled['num_forget']} images, unpaired)" in row) == is_other
        if is_other:
            assert "[" not in row
    assert "Not tested, since other images are forgotten" in text


def test_the_sizes_end_to_end(data, tmp_path, monkeypatch):
    patch_everywhere(monkeypatch, training.fit, noise_for_training)
    options = forget_size.Options(sizes=("1", "8", "all"), ratios=("dataset", "all"))
    plain = settings(data, experiment="forget_size", requests="each", classes=(1,))
    records, text = finish(forget_size.EXPERIMENT, forget_size.arms(plain, options, data), data, tmp_path)
    assert {r["num_forget"] for r in records} == {1, 8, "all"}
    assert {r["method"] for r in records if r["variant"] == "8, dataset"} >= set(forget_size.METHODS)
    for name in ("sizes.svg", "report.html"):
        assert (tmp_path / name).stat().st_size > 1000
    assert "whole class" in text
    assert "Twin's advantage over bad teacher in agreement" in text
    # One original for all sizes and ratios.
    assert len(list((tmp_path / "stages").glob("original-*"))) == 1


def test_one_seed_gives_intervals_over_images_and_several_over_seeds(data, tmp_path):
    arms = [settings(data, methods=("original", "retrain", "finetune"))]
    run(arms, data, tmp_path)
    assert "by bootstrap" in report.write_report(tmp_path).read_text()
    run([dataclasses.replace(arms[0], seeds=(0, 1, 2))], data, tmp_path)
    text = report.write_report(tmp_path).read_text()
    assert "over 3 seeds (Student t)" in text
    assert "by bootstrap" not in text


# The plan


def test_the_plan_names_the_very_stages_that_the_run_makes(data, tmp_path):
    arms = [settings(data, methods=("original", "retrain", "finetune", "bad_teacher", "twin"))]
    module = TinyNet(data.num_classes)
    planned = {
        stage.name
        for request in make_requests(arms[0], data)
        for stage in Graph(arms[0], request, module).stages((*arms[0].methods, "floors"))
    }
    run(arms, data, tmp_path)
    assert planned == {path.name for path in (tmp_path / "stages").glob("[!.]*")}


def prepared(module, arms, data, tmp_path):
    options = module.Options(preset="quick")
    name = module.EXPERIMENT.name
    return command.Prepared(
        module.EXPERIMENT, options, arms, data, tmp_path / name, tmp_path / "stages", ["a test"], [], []
    )


def test_a_forecast_does_not_warn_that_its_few_steps_teach_nothing(data, tmp_path, caplog):
    plain = settings(data)
    hopeless = dataclasses.replace(plain, recipe=dataclasses.replace(plain.recipe, learning_rate=100.0))
    forecast([prepared(cifar10, [hopeless], data, tmp_path)])
    assert not caplog.records
    split = tmu_jax.data.Split(data.pool, np.arange(40, dtype=np.int32))
    tmu_jax.train(TinyNet(data.num_classes), split, key=jax.random.key(0), recipe=hopeless.recipe)
    assert "no better than" in caplog.text


def test_the_forecast_counts_shared_stages_once(data, tmp_path):
    plain = settings(data)
    main = prepared(cifar10, [plain], data, tmp_path)
    features = prepared(ablation, ablation.arms(plain, None, data), data, tmp_path)
    first, second = forecast([main, features])
    # original, two gold models, twin model, curriculum model; fine-tuning, features, predictor, twin.
    assert (first.found, first.shared, first.trainings, first.others) == (0, 0, 5, 4)
    # All but the predictors of the six smaller choices are there already.
    assert (second.found, second.shared, second.trainings, second.others) == (0, 7, 0, 6)
    assert first.seconds > 0
    run(main.arms, data, main.output, stages=main.stages)
    again = forecast([main, features])
    assert (again[0].cells, again[0].seconds, again[0].found) == (0, 0, 0)
    assert (again[1].found, again[1].shared) == (7, 0)


def test_a_series_is_every_experiment_with_one_folder_of_stages(tmp_path, monkeypatch):
    for variable in ("TMU_JAX_DATA", "TFDS_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    tmu_jax.cpu.is_available()  # compiled once for all tests, not into this empty folder
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tmu_jax, "use_compilation_cache", lambda: None)
    options = series.Options(preset="quick", output=tmp_path / "out", archs=("auto", "vit"))
    runs = series.series(options)
    names = [run.output.name for run in runs]
    assert names == [
        "cifar10-quick", "cifar10-quick-vit", "ablation-quick", "variants-quick", "forget_size-quick",
        "requests-quick", "cifar100-quick", "vggface2-quick",
    ]  # fmt: skip
    assert {run.stages for run in runs} == {tmp_path / "out" / "stages"}
    assert [run.arms[0].arch for run in runs[:3]] == ["small_resnet", "vit", "small_resnet"]
    console = Console(file=io.StringIO(), width=80)
    plan = [Forecast("cifar10", 9, 1, 2, 5, 8, 90.0), Forecast("ablation", 14, 0, 7, 0, 6, 30.0)]
    series.print_plan(plan, console)
    total = console.file.getvalue().splitlines()
    assert next(line for line in total if "all " in line).split("│")[2:-1] == [
        "    23 ", "     1 ", "      9 ", "     5 ", "    14 ", "     2.0 ",
    ]  # fmt: skip
    for wrong in ({"only": ()}, {"archs": ("vit", "vit")}, {"seeds": (0, 0)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            series.series(dataclasses.replace(options, **wrong))
    (alone,) = series.series(dataclasses.replace(options, only=("compare",), archs=("auto",)))
    assert [arm.variant.partition(",")[0] for arm in alone.arms[::2]] == ["random", "part", "class"]


@pytest.mark.slow
def test_a_series_killed_halfway_trains_nothing_twice(data, tmp_path, monkeypatch):
    plain = settings(data, methods=("original", "finetune", "twin"))
    runs = [
        prepared(cifar10, [plain], data, tmp_path),
        prepared(ablation, ablation.arms(plain, None, data), data, tmp_path),
    ]
    monkeypatch.setattr(series, "series", lambda options: runs)
    monkeypatch.setattr(tmu_jax, "use_compilation_cache", lambda: None)
    fit, calls = training.fit, []

    def counting(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return fit(*args, **kwargs)

    # The estimate trains a few steps as well, which is no stage.
    monkeypatch.setattr(series, "forecast", lambda runs, say: [])
    monkeypatch.setattr(series, "print_plan", lambda plan, console: None)
    patch_everywhere(monkeypatch, training.fit, counting)
    assert series.main(["--preset", "quick"]) == 130
    assert series.main(["--preset", "quick"]) == 0
    # original, gold, finetune, twin model (interrupted once), curriculum, twin, second gold.
    assert len(calls) == 7 + 1
    for prepared_run in runs:
        assert (prepared_run.output / "report.html").exists()


# Faces


@pytest.fixture
def faces(tmp_path):
    """A folder of identities as people have it: real image files, and some that are not."""
    rng = np.random.default_rng(0)
    for identity in range(4):
        folder = tmp_path / "faces" / f"n{identity:06d}"
        folder.mkdir(parents=True)
        for number in range(12):
            pixels = np.clip(40 * identity + 60 + rng.normal(0, 30, (20, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:04d}_01.jpg")
    broken = tmp_path / "faces" / "n000001" / "0003_01.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    (tmp_path / "faces" / "n000002" / "0005_01.jpg").write_text("not an image")
    Image.fromarray(np.full((9, 9), 90, np.uint8)).save(tmp_path / "faces" / "n000003" / "0007_01.jpg")
    (tmp_path / "faces" / "n000009").mkdir()
    return tmp_path / "faces"


def test_bad_faces_are_named_and_left_out_or_refused(faces, tmp_path):
    options = vggface2.Options(
        data_dir=faces, image_size=16, num_identities=4, num_forget=2, output=tmp_path / "out", preset="quick",
        num_train=30, epochs=1, batch_size=10,
    )  # fmt: skip
    ready = command.prepare(vggface2.EXPERIMENT, options)
    left_out = " ".join(ready.left_out)
    for name in ("n000001/0003_01.jpg", "n000002/0005_01.jpg", "n000009"):
        assert name in left_out
    assert ready.data.train_images.shape == (30, 16, 16, 3)
    assert ready.arms[0].classes == (0, 1, 2, 3)
    assert any("4 identities instead of 100" in phrase for phrase in ready.short)
    assert str(tmp_path) not in json.dumps(ready.config(["--data-dir", str(faces), "--epochs", "1"]))
    with pytest.raises(ValueError, match=r"0003_01\.jpg"):
        command.prepare(vggface2.EXPERIMENT, dataclasses.replace(options, bad_files="refuse"))


def test_faces_that_are_not_there_are_asked_for_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tmu_jax, "use_compilation_cache", lambda: None)
    assert vggface2.main(["--dataset", "vgg_face2", "--data-dir", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "none" in error
    assert "--data-dir FOLDER" in error


def test_a_recipe_with_augmentation_reaches_every_training(data, tmp_path, monkeypatch):
    recipes = []

    def recording(*args, **kwargs):
        recipes.append(args[7])
        return noise_for_training(*args, **kwargs)

    patch_everywhere(monkeypatch, training.fit, recording)
    augmented = Recipe(epochs=1, batch_size=20, augment=True)
    run([settings(data, recipe=augmented, methods=("finetune", "twin"))], data, tmp_path)
    assert len(recipes) == 7
    assert all(recipe.augment for recipe in recipes)
