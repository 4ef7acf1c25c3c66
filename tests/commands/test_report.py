"""``mpt-report``: a page as a file, at the end of a run, or served while one runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from tests.console import COMMANDS, SMALL, command, hear_signals


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    command("train", *SMALL, "report=html", "hydra.run.dir=runs/one", cwd=folder)
    return folder


def test_a_run_writes_its_page_when_it_ends(folder):
    html = (folder / "runs" / "one" / "report.html").read_text()
    assert "<title>one</title>" in html
    assert (folder / "runs" / "one" / "report.json").is_file()


def test_a_finished_run_gets_the_page_that_it_lacks(folder):
    (folder / "runs" / "one" / "report.html").unlink()
    done = command("train", *SMALL, "report=html", "hydra.run.dir=runs/one", cwd=folder)
    assert "this run is finished" in done.stdout
    assert (folder / "runs" / "one" / "report.html").is_file()


def test_the_page_of_a_run_and_of_its_folder(folder):
    done = command("report", "runs/one", "out=page.html", "speed=false", cwd=folder)
    assert re.fullmatch(r"page      page.html, \d+ kB\n", done.stdout)
    done = command("report", "runs", cwd=folder)
    assert done.stdout.startswith("page      runs/report.html, ")
    assert "<title>runs</title>" in (folder / "runs" / "report.html").read_text()


def test_a_folder_that_holds_no_runs_has_a_page_and_a_line_that_says_so(tmp_path):
    done = command("report", ".", cwd=tmp_path)
    assert re.fullmatch(r"page      report.html, \d+ kB: . holds no runs yet\n", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name one folder of runs, got none"),
        (["nowhere"], "there is no folder nowhere"),
        (["runs", "out=nowhere/page.html"], "there is no folder nowhere"),
        (["runs", "figure=fig7"], "there is no figure 'fig7'"),
        (["runs", "port=0"], "port must be from 1 to 65535"),
        (["runs", "port=8080"], "port=8080 has an effect only with watch=true: leave it out, or add that"),
        (["runs", "speed=false"], "speed is of the page of a single run, and runs is no single run: leave it out"),
        (["runs/one", "speed=true", "watch=true"], "the page that watch=true serves times nothing: leave it out"),
        (["runs/one", "figure=fig2"], "figure=fig2 is of several runs, and runs/one is one: leave it out"),
        (["runs", "wach=true"], "wach"),
        (["runs", "watch=maybe"], "watch"),
    ],
)
def test_a_slip_is_one_sentence(folder, arguments, words):
    done = command("report", *arguments, cwd=folder, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.startswith("mpt-report: ")
    assert len(done.stderr.splitlines()) == 1


def test_report_must_be_true_false_or_html(folder):
    done = command("train", *SMALL, "report=pdf", "hydra.run.dir=runs/two", cwd=folder, check=False)
    assert "report must be true, false or html, got pdf" in done.stderr


@pytest.mark.slow
def test_a_sweep_writes_its_page_when_it_ends(folder):
    command("train", "-m", *SMALL, "prune=0.5,0.7", "report=html", "hydra.sweep.dir=runs/many", cwd=folder)
    assert "<title>many</title>" in (folder / "runs" / "many" / "report.html").read_text()
    assert len(list((folder / "runs" / "many").glob("*/report.html"))) == 2


@pytest.mark.slow
def test_a_run_that_was_not_asked_for_a_page_imports_nothing_of_it(tmp_path):
    code = (
        "import sys; from mpt.commands.cli import train; "
        f"sys.argv = ['mpt-train', *{SMALL!r}, 'epochs=1', 'hydra.run.dir=run']; train(); "
        "found = {'bokeh', 'mpt.pages', 'mpt.analysis', 'http.server', 'pandas'} & set(sys.modules); "
        "sys.exit(', '.join(found) or 0)"
    ).replace("'epochs=3', ", "")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert (tmp_path / "run" / "result.json").is_file(), done.stderr
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "ticket.json").is_file()


@pytest.mark.slow
def test_a_watched_page_is_served_until_somebody_interrupts(folder):
    with subprocess.Popen(
        [COMMANDS / "mpt-report", "runs", "watch=true"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=hear_signals,
    ) as server:
        line = server.stdout.readline()
        [url] = re.findall(r"http://127\.0\.0\.1:\d+/", line)
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert b"<title>runs</title>" in answer.read()
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 130
        assert server.stderr.read() == "mpt-report: interrupted: the page is no longer served\n"
