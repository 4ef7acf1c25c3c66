"""Result files to one tidy table, one row a run. Reads files; pandas is imported when there is something to read.

A column has one name everywhere. ``prune width model method test_acc ...``, without a mark, are the keys of
``result.json``; with a dot (``optim.lr``) it is a setting of the run's configuration, with a slash (``ticket/density``,
``versions/torch``) something measured or noted. Accuracies are in [0, 1].
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpt.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

SETTINGS = (  # of a run, in the order in which a table is sorted; those of the groups have a dot (method.power)
    *("sweep", "budget", "data", "data_checksum", "model", "method", "binary_activations", "spline_t"),
    *("learn_batchnorm", "width", "prune", "dense", "layers", "ticket_digest", "batch", "epochs", "limit_batches"),
    *("label_smoothing", "sync_batchnorm", "channels_last", "precision", "processes", "protocol", "select", "seed"),
)
BASE = ("data", "model", "variant", "width", "prune")
_SKIPPED = ("wandb", "tensorboard", "multirun", "submitit")  # folders inside of a run or beside it that hold no run
_HERE = (  # of a machine or a command, not of a result
    *("runs", "recipe", "ticket", "data.root", "data.cache", "data.download", "data.stream", "data.workers"),
)
_NAMES = ("model.name", "method.name", "data.name")  # there already: model, method, data
_GROUPS = ("trainer.", "logger.")  # of a machine, too, but for what of the trainer is in SETTINGS


@dataclass
class Runs:
    """What lies below a folder.

    Attributes:
        rows: one flat dictionary a finished run.
        unfinished: directories of runs that have no result yet: running, or cut off.
        failed: directory -> the error's sentence.
        unreadable: directory, or file in it that is left out alone -> what is wrong with its content.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line of counts, then a line for each different reason of a failure."""
        counts = f"{len(self.rows)} finished, {len(self.unfinished)} unfinished (running or cut off), "
        counts += f"{len(self.failed)} failed, {len(self.unreadable)} unreadable"
        reasons = [f"failed: {reason} ({n})" for reason, n in Counter(self.failed.values()).most_common()]
        return "\n".join([counts, *reasons, *(f"unreadable: {run}: {why}" for run, why in self.unreadable.items())])


def read_runs(folder: str | Path) -> Runs:
    """Every run below ``folder``. What is unfinished, failed or unreadable is counted and gives no row.

    Raises:
        ValueError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name the one that holds the runs, or a table of mpt-results")
    runs = Runs()
    for directory in _directories(folder):
        _read_run(directory, str(directory.relative_to(folder)), runs)
    return runs


def load(path: str | Path, *, told: Callable[[Runs], None] | None = None) -> pd.DataFrame:
    """The table of a folder of runs, or of a .csv or .parquet file that ``mpt-results -o`` wrote.

    ``told`` is called with what lies below a folder: what is left out, too.

    Raises:
        ValueError: nothing is there, nothing in it is finished, or the file is not such a table.
    """
    path = Path(path)
    if path.is_file():
        return read_table(path)
    runs = read_runs(path)
    if told:
        told(runs)
    check_finished(runs, path)
    return to_table(runs.rows)


def check_finished(runs: Runs, folder: Path) -> None:
    """ValueError if none of ``runs`` is finished."""
    if not runs.rows:
        raise ValueError(f"there is no finished run below {folder}: {str(runs).splitlines()[0]}")


def to_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows to a table whose order of rows and columns follows from its content alone."""
    import pandas as pd

    table = pd.DataFrame(list(rows))
    table = table[sorted(table.columns, key=_rank)]
    order = [name for name in (*SETTINGS, "run", "epoch", "place", "low") if name in table]
    for name in table.columns:
        texts = table[name].map(lambda value: isinstance(value, str))
        if texts.any() and not texts.all():  # Parquet knows one type a column
            table[name] = table[name].map(lambda value: value if value is None or value != value else str(value))
    return table.sort_values(order, kind="stable", key=_sortable).reset_index(drop=True)


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a .csv or .parquet file, whole or not at all; a number read back is the same to the last bit."""
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"-o names a table and must end in .csv or .parquet, got {path.name!r}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} for {path.name}: make it first")
    buffer = io.BytesIO()
    if path.suffix == ".csv":
        table.to_csv(buffer, index=False, lineterminator="\n")
    else:
        table.to_parquet(buffer, index=False)
    write_atomically(path, buffer.getvalue())


def read_table(path: Path) -> pd.DataFrame:
    """Read a file that :func:`write_table` wrote; ValueError in one sentence if it is not one."""
    import pandas as pd

    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path} is neither a folder of runs nor a .csv or .parquet table of mpt-results")
    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}") from error
    if table.empty:
        raise ValueError(f"{path} has no rows")
    if "variant" not in table:
        if "method" not in table:
            raise ValueError(f"{path} has no column variant and no method: it is no table of mpt-results")
        table["variant"] = [variant(row) for row in table.to_dict("records")]
    return table


