"""Recipes that were found by rehearsal and ship with every try; `python -m experiments.tune` writes them."""

import importlib.resources
import pathlib
from importlib.resources.abc import Traversable
from typing import Any

from tmu_jax.text import parse_json
from tmu_jax.training.packing import unpack_recipe
from tmu_jax.unlearning.method import Method

SHIPPED = "cifar10-5000-small-resnet"
"""500 images of 5,000 of CIFAR-10, `small_resnet`, preset `fast`."""
_FOLDER = "recipes"


def with_recipe(method: Method, recipes: str | pathlib.Path) -> Method:
    """A method with its recipe of a file; arguments and errors as `tmu_jax.tuned`."""
    held = read_recipes(recipes)
    if method.name not in held:
        raise ValueError(f"recipes={str(recipes)!r} hold none for method {method.name!r}; they have: {', '.join(held)}")
    chosen = held[method.name]["chosen"]
    return method.configured(unpack_recipe(chosen["recipe"]), chosen["options"])


def ships(recipes: str | pathlib.Path) -> bool:
    """Whether it is the name of recipes that ship, and not a file's."""
    return not isinstance(recipes, pathlib.Path) and (_shipped() / f"{recipes}.json").is_file()


def read_recipes(recipes: str | pathlib.Path) -> dict[str, Any]:
    """What a file of recipes holds, by the method's name: `chosen` and `tries`; errors as `tmu_jax.tuned`."""
    path = _shipped() / f"{recipes}.json" if ships(recipes) else pathlib.Path(recipes)
    try:
        found = parse_json(path.read_text("utf-8"))
        methods = found["methods"]
        for held in methods.values():
            unpack_recipe(held["chosen"]["recipe"])
            dict(**held["chosen"]["options"])
    except FileNotFoundError:
        shipped = _shipped()
        names = sorted(one.name.removesuffix(".json") for one in shipped.iterdir()) if shipped.is_dir() else []
        raise FileNotFoundError(
            f"recipes={str(recipes)!r} is neither a file nor a name that ships: {', '.join(names) or 'none does'}"
        ) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"recipes={str(recipes)!r} is no file of recipes ({error!r}); `python -m experiments.tune` writes one"
        ) from error
    return methods


def _shipped() -> Traversable:
    return importlib.resources.files("tmu_jax.unlearning") / _FOLDER
