"""The console commands mpt-results, mpt-plot and mpt-verdicts. They import pandas only when there is work."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mpt.commands.command import start
from mpt.files import DISTRIBUTION, is_stream, version
from mpt.schema import printable
from mpt.words import count

if TYPE_CHECKING:
    from mpt.analysis.table import Runs


def results() -> None:
    """``mpt-results DIR -o runs.csv``: collect the runs below a folder in one table."""
    start("mpt-results", _results)


def plot() -> None:
    """``mpt-plot DIR --figure fig2 -o fig2.svg``: draw a figure or a table of the papers from your own runs."""
    start("mpt-plot", _plot)


def verdicts() -> None:
    """``mpt-verdicts DIR``: judge each claim of the papers by the runs."""
    start("mpt-verdicts", _verdicts)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, like all other errors."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}: see {self.prog} --help")


class _Version(argparse.Action):
    """``--version``, which asks for the version only when it is wanted."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(f"{parser.prog} {version()}")
        parser.exit()


def _parser(prog: str, description: str, examples: Sequence[str]) -> _Parser:
    from mpt.commands.page import fit_terminal  # argparse breaks the lines of the options alone

    parser = _Parser(
        prog=prog,
        description=fit_terminal(description),
        epilog=fit_terminal("\n".join(["examples:", *(f"  {example}" for example in examples)])),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    parser.add_argument(
        "runs", metavar="DIR", type=_folder, help="folder of runs, or a .csv or .parquet of mpt-results"
    )
    parser.add_argument(
        *("--where", "-w"),
        action="append",
        default=[],
        metavar="COLUMN=VALUE[,VALUE]",
        help="use only runs with these values; may be repeated",
    )
    return parser


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("an empty word names no folder, which would be this one: write . for it")
    return Path(text)


def _results(arguments: list[str]) -> None:
    parser = _parser(
        "mpt-results",
        "Collect the runs below DIR in one tidy table, and print mean, lowest and highest value over n seeds.\n"
        "It works while a sweep runs: it counts unfinished, failed and unreadable runs and leaves them out.",
        (
            "mpt-results runs/fig2",
            "mpt-results runs/fig2 -o fig2.csv",
            "mpt-results runs --where width=1 --y test_acc_max",
        ),
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the table: .csv or .parquet")
    parser.add_argument(
        "--rows",
        choices=("runs", "epochs", "layers", "scores"),
        default="runs",
        help="rows of the written table: one per run, or per epoch, layer or score bin of each run [runs]",
    )
    parser.add_argument("--y", default="test_acc", metavar="COLUMN", help="column to summarise [test_acc]")
    options = parser.parse_args(arguments)
    _require_pandas()
    from mpt.analysis.aggregate import select
    from mpt.analysis.details import load_rows
    from mpt.analysis.plotting import check_output
    from mpt.analysis.table import load, write_table

    if options.rows != "runs" and not options.output:
        raise ValueError(f"--rows {options.rows} gives a long table: name a file for it with -o FILE")
    if options.output:
        check_output(options.output, (".csv", ".parquet"))
    say = _say(options.output)
    table = select(load_rows(options.runs, options.rows, notify=say), _parse_where(options.where))
    runs = table if options.rows == "runs" else select(load(options.runs), _parse_where(options.where))
    say(_render_summary(runs, options.y))
    if options.output:
        write_table(table, options.output)
        say(f"{options.output}: {count(len(table), 'row')}, {len(table.columns)} columns")


def _say(output: Path | None) -> Callable[[object], None]:
    """Prints what a command reports: to stderr if ``output`` is a device or a pipe, such as /dev/stdout."""
    return functools.partial(print, file=sys.stderr if output and is_stream(output) else sys.stdout)


def _plot(arguments: list[str]) -> None:
    from mpt.analysis.figures import FIGURES
    from mpt.analysis.papers import TABLES, table_names

    parser = _parser(
        "mpt-plot",
        "Draw a figure of the papers from your own runs: mean over seeds, bars from lowest to highest, dense as line.\n"
        "Equal runs give identical .svg, .png or .pdf files. A table is Markdown, with the published rows above yours.",
        (
            "mpt-plot runs/fig2 --figure fig2 -o fig2.svg",
            "mpt-plot runs/table1 --figure table1 -o table1.md",
            "mpt-plot runs --x prune --y test_acc --hue method --panel model --where width=1 -o curves.png",
        ),
    )
    names = f"figures: {', '.join(FIGURES)}; tables: {', '.join(TABLES)}, or several as table8-11"
    parser.add_argument("--figure", "-f", metavar="NAME", help=names)
    parser.add_argument("--x", metavar="COLUMN", help="horizontal axis of a custom figure")
    parser.add_argument("--y", metavar="COLUMN[,...]", help="vertical axis [test_acc]")
    parser.add_argument("--hue", metavar="COLUMN[,...]", help="a line for each value [variant]")
    parser.add_argument("--panel", metavar="COLUMN[,...]", help="a panel for each value [model]")
    parser.add_argument(
        "--published", action="store_true", help="add the papers' numbers, for figures with printed numbers"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="file to write [NAME.svg; a table is printed]"
    )
    parser.add_argument("--style", choices=("screen", "paper"), help="paper: 3.3 inches, 8 points [screen]")
    parser.add_argument(
        "--title", metavar="TEXT", help="title instead of the one that says data and seeds; '' for none"
    )
    parser.add_argument("--dpi", type=_dpi, metavar="N", help="dots an inch of a .png [150; 300 for paper]")
    options = parser.parse_args(arguments)
    free = {key: getattr(options, key) for key in ("x", "y", "hue", "panel") if getattr(options, key)}
    if options.figure and free:
        raise ValueError(
            f"--figure and --{next(iter(free))} exclude each other, because a figure has its own axes: drop one"
        )
    if not options.figure and not options.x:
        raise ValueError("say what to draw: --figure NAME or --x COLUMN (mpt-plot --help lists the figures)")
    _require_pandas()
    tables = table_names(options.figure) if options.figure else ()
    if tables:
        _write_tables(options, tables)
    else:
        _write_figure(options, {key: value if key == "x" else value.split(",") for key, value in free.items()})


def _write_figure(options: argparse.Namespace, free: dict[str, Any]) -> None:
    from mpt.analysis.details import load_rows
    from mpt.analysis.drawing import NO_DATE
    from mpt.analysis.plotting import check_output, get_figure, plot, save

    output = options.output or Path(f"{options.figure or 'figure'}.svg")
    if check_output(output, tuple(NO_DATE)) != ".png" and options.dpi:
        raise ValueError(
            f"--dpi is of pictures of dots, and {output} is one of lines: leave it out, or give -o FILE.png"
        )
    table = load_rows(options.runs, get_figure(options.figure, **free).rows, notify=_print_left_out)
    _print_undrawn(options.figure, table)
    look = {"published": options.published, "style": options.style or "screen", "title": options.title}
    drawing = plot(table, figure=options.figure, where=_parse_where(options.where), **look, **free)
    save(drawing, output, dpi=options.dpi or (300 if options.style == "paper" else 150))
    _say(output)(f"{output}: {drawing.caption}")  # type: ignore[attr-defined]


def _dpi(text: str) -> float:
    try:
        dpi = float(text)
    except ValueError:
        dpi = 0
    if not 10 <= dpi <= 2400:
        raise argparse.ArgumentTypeError(f"dots an inch are from 10 to 2400, got {text}")
    return dpi


def _print_undrawn(name: str | None, table: Any) -> None:
    """Say on stderr which variants of method the figure ``name`` does not show."""
    from mpt.analysis.drawing import where_of
    from mpt.analysis.plotting import get_figure

    shown = where_of(get_figure(name), table, name=name).get("variant") if name and "variant" in table else None
    others = sorted({*table["variant"]} - {*shown}) if shown else []
    elsewhere = sorted({*table["sweep"].dropna()} - {name}) if name and "sweep" in table else []
    if elsewhere and name in {*table["sweep"]}:
        print(
            f"{name} shows the runs of the sweep {name} and leaves out those of {', '.join(elsewhere)}", file=sys.stderr
        )
    if others:
        print(
            f"{name} shows {', '.join(shown or ())} and leaves out {', '.join(others)}: "
            "mpt-plot DIR --x prune --hue variant draws all",
            file=sys.stderr,
        )


def _write_tables(options: argparse.Namespace, tables: Sequence[str]) -> None:
    from mpt.analysis.aggregate import select
    from mpt.analysis.papers import markdown
    from mpt.analysis.plotting import check_output
    from mpt.analysis.table import load
    from mpt.files import write_atomically

    for name in ("published", "style", "title", "dpi"):
        if getattr(options, name) not in (None, False):
            raise ValueError(f"--{name} is of figures, and {options.figure} is a table: leave it out")
    if options.output:
        check_output(options.output, (".md",))
    text = markdown(tables, select(load(options.runs, notify=_print_left_out), _parse_where(options.where)))
    if not options.output:
        print(text)
        return
    write_atomically(options.output, text)
    _say(options.output)(f"{options.output}: {', '.join(tables)}, published and ours")


def _verdicts(arguments: list[str]) -> None:
    from mpt.analysis.claims import CLAIMS

    parser = _parser(
        "mpt-verdicts",
        "Judge each claim of the papers by the runs below DIR: shown, not shown, or not testable, with n.",
        ("mpt-verdicts runs/fig2", "mpt-verdicts results/digits/runs.csv --claim C1,C2", "mpt-verdicts runs --rules"),
    )
    parser.add_argument("--claim", metavar="NAME[,NAME]", help=f"judge only these claims, of {', '.join(CLAIMS)}")
    parser.add_argument("--rules", action="store_true", help="print the rule of each claim")
    options = parser.parse_args(arguments)
    names = list(CLAIMS) if options.claim is None else options.claim.split(",")
    for name in names:
        if name not in CLAIMS:
            raise ValueError(f"there is no claim {name or repr(name)}: take one of {', '.join(CLAIMS)}")
    _require_pandas()
    from mpt.analysis.aggregate import select
    from mpt.analysis.table import load
    from mpt.analysis.verdicts import judge, report

    judged = judge(select(load(options.runs, notify=_print_left_out), _parse_where(options.where)), names)
    print(report(judged, rules=options.rules))


def _render_summary(table: Any, y: str) -> str:
    from mpt.analysis.aggregate import STATISTICS, spell, summary
    from mpt.analysis.labels import axis_factor

    rows = summary(table, y=y)
    for name in rows.columns:
        if name in STATISTICS[:3]:
            rows[name] = [f"{axis_factor(y) * value:.2f}" for value in rows[name]]
        else:
            rows[name] = [printable(spell(value)) for value in rows[name]]
    unit = " %" if axis_factor(y) == 100 else ""
    names = {name: f"{name}{unit}" if name in STATISTICS[:3] else printable(name) for name in rows.columns}
    text: str = rows.rename(columns=names).to_string(index=False)
    return f"{y} over seeds:\n{text}"


def _print_left_out(runs: Runs) -> None:
    """Print the counts of a folder to stderr if its figure or verdicts leave out some runs."""
    if runs.unfinished or runs.failed or runs.unreadable:
        print(runs, file=sys.stderr)


def _parse_where(conditions: Sequence[str]) -> dict[str, list[str]]:
    where: dict[str, list[str]] = {}
    for condition in conditions:
        name, equals, values = condition.partition("=")
        if not (name and equals and values):
            raise ValueError(f"--where takes COLUMN=VALUE, as in --where width=1, got {condition!r}")
        where.setdefault(name, []).extend(values.split(","))
    return where


def _require_pandas() -> None:
    missing = [name for name in ("pandas", "matplotlib", "pyarrow") if find_spec(name) is None]
    if missing:
        raise ValueError(f"this needs {' and '.join(missing)}: pip install '{DISTRIBUTION}[analysis]'")
