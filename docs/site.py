"""Build the site: ``make docs``. What README.md links to becomes its pages, and the docstrings its Python reference."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import mpt

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "build" / "site" / "pages"  # docs_dir of mkdocs.yml
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
FENCE = re.compile(r"(?ms)^```.*?^```$")


def linked_files(start: Path) -> set[Path]:
    """``start`` and all files of the repository that it links to, directly or through other Markdown files."""
    found, pages = {start}, [start]
    while pages:
        page = pages.pop()
        for link in LINK.findall(FENCE.sub("", page.read_text())):
            target = (page.parent / unquote(link)).resolve()
            if target.is_file() and target.is_relative_to(ROOT) and target not in found:
                found.add(target)
                if target.suffix == ".md":
                    pages.append(target)
    return found


def reference() -> str:
    """The page of the Python API: one directive of mkdocstrings for each public name."""
    text = "Each name is an attribute of `mpt`, imported on first use."
    return "\n\n".join(["# Python API", text, *(f"::: mpt.{name}" for name in mpt.__all__), ""])


def stage(folder: Path) -> None:
    """Write the pages of the site into ``folder``, which is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "docs").mkdir(parents=True)
    for file in linked_files(ROOT / "README.md"):
        copy = folder / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    (folder / "docs" / "api.md").write_text(reference())


def main() -> None:
    """Stage the pages and build ``build/site/html``; exit status 1 if a link or a docstring is wrong."""
    from mkdocs.__main__ import build_command

    stage(PAGES)
    build_command.main(["--strict", "--config-file", str(ROOT / "mkdocs.yml")])


if __name__ == "__main__":
    main()
