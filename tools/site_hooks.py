"""What `make docs` adds to the pages in docs/: the examples, the list of decisions, and two files beside docs/.

MkDocs calls these functions by their names: https://www.mkdocs.org/dev-guide/plugins/#events
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

_REPOSITORY: Final = Path(__file__).parents[1]
_PAGES: Final = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK: Final = re.compile(r"\]\(((?:\.\./)+)(config/[^)#]+)\)")
"""To an example: it is beside docs/ in the repository, and below the pages in the site."""
_LINK_INTO_DOCS: Final = re.compile(r"\]\(docs/([^)]+)\)")
_LINK_TO_PAGE: Final = re.compile(rf"\]\(({'|'.join(map(re.escape, _PAGES))})\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not in docs/."""
    for source, name in _PAGES.items():
        text = (_REPOSITORY / source).read_text(encoding="utf-8")
        text = _LINK_TO_PAGE.sub(lambda link: f"]({_PAGES[link[1]]})", _LINK_INTO_DOCS.sub(r"](\1)", text))
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, "decisions/index.md", content=_decisions()))
    for example in sorted((_REPOSITORY / "config").rglob("*.*")):
        if example.suffix in {".yaml", ".json", ".jsonl"} and "data" not in example.parts:
            name = example.relative_to(_REPOSITORY).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(example)))
    return files


def _decisions() -> str:
    files = sorted((_REPOSITORY / "docs/decisions").glob("0*.md"))
    titles = [file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for file in files]
    lines = [f"- [{title.replace('. ', ': ', 1)}]({file.name})" for title, file in zip(titles, files, strict=True)]
    return (
        "# Decisions\n\nWhere there were several good ways: which was taken, which were not, what it costs.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs'
    """Let links to examples lead to the copies in the site."""
    folder = posixpath.dirname(page.file.src_uri)
    return _LINK.sub(lambda link: f"]({posixpath.relpath(link[2], folder or '.')})", markdown)
