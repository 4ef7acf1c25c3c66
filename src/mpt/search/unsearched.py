"""Modules of torch with matrices of weights that no ticket layer can hold: they stay frozen, which is said."""

from __future__ import annotations

import warnings

from torch import nn

from mpt.search.parameters import child
from mpt.search.refusal import patterns_of
from mpt.words import first_names

KINDS = (nn.RNNBase, nn.RNNCellBase, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention)


class UnsearchedLayers(UserWarning):
    """Some modules of a network have weights that cannot be searched, and that nothing trains."""


def warn_of_unsearched(net: nn.Module) -> None:
    """Warn, with :class:`UnsearchedLayers`, of every module of ``KINDS`` in ``net`` whose weights stay frozen."""
    frozen, classes = dict[str, list[str]](), dict[str, None]()
    for name, module in net.named_modules():
        for key, parameter in module.named_parameters(recurse=False) if isinstance(module, KINDS) else ():
            if parameter.dim() > 1 and not parameter.requires_grad:
                frozen.setdefault(name or type(net).__name__, []).append(child(name, key))
                classes[type(module).__name__] = None
    if not frozen:
        return
    names = [name for held in frozen.values() for name in held]
    patterns = patterns_of(names, others=[name for name, _ in net.named_parameters() if name not in names])
    warnings.warn(
        f"{first_names(list(frozen))} ({', '.join(classes)}): mpt does not search such weights, and they stay frozen "
        f"as the backbone has them: train them with trained={patterns}",
        UnsearchedLayers,
        stacklevel=3,
    )
