"""The charts and pictures of one run as plain data, which ``page.js`` draws.

A chart is ``{title, x, y, lines}``, and a line is ``{label, colour, x, y}``, perhaps with ``low``, ``high``, ``n`` and
``link``, the anchor of a run. A chart with ``factors`` has bars, one group for each factor. A colour is a number, or
``dense``. A picture is ``{kind, shape, cells, ...}``: a character of ``cells`` is a level, ``0`` the lowest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mpt.pages.read import Run
from mpt.schema import printable
from mpt.ticket.pictures import FINE, LEVELS, shrink, unpack

Chart = dict[str, Any]
ACCURACIES = {"train/acc": "training images", "val/acc": "held-out images", "test/acc": "test images"}
LOSSES = {"train/loss": "training images", "val/loss": "held-out images"}
STEPS = 35  # levels of a picture in a page, from 0
MOST_LINES = 12  # of one chart of layers
NAME = 120  # characters of a name


def curves(run: Run, *, most: int, layers: bool) -> list[Chart]:
    """Loss, accuracy, flips and density over the epochs, and flips and gain of each layer.

    Args:
        run: any.
        most: points of a line.
        layers: whether there is room for the curves of single layers.
    """
    rows = thin(run.metrics, most)
    charts = [
        _over_epochs("Loss", "cross-entropy", rows, LOSSES),
        _over_epochs("Accuracy", "accuracy (%)", rows, ACCURACIES, factor=100),
        _over_epochs("Flips", "mask bits that changed (%)", rows, {"ticket/flips": "all layers"}, factor=100),
        _over_epochs("Density", "weights kept (%)", rows, {"ticket/density": "all layers"}, factor=100),
    ]
    for title, y, prefix, factor in layers * (
        ("Flips of each layer", "mask bits that changed (%)", "ticket/flips/", 100),
        ("Gain of each layer", "gain", "ticket/gain/", 1),
    ):
        names = [name for name in (rows[-1] if rows else {}) if name.startswith(prefix)]
        labels = {name: printable(name.removeprefix(prefix), NAME) for name in _spread(names, MOST_LINES)}
        charts.append(_over_epochs(title, y, rows, labels, factor=factor))
    return [chart for chart in charts if chart["lines"]]


def thin(rows: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` of the ``rows``, evenly spread, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _spread(names: list[str], most: int) -> list[str]:
    return names if len(names) <= most else thin(names, most)


def _over_epochs(
    title: str, y: str, rows: Sequence[dict[str, Any]], names: dict[str, str], *, factor: float = 1
) -> Chart:
    lines = []
    for colour, (name, label) in enumerate(names.items()):
        points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            x, values = zip(*points, strict=True)
            lines.append({"label": label, "colour": colour, "x": x, "y": [short(factor * v) for v in values]})
    return {"title": title, "x": "epoch", "y": y, "lines": lines}


def short(value: float) -> float:
    """``value`` to four digits, which is what a chart can show."""
    return float(f"{value:.4g}")


def zero_kernels(run: Run) -> list[Chart]:
    """Kernels without a weight in each layer, next to what a random mask of its density has."""
    rows = [row for row in run.facts.get("layers", []) if row["zero"] is not None and row["zero_chance"] is not None]
    if not rows:
        return []
    names = distinct([printable(row["name"], NAME) for row in rows])
    bars: Sequence[tuple[str, int | str, Callable[[Any], float]]] = (
        ("this ticket", 0, lambda row: row["zero"]),
        ("by chance", "dense", lambda row: row["zero_chance"]),
    )
    lines = [
        {"label": label, "colour": colour, "x": names, "y": [short(100 * of(row)) for row in rows]}
        for label, colour, of in bars
    ]
    return [
        {"title": "Zero kernels", "x": "layer", "y": "kernels without a weight (%)", "factors": names, "lines": lines}
    ]


def gains(run: Run) -> list[Chart]:
    """The gain of each layer: its mean, between the least and the largest where it has several."""
    rows = run.facts.get("layers", [])
    if not rows:
        return []
    names = distinct([printable(row["name"], NAME) for row in rows])
    line = {"label": "gain", "colour": 0, "x": names, "y": [short(row["gain"]) for row in rows]}
    if any(row["least_gain"] != row["largest_gain"] for row in rows):
        line |= {
            key: [short(row[f"{name}_gain"]) for row in rows] for key, name in (("low", "least"), ("high", "largest"))
        }
    return [{"title": "Gains", "x": "layer", "y": "gain", "factors": names, "lines": [line]}]


def distinct(names: Sequence[str]) -> list[str]:
    """``names`` with a number behind each that occurs again: the bars of a chart need one name each."""
    seen: dict[str, int] = {}
    unlike = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unlike.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unlike


def pictures(run: Run, *, side: int) -> list[dict[str, Any]]:
    """First-layer kernels, then the densities of pairs of channels, in ``side`` blocks of channels at most."""
    shown = []
    if first := run.facts.get("first"):
        cells = unpack(first, signed=True)
        steps = first["steps"] if first["steps"] in (1, FINE) else FINE
        top = 2 if steps == 1 else STEPS - 1  # an even number: 0 has a level of its own
        levels = np.clip(np.round((cells.astype(float) / steps + 1) * top / 2), 0, top)
        about = {"name": printable(run.facts["layers"][0]["name"], NAME) if run.facts["layers"] else "first layer"}
        shown.append(about | _picture("kernels", levels, top=top, scale=short(first["scale"]), of=first["of"]))
    rows = [row for row in run.facts.get("layers", []) if row["pairs"] and not row["tied"]]
    return shown + [{"name": printable(row["name"], NAME)} | _densities(row["pairs"], side=side) for row in rows]


def _densities(pairs: dict[str, Any], *, side: int) -> dict[str, Any]:
    values = shrink(unpack(pairs, signed=False).astype(float), side=side) / LEVELS
    low, high = (pairs["low"] + end * (pairs["high"] - pairs["low"]) for end in (values.min(), values.max()))
    spread = values.max() - values.min()
    levels = np.round(STEPS * (values - values.min()) / spread) if spread > 0 else np.zeros_like(values)
    return _picture("densities", levels, top=STEPS, low=short(low), high=short(high), of=pairs["of"])


def _picture(kind: str, levels: np.ndarray, **about: Any) -> dict[str, Any]:
    text = (levels.astype(np.uint8) + ord("0")).tobytes().decode("ascii")
    return {"kind": kind, "shape": list(levels.shape), "cells": text, **about}
