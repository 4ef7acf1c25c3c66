"""Which layers compute their ticket weight by the two passes of :mod:`mpt.search.fast.choice`, and their choices.

They are layers on a CPU whose method has biprop's mask, gain and ticket weight, in a network that has a large one. All
others, and layers in which many scores equal the threshold, select a mask and apply the formulas of their method one
after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mpt.search.fast import loops, threshold
from mpt.search.fast.choice import Choice, choose, choose_at, equals
from mpt.search.methods import Biprop, Method


class Searched(Protocol):
    """What this file needs of a ticket layer."""

    scores: nn.Parameter
    weight: Any
    method: Method
    pattern: Tensor | None


FORMULAS = ("importance", "ranking", "mask", "gain", "layer_gain", "source", "sample", "ticket_weight")


@cache
def _has_biprops_formulas(kind: Any) -> bool:
    return all(getattr(kind, name) is getattr(Biprop, name) for name in FORMULAS)


def arrays(layer: Searched, *, least: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Scores and weights of ``layer``, (n,) each, if the two passes give its ticket weight; None otherwise."""
    tensors = _tensors(layer, least=least)
    found = loops.in_one_order(*tensors) if tensors else None
    return (found[0], found[1]) if found else None


def _tensors(layer: Searched, *, least: int) -> tuple[Tensor, Tensor] | None:
    """Scores and weight of ``layer`` if the two passes give its ticket weight; None otherwise."""
    if torch.compiler.is_compiling():  # which traces the formulas
        return None
    method = layer.method
    kind: Any = type(method)
    if layer.pattern is not None or method.gains == "channel" or not _has_biprops_formulas(kind):
        return None
    tensors = layer.scores, layer.weight
    return tensors if loops.support(tensors, least=least) else None


def least_size(layers: Sequence[Searched]) -> int:
    """The least number of weights for which the passes pay: any, if one of ``layers`` is large anyhow."""
    return 1 if any(layer.weight.numel() >= loops.LARGE for layer in layers) else loops.LARGE


def choose_own(layer: Searched, *, kept: int, least: int) -> Choice | None:
    """:func:`choose_kept` for one layer of ``least`` weights or more; its signs last until the next call."""
    tensors = _tensors(layer, least=least)
    if tensors is None:
        return None
    address, n = tensors[0].data_ptr(), tensors[0].numel()
    hint = threshold.take_hint(address)
    if hint is not None:
        choice = choose_at(address, tensors[1].data_ptr(), n, hint, absolute=layer.method.score_abs)
        if choice and choice.ones == kept:  # as nearly always
            return choice
    choices = choose_kept([layer], kept=kept, signs=[None], least=least)
    return choices[0] if choices else None


def choose_kept(
    layers: Sequence[Searched],
    *,
    kept: int,
    signs: Sequence[np.ndarray | None],
    alone: set[int] | None = None,
    least: int | None = None,
) -> list[Choice] | None:
    """What each of ``layers`` keeps if they keep ``kept`` weights together; None if the two passes cannot tell.

    A layer without any of the largest scores keeps its own largest, in place of the least important of the others.

    Args:
        layers: of one network.
        kept: at least one for each layer.
        signs: the memory for each layer's signs, or None for a single layer, whose signs last until the next call.
        alone: places of layers to expect to be without any of the largest scores; wrong ones cost time. It becomes the
            places of the layers that are.
        least: number of weights of each; by default any, if one of ``layers`` is large.
    """
    found = [arrays(layer, least=least_size(layers) if least is None else least) for layer in layers]
    if not all(found):
        return None
    pairs, alone = [pair for pair in found if pair], set() if alone is None else alone
    for start in (set(alone), set[int]()) if alone else (set[int](),):
        chosen = _choose_with(start, layers, pairs, kept, signs)
        if chosen:
            alone.clear()
            alone |= start
            return chosen
    return None


def _choose_with(
    alone: set[int],
    layers: Sequence[Searched],
    pairs: list[tuple[np.ndarray, np.ndarray]],
    kept: int,
    signs: Sequence[np.ndarray | None],
) -> list[Choice] | None:
    """:func:`choose_kept` if the layers at the places ``alone``, which may grow, have none of the largest scores."""
    empty: set[int] = set()
    while True:
        alone |= empty
        rest = [place for place in range(len(layers)) if place not in alone]
        if kept - len(alone) > sum(pairs[place][0].size for place in rest):
            return None
        cut, some = _choose_together(
            [layers[place] for place in rest],
            [pairs[place] for place in rest],
            kept - len(alone),
            [signs[p] for p in rest],
        )
        empty = {place for place, choice in zip(rest, some, strict=True) if choice.ones == 0} if some else set()
        if not empty:
            break
    choices = dict(zip(rest, some, strict=True)) if some else {}
    for place in alone if choices else ():
        largest, choice = _choose_largest(layers[place], pairs[place], signs[place])
        if choice and largest < cut:
            choices[place] = choice
    return [choices[place] for place in range(len(layers))] if len(choices) == len(layers) else None


