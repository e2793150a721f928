"""What mkdocs.yml cannot say: pages from outside docs/, and links that lead where they lead on GitHub; no text."""

import re
from importlib.util import find_spec
from pathlib import Path
from posixpath import normpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository's root, and Mermaid, which would be fetched otherwise."""
    sources = {page: ROOT / path for path, page in PAGES.items()}
    sources["mermaid.js"] = Path(find_spec("mermaidx").origin).parent / "assets" / "mermaid.js"
    for page, source in sources.items():
        files.append(File.generated(config, page, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links are relative to the file in the repository: to a page of the site, or else to the file there."""
    folder = Path(page.file.abs_src_path).parent.relative_to(ROOT).as_posix()

    def link(found: re.Match[str]) -> str:
        target = normpath(f"{folder}/{found[1]}")
        page_path = PAGES.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(page_path):
            return page_path
        return f"{config.extra['social'][0]['link']}/blob/main/{target}" if (ROOT / target).exists() else found[1]

    mermaid = '\n\n<script src="mermaid.js"></script>\n' if "```mermaid" in markdown else ""
    return LINK.sub(link, markdown) + mermaid
