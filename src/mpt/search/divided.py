"""Gains that do nothing: a batch-norm divides by the size of each channel, whatever gain the channel has."""

from __future__ import annotations

import warnings
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from mpt.search.layers import ticket_layers
from mpt.search.parameters import BATCH_NORMS
from mpt.search.probe import evaluation_mode
from mpt.words import first_names


class DividedGains(UserWarning):
    """Some layers have a gain for each channel that a batch-norm divides out."""


def warn_of_divided_gains(net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Warn, with :class:`DividedGains`, of layers with ``gains`` ``channel`` or ``learned`` right before a batch-norm.

    Args:
        net: a converted network, which keeps its mode and its statistics.
        inputs: for one forward pass.
    """
    layers = ticket_layers(net)
    gains = {layer.method.gains for layer in layers.values()} - {"layer"}
    if not gains:
        return
    divided = _before_batchnorm(net, inputs)
    if divided:
        warnings.warn(
            f"gains={gains.pop()} changes nothing in {len(divided)} of {len(layers)} searched layers, because a "
            f"batch-norm follows, which divides the gains out: {first_names(divided)}; there they only cost 32 bits a "
            "channel (gains=layer has none, learn_batchnorm=true trains the scale of batch-norm instead)",
            DividedGains,
            stacklevel=3,
        )


def _before_batchnorm(net: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    """Names of the searched layers whose output is the input of a batch-norm."""
    outputs: dict[int, tuple[str, Tensor]] = {}  # by the identity of the output, which it holds so that it stays one
    found: dict[str, None] = {}

    def note(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if arguments and id(arguments[0]) in outputs:
            found[outputs[id(arguments[0])][0]] = None

    with ExitStack() as stack:
        for name, layer in ticket_layers(net).items():
            hook = layer.register_forward_hook(
                lambda _, __, out, name=name: outputs.update({id(out): (name, out)})  # type: ignore[misc]
            )
            stack.callback(hook.remove)
        for module in net.modules():
            if isinstance(module, BATCH_NORMS):
                stack.callback(module.register_forward_pre_hook(note).remove)
        stack.enter_context(evaluation_mode(net))
        with torch.no_grad():
            net(*inputs)
    return list(found)