def variant(row: Mapping[str, Any]) -> str:
    """What a run's line is called in the papers: ``MPT-1/32``, ``MPT-1/1+BN``, ``edge-popup``, ``dense``."""
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
    return name + ("+BN" if _true(row, "learn_batchnorm") else "")


def is_setting(column: str) -> bool:
    """True for what was chosen (a setting), False for what was measured."""
    return column in SETTINGS or ("." in column and "/" not in column)


def _true(row: Mapping[str, Any], name: str) -> bool:
    return str(row.get(name, False)).lower() in ("true", "1", "1.0")


def _directories(folder: Path) -> Iterator[Path]:
    """Every directory of a run at or below ``folder``, in the order of their names."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
        if not {"result.json", "config.yaml", "claim"}.isdisjoint(files):
            yield Path(parent)


def _read_run(directory: Path, name: str, runs: Runs) -> None:
    try:
        row = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        runs.unfinished.append(name)
        return
    except (OSError, ValueError) as error:
        runs.unreadable[name] = f"result.json cannot be read ({error})"
        return
    if not isinstance(row, dict) or "status" not in row:
        runs.unreadable[name] = "result.json is not the result of a run"
    elif row["status"] != "done":
        runs.failed[name] = str(row.get("error", row["status"]))
    elif wrong := [key for key, kind in _KINDS.items() if not isinstance(row.get(key), kind)]:
        runs.unreadable[name] = f"result.json has no usable {', '.join(wrong)}"
    else:
        runs.rows.append(flat_row(row, name) | _reported(directory / "report.json", name, runs))


_NUMBER = (int, float, type(None))
_KINDS: dict[str, tuple[type, ...]] = {  # what is reckoned with, or drawn, must be what it should be
    **dict.fromkeys(("model", "method", "data"), (str,)),
    **dict.fromkeys(("seconds", "epochs", "seed", "width", "prune", "num_kept", "num_test", "test_acc_max"), _NUMBER),
    **{"test_acc": (int, float), "config": (dict, type(None))},
}


def flat_row(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A ``result.json`` as one flat row: its own keys, then the settings of its ``config`` that it does not have."""
    measured = _flat({key: value for key, value in row.items() if key != "config"}, "/")
    config = _flat(row.get("config") or {}, ".")
    settings = {name: config[f"trainer.{name}"] for name in SETTINGS if f"trainer.{name}" in config}
    settings |= {k: v for k, v in config.items() if k not in _HERE + _NAMES and not k.startswith(_GROUPS)}
    flat = settings | measured
    if flat.get("seconds") and flat.get("epochs"):
        flat["seconds_per_epoch"] = flat["seconds"] / flat["epochs"]
    return {"run": name, **flat, "variant": variant(flat)}


def _reported(path: Path, name: str, runs: Runs) -> dict[str, Any]:
    """The numbers of a ``report.json`` (of ``mpt-ticket report``) under ``report/``, and ``report/score_range``.

    The range is largest minus smallest score of a layer, mean over layers. A file that cannot be read gives nothing.
    """
    with left_out(runs, f"{name}/{path.name}"):
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        ranges = [histogram["max"] - histogram["min"] for histogram in histograms(found).values()]
        numbers = {key: value for key, value in _flat(found, "/").items() if isinstance(value, (int, float))}
        numbers |= {"score_range": sum(ranges) / len(ranges)} if ranges else {}
        return {f"report/{key}": value for key, value in numbers.items()}
    return {}


def histograms(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Layer -> histogram of its scores, of the content of a ``report.json``; a layer tied to another is left out."""
    rows = report.get("layers", [])
    return {row["name"]: row["scores"] for row in rows if row.get("scores") and not row.get("tied")}


@contextmanager
def left_out(runs: Runs, file: str) -> Iterator[None]:
    """Reads ``file``, of which nothing is known: whatever its content breaks is written down, and stops nothing."""
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        runs.unreadable[file] = f"cannot be read ({type(error).__name__}: {error})"


def _flat(nested: Mapping[str, Any], mark: str, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries to one; a list becomes its JSON text, an empty one nothing."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= _flat(value, mark, f"{prefix}{key}{mark}")
        else:
            flat[f"{prefix}{key}"] = (json.dumps(value) if value else None) if isinstance(value, list) else value
    return flat


def _rank(column: str) -> tuple[int, int, str]:
    """Place of a column: the run's name, settings that have a place, results, settings of the groups, the rest."""
    first = ("run", "variant", *SETTINGS, "epoch", "layer", "place", "test_acc", "test_acc_max")
    if column in first:
        return 0, first.index(column), column
    return (3 if "/" in column else 2 if "." in column else 1), 0, column


def _sortable(column: pd.Series) -> pd.Series:
    """Text sorts as text; a column with several types, too."""
    return column if column.dtype.kind in "biuf" else column.map(str)
