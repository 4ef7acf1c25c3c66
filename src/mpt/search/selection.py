"""Which weights of a network are kept where its layers do not decide one by one: together, or by a threshold.

A network converted with ``selection=layerwise`` has none of this: each of its layers selects its own number. For the
other selections :func:`choose_together` gives all ticket layers of a network one :class:`Selection`:

    global        the masks of all layers are made together from the scores as they are at the first layer that asks in
                  a forward of the network, and hold to the end of that forward, within which no score changes. A layer
                  that is called by itself asks anew, so that no mask is ever that of other scores
    threshold     a weight is kept where its importance exceeds a number
    calibrated    the same, with the number in each layer's buffer ``threshold`` (so that checkpoints have it), set to
                  the importance that just the right number of weights of the whole network exceed: before the first
                  training forward of an epoch (:func:`start_epoch`) and every ``refresh`` of them after it, and by
                  :func:`calibrate`. It is lowered for a layer that would have nothing left

The fraction removed may rise over the first epochs: :func:`start_epoch` says which one begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mpt.search.layers import TicketLayer, one_selection, ticket_layers, unwrapped
from mpt.search.mask import kth_largest, memory, select_jointly

if TYPE_CHECKING:
    from mpt.search.convert import Conversion
    from mpt.search.methods import Method

TOLERANCE = 0.005  # of the density of a calibrated threshold


class Selection:
    """Makes the masks of the ticket layers of one network; each has it as ``selection`` and its number as ``place``.

    Attributes:
        layers: of those that share their scores the first; ``names`` are their names.
        kept: how many of all their weights are kept.
        steps: training forwards since the epoch began.
    """

    def __init__(self, net: nn.Module, method: Method) -> None:
        self.method, self.names, self.layers = method, list[str](), list[TicketLayer]()
        places: dict[int, int] = {}  # by the identity of the scores
        for name, layer in ticket_layers(net).items():
            if id(layer.scores) not in places:
                places[id(layer.scores)] = len(self.layers)
                self.names.append(name)
                self.layers.append(layer)
            layer.selection, layer.place = self, places[id(layer.scores)]
        self.opened, self.masks = False, list[Tensor]()
        self.start_epoch(None)
        self._hooks = (
            net.register_forward_pre_hook(self._before_forward),
            net.register_forward_hook(self._after_forward, always_call=True),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": False, "masks": []}  # a copy made inside a forward is not in it

    def start_epoch(self, epoch: int | None) -> None:
        """Keep what ``epoch`` (from 0) of the ramp has, or with None what comes after it; the steps begin at 0."""
        self.steps = 0
        if self.method.selection == "threshold":
            return
        n = sum(layer.weight.numel() for layer in self.layers)
        self.kept = self.method.num_kept(n, epoch=epoch)
        if self.kept < len(self.layers):
            raise ValueError(
                f"prune={self.method.prune:g} keeps {self.kept} of the network's {n} weights, which does not leave one "
                f"for each of its {len(self.layers)} layers: lower prune or raise width"
            )

    def mask(self, layer: TicketLayer) -> Tensor:
        """Mask of the current scores of ``layer``, bool, of the shape of its weight.

        Raises:
            ValueError: nothing is left of the layer (noticed on the CPU only, and not under torch.compile;
                :func:`current_masks` looks everywhere).
        """
        if self.masks:
            return self.masks[layer.place]
        if self.method.selection == "global":
            values, absolute = self._ranked()
            masks = select_jointly(values, kept=self.kept, absolute=absolute)
            self.masks = masks if self.opened else []
            return masks[layer.place]
        importance, held = self.method.importance(layer.scores), self.layers[layer.place].threshold
        if held is not None:
            return _above(importance, held)
        mask = importance > self.method.score_threshold
        if _seen(mask) and not memory(mask).numpy().any():
            raise self.emptied(layer)
        return mask

    def emptied(self, layer: TicketLayer) -> ValueError:
        """What to say of a layer that the fixed threshold leaves nothing of."""
        largest = self.method.importance(layer.scores).max().item()
        return ValueError(
            f"threshold={self.method.threshold:g} keeps none of the {layer.weight.numel()} weights of layer "
            f"{self.names[layer.place]!r}, whose largest importance is "
            f"{math.copysign(abs(largest) ** self.method.power, largest):.4g}: lower it"
        )

    @contextmanager
    def open(self) -> Iterator[None]:
        """Inside, masks of layers that select together are made once; no score may change there."""
        self.opened, self.masks = True, []
        try:
            yield
        finally:
            self.opened, self.masks = False, []

    @torch.no_grad()
    def calibrate(self) -> None:
        """Set the threshold so that ``kept`` weights exceed it.

        Raises:
            ValueError: so many scores are equal that no threshold is within 0.5 points of the density (noticed on the
                CPU only).
        """
        values, absolute = self._ranked()
        n = sum(layer.numel() for layer in values)
        low = torch.full_like(values[0].flatten()[0], -torch.inf)
        threshold = low if self.kept == n else kth_largest(values, self.kept + 1, absolute=absolute)
        for layer in self.layers:
            assert layer.threshold is not None
            layer.threshold.copy_(threshold)
        if self._is_off():
            raise ValueError(
                f"selection=calibrated cannot keep {self.kept} of {n} weights: {self._ones()} exceed the nearest "
                "threshold, because too many scores are equal; take selection=global"
            )

    def _is_off(self) -> bool:
        """Whether the threshold misses the density by more than 0.5 points; never on a device, where looking costs."""
        if self.layers[0].scores.device.type != "cpu":
            return False
        n = sum(layer.weight.numel() for layer in self.layers)
        return bool(abs(self._ones() - self.kept) > max(TOLERANCE * n, len(self.layers)))

    def _ones(self) -> int:
        """Weights that the threshold keeps; the masks hold to the end of the forward, if this is in one."""
        self.masks = []
        masks = [self.mask(layer) for layer in self.layers]
        self.masks = masks if self.opened else []
        return sum(int(np.count_nonzero(mask.numpy())) for mask in masks)

    def remove(self) -> None:
        """Take the hooks off the network."""
        for hook in self._hooks:
            hook.remove()

    def _ranked(self) -> tuple[list[Tensor], bool]:
        ranked = [self.method.ranked(layer.scores) for layer in self.layers]
        return [values for values, _ in ranked], ranked[0][1]

    def _before_forward(self, net: nn.Module, _: Any) -> None:
        self.opened, self.masks = True, []
        if self.method.selection == "calibrated" and net.training and torch.is_grad_enabled():
            if self.steps % self.method.refresh == 0 or self._is_off():
                self.calibrate()
            self.steps += 1

    def _after_forward(self, *_: Any) -> None:
        self.opened, self.masks = False, []


def _seen(x: Tensor) -> bool:
    """Whether a look at the values of ``x`` costs nothing: on the CPU, but not where torch.compile traces."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _above(importance: Tensor, threshold: Tensor) -> Tensor:
    """Mask of what exceeds ``threshold`` (0-d), or of the largest where nothing does."""
    if not _seen(importance):
        return _above_on_device(importance, threshold)
    mask = importance > threshold
    return mask if memory(mask).numpy().any() else importance == importance.amax()


