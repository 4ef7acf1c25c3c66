"""What each torch module, function and method is in :mod:`mpt.engine.graph`: three tables of rules.

A rule takes the builder, the name of the layer, and the arguments of the call with values as nodes; it adds a node and
returns it. It refuses settings that the engine does not compute. Batch-norm in evaluation is ``scale = w / sqrt(var +
eps)`` and ``shift = b - mean scale``, both made in float64.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mpt.engine.graph import Affine, Builder, Conv, Node, Pool, Windows
from mpt.search.activations import BinaryActivation

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def unknown(name: str, what: str) -> ValueError:
    """The refusal of ``what`` in the layer or operation ``name``."""
    return ValueError(f"the engine does not know {what} (layer {name}): run this ticket in torch, Ticket.network()")


def of_module(module: nn.Module) -> Callable[..., Node] | None:
    """The rule of a module, None if there is none."""
    return next((rule for kind, rule in _MODULES.items() if isinstance(module, kind)), None)


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().contiguous().numpy()
    return array


def _conv(b: Builder, name: str, x: Node, layer: Any) -> Node:
    if layer.padding_mode != "zeros":
        raise unknown(name, f"padding_mode={layer.padding_mode}")
    kernel, stride, dilation = _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.dilation)
    reach = tuple((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
    if layer.padding == "same":
        padding = (reach[0] // 2, reach[0] - reach[0] // 2, reach[1] // 2, reach[1] - reach[1] // 2)
    else:
        rows, columns = (0, 0) if layer.padding == "valid" else _pair(layer.padding)
        padding = (rows, rows, columns, columns)
    height = (x.shape[1] + padding[0] + padding[1] - reach[0] - 1) // stride[0] + 1
    width = (x.shape[2] + padding[2] + padding[3] - reach[1] - 1) // stride[1] + 1
    _check_input(b, name, x, channels=layer.in_channels, sides=(height, width))
    conv = Conv(_array(layer.weight), stride, padding, dilation, layer.groups, *_epilogue(layer))
    return b.add(Node("conv", name, [x], (layer.out_channels, height, width), conv=conv))


def _linear(b: Builder, name: str, x: Node, layer: Any) -> Node:
    if x.shape[1:] != (1, 1):
        raise unknown(name, f"a linear layer on an image of shape {x.shape} that was not flattened")
    _check_input(b, name, x, channels=layer.in_features, sides=(1, 1))
    weight = _array(layer.weight)[:, :, None, None]
    conv = Conv(weight, (1, 1), (0, 0, 0, 0), (1, 1), 1, *_epilogue(layer))
    return b.add(Node("conv", name, [x], (layer.out_features, 1, 1), conv=conv))


def _epilogue(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of a layer's outputs: 1, and its bias."""
    outputs = len(layer.weight)
    bias = np.zeros(outputs, np.float32) if layer.bias is None else _array(layer.bias)
    return np.ones(outputs, np.float32), bias


def _check_input(b: Builder, name: str, x: Node, *, channels: int, sides: tuple[int, int]) -> None:
    if x.shape[0] != channels or min(sides) < 1:
        raise ValueError(
            f"layer {name} takes {channels} channels and gets an image of shape {x.shape} when the network's "
            f"input is {b.shape}: pass the image_size that the network is for"
        )


