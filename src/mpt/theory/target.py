"""A target: the trained network that the theorems approximate, with layers ``y = W x + b``.

Batch-norm in evaluation is folded into the convolution or linear layer in front of it:

    s (W x + b - mean) + shift  =  (s W) x + (s (b - mean) + shift),   s = scale / sqrt(var + eps)

A softmax at the end is left out: classes and bounds are of the logits.
"""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from mpt.search.activations import BinaryActivation
from mpt.search.layers import ticket_layers
from mpt.search.wrapped import unwrap

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
LAST = (nn.Softmax, nn.LogSoftmax)
_LAST_FUNCTIONS = (F.softmax, F.log_softmax, torch.softmax, torch.log_softmax)


@dataclass(frozen=True)
class Target:
    """A network of Linear and Conv2d layers, ready for the constructions.

    Attributes:
        net: a copy in float64 and evaluation mode, batch-norms folded, without gradients.
        layers: its Linear and Conv2d layers by name.
        folded: batch-norm -> the layer that it is folded into.
        graph: its forward up to the logits, or None if torch.fx cannot follow it.
        obstacle: why it cannot.
    """

    net: nn.Module
    layers: dict[str, Any]
    folded: dict[str, str]
    graph: fx.GraphModule | None
    obstacle: str = ""

    @property
    def num_weights(self) -> int:
        """Weights of all layers, without biases."""
        return sum(layer.weight.numel() for layer in self.layers.values())


def prepare(network: nn.Module) -> Target:
    """The target of ``network``, which stays as it is.

    Raises:
        ValueError: a layer, or an activation, that the theorems and the certificate do not cover.
    """
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"the target must be a network, a torch module, got {type(network).__name__}: of a ticket file it is "
            "mpt.Ticket.load(file).network()"
        )
    network = unwrap(network)
    for name, value in network.named_parameters():
        if is_lazy(value) or value.is_meta:
            raise ValueError(f"parameter {name} of the target holds no numbers yet: train it, or load its weights")
    if ticket_layers(network):
        raise ValueError(
            "the target is a searched ticket: take a trained network, such as the ticket of mpt-train method=dense"
        )
    if any(isinstance(module, BinaryActivation) for module in network.modules()):
        raise ValueError("the target has binary activations: the theorems and the certificate are of ReLU networks")
    net = copy.deepcopy(network).eval().requires_grad_(False).cpu().double()
    for module in net.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}
    if not layers:
        raise ValueError(f"{type(network).__name__} has no Linear or Conv2d layer: there is nothing to construct")
    if "" in layers:
        raise ValueError("the target is one layer: hand it over as torch.nn.Sequential(layer)")
    if empty := [name for name, layer in layers.items() if not layer.weight.numel()]:
        raise ValueError(f"layer {empty[0]} of the target has no weights: leave it out")
    others = [n for n, m in net.named_modules() if isinstance(m, nn.modules.conv._ConvNd) and n not in layers]
    if others:
        raise ValueError(f"layer {others[0]} is {type(net.get_submodule(others[0])).__name__}: only Linear and Conv2d")
    for name, layer in layers.items():
        _check_layer(name, layer)
    graph, obstacle = _graph(net)
    folded = _fold(net, graph, layers) if graph is not None else {}
    if graph is not None:
        graph = fx.GraphModule(net, graph.graph)  # of the folded modules
    return Target(net, layers, folded, graph, obstacle)


def _check_layer(name: str, layer: Any) -> None:
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        raise ValueError(f"layer {name} has groups={layer.groups}: the construction is of convolutions with one group")
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        raise ValueError(f"layer {name} has padding_mode={layer.padding_mode}: only padding with zeros is covered")
    for what, value in layer.named_parameters(recurse=False):
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"layer {name} has a {what} that is not finite: a network that diverged has no ticket")


def _graph(net: nn.Module) -> tuple[fx.GraphModule | None, str]:
    try:
        module = fx.GraphModule(net, fx.Tracer().trace(net))
    except Exception as error:  # a forward may raise whatever it likes when it meets a proxy
        return None, next(iter(str(error).splitlines()), type(error).__name__)
    graph = module.graph
    output = next(node for node in graph.nodes if node.op == "output")
    last = output.args[0]
    while isinstance(last, fx.Node) and _is_softmax(net, last):
        last = last.args[0]
    output.args = (last,)
    graph.eliminate_dead_code()
    module.recompile()
    return module, ""


def _is_softmax(net: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(net.get_submodule(str(node.target)), LAST)
    return node.target in _LAST_FUNCTIONS or (node.op == "call_method" and node.target in ("softmax", "log_softmax"))


def _fold(net: nn.Module, graph: fx.GraphModule, layers: dict[str, Any]) -> dict[str, str]:
    """Fold batch-norms into the layers that alone feed them, in place; batch-norm -> layer."""
    calls: dict[str, int] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    folded = {}
    for node in list(graph.graph.nodes):
        name, source = str(node.target), node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(net.get_submodule(name), NORMS) or calls[name] > 1:
            continue
        before = str(source.target) if isinstance(source, fx.Node) and source.op == "call_module" else ""
        if before in layers and len(source.users) == 1 and calls[before] == 1:  # type: ignore[union-attr]
            _fold_one(layers[before], net.get_submodule(name))
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, nn.Identity())
            folded[name] = before
    return folded


def _fold_one(layer: Any, norm: Any) -> None:
    scale, shift = affine_of(norm)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
    bias = shift if layer.bias is None else scale * layer.bias + shift
    layer.bias = nn.Parameter(bias, requires_grad=False)


def affine_of(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel of a batch-norm in evaluation; ValueError without running statistics."""
    if norm.running_var is None:
        raise ValueError("a batch-norm without running statistics has no fixed scale: track them, and train again")
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def matrix(layer: Any) -> np.ndarray:
    """The weights of a layer as (rows, columns, places), float64: places are the kernel's, 1 for a linear layer."""
    weight: np.ndarray = (
        layer.weight.detach().double().flatten(2).numpy()
        if layer.weight.dim() > 2
        else (layer.weight.detach().double()[..., None].numpy())
    )
    return weight


def rows_of(values: np.ndarray) -> np.ndarray:
    """(rows, columns, places) -> (rows places, columns): the weights that share the neurons of a column."""
    return np.ascontiguousarray(values.transpose(0, 2, 1).reshape(-1, values.shape[1]))


def additions(graph: fx.GraphModule) -> list[str]:
    """Names of the additions in a forward, of which the theorems' chains have none."""
    adds = (operator.add, operator.iadd, torch.add)
    return [node.name for node in graph.graph.nodes if node.op == "call_function" and node.target in adds]
