"""``report.json`` read back as data: the numbers of ``mpt-ticket report``, a row per layer, histograms of scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpt.schema import fits, is_text, misfits, printable, read_json

MAX_BINS = 100_000  # of a histogram


@dataclass
class Histogram:
    """The scores of one layer: ``counts`` (bins,) between ``edges`` (bins + 1,)."""

    min: float
    max: float
    std: float
    edges: list[float]
    counts: list[int]


@dataclass
class Layer:
    """What is read of a layer's row, beside further numbers and words."""

    name: str
    tied: str | None
    scores: Histogram | None


def read_report(path: Path) -> dict[str, Any]:
    """The content of a ``report.json``.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no report, in a clause.
    """
    report = read_json(path)
    if not isinstance(report, dict) or not fits(report, dict[str, Any]):
        raise ValueError("it is not a report")
    rows = report.get("layers", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) and is_text(row.get("name")) for row in rows):
        raise ValueError("its layers have no names")
    for row in rows:
        if wrong := misfits(row, Layer):
            raise ValueError(f"in the row of {printable(row['name'])}, {wrong[0]}")
        if row.get("scores") and not _is_whole(row["scores"]):
            raise ValueError(f"the histogram of {printable(row['name'])} is not whole")
    return report


def _is_whole(scores: dict[str, Any]) -> bool:
    return (
        scores.keys() >= {"min", "max", "edges", "counts"}
        and len(scores["edges"]) == len(scores["counts"]) + 1
        and 0 < len(scores["counts"]) <= MAX_BINS
    )


def histograms(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Layer -> histogram of its scores, without layers tied to others."""
    return {row["name"]: row["scores"] for row in report.get("layers", []) if row.get("scores") and not row.get("tied")}


def report_row(report: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a ``report.json`` (see ``mpt-ticket report``) under ``report/``, and ``report/score_range``.

    The range is the largest minus the smallest score of a layer, averaged over layers.
    """
    ranges = [histogram["max"] - histogram["min"] for histogram in histograms(report).values()]
    numbers = {key: value for key, value in flatten(report, "/").items() if isinstance(value, (int, float))}
    numbers |= {"score_range": sum(ranges) / len(ranges)} if ranges else {}
    return {f"report/{key}": value for key, value in numbers.items()}


def flatten(nested: Mapping[str, Any], mark: str, prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries; a list becomes its JSON text, an empty list None."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= flatten(value, mark, f"{prefix}{key}{mark}")
        else:
            flat[f"{prefix}{key}"] = (json.dumps(value) if value else None) if isinstance(value, list) else value
    return flat
