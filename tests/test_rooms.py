"""The house: a room imports only from the rooms below it, and a module has one subject of at most 300 lines."""

import ast
import importlib
import pathlib
import pkgutil

import pytest

import tmu_jax

ROOT = pathlib.Path(__file__).parents[1]
ROOMS = (
    "command",
    "auditing",
    "requests",
    "preparation",
    "evaluation",
    "unlearning",
    "twin",
    "training",
    "models",
    "data",
    "cpu",
)
"""Top to bottom; what lies beside them (`stages`, `store`, `timing`, `statistics`, `cache`) is below all."""
SUBMODULES = list(pkgutil.walk_packages(tmu_jax.__path__, "tmu_jax."))
MODULES = sorted(path for folder in ("tmu_jax", "experiments", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def imported(path):
    """The names of the project's modules that a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_a_room_imports_only_from_the_rooms_below_it():
    found = 0
    for path in sorted((ROOT / "tmu_jax").rglob("*.py")):
        parts = path.relative_to(ROOT / "tmu_jax").parts
        if parts in (("__init__.py",), ("__main__.py",)):  # The doors of the house.
            continue
        own = ROOMS.index(parts[0]) if parts[0] in ROOMS else len(ROOMS)
        for name in imported(path):
            package, _, rest = name.partition(".")
            room = rest.split(".")[0]
            if package == "tmu_jax" and room in ROOMS:
                found += 1
                assert ROOMS.index(room) >= own, f"{path.name} in {parts[0]} imports {name}"
    assert found > 50


def test_the_package_knows_neither_the_experiments_nor_the_benchmarks():
    for path in (ROOT / "tmu_jax").rglob("*.py"):
        assert not [name for name in imported(path) if name.split(".")[0] in ("experiments", "benchmarks", "tests")]


def test_the_two_doors_of_the_experiments():
    """A report is made from records alone; commands are values."""
    for path in (ROOT / "experiments/report").rglob("*.py"):
        names = [name for name in imported(path) if name.startswith(("tmu_jax", "jax"))]
        assert not names, (path.name, names)


def test_no_name_of_a_package_hides_a_module_of_it():
    """`import tmu_jax.evaluation.floors as m` is the module."""
    packages = [tmu_jax, *(importlib.import_module(found.name) for found in SUBMODULES if found.ispkg)]
    hidden = [
        f"{package.__name__}.{found.name}"
        for package in packages
        for found in pkgutil.iter_modules(package.__path__)
        if importlib.import_module(f"{package.__name__}.{found.name}") is not getattr(package, found.name)
    ]
    assert len(packages) > 5
    assert hidden == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_has_at_most_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300
