"""The network itself, out of what wraps it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

PARALLEL = nn.DataParallel, nn.parallel.DistributedDataParallel


def unwrap(net: nn.Module) -> nn.Module:
    """The network inside wrappers of ``torch.compile`` and data parallelism, which prefix the names of its layers.

    Every function that takes a network asks for it here: ValueError unless ``net`` is one.
    """
    if not isinstance(net, nn.Module):
        raise ValueError(f"a network is needed, a torch module, got {_describe(net)}")
    while inside := _inside(net):
        net = net.get_submodule(inside)
    return net


def without_wrappers(net: nn.Module) -> Callable[[str], str]:
    """What turns a name in ``net`` into the name without wrappers inside: ``block._orig_mod.0`` into ``block.0``."""
    modules = unwrap(net).named_modules(remove_duplicate=False)
    inner = {f"{name}.{inside}" for name, module in modules if (inside := _inside(module))}

    def rename(name: str) -> str:
        parts = name.split(".")
        return ".".join(part for i, part in enumerate(parts) if ".".join(parts[: i + 1]) not in inner)

    return rename


def _inside(net: nn.Module) -> str | None:
    """The name of the module that ``net`` wraps; None if it is no wrapper."""
    return "_orig_mod" if "_orig_mod" in net._modules else "module" if isinstance(net, PARALLEL) else None


def _describe(value: Any) -> str:
    """What ``value`` is, and how a network is made of it."""
    if hasattr(value, "network") and not isinstance(value, type):
        return f"{type(value).__name__}: write .network() behind it"
    if isinstance(value, type) or callable(value):
        return f"{getattr(value, '__name__', 'a function')}: call it, and hand over what it builds"
    if isinstance(value, str):
        return f"the text {value[:100]!r}: mpt.backbones builds networks, and mpt.Ticket.load(FILE).network()"
    return type(value).__name__
