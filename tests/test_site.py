"""The site: its pages are what README.md links to, a broken link ends the build, nothing is loaded from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from docs import site

import mpt

ROOT = Path(__file__).parents[1]


class Loader(yaml.SafeLoader):
    """mkdocs.yml names a Python function, which is not needed here."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def pages_of(entry):
    """The files in mkdocs' ``nav``."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages_of(part)]


def test_pages_are_what_the_readme_links_to_and_the_menu_names_each_document(tmp_path):
    site.stage(tmp_path)
    staged = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    menu = pages_of(yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"])
    assert {*menu} <= staged
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")} <= {*menu}
    assert {"docs/mini-fig2.svg", "results/gpu/README.md", "results/gpu/mpt_resnet18_1_32.csv"} <= staged
    assert not any("shared" in name or name.startswith(("tests/", ".")) for name in staged)


def test_the_reference_names_everything_public():
    named = re.findall(r"(?m)^::: mpt\.(\w+)$", site.reference())
    assert named == list(mpt.__all__)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere():
    made = subprocess.run([sys.executable, "-m", "docs.site"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    html = ROOT / "build" / "site" / "html"
    reference = (html / "docs" / "api" / "index.html").read_text()
    for name in mpt.__all__:
        assert f'id="mpt.{name}"' in reference, name
    for page in html.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="?([^"\s>]+)', page.read_text())
        assert not [address for address in loaded if address.startswith(("http", "//"))], page


@pytest.mark.slow
def test_a_broken_link_ends_the_build(tmp_path):
    for name in ("mkdocs.yml", "src", "docs"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, tmp_path / name)
    (tmp_path / "README.md").write_text("# mpt\n\n[gone](docs/gone.md)\n")
    made = subprocess.run([sys.executable, "-m", "docs.site"], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode != 0
    assert "docs/gone.md" in made.stdout + made.stderr
