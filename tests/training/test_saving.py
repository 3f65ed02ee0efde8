"""A saved classifier comes back as it was, carries nothing of the one before it, and damage has one line."""

import dataclasses
import hashlib
import json
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tmu_jax
from tests.tiny import TinyNet, tiny_data
from tmu_jax.training import Normalization, Recipe, TrainedModel, predict
from tmu_jax.training.saving import FORMATS, read_model, state_of, weights_digest
from tmu_jax.unlearning import UnlearnedModel

NORMALIZATION = Normalization(np.full(3, 0.4, np.float32), np.full(3, 0.2, np.float32))


def any_tree() -> TrainedModel:
    """Leaves of every kind that a user's tree holds: halves, whole numbers, none at all; names with slashes; lists."""
    params = {
        "linear/~/w": {"a~b": jnp.arange(6, dtype=jnp.bfloat16).reshape(3, 2), "none": jnp.zeros((0, 3))},
        "list": [jnp.float16(2), jnp.arange(3)],
        "pair": NORMALIZATION,
        "transposed": np.arange(6.0, dtype=np.float32).reshape(2, 3).T,
    }
    variables = {"params": params, "ema": {"on": jnp.array(True)}}
    return TrainedModel(TinyNet(), variables, NORMALIZATION, Recipe(drops=(0.3,)), 1.5, 0.5, (2.0, 1.0))


def trained(key=0) -> TrainedModel:
    variables = dict(TinyNet().init(jax.random.key(key), jnp.zeros((1, 4, 4, 3))))
    return TrainedModel(TinyNet(), variables, NORMALIZATION, Recipe(epochs=3))


def unlearned() -> UnlearnedModel:
    return UnlearnedModel(
        **{field.name: getattr(trained(1), field.name) for field in dataclasses.fields(TrainedModel)},
        method="finetune", original=trained(0), forget_indices=np.arange(5, dtype=np.int32),
        seconds_by_part={"unlearning": 0.5}, notes=("a note",),
    )  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_every_tree_comes_back_as_it_was(format, tmp_path):
    model = any_tree()
    assert model.save(tmp_path / "model", format) == tmp_path / "model"
    read = tmu_jax.load(tmp_path / "model", model)
    assert jax.tree.structure(read.variables) == jax.tree.structure(model.variables)
    chex.assert_trees_all_equal_shapes_and_dtypes(read.variables, jax.tree.map(jnp.asarray, model.variables))
    chex.assert_trees_all_equal(read.variables, model.variables)
    assert dataclasses.replace(read, variables=0, normalization=0).__dict__ == (
        dataclasses.replace(model, variables=0, normalization=0).__dict__
    )
    np.testing.assert_array_equal(read.normalization.std, NORMALIZATION.std)
    assert weights_digest(read_model(tmp_path / "model").arrays) == weights_digest(state_of(model))
    nested = tmu_jax.load(tmp_path / "model", TinyNet()).variables
    np.testing.assert_array_equal(nested["params"]["list"]["1"], np.arange(3))


def test_it_answers_as_before(tmp_path):
    model, data = trained(), tiny_data()
    problem = tmu_jax.data.forget_indices(data, [1])
    model.save(tmp_path / "m")
    read = tmu_jax.load(tmp_path / "m", TinyNet())
    for ours, theirs in zip(predict(model, problem.test), predict(read, problem.test), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["small_resnet", "allcnn", "vit"])
def test_our_own_architectures_need_no_module(name, tmp_path):
    module = tmu_jax.models.create(name, num_classes=3, dtype=jnp.bfloat16)
    TrainedModel(module, {"params": {"w": jnp.ones(2)}}, NORMALIZATION, Recipe()).save(tmp_path / "m", "msgpack")
    assert tmu_jax.load(tmp_path / "m").module == module


def test_a_users_own_needs_one(tmp_path):
    trained().save(tmp_path / "m", "msgpack")
    with pytest.raises(ValueError, match=r"module is needed: .*m holds a 'TinyNet', which is none of ours"):
        tmu_jax.load(tmp_path / "m")
    with pytest.raises(TypeError, match=r"module='TinyNet' must be a Module or an Adapter .* or None, not a str"):
        tmu_jax.load(tmp_path / "m", "TinyNet")


