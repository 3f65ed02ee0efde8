"""The documentation: it builds without a warning, names everything public, and says of methods what is so."""

import html
import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

import tmu_jax
from tests.docs.traced import tables_of
from tmu_jax.training import Recipe

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PUBLIC = [f"tmu_jax.{name}" for name in tmu_jax.__all__ if name not in ("data", "models")]
PUBLIC += [f"tmu_jax.data.{name}" for name in tmu_jax.data.__all__]
PUBLIC += [f"tmu_jax.models.{name}" for name in tmu_jax.models.__all__]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("latex2mathml")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_each_public_name_has_its_place_in_the_api_pages():
    listed = [name for page in DOCS.glob("api/*.md") for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)]
    assert sorted(listed) == sorted(PUBLIC), "name it in a page of docs/api as `::: tmu_jax.NAME`, once"


def test_each_method_has_a_section_with_its_options_and_its_recipe():
    text = (DOCS / "methods.md").read_text()
    sections = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", text, re.M | re.S))
    assert sorted(sections) == sorted(tmu_jax.METHODS)
    for name, section in sections.items():
        method = tmu_jax.METHODS[name]
        options = re.search(r"\*Options:\* (.*?)\.(?:\s|$)", section, re.S)[1]
        stated = {key: float(value) for key, value in re.findall(r"`(\w+)` ([0-9.]+)", options)}
        assert stated == dict(method.options), name
        recipe = re.search(
            r"\*Recipe:\* (\d+) epochs?, batches of (\d+), learning rate ([0-9.]+), (\w+)(; Adam, no weight decay)?\.",
            section,
        )
        assert (recipe is not None) == isinstance(method.recipe, Recipe), name
        if recipe is not None:
            adam = {"optimizer": "adam", "weight_decay": 0.0} if recipe[5] else {}
            stated = Recipe(int(recipe[1]), int(recipe[2]), float(recipe[3]), recipe[4], **adam)
            assert stated == method.recipe, name


def test_the_built_site_shows_every_public_name(site):
    pages = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    assert not [name for name in PUBLIC if f'id="{name}"' not in pages]


def test_each_table_is_a_table_on_the_built_page_and_its_comment_is_not_seen(site):
    for page in DOCS.glob("*.md"):
        built = (site / page.name).with_suffix(".html").read_text()
        tables = tables_of(page.read_text())
        assert built.count("<table>") == len(tables), page.name
        # Markup as it is; what would be seen is escaped.
        assert not [table.comment for table in tables if table.comment not in built], page.name


def test_a_page_asks_no_other_host_for_anything(site):
    """Scripts, styles, pictures and fonts are the site's own; a link that a reader follows may lead elsewhere."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        text = page.read_text()
        asked = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(\w+:)?//", text)
        asked += re.findall(r"<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?(?:https?:)?//[^\"'> ]*", text)
        assert not asked, page
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text()), style


def test_formulas_are_mathml(site):
    text = (site / "methods.html").read_text()
    source = (DOCS / "methods.md").read_text()
    assert text.count("<math") == source.count("\\(") + source.count("\\[") > 60
    plain = html.unescape(re.sub(r"<pre>.*?</pre>|<[^>]+>", "", text, flags=re.S))
    assert not re.findall(r"\\[a-zA-Z(\[]+", plain)


def test_the_notebooks_are_pages_with_their_code_and_what_it_printed(site):
    text = (site / "notebooks/is-it-forgotten.html").read_text()
    for word in ("random_labeling", "floor_gold_gold", "activation_distance", "<h2"):
        assert word in text


def test_reports_that_pages_link_to_are_part_of_the_site(site):
    links = re.findall(r'href="(repository/[^"#]+)"', (site / "results.html").read_text())
    assert len(links) >= 6
    for link in links:
        assert (site / link).is_file()
    report = site / "repository/results/cifar10-small-resnet-cpu"
    assert (report / "overview.svg").read_bytes() == (
        ROOT / "results/cifar10-small-resnet-cpu/overview.svg"
    ).read_bytes()


def test_an_output_that_a_page_would_leave_out_is_refused():
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("notebooks", DOCS / "hooks/notebooks.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    text = {"output_type": "stream", "text": ["one\n", "two\n"]}
    cell = {"cell_type": "code", "source": ["print(1)"], "outputs": [text]}
    told = {"cell_type": "markdown", "source": ["# A *title*"]}
    page = hook.as_markdown({"cells": [told, cell]})
    assert page == '# A *title*\n\n```python\nprint(1)\n```\n\n```{.text .output title="Output"}\none\ntwo\n```'
    picture = {"output_type": "display_data", "data": {"image/png": "…"}}
    with pytest.raises(ValueError, match="'display_data' without text"):
        hook.as_markdown({"cells": [{**cell, "outputs": [picture]}]})
