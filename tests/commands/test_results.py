from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest

from mpt.analysis import load
from mpt.commands import results as cli
from tests.analysis.conftest import curve, result, write

ROOT = Path(__file__).parents[2]


def command(name, *arguments, cwd):
    """Run the console function of ``mpt-<name>`` in ``cwd``: (exit status, stdout, error sentence)."""
    out, status = io.StringIO(), 0
    sentence = ""
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        mock.patch.object(sys, "argv", [f"mpt-{name}", *map(str, arguments)]),
    ):
        try:
            getattr(cli, name)()
        except SystemExit as exit_:
            status, sentence = (exit_.code or 0, "") if not isinstance(exit_.code, str) else (1, exit_.code)
    return status, out.getvalue(), sentence


@pytest.fixture
def runs(tmp_path):
    (tmp_path / "own.csv").write_text("x,y\n1,2\n")
    same = {"data__std": None}
    return write(tmp_path / "runs", *curve({0.5: 0.6, 0.8: 0.4}, **same), *curve({0.0: 0.7}, method="dense", **same))


def test_results_prints_a_summary_and_writes_a_table(runs, tmp_path):
    status, out, _ = command("results", "runs", "-o", "runs.csv", cwd=tmp_path)
    assert status == 0
    assert "9 finished, 0 unfinished (running or interrupted), 0 failed, 0 unreadable" in out
    assert "60.00    59.00     61.00" in out
    assert len(load(tmp_path / "runs.csv")) == 9


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (("results",), "run,variant,"),
        (("plot", "--x", "prune"), "<?xml"),
        (("plot", "--figure", "table1"), "**Table 1**"),
    ],
)
def test_an_output_that_is_a_pipe_gets_the_content_alone(runs, tmp_path, words, start):
    read, write = os.pipe()
    name, *options = words
    with os.fdopen(read, encoding="utf-8") as reader, ThreadPoolExecutor(1) as pool:
        content = pool.submit(reader.read)
        status, out, _ = command(name, "runs", *options, "-o", f"/proc/self/fd/{write}", cwd=tmp_path)
        os.close(write)
        assert (status, out) == (0, "")
        assert content.result().lstrip().startswith(start)


def test_a_table_and_the_runs_behind_it_give_the_same_figure(runs, tmp_path):
    command("results", "runs", "-o", "runs.parquet", cwd=tmp_path)
    for source, name in (("runs", "a.svg"), ("runs.parquet", "b.svg")):
        assert command("plot", source, "--figure", "fig2", "-o", name, cwd=tmp_path)[0] == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_figure_is_written_to_a_file_of_its_name_by_default(runs, tmp_path):
    status, out, _ = command("plot", "runs", "--figure", "fig2", cwd=tmp_path)
    assert (status, out.split(":")[0]) == (0, "fig2.svg")
    assert (tmp_path / "fig2.svg").is_file()


def test_one_or_several_tables_are_markdown(runs, tmp_path):
    _, out, _ = command("plot", "runs", "--figure", "table8-11", cwd=tmp_path)
    assert [line[2:10].strip("* ") for line in out.splitlines() if line.startswith("**")] == [
        "Table 8",
        "Table 9",
        "Table 10",
        "Table 11",
    ]
    assert command("plot", "runs", "--figure", "table1", "-o", "t.md", cwd=tmp_path)[0] == 0
    assert "**ours**: digits, 10 epochs, n = 3" in (tmp_path / "t.md").read_text()


def test_verdicts_prints_every_claim(runs, tmp_path):
    _, out, _ = command("verdicts", "runs", cwd=tmp_path)
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == [
        *(f"C{i}" for i in range(1, 10)),
        *(f"E{i}" for i in range(1, 6)),
        "M1",
    ]
    assert "rule:" in command("verdicts", "runs", "--rules", "--claim", "C1", cwd=tmp_path)[1]


FIGURES = re.findall(r"\t\$\(BIN\)/mpt-plot (.*) -o (docs/.*\.svg)", (ROOT / "Makefile").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("words", "path"), FIGURES)
def test_make_figures_draws_the_committed_figures_from_the_committed_tables(words, path, tmp_path):
    words = words.replace("$(DIGITS)", "results/digits/runs.csv").split()
    status, _, error = command("plot", *words, "-o", tmp_path / "figure.svg", cwd=ROOT)
    assert status == 0, error
    assert (tmp_path / "figure.svg").read_bytes() == (ROOT / path).read_bytes()


