"""Notebooks as pages: their text as it is, code as code, printed output below it. Nothing is executed here."""

import json
import pathlib
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


class NotebookFile(File):
    """A notebook that MkDocs takes for a page of documentation."""

    def is_documentation_page(self) -> bool:
        """Always."""
        return True


def on_files(files: Files, config: MkDocsConfig, **kwargs: Any) -> Files:
    """Puts a page in the place of each notebook."""
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            files.remove(file)
            files.append(NotebookFile(file.src_uri, config.docs_dir, config.site_dir, config.use_directory_urls))
    return files


def on_page_read_source(page: Any, **kwargs: Any) -> str | None:
    """A notebook's page as Markdown."""
    if not page.file.src_uri.endswith(".ipynb"):
        return None
    return as_markdown(json.loads(pathlib.Path(page.file.abs_src_path).read_text()))


def as_markdown(notebook: dict[str, Any]) -> str:
    """A notebook (format 4) as Markdown.

    Args:
      notebook: as its JSON says; cells of Markdown, and of code whose outputs are text.

    Raises:
      ValueError: for an output that is no text, which a page would leave out.
    """
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        printed = "".join(_text(output) for output in cell["outputs"])
        if printed:
            parts.append(f'```{{.text .output title="Output"}}\n{printed.rstrip()}\n```')
    return "\n\n".join(parts)


def _text(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return "".join(output["text"])
    if "text/plain" in output.get("data", {}):
        return "".join(output["data"]["text/plain"])
    raise ValueError(f"a notebook's output is {output['output_type']!r} without text; clear it or print text")