def _norm(b: Builder, name: str, x: Node, layer: Any) -> Node:
    if layer.running_mean is None:
        raise unknown(name, "batch-norm without running statistics, which depends on the whole batch")
    mean, var = layer.running_mean.double(), layer.running_var.double()
    scale = (1.0 if layer.weight is None else layer.weight.detach().double()) / (var + layer.eps).sqrt()
    shift = (0.0 if layer.bias is None else layer.bias.detach().double()) - mean * scale

    def norm(points: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return F.batch_norm(
                points, layer.running_mean, layer.running_var, layer.weight, layer.bias, False, 0.0, layer.eps
            )

    return b.add(Node("affine", name, [x], x.shape, affine=Affine(_array(scale), _array(shift), norm)))


def _pool(b: Builder, name: str, x: Node, kind: str, sides: Sequence[tuple[Windows, tuple[int, ...]]]) -> Node:
    (rows, row_sizes), (columns, column_sizes) = sides
    pool = Pool(kind, rows, columns, row_sizes, column_sizes)
    return b.add(Node("pool", name, [x], (x.shape[0], len(rows), len(columns)), pool=pool))


def _windows(
    n: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool, counted: bool = True
) -> tuple[Windows, tuple[int, ...]]:
    """Windows over ``n`` entries and the size by which each divides; ``counted`` says that padding is counted."""
    reach = dilation * (kernel - 1) + 1
    outputs = (math.ceil if ceil else math.floor)((n + 2 * padding - reach) / stride) + 1
    if ceil and (outputs - 1) * stride >= n + padding:
        outputs -= 1  # torch: the last window must begin inside the image or its left padding
    inside, sizes = [], []
    for i in range(outputs):
        places = range(i * stride - padding, i * stride - padding + reach, dilation)
        inside.append(tuple(place for place in places if 0 <= place < n))
        sizes.append(len([place for place in places if place < n + padding]) if counted else len(inside[-1]))
    return tuple(inside), tuple(sizes)


def _max_pool(
    b: Builder,
    name: str,
    x: Node,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Node:
    if return_indices:
        raise unknown(name, "a pool that returns indices")
    kernel = _pair(kernel_size)
    steps, pads, spread = _pair(stride or kernel), _pair(padding), _pair(dilation)
    sides = [_windows(x.shape[i + 1], kernel[i], steps[i], pads[i], spread[i], ceil_mode) for i in (0, 1)]
    return _pool(b, name, x, "max", sides)


def _mean_pool(
    b: Builder,
    name: str,
    x: Node,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Node:
    if divisor_override is not None:
        raise unknown(name, "a mean pool with a divisor of its own")
    kernel = _pair(kernel_size)
    steps, pads = _pair(stride or kernel), _pair(padding)
    sides = [_windows(x.shape[i + 1], kernel[i], steps[i], pads[i], 1, ceil_mode, count_include_pad) for i in (0, 1)]
    return _pool(b, name, x, "mean", sides)


def _adaptive(kind: str) -> Callable[..., Node]:
    def rule(b: Builder, name: str, x: Node, output_size: Any) -> Node:
        wanted = (output_size, output_size) if isinstance(output_size, int) or output_size is None else output_size
        sides = []
        for n, outputs in zip(x.shape[1:], wanted, strict=True):
            m = n if outputs is None else outputs
            spans = tuple(tuple(range(i * n // m, -(-(i + 1) * n // m))) for i in range(m))
            sides.append((spans, tuple(len(span) for span in spans)))
        return _pool(b, name, x, kind, sides)

    return rule


def _mean(b: Builder, name: str, x: Node, dim: Any, keepdim: bool = False) -> Node:
    if not isinstance(dim, (list, tuple)) or sorted(d % 4 for d in dim) != [2, 3]:
        raise unknown(name, f"a mean over dimensions {dim}")
    return _adaptive("mean")(b, name, x, 1)  # (C, 1, 1): with and without keepdim the same for us


def _add(b: Builder, name: str, x: Any, y: Any, alpha: float = 1) -> Any:
    if not isinstance(x, Node) and not isinstance(y, Node):
        return x + y  # of shapes
    if not isinstance(x, Node) or not isinstance(y, Node) or x.shape != y.shape or alpha != 1:
        raise unknown(name, "a sum of anything but two images of one shape")
    return b.add(Node("add", name, [x, y], x.shape))


def _flatten(b: Builder, name: str, x: Node, start_dim: int = 1, end_dim: int = -1) -> Node:
    if start_dim != 1 or end_dim not in (-1, 3, 1):
        raise unknown(name, f"a flatten from dimension {start_dim} to {end_dim}")
    return b.add(Node("flatten", name, [x], (math.prod(x.shape), 1, 1)))


def _view(b: Builder, name: str, x: Node, *sizes: Any) -> Node:
    shape = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (list, tuple)) else sizes
    rows_are_images = len(shape) == 2 and (isinstance(shape[0], _Batch) or shape[0] == -1)
    if not rows_are_images or shape[1] not in (-1, math.prod(x.shape)):
        raise unknown(name, f"a view of {x.shape} as {tuple(shape)}")
    return b.add(Node("flatten", name, [x], (math.prod(x.shape), 1, 1)))


class _Batch:
    """The number of images, which the engine does not know when it traces."""

    def __repr__(self) -> str:
        return "batch"


def _size(b: Builder, name: str, x: Node, dim: int | None = None) -> Any:
    flat = x.shape[1:] == (1, 1) and x.kind in ("flatten", "conv")
    sizes = (_Batch(), *(x.shape[:1] if flat else x.shape))
    return sizes if dim is None else sizes[dim]


def _getattr(b: Builder, name: str, x: Any, attribute: str) -> Any:
    if attribute != "shape" or not isinstance(x, Node):
        raise unknown(name, f"the attribute {attribute}")
    return _size(b, name, x)


def _getitem(b: Builder, name: str, x: Any, index: Any) -> Any:
    """An entry of a shape, or every n-th row and column of an image."""
    if not isinstance(x, Node):
        return x[index]
    slices = index if isinstance(index, tuple) else (index,)
    if (
        not all(isinstance(part, slice) for part in slices)
        or len(slices) > 4
        or any(part != slice(None) for part in slices[:2])
    ):
        raise unknown(name, "this kind of indexing")
    sides = []
    for n, part in zip(x.shape[1:], (*slices[2:], slice(None), slice(None)), strict=False):
        places = tuple((place,) for place in range(n)[part])
        sides.append((places, (1,) * len(places)))
    return _pool(b, name, x, "max", sides)


def _concat(b: Builder, name: str, tensors: Sequence[Node], dim: int = 0) -> Node:
    if dim not in (1, -3) or len({x.shape[1:] for x in tensors}) > 1:
        raise unknown(name, f"a concatenation along dimension {dim}")
    return b.add(Node("concat", name, list(tensors), (sum(x.shape[0] for x in tensors), *tensors[0].shape[1:])))


def _same(b: Builder, name: str, x: Node, *_: Any, **__: Any) -> Node:
    return x


def _functional_dropout(b: Builder, name: str, x: Node, p: float = 0.5, training: bool = True, **_: Any) -> Node:
    if training:
        raise unknown(name, "dropout that is active in evaluation")
    return x


def _simple(kind: str) -> Callable[..., Node]:
    return lambda b, name, x, *_, **__: b.add(Node(kind, name, [x], x.shape))


def _attributes(rule: Callable[..., Node], *names: str) -> Callable[..., Node]:
    """A rule of a module from the rule of the function: the arguments are the module's attributes."""
    return lambda b, name, x, layer: rule(b, name, x, *(getattr(layer, name) for name in names))


_MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_MEAN = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_MODULES: dict[Any, Callable[..., Node]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), _norm),
    nn.ReLU: _simple("relu"),
    BinaryActivation: _simple("sign"),
    nn.MaxPool2d: _attributes(_max_pool, *_MAX),
    nn.AvgPool2d: _attributes(_mean_pool, *_MEAN),
    nn.AdaptiveAvgPool2d: _attributes(_adaptive("mean"), "output_size"),
    nn.AdaptiveMaxPool2d: _attributes(_adaptive("max"), "output_size"),
    nn.Flatten: _attributes(_flatten, "start_dim", "end_dim"),
    nn.Identity: _same,
    **dict.fromkeys(DROPOUTS, _same),
}
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_), _simple("relu")),
    F.max_pool2d: _max_pool,
    F.avg_pool2d: _mean_pool,
    F.adaptive_avg_pool2d: _adaptive("mean"),
    F.dropout: _functional_dropout,
    **{torch.flatten: _flatten, torch.mean: _mean, torch.cat: _concat},
    **dict.fromkeys((torch.add, operator.add, operator.iadd), _add),
    operator.getitem: _getitem,
    getattr: _getattr,
}
METHODS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("relu", "relu_"), _simple("relu")),
    **dict.fromkeys(("add", "add_"), _add),
    **dict.fromkeys(("view", "reshape"), _view),
    "flatten": _flatten,
    "mean": _mean,
    "size": _size,
    "contiguous": _same,
}