def test_make_figures_draws_every_committed_figure():
    drawn = re.findall(r"docs/\S+\.svg", (ROOT / "Makefile").read_text())
    assert sorted(drawn) == sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.svg"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("results", "nowhere"), "mpt-results: there is no folder nowhere"),
        (("results",), "mpt-results: the following arguments are required: DIR"),
        (("results", "runs", "--wher", "x"), "unrecognized arguments: --wher x"),
        (("results", "runs", "-o", "x.txt"), "-o must end in .csv or .parquet here, got 'x.txt'"),
        (("results", "runs", "-o", "no/x.csv"), "there is no folder no for x.csv"),
        (("results", "runs", "--where", "width"), "--where takes COLUMN=VALUE"),
        (("results", "runs", "--rows", "epochs"), "name a file for it with -o FILE"),
        (("results", "runs", "--y", "test_ac"), "no column test_ac: did you mean test_acc"),
        (("results", "runs", "--y", "method"), "method holds no numbers"),
        (("results", "runs", "--y", "data.std"), "no run has a value of data.std"),
        (("plot", "runs", "--x", "prune", "--y", "method"), "method holds no numbers"),
        (("plot", "runs", "--x", "prune", "--y", "data.std"), "no run has a value of data.std"),
        (("plot", "runs", "--x", "data.std"), "no run has a value of data.std"),
        (("plot", "own.csv", "--x", "x", "--y", "y"), "own.csv has neither a column variant nor method"),
        (("verdicts", "own.csv"), "own.csv has neither a column variant nor method"),
        (("plot", "runs"), "say what to draw: --figure NAME or --x COLUMN"),
        (("plot", "runs", "--figure", "fig9"), "there is no figure 'fig9'"),
        (("plot", "runs", "--figure", "table7"), "there is no table 'table7'"),
        (("plot", "runs", "--figure", "fig2", "--hue", "seed"), "--figure and --hue exclude each other"),
        (("plot", "runs", "--figure", "fig2", "-o", "x.gif"), "-o must end in .svg"),
        (("plot", "runs", "--figure", "fig2", "--published"), "print no numbers for fig2"),
        (("plot", "runs", "--figure", "table1", "-o", "x.svg"), "-o must end in .md"),
        (("verdicts", "runs", "--claim", "C99"), "there is no claim C99"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_1(runs, tmp_path, words, sentence):
    before = sorted(tmp_path.rglob("*"))
    status, _, error = command(*words, cwd=tmp_path)
    assert status == 1
    assert sentence in error
    assert "\n" not in error
    assert sorted(tmp_path.rglob("*")) == before


BROKEN = {
    "result.json": [
        json.dumps(result(seed=9) | changed) for changed in ({"config": "x"}, {"seconds": "x"}, {"prune": []})
    ],
    "report.json": [
        '{"layers": [{"name": "a", "scores": {"max": 1}}]}',
        '{"layers": [{"scores": [1]}]}',
        "[1]",
        '{"layers": [{}]}',
        '{"layers": 1}',
    ],
    "metrics.jsonl": ['{"epoch": 1,', "1", b"\xff"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "content"), [(file, content) for file, contents in BROKEN.items() for content in contents]
)
def test_a_broken_file_is_named_and_left_out_and_stops_nothing(runs, tmp_path, capsys, file, content):
    for directory in runs.iterdir():
        (directory / "metrics.jsonl").write_text('{"epoch": 1, "test/acc": 0.5}\n')
        (directory / "report.json").write_text('{"layers": [{"name": "a", "zero": 0.5, "zero_chance": 0.1}]}')
    run = write(runs, result(seed=7)) / "run009-0"
    (run / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    output = ""
    for words in (
        ("results", "runs"),
        ("results", "runs", "--rows", "epochs", "-o", "e.csv"),
        ("plot", "runs", "--x", "layer", "--y", "zero", "--hue", "variant,prune"),
        ("verdicts", "runs"),
    ):
        status, out, error = command(*words, cwd=tmp_path)
        assert status == 0, error
        output += out + capsys.readouterr().err
    assert f"unreadable: run009-0{'' if file == 'result.json' else f'/{file}'}: " in output


def test_an_existing_file_survives_a_figure_that_cannot_be_drawn(runs, tmp_path):
    (tmp_path / "x.svg").write_text("mine")
    write(runs, result(epochs=20, seed=9))
    status, _, error = command("plot", "runs", "--figure", "fig2", "-o", "x.svg", cwd=tmp_path)
    assert status == 1
    assert "select one with --where epochs=" in error
    assert (tmp_path / "x.svg").read_text() == "mine"


def test_without_the_extra_one_sentence_says_what_to_install(runs, tmp_path):
    with mock.patch.object(cli, "find_spec", return_value=None):
        status, _, error = command("plot", "runs", "--figure", "fig2", cwd=tmp_path)
    sentence = "mpt-plot: this needs pandas and matplotlib and pyarrow: pip install 'multiprize[analysis]'"
    assert (status, error) == (1, sentence)


@pytest.mark.parametrize("name", ["results", "plot", "verdicts"])
def test_help_imports_neither_pandas_nor_matplotlib_nor_torch(name):
    code = (
        f"import sys\nfrom mpt.commands import results as cli\nsys.argv = ['mpt-{name}', '--help']\n"
        f"try:\n    cli.{name}()\nexcept SystemExit as done:\n    assert not done.code\n"
        "assert not {'pandas', 'matplotlib', 'torch', 'numpy', 'hydra'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "examples:" in done.stdout
    assert Path(done.stdout.split()[1]).name == f"mpt-{name}"


def test_a_figure_says_which_methods_it_leaves_out(tmp_path, capsys):
    same = {"data__std": None}
    rows = [*curve({0.5: 0.6}, **same), *curve({0.5: 0.5}, method="iterand", **same)]
    write(tmp_path / "runs", *rows)
    assert command("plot", "runs", "--figure", "fig2", cwd=tmp_path)[0] == 0
    said = capsys.readouterr().err
    assert "leaves out iterand" in said
