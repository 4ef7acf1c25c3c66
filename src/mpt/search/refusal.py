"""Layers that cannot be searched, found all at once and refused in one sentence.

* A layer that computes in its own way: a subclass of a torch layer whose output differs from that of the torch layer
  with the same weight (weight standardisation, padding that follows the input). Conversion would drop the difference.
* A layer whose weight is no parameter of floating-point numbers: parametrized, a buffer, complex.
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

from mpt.search.layers import kind_of
from mpt.words import first_names

_DTYPES = torch.float16, torch.bfloat16, torch.float32, torch.float64
_MANY = 3  # names that are spelled out; of more, patterns


def layers_of_their_own(layers: dict[str, Any]) -> dict[str, str]:
    """The layers that conversion would break, by name, with the reason: a sentence about ``{}``, or a class's name."""
    reasons = {}
    for name, layer in layers.items():
        if reason := _broken_parameter(layer):
            reasons[name] = reason
        elif not _computes_as_torch(layer):
            reasons[name] = type(layer).__name__
    return reasons


def _broken_parameter(layer: Any) -> str | None:
    """What is wrong with the weight or the bias of ``layer``, as a sentence about ``{}``."""
    for key in [*layer.parametrizations] if hasattr(layer, "parametrizations") else []:
        return f"the {key} of {{}} is parametrized"
    for key in ("weight", "bias"):
        value = getattr(layer, key, None)
        if isinstance(value, nn.Parameter) or (key == "bias" and (value is None or key in layer._buffers)):
            continue
        computed = "computed from other tensors (weight_norm, spectral_norm, pruning)"
        kind = "missing" if value is None else "a buffer" if key in layer._buffers else computed
        return f"the {key} of {{}} is {kind}"
    if layer.weight.dtype not in _DTYPES:
        return f"the weight of {{}} is of {layer.weight.dtype}, where a search takes {', '.join(map(str, _DTYPES))}"
    if not layer.weight.numel():
        return "the weight of {} has no entry"
    taken = {"scores", "threshold", "pattern", "log_gain"} & {*layer._parameters, *layer._buffers, *layer._modules}
    return f"a part of {{}} is called {min(taken)}, as a part of ticket layers is" if taken else None


def _computes_as_torch(layer: Any) -> bool:
    """Whether ``layer`` gives the output of the torch layer of its kind with the same weight, in both modes.

    Random numbers decide: a copy on the CPU with random parameters, on inputs of odd and even sides.
    """
    kind: Any = kind_of(layer)
    methods = ("forward", "_conv_forward", "__call__", "_call_impl")
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
    try:
        expected, out = plain(x), own(x)
    except Exception:  # whatever a layer of somebody else raises, or its hooks
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
    reasons, by_reason = [], dict[str, list[str]]()
    for name, reason in own.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        if "{}" in reason:
            reasons.append(reason.format(first_names(names)))
        else:
            each = "computes" if len(names) == 1 else "each compute"
            reasons.append(f"{first_names(names)} ({reason}) {each} in {'its' if len(names) == 1 else 'their'} own way")
    if unreached:
        reasons.append(
            f"{first_names(list(unreached))}: converted, but never called by a forward in evaluation mode, nor read to "
            "any effect by the module that holds it, so the search could not reach it"
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
