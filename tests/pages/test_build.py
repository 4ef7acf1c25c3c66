"""A page is one file that loads nothing, holds everything, escapes all foreign text, and stays small."""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from mpt.engine import speed
from mpt.pages.build import DETAILS, FILE, MAX_BYTES, build, payload, write_page
from mpt.run import status
from mpt.run.result import read_result
from tests.pages.conftest import repeat


def data_of(html):
    packed = re.search(r'<script type="text/plain" id="data">([^<]*)</script>', html)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


class Tags(HTMLParser):
    """Collects the tags of a page with their attributes."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


@pytest.mark.slow
def test_a_run_has_a_page_with_all_its_parts(one):
    path = write_page(one)
    assert path == one / FILE
    html = path.read_text()
    section = data_of(html)["runs"]["run-1"]
    for words in ("test accuracy", "bits a weight", "Layers", "Settings", "Kernels of features.0", "Density of each"):
        assert words in section["html"]
    titles = [chart["title"] for chart in section["charts"]]
    assert titles[:4] == ["Loss", "Accuracy", "Flips", "Density"]
    assert titles[-2:] == ["Gains", "Zero kernels"]
    assert "speed" not in section["html"]


def test_the_speed_of_a_single_run_is_measured(one, monkeypatch):
    measure = speed.compare_speed
    monkeypatch.setattr(speed, "compare_speed", lambda *about, **how: measure(*about, **how | {"seconds": 0.02}))
    html = data_of(build(one, speed=True).html)["runs"]["run-1"]["html"]
    assert re.search(r"ms an image", html)


def test_a_sweep_has_a_page_with_links_to_its_runs(runs):
    html = build(runs).html
    keys = [attributes["id"] for tag, attributes in Tags(html).found if tag == "details" and "id" in attributes]
    links = [attributes["href"] for tag, attributes in Tags(html).found if tag == "a"]
    assert links == [f"#{key}" for key in keys] == ["#run-1", "#run-2"]
    assert set(data_of(html)["runs"]) == set(keys)


def test_a_page_names_nothing_outside_itself(runs):
    html = build(runs).html
    for tag, attributes in Tags(html).found:
        assert tag not in ("iframe", "object", "embed", "base")
        for name in ("src", "href", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy
    assert "unsafe-eval" not in policy


@pytest.mark.slow
def test_foreign_text_is_escaped_everywhere(hostile):
    html = build(hostile).html
    assert [attributes for tag, attributes in Tags(html).found if tag in ("script", "img")] == [
        {"type": "text/plain", "id": "data"},
        {"type": "text/plain", "id": "library"},
        {"nonce": re.search("nonce-([0-9a-f]+)", html)[1]},
    ]
    for run in data_of(html)["runs"].values():
        assert not [tag for tag, _ in Tags(run["html"]).found if tag in ("script", "img")]
    assert "&lt;script&gt;" in html
    assert any("&lt;script&gt;" in run["html"] for run in data_of(html)["runs"].values())


def test_runs_in_every_state_have_a_section_and_a_failure_its_reason(every_state):
    html = build(every_state).html
    for state in ("done", "running", "interrupted", "failed", "missing"):
        assert f'<span class="state {state}">' in html
    sections = [run["html"] for run in data_of(html)["runs"].values()]
    [failed] = [section for section in sections if "no more memory" in section]
    assert "&lt;script&gt;" in failed


def test_an_empty_folder_has_a_page(tmp_path):
    assert "There is no run yet." in build(tmp_path).html


@pytest.mark.slow
def test_the_digest_changes_with_the_runs_alone(runs, one):
    first = build(runs)
    assert build(runs).digest == first.digest
    rows = (one / "metrics.jsonl").read_text().splitlines()
    (one / "metrics.jsonl").write_text("\n".join(rows[:-1]) + "\n")
    assert build(runs).digest != first.digest


@pytest.mark.slow
@pytest.mark.parametrize("number", [27, 50])
def test_a_page_of_many_runs_stays_below_a_megabyte(one, tmp_path, number):
    folder = repeat(one, tmp_path / "many", number=number)
    rows = [json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()]
    long = "".join(json.dumps(rows[i % 3] | {"epoch": i + 1, "train/loss": 1 / (i + 3)}) + "\n" for i in range(250))
    for path in folder.iterdir():
        (path / "metrics.jsonl").write_text(long)
    html = build(folder).html
    assert len(html.encode()) <= MAX_BYTES
    assert len(data_of(html)["runs"]) == number


@pytest.mark.slow
def test_a_page_of_200_runs_keeps_to_its_size_and_decodes_no_ticket(one, tmp_path):
    folder = repeat(one, tmp_path / "many", number=200)
    code = (
        "import pathlib, sys; from mpt.pages.build import write_page; "
        f"path = write_page(pathlib.Path({str(folder)!r})); "
        "print(path.stat().st_size, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    size, torch = done.stdout.split()
    assert int(size) <= 4 * MAX_BYTES
    assert torch == "False"


def test_each_result_is_read_once(runs, monkeypatch):
    read = []
    monkeypatch.setattr(status, "read_result", lambda directory: read.append(directory) or read_result(directory))
    build(runs)
    assert len(read) == len(set(read)) == 2


def test_less_room_means_fewer_points_and_coarser_pictures(one, read):
    run = read(one)
    sizes = [len(json.dumps(payload(run, detail))) for detail in DETAILS]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


def test_a_page_is_written_whole_or_not_at_all(one, tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        write_page(one, tmp_path / "nowhere" / "page.html")
