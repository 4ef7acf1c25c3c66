"""The words and numbers of a page: what a run is, its layers, its settings, and the list of all runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mpt.files import CONF
from mpt.pages.read import Run
from mpt.run.name import flat
from mpt.run.settings import FinetuneSettings, Settings, dials, spell
from mpt.schema import printable
from mpt.words import duration, size

Pair = tuple[str, str, str]  # a name, its value, and an explanation
LONG = 300  # characters of a value


def facts(run: Run, *, speed: Any = None) -> list[Pair]:
    """The numbers at the head of a run; ``speed`` is a row of :func:`mpt.engine.speed.compare_speed`."""
    row, shown = run.result, list[Pair]()

    def show(name: str, value: str, text: str = "") -> None:
        shown.append((name, value, text))

    if (acc := row.get("test_acc")) is not None:
        best = f"best epoch {100 * row['test_acc_max']:.2f} %" if row.get("test_acc_max") is not None else ""
        show("test accuracy", f"{100 * acc:.2f} %", f"on the ticket file; {best}" if best else "on the ticket file")
    elif run.metrics and run.metrics[-1].get("test/acc") is not None:
        last = run.metrics[-1]
        show("test accuracy", f"{100 * last['test/acc']:.2f} %", f"after epoch {last['epoch']}")
    if row.get("val_acc") is not None:
        show("held-out accuracy", f"{100 * row['val_acc']:.2f} %", "on the ticket file")
    if row.get("num_weights") and row.get("num_kept") is not None:
        kept = 100 * row["num_kept"] / row["num_weights"]
        show("weights kept", f"{kept:.1f} %", f"{row['num_kept']:,} of {row['num_weights']:,}")
    if row.get("ticket_bytes") and row.get("num_weights"):
        times = 4 * row["num_weights"] / row["ticket_bytes"]
        show("ticket file", size(row["ticket_bytes"]), f"float32 takes {times:.1f} times as much")
    if row.get("bits_per_weight") is not None:
        whole = f"the file {row['file_bits_per_weight']:.3f}" if row.get("file_bits_per_weight") is not None else ""
        show("bits a weight", f"{row['bits_per_weight']:.3f}", whole)
    if row.get("seconds") and row.get("images_per_second") is not None:
        show("training", duration(row["seconds"]), f"{row['images_per_second']:,.0f} images/s")
    return shown + _speed(run, speed)


def _speed(run: Run, speed: Any) -> list[Pair]:
    shown = []
    if isinstance(speed, dict) and "refused" in speed:
        shown.append(("speed", "not measured", printable(speed["refused"], LONG)))
    elif isinstance(speed, dict):
        try:
            ms, ratio = float(speed["ms"]["lists"]), float(speed["ratio"]["lists"])
            text = f"{ratio:.2f} times as fast as torch: compiled, batch 1, one thread of {printable(speed['machine'])}"
            shown.append(("speed", f"{ms:.3f} ms an image", text))
        except (LookupError, TypeError, ValueError):  # of a report that was altered
            pass
    rate, chance = run.report.get("acceleration"), run.report.get("acceleration_chance")
    if isinstance(rate, float) and isinstance(chance, float) and rate > 0 and chance > 0:
        text = f"of all convolutions are in kernels with a weight; by chance {100 / chance:.1f} %"
        shown.append(("multiplications", f"{100 / rate:.1f} %", text))
    return shown


LAYER_HEAD = ("layer", "shape", "weights", "kept", "density", "gain", "bits", "zero kernels", "by chance")


def layer_table(run: Run) -> list[tuple[str, ...]]:
    """A row for each searched layer, under ``LAYER_HEAD``, and their sum."""
    rows = run.facts.get("layers", [])
    table: list[tuple[str, ...]] = [
        (
            printable(row["name"], 200) + (f" (tied to {printable(row['tied'], 200)})" if row["tied"] else ""),
            "x".join(map(str, row["shape"])),
            f"{row['num_weights']:,}",
            f"{row['num_kept']:,}",
            f"{100 * row['density']:.2f} %",
            f"{row['gain']:.4g}",
            f"{row['bits']:,}",
            "-" if row["zero"] is None else f"{100 * row['zero']:.2f} %",
            "-" if row["zero_chance"] is None else f"{100 * row['zero_chance']:.2f} %",
        )
        for row in rows
    ]
    own = [row for row in rows if not row["tied"]]
    if len(own) > 1:
        weights, kept, bits = (sum(row[key] for row in own) for key in ("num_weights", "num_kept", "bits"))
        density = f"{100 * kept / max(1, weights):.2f} %"
        table.append(("all layers", "", f"{weights:,}", f"{kept:,}", density, "", f"{bits:,}", "", ""))
    return table


def settings_table(run: Run) -> dict[str, list[Pair]]:
    """The settings that are not the default, under ``chosen``, and all others: name, value, meaning."""
    chosen = flat(run.config)
    known = dict(dials(FinetuneSettings if "ticket" in run.config else Settings))
    shipped = {
        f"{group}.{key}": value for group in ("model", "method") for key, value in _shipped(group, chosen).items()
    }
    parts: dict[str, list[Pair]] = {"chosen": [], "other": []}
    for name, value in chosen.items():
        dial = known.get(name)
        default = None if dial is None else dial.default
        if dial is not None and dial.default_factory is not MISSING:
            default = dial.default_factory()
        if name in shipped:  # a default, or what another option decides
            default = value if "${" in str(shipped[name]) or name.endswith(".target") else shipped[name]
        same = value == default
        meaning = "" if dial is None else str(dial.metadata["meaning"])
        parts["other" if same else "chosen"].append((printable(name, LONG), printable(spell(value), LONG), meaning))
    return parts


def _shipped(group: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """What mpt's own file of this choice says, flat; empty for another choice. Its name is only compared."""
    path = _choices(group).get(str(chosen.get(f"{group}.name")))
    return {} if path is None else {key: value for key, value in _content(path).items() if key != "name"}


