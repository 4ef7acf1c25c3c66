"""The console commands mpt-results, mpt-plot, mpt-verdicts. pandas is imported only when there is something to read."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from mpt.analysis.table import Runs


def results() -> None:
    """``mpt-results DIR -o runs.csv``: the runs below a folder as one table."""
    _reported("mpt-results", _results)


def plot() -> None:
    """``mpt-plot DIR --figure fig2 -o fig2.svg``: a figure or a table of the papers from the user's own runs."""
    _reported("mpt-plot", _plot)


def verdicts() -> None:
    """``mpt-verdicts DIR``: what the runs show of each claim of the papers."""
    _reported("mpt-verdicts", _verdicts)


class _Parser(argparse.ArgumentParser):
    """Its errors are sentences like all others."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}: {self.prog} --help says more")


def _parser(prog: str, description: str, examples: Sequence[str]) -> _Parser:
    parser = _Parser(
        prog=prog,
        description=description,
        epilog="\n".join(["examples:", *(f"  {example}" for example in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="DIR", type=Path, help="folder of runs, or a .csv or .parquet of mpt-results")
    parser.add_argument(
        *("--where", "-w"),
        action="append",
        default=[],
        metavar="COLUMN=VALUE[,VALUE]",
        help="only runs with these values; may be repeated",
    )
    return parser


def _results(arguments: list[str]) -> None:
    parser = _parser(
        "mpt-results",
        "One tidy table of the runs below DIR, one row a run; prints mean, lowest and highest over seeds with n.\n"
        "Works while a sweep runs: what is unfinished, failed or unreadable is counted and left out.",
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
        help="what a row of the written table is: a run, or a run's epochs, layers, bins of its scores [runs]",
    )
    parser.add_argument("--y", default="test_acc", metavar="COLUMN", help="what is summarised [test_acc]")
    given = parser.parse_args(arguments)
    _needs_pandas()
    from mpt.analysis.aggregate import select
    from mpt.analysis.details import load_rows
    from mpt.analysis.plotting import check_output
    from mpt.analysis.table import load, write_table

    if given.rows != "runs" and not given.output:
        raise ValueError(f"--rows {given.rows} makes a long table: say where to with -o FILE")
    if given.output:
        check_output(given.output, (".csv", ".parquet"))
    table = select(load_rows(given.runs, given.rows, told=print), _where(given.where))
    runs = table if given.rows == "runs" else select(load(given.runs), _where(given.where))
    print(_printed(runs, given.y))
    if given.output:
        write_table(table, given.output)
        print(f"{given.output}: {len(table)} rows, {len(table.columns)} columns")


def _plot(arguments: list[str]) -> None:
    from mpt.analysis.figures import FIGURES
    from mpt.analysis.papers import TABLES

    parser = _parser(
        "mpt-plot",
        "A figure of the papers from runs of one's own: mean over seeds, bars lowest to highest, dense as a line.\n"
        ".svg, .png and .pdf are drawn, always to the same bytes; a table is Markdown, beside the published rows.",
        (
            "mpt-plot runs/fig2 --figure fig2 -o fig2.svg",
            "mpt-plot runs/table1 --figure table1 -o table1.md",
            "mpt-plot runs --x prune --y test_acc --hue method --panel model --where width=1 -o curves.png",
        ),
    )
    names = f"figures: {', '.join(FIGURES)}; tables: {', '.join(TABLES)}, or several as table8-11"
    parser.add_argument("--figure", "-f", metavar="NAME", help=names)
    parser.add_argument("--x", metavar="COLUMN", help="horizontal axis of a figure of one's own")
    parser.add_argument("--y", metavar="COLUMN[,...]", help="vertical axis [test_acc]")
    parser.add_argument("--hue", metavar="COLUMN[,...]", help="a line for each value [variant]")
    parser.add_argument("--panel", metavar="COLUMN[,...]", help="a panel for each value [model]")
    parser.add_argument(
        "--published", action="store_true", help="the papers' numbers beside ours, where the text has any"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="[NAME.svg; a table is printed]")
    given = parser.parse_args(arguments)
    free = {key: getattr(given, key) for key in ("x", "y", "hue", "panel") if getattr(given, key)}
    if given.figure and free:
        raise ValueError(f"--figure and --{next(iter(free))} do not go together: a figure says its own axes")
    if not given.figure and not given.x:
        raise ValueError("say what to draw: --figure NAME or --x COLUMN (mpt-plot --help lists the figures)")
    _needs_pandas()
    tables = _tables(given.figure) if given.figure else ()
    if tables:
        _markdown(given, tables)
    else:
        _drawing(given, {key: value if key == "x" else value.split(",") for key, value in free.items()})


def _drawing(given: argparse.Namespace, free: dict[str, Any]) -> None:
    from mpt.analysis.details import load_rows
    from mpt.analysis.drawing import NO_DATE
    from mpt.analysis.plotting import check_output, chosen, plot, save

    output = given.output or Path(f"{given.figure or 'figure'}.svg")
    check_output(output, tuple(NO_DATE))
    table = load_rows(given.runs, chosen(given.figure, **free).rows, told=_left_out)
    made = plot(table, figure=given.figure, where=_where(given.where), published=given.published, **free)
    save(made, output)
    print(f"{output}: {' '.join(made.get_suptitle().split())}")


def _markdown(given: argparse.Namespace, tables: Sequence[str]) -> None:
    from mpt.analysis.aggregate import select
    from mpt.analysis.papers import markdown
    from mpt.analysis.plotting import check_output
    from mpt.analysis.table import load
    from mpt.files import write_atomically

    if given.output:
        check_output(given.output, (".md",))
    text = markdown(tables, select(load(given.runs, told=_left_out), _where(given.where)))
    if not given.output:
        print(text)
        return
    write_atomically(given.output, text)
    print(f"{given.output}: {', '.join(tables)}, published and ours")


def _verdicts(arguments: list[str]) -> None:
    from mpt.analysis.claims import CLAIMS

    parser = _parser(
        "mpt-verdicts",
        "What the runs below DIR show of each claim of the papers: shown, not shown, or not testable, with n.",
        ("mpt-verdicts runs/fig2", "mpt-verdicts results/digits/runs.csv --claim C1,C2", "mpt-verdicts runs --rules"),
    )
    parser.add_argument("--claim", metavar="NAME[,NAME]", help=f"only these of {', '.join(CLAIMS)}")
    parser.add_argument("--rules", action="store_true", help="print by which rule each claim is judged")
    given = parser.parse_args(arguments)
    names = given.claim.split(",") if given.claim else list(CLAIMS)
    for name in names:
        if name not in CLAIMS:
            raise ValueError(f"there is no claim {name}: take one of {', '.join(CLAIMS)}")
    _needs_pandas()
    from mpt.analysis.aggregate import select
    from mpt.analysis.table import load
    from mpt.analysis.verdicts import judge, report

    found = judge(select(load(given.runs, told=_left_out), _where(given.where)), names)
    print(report(found, rules=given.rules))


def _printed(table: Any, y: str) -> str:
    from mpt.analysis.aggregate import STATISTICS, spelled, summary
    from mpt.analysis.labels import percent

    made = summary(table, y=y)
    for name in made.columns:
        if name in STATISTICS[:3]:
            made[name] = [f"{percent(y) * value:.2f}" for value in made[name]]
        else:
            made[name] = made[name].map(spelled)
    unit = " %" if percent(y) == 100 else ""
    text: str = made.rename(columns={name: f"{name}{unit}" for name in STATISTICS[:3]}).to_string(index=False)
    return f"{y} over seeds:\n{text}"


def _left_out(runs: Runs) -> None:
    """Beside a figure or verdicts, what of a folder is not in them."""
    if runs.unfinished or runs.failed or runs.unreadable:
        print(runs, file=sys.stderr)


def _tables(name: str) -> tuple[str, ...]:
    """``table1`` -> itself; ``table8-11`` -> the four of them; anything else is no table."""
    from mpt.analysis.papers import TABLES

    first, dash, last = name.removeprefix("table").partition("-")
    if not name.startswith("table") or not first.isdigit() or (dash and not last.isdigit()):
        return ()
    numbers = [f"table{number}" for number in range(int(first), int(last or first) + 1)]
    missing = [table for table in numbers if table not in TABLES]
    if missing or not numbers:
        raise ValueError(f"there is no table {name!r}: take one of {', '.join(TABLES)}, or several as table8-11")
    return tuple(numbers)


def _where(given: Sequence[str]) -> dict[str, list[str]]:
    where: dict[str, list[str]] = {}
    for condition in given:
        name, equals, values = condition.partition("=")
        if not (name and equals and values):
            raise ValueError(f"--where takes COLUMN=VALUE, as in --where width=1, got {condition!r}")
        where.setdefault(name, []).extend(values.split(","))
    return where


def _needs_pandas() -> None:
    missing = [name for name in ("pandas", "matplotlib", "pyarrow") if find_spec(name) is None]
    if missing:
        raise ValueError(f"this needs {' and '.join(missing)}: pip install 'multiprize[analysis]'")


def _reported(command: str, function: Callable[[list[str]], None]) -> None:
    """Run a command; what a user can mend is one sentence on stderr and exit status 1 (--traceback shows where)."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--traceback"]
    try:
        function(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError) as error:
        if len(arguments) < len(sys.argv) - 1 or os.environ.get("MPT_TRACEBACK"):
            raise
        if isinstance(error, OSError) and error.strerror and error.filename:
            sys.exit(f"{command}: {error.filename}: {error.strerror}")
        sys.exit(f"{command}: {error}")
