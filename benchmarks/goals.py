"""The goals for speed: each is a number computed from the rows of one benchmark, with a limit to meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Rows = dict[str, dict[str, Any]]  # name of the measurement -> row


@dataclass(frozen=True)
class Goal:
    """One number and its limit.

    Attributes:
        what: description of the number.
        limit: maximum of the number, or minimum if ``at_least``.
        of: computes the number from the rows; KeyError if a row was not measured.
        at_least: whether more is better.
    """

    what: str
    limit: float
    of: Callable[[Rows], float]
    at_least: bool = False


def ratio(measured: str, name: str) -> Callable[[Rows], float]:
    """The median ratio ``name`` of a row."""
    return lambda rows: float(rows[measured]["ratios"][name])


def inverse(measured: str, name: str) -> Callable[[Rows], float]:
    """The reciprocal of the median ratio ``name`` of a row."""
    return lambda rows: 1 / float(rows[measured]["ratios"][name])


def middle(measured: str, name: str) -> Callable[[Rows], float]:
    """The median of one alternative of a row."""
    return lambda rows: float(rows[measured]["medians"][name])


def quotient(measured: str, name: str, base: str) -> Callable[[Rows], float]:
    """The median of one alternative of a row divided by the median of another."""
    return lambda rows: middle(measured, name)(rows) / middle(measured, base)(rows)


def bytes_a_weight(net: str) -> Callable[[Rows], float]:
    """Bytes per weight by which the peak of biprop exceeds 1.1 times the peak of dense."""

    def of(rows: Rows) -> float:
        row = rows[f"peak memory {net}"]
        return float((row["medians"]["biprop"] - 1.1 * row["medians"]["dense"]) * 2**20 / row["weights"])

    return of


def loading(rows: Rows) -> float:
    """Percentage of an mpt-train epoch of conv4 that the loader takes alone."""
    return 100 * middle("epoch conv4 float32", "mpt-train")(rows) / middle("loader", "train")(rows)


SMALL, RESNET = ("conv2", "conv4", "conv6"), "torchvision resnet18"
STEPS = dict.fromkeys((*SMALL, "conv6 width 1.5", "vgg_small"), 1.03) | {RESNET: 1.08, "cifar_resnet18": 1.08}
EPOCH_SPEEDUPS = {
    "float32": {"conv2": 2.7, "conv4": 1.6, "conv6": 1.4, RESNET: 3.3},
    "bf16": {"conv2": 4.0, "conv4": 3.5, "conv6": 3.0, RESNET: 8.0},
}
EPOCHS = [f"{net} {precision}" for precision, nets in EPOCH_SPEEDUPS.items() for net in nets]
GOALS = (
    *(
        Goal(f"biprop / dense, step of {net}, {precision}", most, ratio(f"step {net} {precision}", "biprop/dense"))
        for precision in ("float32", "bf16")
        for net, most in STEPS.items()
    ),
    Goal("global / layerwise selection, step of conv6", 1.01, ratio("selection conv6", "global/layerwise")),
    Goal("calibrated / layerwise selection, step of conv6", 1.01, ratio("selection conv6", "calibrated/layerwise")),
    Goal("1/1 / 1/32, step of conv6", 1.25, ratio("activations conv6", "1/1/1/32")),
    Goal("1/1 / 1/32, peak memory of conv6", 1.25, quotient("peak memory conv6", "1/1", "biprop")),
    *(
        Goal(
            f"mpt-train / naive in float32, images/s, epoch of {net}, {precision}",
            least,
            ratio(f"epoch {net} {precision}", "naive/mpt-train"),
            True,
        )
        for precision, nets in EPOCH_SPEEDUPS.items()
        for net, least in nets.items()
    ),
    *(
        Goal(f"mpt-train / bare loop, time, epoch of {epoch}", 1.03, inverse(f"epoch {epoch}", "bare/mpt-train"))
        for epoch in EPOCHS
    ),
    Goal("search / bytes read and written, 2,359,296 weights", 5, ratio("search of 2,359,296 weights", "search/bytes")),
    Goal("loader, cropped and flipped, images/s", 100_000, middle("loader", "train"), True),
    Goal("loader, % of an epoch of conv4", 3, loading),
    *(
        Goal(f"mpt-train {command}, ms", 600, middle("start-up of mpt-train", command))
        for command in ("--help", "--cfg job", "prun=0.5")
    ),
    Goal("first step / imports", 1.25, ratio("command to first step", "first step/imports")),
    *(Goal(f"peak of {net}: bytes a weight above 1.1 dense", 8, bytes_a_weight(net)) for net in (*SMALL, RESNET)),
    Goal("between two runs of a sweep, ms", 500, middle("sweep of 6 short runs", "between")),
)


def compare(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Compare rows with the goals, one line each: description, limit, number, and met, missed or not measured."""
    by_name, lines = {row["measured"]: row for row in rows}, []
    for goal in GOALS:
        limit = f"{'>=' if goal.at_least else '<='} {_format(goal.limit)}"
        try:
            reached = goal.of(by_name)
        except KeyError:
            lines.append([goal.what, limit, "", "not measured"])
            continue
        met = reached >= goal.limit if goal.at_least else reached <= goal.limit
        lines.append([goal.what, limit, _format(reached), "met" if met else "missed"])
    return lines


def _format(value: float) -> str:
    return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
