"""The notebooks and the code on the first page run as they are written."""

import contextlib
import io
import json
import pathlib
import re

import jax
import pytest

import tmu_jax
from tests.tiny import TinyNet, tiny_data

DOCS = pathlib.Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))


@pytest.fixture(autouse=True)
def standard_promotion():
    """The strict settings of the other tests are not a user's."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def synthetic_data():
    """The images of both notebooks, drawn once."""
    return tmu_jax.data.load("synthetic")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_as_written(path, synthetic_data, monkeypatch, tmp_path):
    """Each cell prints what is kept below it, but for its numbers and the names of methods that won by them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tmu_jax.data, "load", {"synthetic": synthetic_data}.__getitem__)
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 4
    scope: dict = {}
    for cell in cells:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec("".join(cell["source"]), scope)
        kept = "".join("".join(output["text"]) for output in cell["outputs"])
        assert words(printed.getvalue()) == words(kept)


def words(text: str) -> list[str]:
    """The first word of each line: what stays when roundings and speeds differ."""
    return [line.split()[0] for line in text.splitlines() if line.strip()]


def test_the_first_page_runs_as_written(monkeypatch, tmp_path, capsys):
    """On tiny images; the README's example, which is nearly the same, is tried on larger ones."""
    monkeypatch.setattr(tmu_jax.data, "load", lambda name: tiny_data(num_train=400))
    monkeypatch.setattr(tmu_jax.models, "create", lambda name, num_classes: TinyNet())
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "index.md").read_text(), re.S):
        exec(block, scope)
    assert scope["again"].prepared.forgotten[1].tolist() == [31, 47]
    assert (tmp_path / "prepared").is_dir()
    printed = capsys.readouterr().out
    for word in ("Prepared(", "20 images by", "floor_majority"):
        assert word in printed
