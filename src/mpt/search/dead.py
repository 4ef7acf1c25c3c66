"""Layers that cannot learn: their scores get no gradient, or next to none, at the start of a search.

One backward pass gives for each searched layer ``r = ||dL/ds|| / ||s||``, the relative step of its scores. A layer is
dead if its ``r`` is at most 1e-4 of the largest

* of the network, and frozen scales near zero are the cause (:mod:`mpt.search.scales`), or
* of the layers behind it. Gradients that grow layer by layer towards the input, as signs make them, are no fault.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mpt.search.backbone import copied
from mpt.search.layers import ticket_layers
from mpt.search.parameters import BATCH_NORMS
from mpt.search.probe import evaluation_mode
from mpt.search.refusal import patterns_of
from mpt.search.scales import scales_near_zero
from mpt.search.trace import ForwardError, numbers_in, run, tensors_in

NEGLIGIBLE = 1e-4
_LEAST, _MOST, _NUMBERS = 4, 64, 2**13  # rows of a batch (batch-norm over fewer passes no gradient), numbers in it


class DeadLayers(UserWarning):
    """Some layers of a network will hardly learn."""


def warn_of_dead_layers(net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Warn, with :class:`DeadLayers`, of every layer of ``net`` that is dead, and of the scales that are the cause.

    A scale that is trained does not stay near zero, so a layer that is dead by it alone is not named.

    Args:
        net: a converted network, which keeps its mode, its statistics and its gradients.
        inputs: for one forward pass. Floating-point inputs of equal values are replaced by noise.
    """
    signal = _signal(inputs)
    if signal is None or not any(layer.method.learn_scores for layer in ticket_layers(net).values()):
        return
    with evaluation_mode(net), _batch_statistics(net) as norms:
        try:
            r = _relative_gradients(net, signal)
        except ForwardError:  # it may take batches of one size, or no batch-norm of one row
            signal = _signal(inputs, rows=0) or inputs
            norms.close()
            try:
                r = _relative_gradients(net, signal)
            except ForwardError:  # or no noise: then constants say nothing
                _refuse_unless_it_computes(net, inputs)
                return
        if not _weak(r):
            return
        scales = scales_near_zero(net, signal)
        trained = [name for name in scales if net.get_parameter(name).requires_grad]
        if trained:
            with _at_one(net, trained):
                r = _relative_gradients(net, signal)
        with _at_one(net, scales):
            at_one = _relative_gradients(net, signal) if scales else {}
            alive = at_one.keys() - _weak(at_one)
    starved = [name for name in _weak(r) if name in alive]
    others = [name for name in _weak(r) if name not in alive and _is_cut_off(name, r)]
    if starved or others:
        parameters = [name for name, _ in net.named_parameters() if name not in scales]
        causes = [name for name in scales if name not in trained]
        patterns = patterns_of(causes, others=parameters)
        sentence = _sentence(starved, others, names=list(r), causes=causes, patterns=patterns)
        warnings.warn(sentence, DeadLayers, stacklevel=3)


def _weak(r: dict[str, float]) -> list[str]:
    """The layers whose ``r`` is negligible next to the largest of the network."""
    return [name for name, value in r.items() if value <= NEGLIGIBLE * max(r.values())]


def _is_cut_off(name: str, r: dict[str, float]) -> bool:
    """Whether the ``r`` of this layer is 0, or negligible next to the largest of the layers behind it."""
    values = list(r.values())
    return r[name] <= NEGLIGIBLE * max(values[list(r).index(name) :])


def _relative_gradients(net: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, float]:
    """``||dL/ds|| / ||s||`` of the layers that learn, in the order of their calls; empty if one is not finite."""
    layers = {name: layer for name, layer in ticket_layers(net).items() if layer.scores.requires_grad}
    scores, calls = {id(layer.scores): layer.scores for layer in layers.values()}, dict[str, None]()
    with torch.enable_grad(), ExitStack() as hooks:
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(lambda *_, name=name: calls.setdefault(name))
            hooks.callback(hook.remove)
        loss = _loss(run(net, inputs))
        if loss is None:
            return {}
        if not loss.requires_grad:
            if _learns_in_training(net, inputs) is False:
                raise ValueError(
                    "no gradient reaches the scores, because the network detaches its output from them, or computes it "
                    "under torch.no_grad: leave that out"
                )
            return {}
        gradients = torch.autograd.grad(loss, list(scores.values()), allow_unused=True)
    by_scores = {
        key: 0.0 if gradient is None else _norm(gradient) / max(_norm(scores[key]), 1e-30)
        for key, gradient in zip(scores, gradients, strict=True)
    }
    relative = {name: by_scores[id(layers[name].scores)] for name in calls | dict.fromkeys(layers)}
    return relative if all(map(math.isfinite, relative.values())) else {}


