"""What objects say of themselves fits any terminal, and is escaped in a notebook."""

import dataclasses
import re

import numpy as np

import tmu_jax
from tests.preparation.made import DATA, Recipe
from tests.tiny import TinyNet, tiny_data
from tmu_jax.evaluation import Evaluation, Floor, Readouts
from tmu_jax.preparation import Findings, Forgotten, Prepared
from tmu_jax.text import ascii_text, html_table
from tmu_jax.training import Normalization
from tmu_jax.unlearning import UnlearnedModel

EVALUATION = Evaluation("twin – 2", Readouts(1.0, 2.0, 3.0), None, {"floor_<b>": Floor(1, 2, 3)}, None, None, 1.0)
MODEL = UnlearnedModel(
    TinyNet(), {"params": {}}, Normalization(np.ones(3), np.ones(3)), Recipe(), method="twin", notes=()
)


def forgotten(note):
    ready = Prepared.__new__(Prepared)
    object.__setattr__(ready, "forgotten", (np.arange(3),))
    return Forgotten(
        MODEL, ready, "twin – 2 ()", 0.1, None, None, None, {"twin": 3}, (note,), "forgotten", "", Findings(())
    )


def test_only_ascii_is_printed():
    assert ascii_text("3×4 – größer …") == "3x4 - gr\\xf6\\xdfer ..."
    for one in (EVALUATION, forgotten("Klasse „Größe“: 3 × 4")):
        str(one).encode("ascii")
    assert "twin - 2" in str(EVALUATION)
    assert re.search(r"agreement +-\n", str(EVALUATION))
    assert "3 x 4" in str(forgotten("3 × 4"))


def test_every_other_object_that_has_words_of_its_own():
    data = tiny_data()
    problem = tmu_jax.data.forget_indices(data, [1, 2])
    for one in (data, data.pool, problem, problem.forget):
        str(one).encode("ascii")


def test_tables_are_escaped():
    table = html_table("<b>", [("a&b", "<script>"), ("left out", None), ("nought", 0)])
    assert table.count("<tr>") == 2
    assert "<caption>&lt;b&gt;</caption>" in table
    assert "a&amp;b" in table
    assert "<script>" not in table
    assert "<td>0</td>" in table


def test_what_is_shown_in_notebooks_is_escaped_and_complete():
    hostile = "<script>alert(1)</script>"
    shown = [
        dataclasses.replace(EVALUATION, method=hostile)._repr_html_(),
        forgotten(hostile)._repr_html_(),
        Prepared._repr_html_(prepared_with({hostile: 1.5})),
    ]
    for table in shown:
        assert "<script" not in table
        assert "&lt;script&gt;alert(1)" in table
    assert "floor &lt;b&gt;" in shown[0]
    assert "1.50 trainings" in shown[2]


def prepared_with(costs):
    ready = Prepared.__new__(Prepared)
    split = tmu_jax.data.forget_indices(DATA, [1]).train
    fields = {"train": split, "heldout": split, "bank": None, "forgotten": (), "costs": costs, "seconds": {}}
    for name, value in fields.items():
        object.__setattr__(ready, name, value)
    return ready


def test_what_steers_a_terminal_is_escaped():
    assert ascii_text("\x1b]0;owned\x07\n\tb\r") == "\\x1b]0;owned\\x07\n\tb\\x0d"
