"""A trained classifier as a folder, in one of three formats, checked when it is read; and its digest."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization, traverse_util
from safetensors import SafetensorError
from safetensors.flax import load_file as safetensors_load
from safetensors.numpy import save as safetensors_save

from tmu_jax import models
from tmu_jax.places import write_or_keep
from tmu_jax.store import Saved, StageStore, checksums, write_stage
from tmu_jax.text import parse_json
from tmu_jax.training.adapter import Adapter, ModuleLike
from tmu_jax.training.packing import pack, unpack_model
from tmu_jax.training.recipe import Format, TrainedModel

FORMATS = get_args(Format)
SCHEMA = "tmu_jax model 1"
_MANIFEST = "model.json"
_ARRAYS = "arrays"
_OWN: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in (models.AllCNN, models.ResNet, models.ViT)}


class SavedModel(NamedTuple):
    """A model's folder, read and checked, without a module to run it by.

    Attributes:
      arrays: "variables" as nested dicts, and "normalization".
      metadata: recipe, losses, seconds, architecture, and what else was known of it.
      updates: what its training kept of its steps, packed; None: nothing.
    """

    arrays: dict[str, Any]
    metadata: dict[str, Any]
    updates: dict[str, Any] | None = None


def state_of(model: TrainedModel) -> dict[str, Any]:
    """All arrays that decide what a model answers, as nested dicts of host arrays: "variables", "normalization".

    Lists, tuples and any other pytree become dicts too, by the names or numbers of their entries.
    """
    state = {"variables": model.variables, "normalization": model.normalization._asdict()}
    return traverse_util.unflatten_dict({path: np.asarray(leaf) for path, leaf in _flat(jax.device_get(state)).items()})


def weights_digest(state: dict[str, Any]) -> str:
    """SHA-256 (hex) of a tree of arrays, whatever file it came from.

    It goes over the leaves by ascending path: a line of JSON with path, dtype and shape, then the bytes of the array,
    row by row, little-endian. So a renamed, reshaped or converted leaf changes it as much as another value does.

    Args:
      state: nested dicts of arrays, from `state_of`.
    """
    digest = hashlib.sha256()
    for path, leaf in sorted(_flat(state).items()):
        array = np.ascontiguousarray(leaf).reshape(np.shape(leaf))
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        digest.update(json.dumps([path, array.dtype.name, list(array.shape)]).encode() + b"\n")
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_model(
    model: TrainedModel, folder: pathlib.Path | str, format: Format = "orbax", *, overwrite: bool = False
) -> pathlib.Path:
    """Writes a classifier with all that is needed to run and to train it; see `TrainedModel.save`."""
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is unknown; choose one of {FORMATS}")
    path = pathlib.Path(folder)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"folder={path} is a file; give a folder")
    if path.exists() and any(path.iterdir()):
        if not overwrite:
            raise FileExistsError(f"folder={path} is there already; give another one, or overwrite=True")
        if not (path / _MANIFEST).is_file():
            raise FileExistsError(f"folder={path} holds no model, and is not overwritten; give another one")
    write_or_keep(path, lambda place: _write(model, place, format))
    return path


def _write(model: TrainedModel, path: pathlib.Path, format: str) -> None:
    """Puts a model's folder in its place, whole or not at all."""
    temporary, before = (path.with_name(f".{path.name}.{os.getpid()}.{name}") for name in ("new", "old"))
    temporary.mkdir(parents=True)
    try:
        kept = {} if model.updates is None else {"updates": model.updates.packed()}
        _write_arrays({**state_of(model), **kept}, temporary, format)
        manifest = {
            "schema": SCHEMA,
            "format": format,
            "files": checksums(temporary),
            "metadata": _metadata(model),
        }
        text = json.dumps(manifest, indent=1, sort_keys=True)
        sealed = {**manifest, "manifest": hashlib.sha256(text.encode()).hexdigest()}
        (temporary / _MANIFEST).write_text(json.dumps(sealed, indent=1, sort_keys=True))
        if path.exists():
            os.replace(path, before)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(before, ignore_errors=True)


def read_model(folder: pathlib.Path | str) -> SavedModel:
    """What `save_model` wrote, checked file by file.

    Raises:
      FileNotFoundError: when the folder holds no model.
      ValueError: when it is damaged or of another making; names the file and says why.
    """
    path = pathlib.Path(folder)
    if not (path / _MANIFEST).is_file():
        raise FileNotFoundError(
            f"folder={str(folder)!r} holds no {_MANIFEST}: no model was saved there; `model.save` writes one"
        )
    manifest = _manifest(path / _MANIFEST)
    found = checksums(path, leave_out=(_MANIFEST,))
    for name in sorted(set(found) | set(manifest["files"])):
        if name not in found:
            raise ValueError(f"{path / name} is not there")
        if name not in manifest["files"]:
            raise ValueError(f"{path / name} is no file of this model")
        if found[name] != manifest["files"][name]:
            raise ValueError(f"{path / name} is not as it was written: its checksum differs")
    arrays = _read_arrays(path, manifest["format"])
    updates = arrays.pop("updates", None)
    return SavedModel(arrays, manifest["metadata"], updates)


