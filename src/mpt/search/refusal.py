"""Layers that cannot be searched, found all at once and refused in one sentence.

* A layer that computes in its own way: a subclass of a torch layer whose output differs from that of the torch layer
  with the same weight (weight standardisation, padding that follows the input). Conversion would drop the difference.
* A layer whose weight is parametrized, so that it is no parameter.
* A layer that the network never calls, or whose weight it reads past the layer (:mod:`mpt.search.probe`).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from mpt.search.layers import TicketLayer, kind_of
from mpt.words import first_names

_MANY = 3  # names that are spelled out; of more, patterns


def layers_of_their_own(layers: dict[str, Any]) -> dict[str, str]:
    """The layers that conversion would break, by name, with the reason: ``parametrized``, or the name of the class."""
    reasons = {}
    for name, layer in layers.items():
        if isinstance(layer, (TicketLayer, nn.modules.lazy.LazyModuleMixin)):
            continue  # refused by other words
        if hasattr(layer, "parametrizations") or not isinstance(layer.weight, nn.Parameter):
            reasons[name] = "parametrized"
        elif not _computes_as_torch(layer):
            reasons[name] = type(layer).__name__
    return reasons


def _computes_as_torch(layer: Any) -> bool:
    """Whether ``layer`` gives the output of the torch layer of its kind with the same weight, in both modes.

    Random numbers decide: a copy on the CPU with random parameters, on inputs of odd and even sides.
    """
    kind: Any = kind_of(layer)
    methods = ("forward", "_conv_forward")
    if all(getattr(type(layer), method, None) is getattr(kind, method, None) for method in methods):
        return True
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        own = copy.deepcopy(layer).to_empty(device="cpu").float()
        for value in (*own.parameters(), *(b for b in own.buffers() if b.is_floating_point())):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        own.weight.sub_(1)
        plain = copy.deepcopy(own)
        plain.__class__ = kind
        return all(
            _same(own.train(mode), plain.train(mode), x) for mode in (False, True) for x in _inputs(plain, generator)
        )


def _same(own: nn.Module, plain: nn.Module, x: Tensor) -> bool:
    expected = plain(x)
    try:
        out = own(x)
    except Exception:  # whatever a layer of somebody else raises
        return False
    return isinstance(out, Tensor) and out.shape == expected.shape and torch.allclose(out, expected, 1e-4, 1e-4)


def _inputs(layer: Any, generator: torch.Generator) -> list[Tensor]:
    """Inputs of ``layer``: of two sides for a convolution, of two and three dimensions for a linear layer."""
    if isinstance(layer, nn.Linear):
        shapes = [(2, layer.in_features), (2, 3, layer.in_features)]
    else:
        least = [d * (k - 1) + 1 + s for d, k, s in zip(layer.dilation, layer.kernel_size, layer.stride, strict=True)]
        shapes = [(2, layer.in_channels, *(side + more for side in least)) for more in (0, 1)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def refuse(own: dict[str, str], unreached: Sequence[str], *, searchable: Sequence[str], dense: Sequence[str]) -> None:
    """ValueError that names every layer of ``own`` and of ``unreached``, if there is any.

    Args:
        own: from :func:`layers_of_their_own`.
        unreached: from :func:`mpt.search.probe.unreached`.
        searchable: the names of all layers that were to be searched, those two included.
        dense: the patterns that already leave layers out.
    """
    refused = [name for name in searchable if name in own or name in unreached]
    if not refused:
        return
    sentence = " and ".join(_reasons(own, unreached))
    rest = [name for name in searchable if name not in refused]
    if not rest:
        raise ValueError(f"{sentence}: this network cannot be searched, no other layer is left")
    patterns = [*dense, *(p for p in patterns_of(refused, others=rest) if p not in dense)]
    raise ValueError(
        f"{sentence}; leave {'it' if len(refused) == 1 else 'them'} out with dense={patterns}, which searches the "
        f"other {len(rest)} of {len(searchable)} layers and keeps what is left out as the backbone has it"
    )


def _reasons(own: dict[str, str], unreached: Sequence[str]) -> list[str]:
    reasons, parametrized = [], [name for name, reason in own.items() if reason == "parametrized"]
    by_class: dict[str, list[str]] = {}
    for name, reason in own.items():
        by_class.setdefault(reason, []).append(name)
    for reason, names in by_class.items():
        if reason != "parametrized":
            each = "computes" if len(names) == 1 else "each compute"
            reasons.append(f"{first_names(names)} ({reason}) {each} in {'its' if len(names) == 1 else 'their'} own way")
    if parametrized:
        reasons.append(f"the weight of {first_names(parametrized)} is parametrized")
    if unreached:
        reasons.append(
            f"{first_names(list(unreached))}: converted, but never called in a forward pass, nor read by the "
            "module that holds it, so the search could not reach it"
        )
    return reasons


def patterns_of(names: Sequence[str], *, others: Sequence[str]) -> list[str]:
    """Patterns that match all of ``names`` and none of ``others``; the names themselves if they are few."""
    if len(names) <= _MANY:
        return list(names)
    patterns: dict[str, None] = {}
    for name in names:
        ending, numbered = "*." + name.rpartition(".")[2], re.sub(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)", "*", name)
        fits = [p for p in (ending, numbered) if fnmatchcase(name, p) and not any(fnmatchcase(o, p) for o in others)]
        if not any(fnmatchcase(name, pattern) for pattern in patterns):
            patterns[(fits or [name])[0]] = None
    return list(patterns)
