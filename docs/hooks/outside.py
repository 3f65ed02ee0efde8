"""What the pages link to outside of docs/ (reports of measurements, a README beside code) comes along as pages."""

import pathlib
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

_LINK = re.compile(r"\]\(\.\./([^)#]+)\)")
_PICTURE = re.compile(r"!\[[^]]*\]\(([^)]+\.svg)\)")
FOLDER = "repository"
"""Where such pages lie in the site, by their path in the repository."""


def on_files(files: Files, config: MkDocsConfig, **kwargs: Any) -> Files:
    """Adds each file that a page of docs/ links to as `../path`, and the pictures beside it."""
    root = pathlib.Path(config.docs_dir).parent
    linked = {
        path
        for file in files.documentation_pages()
        if file.src_uri.endswith(".md")
        for path in _LINK.findall(pathlib.Path(file.abs_src_path).read_text())
    }
    for path in sorted(path for path in linked if (root / path).is_file()):
        text = (root / path).read_text()
        page = File.generated(config, f"{FOLDER}/{path}", content=text, inclusion=InclusionLevel.NOT_IN_NAV)
        files.append(page)
        folder = pathlib.PurePosixPath(path).parent
        for picture in _PICTURE.findall(text):
            source = (root / folder / picture).read_bytes()
            files.append(File.generated(config, f"{FOLDER}/{folder}/{picture}", content=source))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, **kwargs: Any) -> str:
    """Points the links there; what is a folder of the repository, no page, stays as its name."""
    root = pathlib.Path(config.docs_dir).parent
    if "/" in page.file.src_uri:
        return markdown
    folders = re.compile(r"\[([^]]+)\]\(\.\./([^)#]+)\)")

    def named(found: re.Match[str]) -> str:
        return found[1] if (root / found[2]).is_dir() else found[0]

    return _LINK.sub(rf"]({FOLDER}/\1)", folders.sub(named, markdown))