def _refuse_unless_it_computes(net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """ForwardError if ``net`` fails with gradients, and in training mode too."""
    try:
        with torch.enable_grad():
            run(net, inputs)
    except ForwardError:
        if not _learns_in_training(net, inputs):
            raise


def _learns_in_training(net: nn.Module, inputs: tuple[Tensor, ...]) -> bool | None:
    """Whether the output of a copy of ``net`` in training mode has a gradient; None if it cannot be told."""
    try:
        twin = copied(net)  # whose statistics and counts of steps may change
        if updates := getattr(twin, "updates", None):
            updates.remove()
        with torch.enable_grad():
            loss = _loss(twin.train()(*inputs))
    except Exception:  # whatever a backbone raises: in training it may take other arguments
        return None
    return loss.requires_grad if loss is not None else None


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x.detach().float()))


def _loss(output: Any) -> Tensor | None:
    """A random linear function of the output, 0-d: its gradient reaches all that the output depends on."""
    generator = torch.Generator().manual_seed(1)
    terms = [(x * torch.randn(x.shape, generator=generator).to(x)).float().mean() for x in numbers_in(output)]
    return torch.stack(terms).sum() if terms else None


def _signal(inputs: tuple[Any, ...], *, rows: int = _MOST) -> tuple[Any, ...] | None:
    """``inputs`` with noise in place of constants; a single one with enough rows, unless ``rows`` is 0.

    None if they hold no signal.
    """
    generator, signal = torch.Generator().manual_seed(0), list[Any]()
    some = any(x.numel() for x in tensors_in(list(inputs)))
    for x in inputs:
        if not isinstance(x, Tensor) or x.layout != torch.strided or x.is_nested:
            if any(_is_constant(y) for y in tensors_in(x)):
                return None
            signal.append(x)
            continue
        constant, length = _is_constant(x), len(x) if x.dim() else 0
        if constant and not (some and x.is_floating_point()):
            return None
        most = length
        if rows and len(inputs) == 1 and x.dim() > 1:
            most = max(_LEAST, min(rows, _NUMBERS // x[0].numel()))
        if constant or length < most:
            shape, real = (most, *x.shape[1:]) if x.dim() else (), x.is_floating_point()
            x = torch.randn(shape, generator=generator).to(x) if real else torch.cat([x] * (most // length + 1))
        signal.append(x[:most] if x.dim() else x)
    return tuple(signal)


def _is_constant(x: Tensor) -> bool:
    if x.layout != torch.strided or x.is_nested:
        return False
    return bool((x == x.flatten()[0]).all()) if x.numel() else True


@contextmanager
def _batch_statistics(net: nn.Module) -> Iterator[ExitStack]:
    """Inside, batch-norm normalises by the batch, until what it gives is closed; its running statistics stay."""
    norms = [module for module in net.modules() if isinstance(module, BATCH_NORMS)]
    buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
    with ExitStack() as stack:
        for buffer, before in [(buffer, buffer.clone()) for buffer in buffers]:
            stack.callback(buffer.copy_, before)
        for norm in norms:
            stack.callback(norm.eval)
            norm.train()
        yield stack


@contextmanager
def _at_one(net: nn.Module, names: list[str]) -> Iterator[None]:
    """Inside, the parameters of these names are 1."""
    with ExitStack() as stack, torch.no_grad():
        for parameter in map(net.get_parameter, names):
            stack.callback(parameter.data.copy_, parameter.data.clone())
            parameter.data.fill_(1)
        yield


def _sentence(
    starved: list[str], others: list[str], *, names: list[str], causes: list[str], patterns: list[str]
) -> str:
    """What, why and what to do.

    Args:
        starved: the layers that scales near zero starve; others: layers that are dead whatever those are.
        names: all layers that learn.
        causes: names of the scales; patterns match them.
    """
    parts = []
    if starved:
        parts.append(
            f"{', '.join(starved)}, because {', '.join(causes)} multiply what they compute and are frozen near zero: "
            f"train those with trained={patterns}, or let a seed draw the network, which starts them at 1"
        )
    if others:
        rest = [name for name in names if name not in others]
        parts.append(
            f"{', '.join(others)}, because what they compute hardly reaches the output: take larger inputs or a lower "
            f"prune, or leave them out with dense={patterns_of(others, others=rest)}"
        )
    count = f"{len(starved) + len(others)} of {len(names)} searched layers"
    return f"{count} will hardly learn, their scores get next to no gradient: {'; '.join(parts)}"