def _above_on_device(importance: Tensor, threshold: Tensor) -> Tensor:
    """:func:`_above` without a look at the mask, for which the host would wait."""
    largest = importance.amax()
    below = torch.nextafter(largest, torch.full_like(largest, -torch.inf))
    return importance > torch.minimum(threshold, below)


def choose_together(net: nn.Module, method: Method) -> None:
    """Give the ticket layers of ``net`` the selection that ``method`` asks for, if it is not layer by layer."""
    if method.selection == "layerwise":
        return
    selection = Selection(net, method)
    if method.selection == "calibrated":
        for layer in selection.layers:
            layer.threshold = torch.zeros((), dtype=layer.scores.dtype, device=layer.scores.device)
    calibrate(net)
    current_masks(net)  # refuses a threshold that leaves nothing of a layer


def start_epoch(net: nn.Module, epoch: int) -> None:
    """Say that ``epoch`` (from 0) of the training of ``net`` begins; a method with a ramp prunes accordingly from now.

    Without a ramp and with a selection other than ``calibrated`` it changes nothing. A network that was never told has
    the method's ``prune``, as after the ramp.

    Args:
        net: from :func:`mpt.convert`; one from a ticket file keeps what the file says.
        epoch: number of epochs finished before.
    """
    net = unwrapped(net)
    conversion: Conversion | None = getattr(net, "conversion", None)
    if conversion is None or conversion.found:
        return
    net.conversion = replace(conversion, epoch=epoch)  # type: ignore[assignment]
    for name, layer in ticket_layers(net).items():
        layer.num_kept = conversion.method.num_kept(layer.weight.numel(), layer=name, epoch=epoch)
    for selection in selections(net):
        selection.start_epoch(epoch)


def calibrate(net: nn.Module) -> None:
    """Set a calibrated threshold to the scores as they are now; nothing to do for any other selection."""
    for selection in selections(net):
        if selection.method.selection == "calibrated":
            with torch.inference_mode(False):
                selection.calibrate()


def current_masks(net: nn.Module) -> dict[str, Tensor]:
    """The masks of all ticket layers of ``net`` by name, of the scores as they are now.

    Raises:
        ValueError: a layer has nothing left; the host waits for the device to see that.
    """
    with one_selection(net):
        masks = {name: layer.mask() for name, layer in ticket_layers(net).items()}
    for name, layer in ticket_layers(net).items():
        if layer.selection is not None and not masks[name].any():
            raise layer.selection.emptied(layer)
    return masks


def selections(net: nn.Module) -> list[Selection]:
    """What the ticket layers of ``net`` select with; none where each selects for itself."""
    found = {id(layer.selection): layer.selection for layer in ticket_layers(net).values()}
    return [selection for selection in found.values() if selection is not None]