def load_trained(
    folder: pathlib.Path | str, module: ModuleLike | TrainedModel | None = None
) -> tuple[TrainedModel, dict[str, Any]]:
    """The classifier in a folder, and what else was kept of it; arguments and errors as `tmu_jax.load`."""
    arrays, metadata, updates = read_model(folder)
    variables = arrays["variables"]
    if isinstance(module, TrainedModel):
        variables = _in_form_of(module.variables, variables, folder)
        of: ModuleLike = module.module
    elif module is None:
        of = _own_module(metadata["architecture"], folder)
    elif isinstance(module, Adapter):
        of = module
    elif not isinstance(module, nn.Module):
        raise TypeError(
            f"module must be a Flax Linen module or a TrainedModel, got {type(module).__name__}; wrap another "
            "classifier as before: tmu_jax.load(folder, tmu_jax.wrap(…))"
        )
    elif told := metadata["architecture"].get("told"):
        raise ValueError(
            f"module is a bare {type(module).__name__}, and the classifier in {folder} was wrapped with more: "
            f"{', '.join(told)}; give the model of tmu_jax.wrap(module, variables, …) instead"
        )
    else:
        of = module
    parts = {"variables": variables, "normalization": arrays["normalization"]}
    saved = Saved({**parts, **({} if updates is None else {"updates": updates})}, metadata)
    return unpack_model(saved, of), metadata["extra"]


def _metadata(model: TrainedModel) -> dict[str, Any]:
    module = model.module
    architecture: dict[str, Any] = {"name": type(module).__qualname__}
    if type(module) in _OWN.values():
        settings = {name: getattr(module, name) for name in type(module).__annotations__ if name != "microbatch"}
        architecture["settings"] = {
            name: jnp.dtype(value).name if name.endswith("dtype") else value for name, value in settings.items()
        }
    if isinstance(module, Adapter):
        architecture["told"] = module.told
    # Of an unlearned model the classifier alone.
    plain = TrainedModel(**{field.name: getattr(model, field.name) for field in dataclasses.fields(TrainedModel)})
    return {**pack(plain).metadata, "architecture": architecture, "extra": model.kept()}


def _own_module(architecture: dict[str, Any], folder: pathlib.Path | str) -> nn.Module:
    if "settings" not in architecture:
        raise ValueError(
            f"module is needed: {folder} holds a {architecture['name']!r}, which is none of ours; give the module that "
            "it was trained with, or a TrainedModel of it"
        )
    settings = {
        name: jnp.dtype(value) if name.endswith("dtype") else tuple(value) if isinstance(value, list) else value
        for name, value in architecture["settings"].items()
    }
    return _OWN[architecture["name"]](**settings)


def _manifest(path: pathlib.Path) -> dict[str, Any]:
    try:
        manifest = parse_json(path.read_bytes())
        seal = manifest.pop("manifest")
        text = json.dumps(manifest, indent=1, sort_keys=True)
    except (ValueError, AttributeError, KeyError):
        raise ValueError(f"{path} is no manifest of a model") from None
    if hashlib.sha256(text.encode()).hexdigest() != seal:
        raise ValueError(f"{path} is not as it was written: its checksum differs")
    if manifest["schema"] != SCHEMA:
        raise ValueError(f"{path} is of schema {manifest['schema']!r}; this version reads {SCHEMA!r}")
    return manifest


def _in_form_of(template: Any, variables: dict[str, Any], folder: pathlib.Path | str) -> Any:
    """Variables as a pytree like another one, which must have the same leaves."""
    expected, found = _flat(template), _flat(variables)
    for path in sorted(set(expected) ^ set(found)):
        said = "has no" if path in expected else "has a"
        raise ValueError(f"{folder} {said} {'/'.join(path)!r}, unlike the model given as module")
    for path, leaf in expected.items():
        if np.shape(leaf) != np.shape(found[path]):
            raise ValueError(
                f"{folder} has {'/'.join(path)!r} of shape {np.shape(found[path])}, the model given as module of "
                f"{np.shape(leaf)}"
            )
    return jax.tree.unflatten(jax.tree.structure(template), [found[path] for path in expected])


def _flat(tree: Any) -> dict[tuple[str, ...], Any]:
    """The leaves of any pytree by their paths, in its order."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {tuple(jax.tree_util.keystr((key,), simple=True) for key in path): leaf for path, leaf in leaves}


def _pointer(path: tuple[str, ...]) -> str:
    """A path as one name (RFC 6901): names of parameters may hold slashes."""
    return "/".join(part.replace("~", "~0").replace("/", "~1") for part in path)


def _path(pointer: str) -> tuple[str, ...]:
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/"))


def _write_arrays(state: dict[str, Any], folder: pathlib.Path, format: str) -> None:
    flat = {_pointer(path): leaf for path, leaf in _flat(state).items()}
    if format == "orbax":
        write_stage(folder / _ARRAYS, _ARRAYS, Saved(flat, {}))
    elif format == "msgpack":
        (folder / f"{_ARRAYS}.msgpack").write_bytes(serialization.msgpack_serialize(flat))
    else:
        whole = {name: np.ascontiguousarray(leaf).reshape(leaf.shape) for name, leaf in flat.items()}
        (folder / f"{_ARRAYS}.safetensors").write_bytes(safetensors_save(whole))


def _read_arrays(folder: pathlib.Path, format: str) -> dict[str, Any]:
    try:
        if format == "orbax":
            said: list[str] = []
            saved = StageStore(folder, warn=said.append).load(_ARRAYS)
            if saved is None:
                raise ValueError(*said)
            flat = saved.arrays
        elif format == "msgpack":
            flat = serialization.msgpack_restore((folder / f"{_ARRAYS}.msgpack").read_bytes())
        else:
            flat = safetensors_load(folder / f"{_ARRAYS}.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder / _ARRAYS}.* cannot be read as {format}: {str(error).splitlines()[0]}") from None
    return traverse_util.unflatten_dict({_path(name): np.asarray(leaf) for name, leaf in flat.items()})
