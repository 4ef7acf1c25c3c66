"""Collect result files in one tidy table with one row per run. pandas is imported when there is something to read.

A column has one name everywhere. Plain names (``prune width model method test_acc ...``) are the keys of
``result.json``. A dot marks a setting in the run's configuration (``optim.lr``). A slash marks a measurement or a note
(``ticket/density``, ``versions/torch``). Accuracies are in [0, 1].
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpt.analysis.reports import flatten, read_report, report_row
from mpt.files import is_stream, write_atomically
from mpt.run.name import purpose
from mpt.run.result import FILE, read_result
from mpt.run.status import find_runs
from mpt.schema import MAX_BYTES, MAX_NAME, fits, is_text, printable

if TYPE_CHECKING:
    import pandas as pd

SETTINGS = (  # settings of a run, in the sort order of a table; settings of groups have a dot (method.power)
    *("sweep", "budget", "data", "data_checksum", "model", "method", "binary_activations", "spline_t"),
    *("learn_batchnorm", "width", "prune", "dense", "trained", "layers", "ticket_digest", "batch", "last_batch"),
    *("epochs", "limit_batches", "label_smoothing", "sync_batchnorm", "channels_last", "precision", "processes"),
    *("distill_checksum", "distill_weight", "distill_temperature", "protocol", "select", "seed"),
)
MAX_COLUMNS = 10_000  # of a table that is read; a run of the largest network has about 2,000
BASE = ("data", "model", "variant", "width", "prune")
_NAMES = ("model.name", "method.name", "data.name")  # repeated in the columns model, method, data


@dataclass
class Runs:
    """The runs below a folder.

    Attributes:
        rows: one flat dictionary per finished run.
        unfinished: directories of runs without a result: running or interrupted.
        failed: directory -> the sentence of the error.
        unreadable: directory, or a single file in it -> what is wrong with the content.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line of counts, then one line for each reason of failure."""
        counts = f"{len(self.rows)} finished, {len(self.unfinished)} unfinished (running or interrupted), "
        counts += f"{len(self.failed)} failed, {len(self.unreadable)} unreadable"
        reasons = [f"failed: {printable(why, 500)} ({n})" for why, n in Counter(self.failed.values()).most_common()]
        bad = [f"unreadable: {printable(run, 500)}: {printable(why, 500)}" for run, why in self.unreadable.items()]
        return "\n".join([counts, *reasons, *bad])


def read_runs(folder: str | Path) -> Runs:
    """Read every run below ``folder``. Unfinished, failed and unreadable runs are counted and give no row.

    Raises:
        ValueError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name a folder of runs, or a table written by mpt-results")
    runs = Runs()
    found, unreadable = find_runs(folder)
    runs.unreadable |= {str(path.relative_to(folder)): reason for path, reason in sorted(unreadable.items())}
    for directory in sorted(found):
        _read_run(directory, str(directory.relative_to(folder)), runs)
    return runs


def load(path: str | Path, *, notify: Callable[[Runs], None] | None = None) -> pd.DataFrame:
    """Load the table of a folder of runs, or a .csv or .parquet file that ``mpt-results -o`` wrote.

    ``notify`` is called with the :class:`Runs` of a folder, which include the runs that are left out.

    Raises:
        ValueError: ``path`` does not exist, holds no finished run, or is a file of another kind.
    """
    path = Path(path)
    if path.is_file():
        return read_table(path)
    runs = read_runs(path)
    if notify:
        notify(runs)
    check_finished(runs, path)
    return to_table(runs.rows)


def check_finished(runs: Runs, folder: Path) -> None:
    """Raise a ValueError if none of ``runs`` is finished."""
    if not runs.rows:
        raise ValueError(f"there is no finished run below {folder}: {str(runs).splitlines()[0]}")


