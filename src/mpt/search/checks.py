"""Checks of a method's choices, each with one sentence that names the option, and what ``prune_layers`` says."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from mpt.search.mask import check_prune
from mpt.values import check_choice, check_number, check_whole

SELECTIONS = ("layerwise", "global", "threshold", "calibrated")


def check_prune_layers(prune_layers: Mapping[str, float], *, selection: str) -> None:
    """ValueError unless ``prune_layers`` gives fractions by layer, and ``selection`` selects layer by layer."""
    if not isinstance(prune_layers, Mapping):
        raise ValueError(
            "prune_layers gives the fraction removed from layers by name or pattern, as {classifier.*: 0.5}, got "
            f"{prune_layers!r}"
        )
    if selection != "layerwise":
        raise ValueError(
            f"prune_layers sets the fraction removed layer by layer, which selection={selection} decides by itself: "
            "take selection=layerwise or leave prune_layers out"
        )
    for pattern, prune in prune_layers.items():
        if not isinstance(pattern, str):
            raise ValueError(f"prune_layers has names or patterns of layers as keys, got {pattern!r}")
        check_prune(prune, name=f"prune_layers[{pattern!r}]")


def own_prune(prune_layers: Mapping[str, float] | None, layer: str) -> float | None:
    """The fraction that ``prune_layers`` gives for the layer of this name; None if it gives none."""
    return next((prune for pattern, prune in (prune_layers or {}).items() if fnmatchcase(layer, pattern)), None)


def check_selection(method: Any, *, own_mask: bool) -> None:
    """ValueError unless the choices of ``method`` that say which weights are kept suit one another.

    Args:
        method: a :class:`mpt.Method`.
        own_mask: whether its class defines its own mask.
    """
    check_choice("selection", method.selection, SELECTIONS)
    if (method.threshold is None) == (method.selection == "threshold"):
        raise ValueError(
            "threshold is the importance that a kept weight exceeds: give it with selection=threshold and with no "
            f"other, got selection={method.selection} and threshold={method.threshold}"
        )
    if method.threshold is not None:
        least = 0 if method.score_abs else -float("inf")
        check_number("threshold", "an importance and must be 0 or more", method.threshold, least=least)
    check_whole("refresh", "the steps between two settings of the threshold", method.refresh, least=1)
    if method.ramp is not None:
        check_whole("ramp", "the epochs over which the fraction removed rises to prune", method.ramp, least=0)
    if method.ramp and method.selection == "threshold":
        raise ValueError("ramp lets prune rise, which selection=threshold does not use: leave ramp out")
    if method.selection != "layerwise" and own_mask:
        raise ValueError(
            f"{type(method).__name__} defines its own mask, layer by layer: selection must be layerwise, got "
            f"{method.selection}"
        )
