"""Binary activations (MPT-1/1): the same backbone with signs where its ReLUs are.

``convert(backbone, method, binary_activations=True)`` rewrites its copy of the backbone by three rules, which give
conv2-8, the fully-connected and the residual networks their published 1/1 shape:

1. Each activation module of the ReLU family (ReLU, ReLU6, LeakyReLU, PReLU, RReLU) becomes a
   :class:`mpt.BinaryActivation`: a sign with the gradient of a spline.
2. If only a max-pool or a batch-norm uses its output, the sign moves behind that module. So max-pool directly follows
   the convolution, and the next layer sees signs.
3. If its input comes from a convolution or linear layer without a normalisation in between (sums, pools and other
   operations do not count), a batch-norm is inserted in front of the sign.

Then every convolution except the first one called, which sees the image, must see only -1 and +1 before its zero
padding. A backbone for which the rules do not achieve this is refused, with the names of the layers. Linear layers may
see real numbers, as in the published networks (averaged signs, a last ReLU); the layer table says which do.

The rules need one forward pass of the backbone. :class:`Signs` records their outcome, the ticket file keeps it, and
:func:`apply_signs` repeats it on the plain backbone without a forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mpt.search.activations import BinaryActivation, MaxPool2d
from mpt.search.conversion import Sign, Signs
from mpt.search.layers import kind_of
from mpt.search.parameters import BATCH_NORMS
from mpt.search.probe import evaluation_mode, inputs_of
from mpt.search.trace import Trace
from mpt.words import first_names

NORM_OF_DIMS: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def binarize(net: nn.Module, example: Tensor | tuple[Tensor, ...] | None, *, t: float) -> Signs | None:
    """Rewrite ``net`` in place by the rules of this file.

    Args:
        net: a plain backbone. One that already has :class:`mpt.BinaryActivation` stays as it is.
        example: its input, or a tuple of inputs; by default usual shapes are tried.
        t: ``t`` of the signs.

    Returns:
        The record of what was rewritten; None if the backbone has binary activations already.

    Raises:
        ValueError: an activation cannot become a sign (the error names it), or there is none.
    """
    if any(isinstance(module, BinaryActivation) for module in net.modules()):
        return None
    with evaluation_mode(net):
        inputs = inputs_of(net, example)
        if inputs is None:
            raise ValueError("binary_activations needs one forward pass of the backbone: pass example=<one batch>")
        trace = Trace(net)
        trace.run(inputs)
    if trace.unsupported:
        raise ValueError(
            f"binary_activations turns activations of the ReLU family into signs, and this backbone has "
            f"{first_names(trace.unsupported)}: take a backbone with ReLUs"
        )
    if not trace.calls:
        raise ValueError(
            f"binary_activations turns ReLU modules into signs, and this backbone calls none{trace.hint()}"
        )
    signs = Signs(t, tuple(_sign(trace, name) for name in trace.calls))
    apply_signs(signs, net)
    return signs


def _sign(trace: Trace, name: str) -> Sign:
    """How to rewrite the activation ``name``; ValueError if it needs a batch-norm that it cannot have."""
    calls, chain = trace.calls[name], trace.behind(name)
    behind, dims = chain[-1] if chain else None, len(calls[0].shape)
    has_norm = any(isinstance(trace.net.get_submodule(module), BATCH_NORMS) for module in chain)
    source = next((call.source for call in calls if call.source), None)
    if has_norm or source is None:
        return Sign(name, behind, None, dims)
    if len(calls) > 1:
        raise ValueError(
            f"{name} is called {len(calls)} times, and with binary_activations each call needs a batch-norm of its "
            "own in front of it: use a separate module for each call"
        )
    if dims not in NORM_OF_DIMS or (dims > 2 and not source.startswith("conv")):
        raise ValueError(
            f"{name} needs a batch-norm in front of it with binary_activations, and cannot have one behind {source} "
            f"on {dims} dimensions: take another backbone"
        )
    return Sign(name, behind, calls[0].shape[1], dims)


def apply_signs(signs: Signs, net: nn.Module) -> None:
    """Rewrite the plain backbone ``net`` in place as ``signs`` records; ValueError if it lacks a module."""
    modules, like = dict(net.named_modules()), next(net.parameters(), torch.empty(0))
    for sign in signs.signs:
        for name in (sign.activation, sign.behind):
            if name is not None and name not in modules:
                raise ValueError(f"the ticket is for another backbone: this one has no module {name!r}")
        rewritten: list[nn.Module] = [BinaryActivation(signs.t)]
        if sign.features is not None:
            rewritten.insert(0, NORM_OF_DIMS[sign.dims](sign.features).to(device=like.device, dtype=like.dtype))
        if sign.behind is None:
            _replace(net, modules[sign.activation], rewritten[0] if len(rewritten) == 1 else nn.Sequential(*rewritten))
        else:
            _replace(net, modules[sign.activation], nn.Identity())
            behind = modules[sign.behind]
            pool_or_norm = MaxPool2d.like(behind) if type(behind) is nn.MaxPool2d else behind
            _replace(net, behind, nn.Sequential(pool_or_norm, *rewritten))


def _replace(net: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace ``old`` by ``new`` wherever it is registered; ``new`` takes its mode."""
    new.train(old.training)
    for parent in list(net.modules()):
        if parent is not new:
            for name, module in list(parent._modules.items()):  # named_children skips repeats of a shared one
                if module is old:
                    setattr(parent, name, new)


def binary_inputs(net: nn.Module, example: Tensor | tuple[Tensor, ...] | None) -> tuple[str, ...]:
    """Names of the convolutions and linear layers of ``net`` that see only -1 and +1, before their zero padding.

    They are observed on one batch of noise. All modules but normalisations are in training mode, so dropout, as a
    module or as a function, scales its inputs, which are then no longer +-1. Buffers are restored afterwards.
    """
    seen: dict[str, bool] = {}  # name of a layer -> whether all its inputs were -1 or +1
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    with evaluation_mode(net):
        inputs = inputs_of(net, example)
        for module in net.modules():
            module.training = not isinstance(module, nn.modules.batchnorm._NormBase)
        hooks = [
            layer.register_forward_pre_hook(_recorder(name, seen))
            for name, layer in net.named_modules()
            if kind_of(layer)
        ]
        try:
            if inputs is not None:
                net(*(torch.randn_like(x) if x.is_floating_point() else x for x in inputs))
        finally:
            for hook in hooks:
                hook.remove()
            for buffer, before in buffers:
                buffer.copy_(before)
    return tuple(name for name, binary in seen.items() if binary)


def _recorder(name: str, seen: dict[str, bool]) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[name] = seen.get(name, True) and bool((args[0].abs() == 1).all())

    return hook


def refuse_real_inputs(
    net: nn.Module,
    example: Tensor | tuple[Tensor, ...] | None,
    *,
    binary: tuple[str, ...],
    searched: list[str],
) -> None:
    """Raise ValueError naming the ``searched`` convolutions, other than the first called, that are not ``binary``."""
    with evaluation_mode(net):
        inputs = inputs_of(net, example)
        if inputs is None:
            return
        trace = Trace(net)
        trace.run(inputs)
    convs = [name for name in trace.layers if kind_of(net.get_submodule(name)) is not nn.Linear]
    wrong = [name for name in convs[1:] if name in searched and name not in binary]
    if wrong:
        raise ValueError(
            f"{first_names(wrong)}: with binary_activations every searched convolution but the first must see only -1 "
            f"and +1, and here it sees other numbers{trace.hint()}; leave it out with dense=(...), or take a backbone "
            "with a ReLU module right in front of each convolution"
        )