def to_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Build a table whose order of rows and columns depends only on its content."""
    import pandas as pd

    table = pd.DataFrame(list(rows))
    table = table[sorted(table.columns, key=_rank)]
    order = [name for name in (*SETTINGS, "run", "epoch", "place", "low") if name in table]
    for name in table.columns:
        texts = table[name].map(lambda value: isinstance(value, str))
        if texts.any() and not texts.all():  # a Parquet column has one type
            table[name] = table[name].map(lambda value: value if value is None or value != value else str(value))
    return table.sort_values(order, kind="stable", key=_sort_key).reset_index(drop=True)


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a .csv or .parquet file, whole or not at all; a number reads back bit for bit."""
    path = Path(path)
    suffix = ".csv" if is_stream(path) and path.suffix != ".parquet" else path.suffix
    if suffix not in (".csv", ".parquet"):
        raise ValueError(f"-o names a table and must end in .csv or .parquet, got {path.name!r}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} for {path.name}: create it first")
    buffer = io.BytesIO()
    if suffix == ".csv":
        table.to_csv(buffer, index=False, lineterminator="\n")
    else:
        table.to_parquet(buffer, index=False)
    write_atomically(path, buffer.getvalue())


def read_table(path: Path) -> pd.DataFrame:
    """Read a file that :func:`write_table` wrote; ValueError with one sentence for any other file."""
    import pandas as pd

    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path} is neither a folder of runs nor a .csv or .parquet table written by mpt-results")
    try:
        if (columns := _count_columns(path)) > MAX_COLUMNS:
            raise ValueError(f"it has {columns:,} columns, and a table of runs has at most {MAX_COLUMNS:,}")
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the file is not at fault
            raise
        ours = str(error).startswith("it has")
        reason = str(error) if ours else "it is damaged, or no table: write it again with mpt-results"
        raise ValueError(f"{path} cannot be read as a table, because {reason}") from error
    if table.empty:
        raise ValueError(f"{path} has no rows")
    _check_cells(table, path)
    if "variant" not in table:
        if "method" not in table:
            raise ValueError(f"{path} has neither a column variant nor method: it was not written by mpt-results")
        table["variant"] = [variant(row) for row in table.to_dict("records")]
    return table


def _count_columns(path: Path) -> int:
    """The number of columns of a table, from the head of its file; at most a few too many."""
    if path.suffix == ".csv":
        with path.open("rb") as file:
            return file.readline(MAX_BYTES).count(b",") + 1
    parquet: Any = import_module("pyarrow.parquet")  # it has no types
    return len(parquet.read_schema(path))


def _check_cells(table: pd.DataFrame, path: Path) -> None:
    """Raise a ValueError if a table from a file has another name of a column, or another cell, than one of runs has."""
    for name in table.columns:
        if not is_text(name):
            raise ValueError(f"{path} has a column without a name of at most {MAX_NAME} characters")
        plain = table[name].dtype.kind in "biuf" or all(v is None or v != v or fits(v, _CELL) for v in table[name])
        if not plain:
            raise ValueError(f"{path}: the column {printable(name)} holds more than numbers and text of bounded length")
    for name in table.columns.intersection(list(_TYPES)):
        cells, text = table[name], _TYPES[name] == (str,)
        if not (all(isinstance(c, str) for c in cells) if text else cells.dtype.kind in "biuf" or cells.isna().all()):
            raise ValueError(f"{path}: the column {name} has a cell that is no {'text' if text else 'number'}")


def variant(row: Mapping[str, Any]) -> str:
    """The name of a line: ``MPT-1/32``, ``MPT-1/1+BN``, ``dense``, ``iterand 1/32``, ``MPT-1/32, learned gains``."""
    method = str(row["method"])
    if method == "dense":
        return "dense"
    if method.startswith("finetune_"):
        return f"fine-tuned {method.removeprefix('finetune_')}"
    name = f"MPT-1/{1 if _true(row, 'binary_activations') else 32}"
    if method == "edge_popup":
        name = "edge-popup" + (" 1/1" if _true(row, "binary_activations") else "")
    elif method != "biprop":
        name = f"{method} {name.removeprefix('MPT-')}"
    name += "+BN" if _true(row, "learn_batchnorm") else ""
    return f"{name}, {gains} gains" if (gains := row.get("method.gains")) in ("channel", "learned") else name


