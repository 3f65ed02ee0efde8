"""The README's library example runs as written, and so does a user's own module on their own arrays."""

import pathlib
import re

import jax
import numpy as np
import pytest

import tmu_jax
from tests.tiny import TinyNet, tiny_data
from tmu_jax.data import synthetic

README = pathlib.Path(__file__).parents[1] / "README.md"


@pytest.fixture
def standard_promotion():
    """The strict settings of the other tests are not a user's."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def test_the_example_runs_as_written(standard_promotion, capsys, monkeypatch, tmp_path):
    """On 600 easier synthetic images and by a tiny network."""
    monkeypatch.setattr(tmu_jax.data, "load", lambda name: synthetic.generate(num_train=600, background_share=0.1))
    monkeypatch.setattr(tmu_jax.models, "create", lambda name, num_classes: TinyNet(num_classes, width=64))
    monkeypatch.chdir(tmp_path)
    example = next(b for b in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "data.load" in b)
    scope: dict = {}
    exec(example, scope)
    np.testing.assert_array_equal(scope["found"].model.forget_indices, range(20))
    np.testing.assert_array_equal(scope["again"].model.forget_indices, [31, 47])
    printed = capsys.readouterr().out
    for word in (" 20 images by ", "expected of gold", "forget_accuracy", "agreement", "floor_majority"):
        assert word in printed
    found = tmu_jax.evaluate(scope["problem"], scope["found"].model, gold=scope["gold"])
    assert found.readouts.test_accuracy > 30
    assert len(list((tmp_path / "prepared").glob("[!.]*"))) == 6  # original, twin model, four of the bank


def test_a_users_own_module_and_arrays(standard_promotion):
    """The same steps with a module and arrays that the package does not know."""
    own = tiny_data(num_train=240, seed=3)
    data = tmu_jax.data.from_arrays(own.train_images, own.train_labels, own.test_images, own.test_labels)
    problem = tmu_jax.data.forget_indices(data, np.flatnonzero(data.train_labels == 2)[:25])
    model = TinyNet()
    original = tmu_jax.train(model, problem.train, epochs=10, key=jax.random.key(0))
    gold = tmu_jax.train(model, problem.retain, epochs=10, key=jax.random.key(2))
    unlearned = tmu_jax.unlearn("twin", problem, original, key=jax.random.key(1))
    found = tmu_jax.evaluate(problem, unlearned, gold=gold)
    logits = tmu_jax.predict(unlearned, problem.forget)[0]
    assert found.readouts.forget_accuracy == pytest.approx(100 * (logits.argmax(-1) == 2).mean())
    assert found.predictor is not None
    assert 0 <= found.readouts.agreement <= 100


def test_a_method_of_ones_own_can_be_added_as_written(standard_promotion):
    page = README.parent / "docs/methods.md"
    example = next(b for b in re.findall(r"```python\n(.*?)```", page.read_text(), re.S) if "tmu_jax.Method(" in b)
    problem = tmu_jax.data.forget_subset(tiny_data(), target_classes=[0], num_forget=5)
    original = tmu_jax.train(TinyNet(), problem.train, epochs=1, key=jax.random.key(0))
    scope = {"tmu_jax": tmu_jax, "problem": problem, "original": original, "key": jax.random.key(1)}
    exec(example, scope)
    assert tmu_jax.unlearn(scope["mine"], problem, original, key=jax.random.key(1)).method == "mine"
