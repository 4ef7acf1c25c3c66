"""Binary activations (MPT-1/1): the same backbone with signs where its ReLUs are.

``convert(backbone, method, binary_activations=True)`` rewrites its copy of the backbone by three rules, which give
conv2-8, the fully-connected and the residual networks their published 1/1 shape:

1. Each activation module of the ReLU family (ReLU, ReLU6, LeakyReLU, PReLU, RReLU) becomes a
   :class:`mpt.BinaryActivation`, sign with the spline's gradient.
2. Where nothing but a max-pool or a batch-norm takes its output, the sign goes behind that one: max-pool directly
   after the convolution, and what the next layer sees is the sign.
3. Where its input comes from a convolution or linear layer without a normalisation since (sums, pools and the like
   pass what they get), a batch-norm is put in front of the sign.

Then each convolution but the first that is called, the image's, must see nothing but -1 and +1 before its zero
padding. A backbone that this cannot be brought to is refused with the names of the layers. Linear layers may see real
numbers, as the published ones do (averaged signs, a last ReLU); the layer table says which do.

The rules read one forward pass, so the outcome is written down as :class:`Signs`: the ticket file keeps it, and
:func:`put` does the same to the plain backbone again without looking.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mpt.search.activations import BinaryActivation, MaxPool2d
from mpt.search.conversion import Sign, Signs
from mpt.search.layers import kind_of, some
from mpt.search.parameters import BATCH_NORMS
from mpt.search.probe import evaluating, inputs_of
from mpt.search.trace import Trace

NORM_OF_DIMS: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def binarize(net: nn.Module, example: Tensor | tuple[Tensor, ...] | None, *, t: float) -> Signs | None:
    """Rewrite ``net`` in place by the rules of this file.

    Args:
        net: a plain backbone. One that has :class:`mpt.BinaryActivation` already is left as it is (and None returned).
        example: its input, or a tuple of inputs; by default usual shapes are tried.
        t: of the signs.

    Raises:
        ValueError: an activation that cannot be made a sign, by name, or none that could.
    """
    if any(isinstance(module, BinaryActivation) for module in net.modules()):
        return None
    with evaluating(net):
        inputs = inputs_of(net, example)
        if inputs is None:
            raise ValueError("binary_activations looks at one forward pass of the backbone: pass example=<one batch>")
        trace = Trace(net)
        trace.run(inputs)
    if trace.others:
        raise ValueError(
            f"binary_activations turns activations of the ReLU family into signs, and this backbone has "
            f"{some(trace.others)}: take a backbone with ReLUs"
        )
    if not trace.calls:
        raise ValueError(
            f"binary_activations turns ReLU modules into signs, and this backbone calls none{trace.hint()}"
        )
    signs = Signs(t, tuple(_sign(trace, name) for name in trace.calls))
    put(signs, net)
    return signs


def _sign(trace: Trace, name: str) -> Sign:
    """What becomes of the activation ``name``; ValueError if it needs a batch-norm that it cannot have."""
    calls, chain = trace.calls[name], trace.behind(name)
    behind, dims = chain[-1] if chain else None, len(calls[0].shape)
    normed = any(isinstance(trace.net.get_submodule(taker), BATCH_NORMS) for taker in chain)
    source = next((call.source for call in calls if call.source), None)
    if normed or source is None:
        return Sign(name, behind, None, dims)
    if len(calls) > 1:
        raise ValueError(
            f"{name} is called {len(calls)} times, and with binary_activations each call needs a batch-norm of its "
            "own in front of it: give each call a module of its own"
        )
    if dims not in NORM_OF_DIMS or (dims > 2 and not source.startswith("conv")):
        raise ValueError(
            f"{name} needs a batch-norm in front of it with binary_activations, and behind {source} on {dims} "
            "dimensions it cannot have one: take another backbone"
        )
    return Sign(name, behind, calls[0].shape[1], dims)


def put(signs: Signs, net: nn.Module) -> None:
    """Do to the plain backbone ``net``, in place, what ``signs`` says; ValueError if it has no such modules."""
    modules, like = dict(net.named_modules()), next(net.parameters(), torch.empty(0))
    for sign in signs.signs:
        for name in (sign.activation, sign.behind):
            if name is not None and name not in modules:
                raise ValueError(f"the ticket is for another backbone: this one has no module {name!r}")
        made: list[nn.Module] = [BinaryActivation(signs.t)]
        if sign.features is not None:
            made.insert(0, NORM_OF_DIMS[sign.dims](sign.features).to(device=like.device, dtype=like.dtype))
        if sign.behind is None:
            _replace(net, modules[sign.activation], made[0] if len(made) == 1 else nn.Sequential(*made))
        else:
            _replace(net, modules[sign.activation], nn.Identity())
            behind = modules[sign.behind]
            _replace(
                net, behind, nn.Sequential(MaxPool2d.like(behind) if type(behind) is nn.MaxPool2d else behind, *made)
            )


def _replace(net: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` is registered, in the mode that ``old`` is in."""
    new.train(old.training)
    for parent in list(net.modules()):
        if parent is not new:
            for name, module in list(parent._modules.items()):  # named_children gives a shared one once
                if module is old:
                    setattr(parent, name, new)


def binary_inputs(net: nn.Module, example: Tensor | tuple[Tensor, ...] | None) -> tuple[str, ...]:
    """Names of the convolutions and linear layers of ``net`` that see only -1 and +1, before their zero padding.

    Seen on one batch of noise, in training but for normalisation: what dropout has scaled, as a module or as a
    function, is not +-1 any more. Buffers are as they were afterwards.
    """
    seen: dict[str, bool] = {}
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    with evaluating(net):
        inputs = inputs_of(net, example)
        for module in net.modules():
            module.training = not isinstance(module, nn.modules.batchnorm._NormBase)
        hooks = [
            layer.register_forward_pre_hook(_note(name, seen)) for name, layer in net.named_modules() if kind_of(layer)
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


def _note(name: str, seen: dict[str, bool]) -> Any:
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
    """ValueError naming the convolutions among ``searched`` that are not ``binary``, but for the first one called."""
    with evaluating(net):
        inputs = inputs_of(net, example)
        if inputs is None:
            return
        trace = Trace(net)
        trace.run(inputs)
    convs = [name for name in trace.layers if kind_of(net.get_submodule(name)) is not nn.Linear]
    wrong = [name for name in convs[1:] if name in searched and name not in binary]
    if wrong:
        raise ValueError(
            f"{some(wrong)}: with binary_activations every searched convolution but the first must see only -1 and +1, "
            f"and here it sees other numbers{trace.hint()}; leave it out with dense=(...), or take a backbone with a "
            "ReLU module right in front of each convolution"
        )
