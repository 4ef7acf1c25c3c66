"""The probe: one forward that proves that a converted network really computes with its ticket.

In evaluation mode, with the ticket weights made beforehand: a converted layer that nobody asks for its ticket weight is
never called; and where the network's output turns NaN once all frozen weights are NaN, somebody reads a layer's
``weight`` past the layer, as attention often does. Both are refused by name.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mpt.search.layers import Made, TicketLayer, frozen, kind_of, some, ticket_layers

_SIZES = (32, 64, 224, 28, 16, 8, 96, 128, 299)  # image sides tried when the backbone tells none


def probe(net: nn.Module, example: Tensor | tuple[Tensor, ...] | None) -> None:
    """Raise ValueError naming the layers of ``net`` that are not called, or whose weight is read past them.

    Args:
        net: with ticket layers; left as it was, its mode and torch's generator too.
        example: its input, or a tuple of inputs; by default a few usual shapes are tried, and if none fits, warned of.
    """
    layers, called = ticket_layers(net), set[str]()
    with evaluating(net):
        with frozen(net):
            inputs = inputs_of(net, example)
            if inputs is None:
                return
            for name, layer in layers.items():
                layer.made = _Watched(*_made(layer), name=name, called=called)  # type: ignore[assignment]
            net(*inputs)
            _refuse_uncalled([name for name in layers if name not in called])
            with _poisoned(list(layers.values())):
                bypassed = not _finite(net(*inputs))
        if bypassed:
            _refuse_bypassed(net, layers, inputs)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Inside, ``net`` is in evaluation mode and no gradients are kept; its modes and torch's generator come back."""
    was_training = {module: module.training for module in net.modules()}
    try:
        net.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in was_training.items():
            module.training = mode


class _Watched:
    """What ``frozen`` keeps of a layer, and a note of who asks for its ticket weight. Not a forward hook: torch's
    transformer layers take another way, which reads weights, unless a hook is there."""

    def __init__(self, mask: Tensor, gain: Tensor, weight: Tensor, *, name: str, called: set[str]) -> None:
        self.mask, self.gain, self._weight, self._name, self._called = mask, gain, weight, name, called

    @property
    def ticket_weight(self) -> Tensor:
        self._called.add(self._name)
        return self._weight


def _made(layer: TicketLayer) -> Made:
    assert layer.made is not None
    return layer.made


def inputs_of(net: nn.Module, example: Tensor | tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
    """``example`` as a tuple, or the first guess that ``net`` takes; None, and a warning, if it takes none."""
    if example is not None:
        return example if isinstance(example, tuple) else (example,)
    for shape in _guesses(net):
        parameter = next(net.parameters())
        guess = torch.ones(shape, device=parameter.device, dtype=parameter.dtype)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a guess that does not fit
                net(guess)
            return (guess,)
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError, AttributeError, KeyError):
            continue
    warnings.warn(
        "convert could not guess an input for its probe forward, so whether every layer is called was not checked; "
        "pass example=<one batch>",
        stacklevel=4,
    )
    return None


def _guesses(net: nn.Module) -> Iterator[tuple[int, ...]]:
    """Input shapes worth trying, from the first layer that can be searched and what the backbone says of itself."""
    first: Any = next((layer for layer in net.modules() if kind_of(layer)), None)
    told = (
        getattr(net, "image_size", None) or (getattr(net, "default_cfg", None) or {}).get("input_size", (0, 0, None))[2]
    )
    sizes = ((told,) if isinstance(told, int) else ()) + _SIZES
    channels: Any = getattr(net, "in_channels", None) or getattr(first, "in_channels", 3)
    if isinstance(first, nn.Linear):
        yield (2, first.in_features)
    dims = {nn.Conv1d: 1, nn.Conv3d: 3}.get(kind_of(first), 2)  # type: ignore[arg-type]
    for size in sizes:
        yield (2, channels, *(size,) * dims)


def _refuse_uncalled(names: list[str]) -> None:
    if names:
        raise ValueError(
            f"{some(names)}: converted, but never called in a forward pass (attention often reads a layer's weight "
            f"directly), so the search could not reach it; leave it out with dense=({_patterns(names)})"
        )


def _patterns(names: list[str]) -> str:
    """Layer names as they would be typed, numbers as ``*`` where there are many."""
    if len(names) <= 3:
        return ", ".join(f"'{name}'" for name in names) + ","
    starred = dict.fromkeys("*." + name.rsplit(".", 1)[-1] for name in names)
    return ", ".join(f"'{name}'" for name in starred) + ","


@contextmanager
def _poisoned(layers: list[TicketLayer]) -> Iterator[None]:
    """Inside, the weight of each layer is NaN: whoever reads it instead of calling the layer is found out."""
    weights = [layer.weight for layer in layers]
    try:
        for layer in layers:
            layer.weight = nn.Parameter(torch.full_like(layer.weight, torch.nan), requires_grad=False)
        yield
    finally:
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight = weight


def _finite(output: object) -> bool:
    if isinstance(output, Tensor):
        return not output.is_floating_point() or bool(torch.isfinite(output).all())
    if isinstance(output, dict):
        return all(_finite(value) for value in output.values())
    return all(_finite(value) for value in output) if isinstance(output, (list, tuple)) else True


def _refuse_bypassed(net: nn.Module, layers: dict[str, TicketLayer], inputs: tuple[Tensor, ...]) -> None:
    names = []
    with frozen(net):
        if not _finite(net(*inputs)):
            return  # the network's own output is not finite: nothing was learned about its weights
        for name, layer in layers.items():
            with _poisoned([layer]):
                if not _finite(net(*inputs)):
                    names.append(name)
    _refuse_uncalled(names)
