"""Selections that look beyond one layer, and the epochs of a search.

With ``selection=layerwise`` each layer selects its own number of weights. For the other selections
:func:`attach_selection` gives all ticket layers of a network one object:

    Global       selects the masks of all layers together, when the first layer asks in a forward of the network. They
                 hold until the end of that forward, within which no score changes. A layer called by itself selects
                 again, so a mask always follows from the current scores
    Threshold    keeps a weight whose importance exceeds a fixed number
    Calibrated   keeps a weight whose importance exceeds a number that is set so that the right share of the whole
                 network is kept: before the first step of an epoch (:func:`start_epoch`), before every ``refresh``-th
                 step after it, and by :func:`calibrate`. Each layer holds the number in its buffer ``threshold``, so
                 checkpoints hold it too. A layer that would keep nothing gets a lower number

The fraction removed may rise over the first epochs: :func:`start_epoch` says which epoch begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpt.search.checks import check_whole
from mpt.search.conversion import Conversion
from mpt.search.fast.memory import entries
from mpt.search.layers import Selection, TicketLayer, one_selection, ticket_layers, unwrap
from mpt.search.mask import kth_largest, select_jointly
from mpt.search.methods import Method
from mpt.search.steps import Steps, Updates

TOLERANCE = 0.005  # of the density of a calibrated threshold


class Together(Selection):
    """Selects the masks of all ticket layers of one network: their common ``selection``, with a ``place`` for each.

    Attributes:
        layers: the first layer of each scores tensor; ``names`` are their names.
        kept: number of weights kept in all layers together.
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
        self.opened, self.masks, self.steps = False, list[Tensor](), Steps()
        self.start_epoch(None)
        self._hooks = (
            net.register_forward_pre_hook(self._before_forward),
            net.register_forward_hook(self._after_forward, always_call=True),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": False, "masks": []}  # a copy is not inside the forward that is running

    def start_epoch(self, epoch: int | None) -> None:
        """Keep as many weights as the ramp keeps after ``epoch`` epochs, or with None as many as at its end."""
        n = sum(layer.weight.numel() for layer in self.layers)
        self.kept = self.method.num_kept(n, epoch=epoch)
        if self.kept < len(self.layers):
            raise ValueError(
                f"prune={self.method.prune:g} keeps {self.kept} of the network's {n} weights, which does not leave one "
                f"for each of its {len(self.layers)} layers: lower prune or raise width"
            )

    @contextmanager
    def open(self) -> Iterator[None]:
        self.opened, self.masks = True, []
        try:
            yield
        finally:
            self.opened, self.masks = False, []

    def remove(self) -> None:
        """Remove the hooks from the network."""
        for hook in self._hooks:
            hook.remove()

    def _ranked(self) -> tuple[list[Tensor], bool]:
        ranked = [layer.ranking() for layer in self.layers]
        return [values for values, _ in ranked], ranked[0][1]

    def _before_forward(self, net: nn.Module, _: Any) -> None:
        self.opened, self.masks = True, []

    def _after_forward(self, *_: Any) -> None:
        self.opened, self.masks = False, []


class Global(Together):
    """Keeps the right number of weights in the whole network, and at least one in each layer."""

    def mask(self, layer: TicketLayer) -> Tensor:
        if self.masks:
            return self.masks[layer.place]
        values, absolute = self._ranked()
        masks = select_jointly(values, kept=self.kept, absolute=absolute)
        self.masks = masks if self.opened else []
        return masks[layer.place]


class Threshold(Together):
    """Keeps the weights whose importance exceeds ``method.threshold``, however many they are."""

    def start_epoch(self, epoch: int | None) -> None:
        """Do nothing: the threshold is the same in all epochs."""

    def mask(self, layer: TicketLayer) -> Tensor:
        """Mask of the current scores of ``layer``.

        Raises:
            ValueError: the mask keeps nothing (checked on the CPU only, and not under torch.compile;
                :func:`current_masks` checks everywhere).
        """
        mask = layer.importance() > self.method.score_threshold
        if _is_visible(mask) and not entries(mask).numpy().any():
            raise self.empty(layer, self.names[layer.place])
        return mask

    def empty(self, layer: TicketLayer, name: str) -> ValueError:
        largest = layer.importance().max().item()
        return ValueError(
            f"threshold={self.method.threshold:g} keeps none of the {layer.weight.numel()} weights of layer {name!r}, "
            f"whose largest importance is {math.copysign(abs(largest) ** self.method.power, largest):.4g}: lower it"
        )


class Calibrated(Together):
    """Keeps the weights whose importance exceeds a number that is set again every ``method.refresh`` steps."""

    def __init__(self, net: nn.Module, method: Method) -> None:
        super().__init__(net, method)
        for layer in self.layers:
            layer.threshold = torch.zeros((), dtype=layer.scores.dtype, device=layer.scores.device)

    def mask(self, layer: TicketLayer) -> Tensor:
        if self.masks:
            return self.masks[layer.place]
        threshold = self.layers[layer.place].threshold
        assert threshold is not None
        return _above(layer.importance(), threshold)

    @torch.no_grad()
    def calibrate(self) -> None:
        """Set the threshold so that ``kept`` weights exceed it.

        Raises:
            ValueError: so many scores are equal that no threshold is within 0.5 points of the density (checked on
                the CPU only).
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
        """Whether the threshold misses the density by over 0.5 points; False on other devices, which would wait."""
        if self.layers[0].scores.device.type != "cpu":
            return False
        n = sum(layer.weight.numel() for layer in self.layers)
        return bool(abs(self._ones() - self.kept) > max(TOLERANCE * n, len(self.layers)))

    def _ones(self) -> int:
        """Number of weights that the threshold keeps; inside a forward the masks then hold until its end."""
        self.masks = []
        masks = [self.mask(layer) for layer in self.layers]
        self.masks = masks if self.opened else []
        return sum(int(np.count_nonzero(mask.numpy())) for mask in masks)

    def _before_forward(self, net: nn.Module, _: Any) -> None:
        super()._before_forward(net, _)
        step = self.steps.begin(net)
        if step is not None and (step % self.method.refresh == 0 or self._is_off()):
            self.calibrate()


KINDS: dict[str, type[Together]] = {"global": Global, "threshold": Threshold, "calibrated": Calibrated}


def _is_visible(x: Tensor) -> bool:
    """Whether reading the values of ``x`` costs nothing: on the CPU, unless torch.compile is tracing."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _above(importance: Tensor, threshold: Tensor) -> Tensor:
    """Mask of the entries that exceed ``threshold`` (0-d), or of the largest entries if none does."""
    if not _is_visible(importance):
        return _above_on_device(importance, threshold)
    mask = importance > threshold
    return mask if entries(mask).numpy().any() else importance == importance.amax()


def _above_on_device(importance: Tensor, threshold: Tensor) -> Tensor:
    """:func:`_above` without reading the mask, so that the host does not wait."""
    largest = importance.amax()
    below = torch.nextafter(largest, torch.full_like(largest, -torch.inf))
    return importance > torch.minimum(threshold, below)


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
        ValueError: ``accumulate`` is not a whole number of at least 1.
    """
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