@cache
def _choices(group: str) -> dict[str, Path]:
    return {path.stem: path for path in (CONF / group).glob("*.yaml")}


@cache
def _content(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return flat(content.get(path.parent.name, content))


RUN_HEAD = (
    "run",
    "state",
    "test accuracy",
    "network",
    "method",
    "P",
    "width",
    "seed",
    "epochs",
    "kept",
    "file",
    "time",
)


def run_table(runs: Sequence[Run]) -> list[tuple[Run, list[str]]]:
    """Each run and its cells under ``RUN_HEAD``, without the first two."""
    return [(run, _run_cells(run)) for run in runs]


def _run_cells(run: Run) -> list[str]:
    row, settings = run.result, flat(run.config)

    def cell(value: Any, text: str = "{}") -> str:
        return "" if value is None else printable(text.format(value), 60)

    acc, done = row.get("test_acc"), len(run.metrics)
    if acc is None and run.metrics:
        acc = run.metrics[-1].get("test/acc")
    epochs = settings.get("epochs")
    kept = row["num_kept"] / row["num_weights"] if row.get("num_weights") and row.get("num_kept") is not None else None
    prune = settings.get("prune")
    return [
        cell(None if acc is None else 100 * acc, "{:.2f} %"),
        cell(row.get("model") or settings.get("model.name")),
        cell(row.get("method") or settings.get("method.name")),
        cell(spell(prune) if prune is not None else None),
        cell(spell(settings["width"]) if settings.get("width") is not None else None),
        cell(settings.get("seed")),
        cell(epochs if run.state == "done" else f"{done} of {epochs}" if epochs is not None else None),
        cell(None if kept is None else 100 * kept, "{:.1f} %"),
        cell(size(row["ticket_bytes"]) if row.get("ticket_bytes") else None),
        cell(duration(row["seconds"]) if row.get("seconds") else None),
    ]


def short_state(run: Run) -> str:
    """The state in a few words: ``98.42 %``, ``running, after epoch 3``."""
    if run.state == "done" and run.result.get("test_acc") is not None:
        return f"{100 * run.result['test_acc']:.2f} %"
    return printable(f"{run.state}, {run.text}" if run.text else run.state, 120)
