"""A backbone before its conversion: refused if nothing can be made of it, and copied.

A copy leaves out wrappers of ``torch.compile`` and data parallelism, at any depth: a layer has one name with and
without them. A tensor that a module has computed (the weight of an old ``weight_norm``, an output that it keeps) is
copied without its history, which torch refuses to copy.
"""

from __future__ import annotations

import copy
from types import CellType, FunctionType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from mpt.causes import is_out_of_memory
from mpt.search.conversion import Conversion
from mpt.search.layers import TICKET_LAYERS, TicketLayer
from mpt.search.trace import reason_of, tensors_in
from mpt.search.wrapped import unwrap
from mpt.words import first_names

RESERVED = ("conversion", "updates")  # where a converted network keeps its record


def copy_of(backbone: nn.Module) -> nn.Module:
    """A copy of ``backbone`` without wrappers; see the head of this file.

    Raises:
        ValueError: it is no backbone (:func:`check_backbone`), or cannot be copied, but for want of memory.
    """
    check_backbone(backbone)
    net = unwrap(backbone)
    try:
        net = copied(net)
    except Exception as error:  # of whatever its modules hold
        if is_out_of_memory(error):
            raise
        names = _uncopied(net)
        what = f"its {first_names(names)}" if names else "a part of it"
        raise ValueError(
            f"{type(net).__name__} cannot be copied, because {what} cannot ({reason_of(error)}): take it out before "
            "conversion"
        ) from error
    while wrapped := [name for name, m in net.named_modules(remove_duplicate=False) if unwrap(m) is not m]:
        net.set_submodule(wrapped[0], unwrap(net.get_submodule(wrapped[0])))
    return net


def copied(net: nn.Module) -> nn.Module:
    """A deep copy of ``net``, without the history of tensors that its modules have computed and keep."""
    try:
        return copy.deepcopy(net)
    except Exception:  # of a tensor with a history, or of whatever else its modules hold
        return copy.deepcopy(net, _detached(net))


def _detached(net: nn.Module) -> dict[int, Any]:
    """For ``copy.deepcopy``: what it takes for the tensors that modules of ``net`` have computed and keep."""
    computed = (x for module in net.modules() for x in tensors_in(vars(module)) if x.grad_fn is not None)
    return {id(x): x.detach().clone() for x in computed}


def check_backbone(backbone: Any) -> None:
    """ValueError that names every part of ``backbone`` for which it cannot be converted at all."""
    if not isinstance(backbone, nn.Module):
        is_class = isinstance(backbone, type) and issubclass(backbone, nn.Module)
        what = f"the class {backbone.__name__}: build one" if is_class else f"a {type(backbone).__name__}"
        raise ValueError(f"a backbone is a torch module, got {what}")
    net = unwrap(backbone)
    modules = {name or type(net).__name__: module for name, module in net.named_modules()}
    if compiled := [name for name, module in modules.items() if _is_compiled_layer(module)]:
        raise ValueError(
            f"{first_names(compiled)}: compiled by torch.jit, whose layers cannot be changed: convert the Python "
            "module that it was made from"
        )
    if converted := [name for name, module in modules.items() if isinstance(module, TicketLayer)]:
        raise ValueError(
            f"{_layers(converted)} ticket layer{'s' * (len(converted) > 1)} already: convert the plain backbone"
        )
    own = {
        name: [*module.parameters(recurse=False), *module.buffers(recurse=False)] for name, module in modules.items()
    }
    own_forward = {name: vars(m).get("forward") for name, m in modules.items() if unwrap(m) is m}
    if replaced := [name for name, function in own_forward.items() if _holds_module(function)]:
        raise ValueError(
            f"the forward of {first_names(replaced)} is a function put in the place of its class's, and that holds the "
            "original module, which a copy would go on to run: define it in the class, or compile the module itself"
        )
    if shapeless := [name for name, values in own.items() if any(map(is_lazy, values))]:
        has = "have" if len(shapeless) > 1 else "has"
        raise ValueError(f"{first_names(shapeless)} {has} no shape yet: run the backbone once before converting it")
    if empty := [name for name, values in own.items() if any(value.is_meta for value in values)]:
        holds = "hold" if len(empty) > 1 else "holds"
        raise ValueError(
            f"{first_names(empty)} {holds} no values, on the meta device: build the backbone on a real one, or give it "
            "values with to_empty(device='cpu') and load_state_dict"
        )
    held = dir(net)
    if taken := [name for name in RESERVED if name in held and not isinstance(vars(net).get(name), Conversion)]:
        raise ValueError(
            f"the backbone has an attribute called {' and one called '.join(taken)}, where mpt keeps its record of the "
            "conversion: rename it"
        )


def _is_compiled_layer(module: nn.Module) -> bool:
    """Whether ``module`` is code of ``torch.jit`` with parameters, or of a layer that holds them as constants."""
    if not isinstance(module, torch.jit.ScriptModule):
        return False
    kinds = {kind.__name__ for kind in TICKET_LAYERS}
    return any(True for _ in module.parameters()) or getattr(module, "original_name", None) in kinds


def _holds_module(function: Any, depth: int = 8) -> bool:
    """Whether a plain function, which is not copied with a module, holds a module or a method of one.

    It may do so in its closure or in its defaults.
    """
    if not isinstance(function, FunctionType):
        return False
    held = [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    modules = any(isinstance(getattr(x, "__self__", x), nn.Module) for x in held)
    return modules or (depth > 0 and any(_holds_module(x, depth - 1) for x in held))


def _layers(names: list[str]) -> str:
    return f"layers {first_names(names)} are" if len(names) > 1 else f"layer {names[0]!r} is a"


def _uncopied(net: nn.Module) -> list[str]:
    """Names of the attributes of modules of ``net`` that cannot be copied."""
    names, memo = [], _detached(net) | {id(module): module for module in net.modules()}
    for name, module in net.named_modules():
        held = {**vars(module), **module._parameters, **module._buffers}
        for key in held.keys() - {"_modules", "_parameters", "_buffers"}:
            try:
                copy.deepcopy(held[key], dict(memo))
            except Exception:  # of whatever it is
                names.append(f"{name}.{key}".removeprefix("."))
    return sorted(names)
