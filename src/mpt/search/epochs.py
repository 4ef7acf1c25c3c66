"""The epochs of a search: what begins with each of them, and the masks of the whole network.

The fraction removed may rise over the first epochs: :func:`start_epoch` says which epoch begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mpt.search.conversion import Conversion
from mpt.search.layers import one_selection, ticket_layers
from mpt.search.methods import Method
from mpt.search.selection import KINDS, Calibrated, Together
from mpt.search.steps import Updates
from mpt.search.wrapped import unwrap
from mpt.values import check_whole


def attach_selection(net: nn.Module, method: Method) -> None:
    """Give the ticket layers of ``net`` the selection that ``method`` names, unless it is ``layerwise``."""
    if method.selection != "layerwise":
        KINDS[method.selection](net, method)
        calibrate(net)
        current_masks(net)  # raises if a threshold keeps nothing of a layer


def start_epoch(net: nn.Module, epoch: int, *, accumulate: int = 1) -> None:
    """Say that an epoch of the training of ``net`` begins, after ``epoch`` finished ones: 0 for the first.

    A method with a ramp now prunes as this epoch requires. Optimizer steps count from 0 again, for ``refresh`` of a
    calibrated threshold and for ``step`` of :meth:`mpt.Method.update`. Nothing else depends on the epoch. Without this
    call a network has the method's ``prune``, as after the ramp, and its steps count on.

    Args:
        net: from :func:`mpt.convert`; a network from a ticket file keeps what the file says.
        epoch: number of epochs finished before.
        accumulate: forwards per optimizer step, if the training loop accumulates gradients.

    Raises:
        ValueError: ``epoch`` is not a whole number of at least 0, or ``accumulate`` not one of at least 1.
    """
    check_whole("epoch", "the number of finished epochs", epoch, least=0)
    check_whole("accumulate", "the number of forwards per optimizer step", accumulate, least=1)
    net = unwrap(net)
    conversion: Conversion | None = getattr(net, "conversion", None)
    if conversion is None or conversion.from_file:
        return
    net.conversion = replace(conversion, epoch=epoch)  # type: ignore[assignment]
    for name, layer in ticket_layers(net).items():
        layer.num_kept = conversion.method.num_kept(layer.weight.numel(), layer=name, epoch=epoch)
        if conversion.seed is not None:  # a backbone's own weights are not drawn for what is kept
            layer.ramp_scale = conversion.method.ramp_scale(layer=name, epoch=epoch)
    for selection in selections(net):
        selection.start_epoch(epoch)
    for hooks in hooks_of(net):
        hooks.steps.start_epoch(parts=accumulate)


def calibrate(net: nn.Module) -> None:
    """Set a calibrated threshold by the current scores; without one, do nothing."""
    for selection in selections(net):
        if isinstance(selection, Calibrated):
            with torch.inference_mode(False):
                selection.calibrate()


def current_masks(net: nn.Module) -> dict[str, Tensor]:
    """The masks of all ticket layers of ``net`` by name, selected by the current scores.

    Raises:
        ValueError: a mask keeps nothing of its layer. The host waits for the device to check this.
    """
    with one_selection(net):
        masks = {name: layer.mask() for name, layer in ticket_layers(net).items()}
    for name, layer in ticket_layers(net).items():
        if not masks[name].any():
            raise layer.selection.empty(layer, name)
    return masks


def selections(net: nn.Module) -> list[Together]:
    """The selections of the ticket layers of ``net`` that look beyond one layer."""
    objects = {id(layer.selection): layer.selection for layer in ticket_layers(net).values()}
    return [selection for selection in objects.values() if isinstance(selection, Together)]


def hooks_of(net: nn.Module) -> Sequence[Together | Updates]:
    """All objects with hooks on the forwards of ``net``."""
    updates: Updates | None = getattr(net, "updates", None)
    return [*selections(net), *([updates] if updates else [])]