def _choose_largest(
    layer: Searched, pair: tuple[np.ndarray, np.ndarray], signs: np.ndarray | None
) -> tuple[np.float32, Choice | None]:
    """The largest importance of ``layer`` and the choice that keeps its first weight of that importance."""
    largest = _largest(layer, pair[0])
    choice = choose(*pair, largest, absolute=layer.method.score_abs, signs=signs)
    alone = _without_surplus([layer], [choice] if choice else [], [pair], 1, largest)
    return largest, alone[0] if alone else None


def _largest(layer: Searched, scores: np.ndarray) -> np.float32:
    """The largest importance of ``layer``."""
    return np.float32(max(scores.max(), -scores.min()) if layer.method.score_abs else scores.max())


def _choose_together(
    layers: Sequence[Searched],
    pairs: list[tuple[np.ndarray, np.ndarray]],
    kept: int,
    signs: Sequence[np.ndarray | None],
) -> tuple[np.float32, list[Choice]]:
    """The least importance kept, and the choices of the ``kept`` largest scores; no choices if that is not known."""
    absolute, scores = layers[0].method.score_abs, [pair[0] for pair in pairs]
    hint = threshold.take_hint(layers[0].scores.data_ptr())
    for value in (hint, None) if hint is not None else (None,):
        cut = threshold.near_last(scores, kept, absolute=absolute) if value is None else value
        choices = [choose(*pair, cut, absolute=absolute, signs=own) for pair, own in zip(pairs, signs, strict=True)]
        chosen = _without_surplus(layers, [choice for choice in choices if choice], pairs, kept, cut)
        if len(chosen) == len(layers):
            break
    return cut, chosen


def _without_surplus(
    layers: Sequence[Searched],
    choices: list[Choice],
    pairs: list[tuple[np.ndarray, np.ndarray]],
    kept: int,
    cut: np.float32,
) -> list[Choice]:
    """The ``choices`` without those of the last scores that equal ``cut`` that are too many; empty if that is wrong."""
    surplus = sum(choice.ones for choice in choices) - kept
    if surplus < 0 or len(choices) < len(layers):
        return []
    for place in reversed(range(len(layers))):
        if surplus > 0:
            found = equals(pairs[place][0], cut, absolute=layers[0].method.score_abs)
            if found is None:
                return []
            last = found[_ranks(layers[place].scores, found)][-surplus:]
            choices[place] = choices[place].without(last, pairs[place][1])
            surplus -= len(last)
    return choices if surplus == 0 else []


def _ranks(scores: Tensor, places: np.ndarray) -> np.ndarray:
    """How to sort ``places`` of the memory of ``scores`` by flat index."""
    if scores.is_contiguous():
        return np.arange(len(places))
    out, channels, height, width = scores.shape  # channels come last in memory
    i, y, x, j = np.unravel_index(places, (out, height, width, channels))
    return np.argsort(np.ravel_multi_index((i, j, y, x), scores.shape))


def choose_above(layer: Searched, limit: Tensor, *, signs: np.ndarray, least: int) -> Choice | None:
    """The weights of ``layer`` whose importance exceeds ``limit``, 0-d, or all of its largest; None as above."""
    pair = arrays(layer, least=least)
    if pair is None:
        return None
    cut, absolute = np.nextafter(limit.numpy()[()], np.float32(np.inf)), layer.method.score_abs
    choice = choose(*pair, cut, absolute=absolute, signs=signs)  # cut: the smallest number that exceeds limit
    if choice and not choice.ones:
        choice = choose(*pair, _largest(layer, pair[0]), absolute=absolute, signs=signs)
    return choice


def autocast_dtype(weight: Tensor) -> torch.dtype | None:
    """The dtype to which autocast casts the weight of a convolution; None if it casts nothing, or not on the CPU."""
    if not weight.is_cpu or weight.dtype != torch.float32 or not torch.is_autocast_enabled("cpu"):
        return None
    return torch.get_autocast_dtype("cpu")
