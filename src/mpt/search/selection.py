"""Selections that look beyond one layer.

With ``selection=layerwise`` each layer selects its own number of weights. For the other selections
:func:`mpt.search.epochs.attach_selection` gives all ticket layers of a network one object:

    Global       selects the masks of all layers together, when the first layer asks in a forward of the network. They
                 hold until the end of that forward, within which no score changes. A layer called by itself selects
                 again, so a mask always follows from the current scores
    Threshold    keeps a weight whose importance exceeds a fixed number
    Calibrated   keeps a weight whose importance exceeds a number that is set so that the right share of the whole
                 network is kept: before the first step of an epoch (:func:`mpt.start_epoch`), before every
                 ``refresh``-th step after it, and by :func:`mpt.search.epochs.calibrate`. Each layer holds the number
                 in its buffer ``threshold``, so checkpoints hold it too. A layer that would keep nothing gets a lower
                 number

On a CPU a layer may have a choice (:mod:`mpt.search.quick`) in place of its mask, under the same rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpt.search.fast.choice import Choice, empty_signs
from mpt.search.fast.memory import entries
from mpt.search.layers import Selection, TicketLayer, ticket_layers
from mpt.search.mask import kth_largest, select_jointly
from mpt.search.methods import Method
from mpt.search.quick import choose_above, choose_kept, least_size
from mpt.search.steps import Steps

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
        self.choices: list[Choice] = []  # instead of masks, where all layers have one
        self.start_epoch(None)
        self._hooks = (
            net.register_forward_pre_hook(self._before_forward),
            net.register_forward_hook(self._after_forward, always_call=True),
        )

    def __getstate__(self) -> dict[str, Any]:
        nothing: dict[str, Any] = {"opened": False, "masks": [], "choices": []}  # a copy is in no forward
        return {**self.__dict__, **nothing}

    def start_epoch(self, epoch: int | None) -> None:
        """Keep as many weights as the ramp keeps after ``epoch`` epochs, or with None as many as at its end."""
        n = sum(layer.weight.numel() for layer in self.layers)
        self.kept = self.method.num_kept(n, epoch=epoch)
        if self.kept < len(self.layers):
            raise ValueError(
                f"prune={self.method.prune:g} keeps {self.kept} of the network's {n} weights, which does not leave one "
                f"for each of its {len(self.layers)} layers: lower prune or raise width"
            )

    def choose(self, layer: TicketLayer) -> Choice | None:
        return None

    @contextmanager
    def open(self) -> Iterator[None]:
        self._hold(True)
        try:
            yield
        finally:
            self._hold(False)

    def _hold(self, opened: bool) -> None:
        """Hold what is selected from now on, or nothing."""
        self.opened, self.masks, self.choices = opened, [], []

    def remove(self) -> None:
        """Remove the hooks from the network."""
        for hook in self._hooks:
            hook.remove()

    def _ranked(self) -> tuple[list[Tensor], bool]:
        ranked = [layer.ranking() for layer in self.layers]
        return [values for values, _ in ranked], ranked[0][1]

    def _of(self, layer: TicketLayer, choices: list[Choice]) -> Choice | None:
        """The choice of ``layer`` among those of all layers, if it has the weight of the layer they are of."""
        return choices[layer.place] if choices and layer.weight is self.layers[layer.place].weight else None

    def _signs(self) -> list[np.ndarray]:
        """Memory for the signs of each layer."""
        return [empty_signs(layer.weight.numel()) for layer in self.layers]

    def _before_forward(self, net: nn.Module, _: Any) -> None:
        self._hold(True)

    def _after_forward(self, *_: Any) -> None:
        self._hold(False)


class Global(Together):
    """Keeps the right number of weights in the whole network, and at least one in each layer."""

    def __init__(self, net: nn.Module, method: Method) -> None:
        super().__init__(net, method)
        self.alone = set[int]()  # places of layers that kept only their largest score at the last selection

    def mask(self, layer: TicketLayer) -> Tensor:
        if self.masks:
            return self.masks[layer.place]
        values, absolute = self._ranked()
        masks = select_jointly(values, kept=self.kept, absolute=absolute)
        self.masks = masks if self.opened else []
        return masks[layer.place]

    def choose(self, layer: TicketLayer) -> Choice | None:
        if self.masks:
            return None
        choices = self.choices or choose_kept(self.layers, kept=self.kept, signs=self._signs(), alone=self.alone) or []
        self.choices = choices if self.opened else []
        return self._of(layer, choices)


class Threshold(Together):
    """Keeps the weights whose importance exceeds ``method.threshold``, however many they are."""

    def start_epoch(self, epoch: int | None) -> None:
        """Do nothing: the threshold is the same in all epochs."""

    def mask(self, layer: TicketLayer) -> Tensor:
        """Mask of the current scores of ``layer``.

        Raises:
            ValueError: the mask keeps nothing (checked on the CPU only, and not under torch.compile;
                :func:`mpt.search.epochs.current_masks` checks everywhere).
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

    def choose(self, layer: TicketLayer) -> Choice | None:
        if self.masks:
            return None
        choices = self.choices or self._choices()
        return self._of(layer, choices)

    def _choices(self) -> list[Choice]:
        """What the threshold keeps of each layer; empty if a layer has no choice."""
        choices, least = list[Choice](), least_size(self.layers)
        for one, signs in zip(self.layers, self._signs(), strict=True):
            assert one.threshold is not None
            choice = choose_above(one, one.threshold, signs=signs, least=least)
            if choice is None:
                return []
            choices.append(choice)
        return choices

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
        self.masks, self.choices = [], []
        if choices := self._choices():
            self.choices = choices if self.opened else []
            return sum(choice.ones for choice in choices)
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