def is_setting(column: str) -> bool:
    """True for a setting, which was chosen; False for a measurement."""
    return column in SETTINGS or ("." in column and "/" not in column)


def _true(row: Mapping[str, Any], name: str) -> bool:
    return str(row.get(name, False)).lower() in ("true", "1", "1.0")


def _read_run(directory: Path, name: str, runs: Runs) -> None:
    try:
        row = read_result(directory)
    except FileNotFoundError:
        runs.unfinished.append(name)
        return
    except OSError as error:
        runs.unreadable[name] = f"{FILE} cannot be read ({error.strerror})"
        return
    except ValueError as error:
        runs.unreadable[name] = f"{FILE} {error}"
        return
    if row["status"] == "interrupted":
        runs.unfinished.append(name)
    elif row["status"] != "done":
        runs.failed[name] = str(row.get("error", row["status"]))
    elif wrong := unusable(row):
        runs.unreadable[name] = f"result.json has no usable {', '.join(wrong)}"
    else:
        path, flat = directory / "report.json", flat_row(row, name)
        with skip_unreadable(runs, f"{name}/{path.name}"):
            flat |= report_row(read_report(path)) if path.is_file() else {}
        runs.rows.append(flat)


_CELL = bool | int | float | str
_NUMBER = (int, float, type(None))
_TYPES: dict[str, tuple[type, ...]] = {  # required types of the columns used in computations and figures
    **dict.fromkeys(("model", "method", "data"), (str,)),
    **dict.fromkeys(("seconds", "epochs", "seed", "width", "prune", "num_kept", "num_test", "test_acc_max"), _NUMBER),
    **{"test_acc": (int, float), "config": (dict, type(None))},
}


def _is_column(key: str) -> bool:
    """Whether the setting ``key`` of a run is a column by that name: the result depends on it, or it has a place."""
    if key in _NAMES or key.startswith("trainer."):  # a trainer's settings that have a place are columns without a dot
        return False
    return key in SETTINGS or purpose(key) in ("result", "input")


def flat_row(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A ``result.json`` as one flat row: its own keys, then the settings of its ``config`` that have no such key."""
    columns = flatten({key: value for key, value in row.items() if key not in ("config", "checksum")}, "/")
    config = flatten(row.get("config") or {}, ".")
    settings = {name: config[f"trainer.{name}"] for name in SETTINGS if f"trainer.{name}" in config}
    flat = settings | {key: value for key, value in config.items() if _is_column(key)} | columns
    if flat.get("seconds") and flat.get("epochs"):
        flat["seconds_per_epoch"] = flat["seconds"] / flat["epochs"]
    return {"run": name, **flat, "variant": variant(flat)}


def unusable(content: Mapping[str, Any]) -> list[str]:
    """The keys of a finished run's result whose values no table can compute with."""
    return [key for key, kind in _TYPES.items() if not isinstance(content.get(key), kind)]


@contextmanager
def skip_unreadable(runs: Runs, file: str) -> Iterator[None]:
    """Record any error that the content of ``file`` causes in ``runs.unreadable``, and go on after the block."""
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        runs.unreadable[file] = f"cannot be read ({type(error).__name__}: {error})"


def _rank(column: str) -> tuple[int, int, str]:
    """Position of a column: name of the run, then SETTINGS, results, settings of groups, and everything else."""
    first = ("run", "variant", *SETTINGS, "epoch", "layer", "place", "test_acc", "test_acc_max")
    if column in first:
        return 0, first.index(column), column
    return (3 if "/" in column else 2 if "." in column else 1), 0, column


def _sort_key(column: pd.Series) -> pd.Series:
    """Numbers sort as numbers; text, and columns with several types, sort as text."""
    return column if column.dtype.kind in "biuf" else column.map(str)
