"""A hook of mkdocs: what the docs link to outside of docs/ is part of the site, at its own path, and links lead there.

Pages in docs/ are written for readers of the repository (`../benchmarks/results/...`), where docs/ is a folder; in the
site it is the root.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
FOLDERS = ("benchmarks/results", "recipes", "examples")
FILES = ("LICENSE", "CITATION.cff")
RENAMED = {"README.md": "overview.md"}  # mkdocs would make a README the index of its folder
_LINK = re.compile(r"(\]\(|(?:src|srcset|href)=\")(?!\w+:|#|/)([^)\s\"#]+)")


def outside() -> list[str]:
    """Return the paths, relative to the repository, of what joins the site."""
    return [*PAGES, *FILES, *(path for folder in FOLDERS for path in _files(folder))]


def _files(folder: str) -> list[str]:
    paths = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def on_files(files: Files, config: Any) -> Files:
    """Add the files from outside, and a page for each folder that lists what is in it."""
    for path in outside():
        files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
    for folder in FOLDERS:
        listed = (posixpath.relpath(path, folder) for path in _files(folder))
        content = f"# {folder}\n\n" + "".join(f"- [{path}]({path})\n" for path in listed)
        files.append(File.generated(config, f"{folder}/index.md", content=content))
    return files


def site_path(path: str) -> str:
    """Return where a file of the repository lies in the site."""
    return RENAMED.get(path, path.removeprefix("docs/"))


def repository_path(source: str) -> str:
    """Return where a page of the site lies in the repository."""
    renamed = {new: old for old, new in RENAMED.items()}
    if source in renamed:
        return renamed[source]
    return source if source in PAGES or source.startswith(FOLDERS) else f"docs/{source}"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links within the repository into links within the site."""
    source = page.file.src_uri
    at = repository_path(source)

    def within_site(link: re.Match[str]) -> str:
        start, target = link.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(at), target))
        if path in FOLDERS:
            path += "/index.md"
        return start + posixpath.relpath(site_path(path), posixpath.dirname(source) or ".")

    return _LINK.sub(within_site, markdown)