def test_a_bare_module_does_not_stand_for_a_model_that_was_told_more(tmp_path):
    """It would answer otherwise, without a word."""
    plain = trained()
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), plain.variables["params"])
    told = tmu_jax.wrap(TinyNet(), {**plain.variables, "params": low}, preprocess=jnp.negative)
    told.save(tmp_path / "told")
    with pytest.raises(
        ValueError, match=r"module is a bare TinyNet, .* was wrapped with more: preprocess, dtypes; give"
    ):
        tmu_jax.load(tmp_path / "told", TinyNet())
    again = tmu_jax.load(tmp_path / "told", told)
    chex.assert_trees_all_equal(again.unwrap(), told.unwrap())
    tmu_jax.wrap(TinyNet(), plain.variables).save(tmp_path / "plain")
    tmu_jax.load(tmp_path / "plain", TinyNet())


def all_bytes(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def marks(model):
    """Bytes by which a model's parameters would be found; not those of all models, such as a scale of ones."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(model.variables["params"])]
    return [leaf.tobytes() for leaf in leaves if leaf.std() > 0]


@pytest.mark.parametrize("format", ["msgpack", "safetensors"])
def test_of_an_unlearned_model_the_one_before_is_not_saved(format, tmp_path):
    model = unlearned()
    model.save(tmp_path / "m", format)
    content = all_bytes(tmp_path / "m")
    assert marks(model)
    assert all(mark in content for mark in marks(model))
    assert not any(mark in content for mark in marks(model.original))
    read = tmu_jax.load(tmp_path / "m", TinyNet())
    assert isinstance(read, UnlearnedModel)
    assert (read.method, read.notes, read.seconds_by_part) == ("finetune", ("a note",), {"unlearning": 0.5})
    assert read.original is read.forget_indices is read.prediction is None
    assert "forget" not in json.dumps(read_model(tmp_path / "m").metadata)


def test_nor_is_it_in_an_orbax_folder(tmp_path):
    """Orbax compresses: two models that differ in their originals alone leave equal arrays."""
    read = []
    for key in (0, 5):
        dataclasses.replace(unlearned(), original=trained(key)).save(tmp_path / str(key))
        read.append(read_model(tmp_path / str(key)))
    assert weights_digest(read[0].arrays) == weights_digest(read[1].arrays)
    assert set(read[0].arrays) == {"variables", "normalization"}
    assert read[0].metadata == read[1].metadata


def test_nor_in_a_pickle():
    model = unlearned()
    content = pickle.dumps(model)
    assert all(mark in content for mark in marks(model))
    assert not any(mark in content for mark in marks(model.original))
    read = pickle.loads(content)
    assert read.original is None
    assert read.method == "finetune"
    chex.assert_trees_all_equal(read.variables, model.variables)
    assert model.original is not None


def test_the_digest_is_as_it_says():
    """By hand, and another one for every kind of change."""
    array = np.array([[1, 2]], np.float32)
    by_hand = hashlib.sha256(b'[["a", "b"], "float32", [1, 2]]\n' + array.astype("<f4").tobytes())
    assert weights_digest({"a": {"b": array}}) == by_hand.hexdigest()
    assert weights_digest({"a": {"b": array.astype(">f4")}}) == by_hand.hexdigest()
    others = [
        {"a": {"b": array.T}}, {"a": {"c": array}}, {"b": {"a": array}}, {"a": {"b": array.astype(np.float64)}},
        {"a": {"b": array + 1}}, {"a": {"b": array.view(np.int32)}}, {"a": {"b": array, "c": array}},
    ]  # fmt: skip
    assert len({weights_digest(one) for one in [*others, {"a": {"b": array}}]}) == 8


def test_what_is_there_is_not_overwritten(tmp_path):
    trained(0).save(tmp_path / "m", "msgpack")
    with pytest.raises(FileExistsError, match="is there already; give another one, or overwrite=True"):
        trained(1).save(tmp_path / "m", "msgpack")
    trained(1).save(tmp_path / "m", "safetensors", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["arrays.safetensors", "model.json"]
    chex.assert_trees_all_equal(tmu_jax.load(tmp_path / "m", TinyNet()).variables, trained(1).variables)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").touch()
    with pytest.raises(FileExistsError, match="holds no model, and is not overwritten"):
        trained().save(tmp_path / "photos", overwrite=True)
    with pytest.raises(FileExistsError, match="is a file"):
        trained().save(tmp_path / "photos" / "one.jpg")
    with pytest.raises(ValueError, match="format='npz' is unknown"):
        trained().save(tmp_path / "n", "npz")
    assert not (tmp_path / "n").exists()


def test_a_save_that_fails_leaves_what_was_there(tmp_path):
    trained(0).save(tmp_path / "m", "msgpack")
    bad = dataclasses.replace(trained(1), recipe=dataclasses.replace(Recipe(), optimizer="sgd"))
    object.__setattr__(bad.recipe, "optimizer", object())
    with pytest.raises(TypeError):
        bad.save(tmp_path / "m", "msgpack", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    chex.assert_trees_all_equal(tmu_jax.load(tmp_path / "m", TinyNet()).variables, trained(0).variables)


def damaged(folder, name):
    """A model's folder, spoiled in one way; the line that says so."""
    file = next(path for path in folder.iterdir() if path.name.startswith("arrays"))
    file = next((path for path in file.rglob("*") if path.is_file() and path.stat().st_size > 200), file)
    if name == "a flipped bit":
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(content)
        return f"{file.name} is not as it was written"
    if name == "a file less":
        file.unlink()
        return f"{file.name} is not there"
    if name == "a file more":
        (folder / "more.bin").touch()
        return r"more\.bin is no file of this model"
    manifest = json.loads((folder / "model.json").read_text())
    if name == "an edited manifest":
        manifest["metadata"]["seconds"] = 9.0
    elif name == "no JSON":
        (folder / "model.json").write_text("{")
        return r"model\.json is no manifest of a model"
    elif name == "foreign":
        manifest = {"epoch": 3}
        (folder / "model.json").write_text(json.dumps(manifest))
        return r"model\.json is no manifest of a model"
    (folder / "model.json").write_text(json.dumps(manifest))
    return r"model\.json is not as it was written"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "name", ["a flipped bit", "a file less", "a file more", "an edited manifest", "no JSON", "foreign"]
)
def test_damage_has_one_line(format, name, tmp_path):
    trained().save(tmp_path / "m", format)
    said = damaged(tmp_path / "m", name)
    with pytest.raises(ValueError, match=said) as caught:
        tmu_jax.load(tmp_path / "m", TinyNet())
    assert "\n" not in str(caught.value)


def test_no_model_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no model\.json: no model was saved there"):
        tmu_jax.load(tmp_path, TinyNet())


def test_variables_that_do_not_fit_the_model_given(tmp_path):
    trained().save(tmp_path / "m", "msgpack")
    with pytest.raises(ValueError, match=r"m has (a|no) '.*', unlike the model given as module") as caught:
        tmu_jax.load(tmp_path / "m", any_tree())
    assert "\n" not in str(caught.value)
    wide = dataclasses.replace(trained(), variables=jax.tree.map(lambda leaf: leaf[None], trained().variables))
    with pytest.raises(ValueError, match=r"of shape \(.*\), the model given as module of \(1, "):
        tmu_jax.load(tmp_path / "m", wide)


def test_tables_of_models_are_escaped():
    table = dataclasses.replace(unlearned(), method="<script>&")._repr_html_()
    assert "<script>" not in table
    assert "&lt;script&gt;&amp;" in table
    assert f"<td>{sum(np.size(leaf) for leaf in jax.tree.leaves(trained().variables['params'])):,}</td>" in table
    assert "a note" in table
    assert "<td>TinyNet</td>" in table
    assert "<td>TinyNet</td>" in tmu_jax.wrap(TinyNet(), trained().variables)._repr_html_()
