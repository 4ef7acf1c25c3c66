"""A ticket as an ONNX file: weights of -1, 0 and +1 in few bits, and one scale for each output.

    weight (int8, int4 or int2)  --DequantizeLinear, scale[o]-->  float32 weight  -->  Conv or Gemm, bias[o]

The graph is that of the engine (:mod:`mpt.engine.fuse`): ``scale`` is the gain times batch-norm's scale, ``bias`` is
batch-norm's shift. With binary activations, batch-norm and sign are one integer threshold, so that the signs are
torch's to the bit. Values of one pixel are features, (N, F); all others are images, (N, C, H, W), of any N.

Source: the ONNX operators of opset 21, and of opset 25 for int2 (https://onnx.ai/onnx/operators).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from mpt.engine.engine import operations
from mpt.engine.graph import Conv, Node, Pool, Windows
from mpt.files import DISTRIBUTION, version
from mpt.ticket.ticket import Ticket

BITS = {"int8": 8, "int4": 4, "int2": 2, "float": 32}  # of a weight
OPSETS = {"int8": 21, "int4": 21, "int2": 25, "float": 21}


def to_onnx(ticket: Ticket, *, weights: str = "int8", image_size: int | tuple[int, int] | None = None) -> bytes:
    """The content of an ONNX file whose input is ``images``, (N, C, H, W) float32, and whose output is ``logits``.

    Args:
        ticket: a ticket whose network :func:`mpt.compile` takes.
        weights: type of the weights: "int8", "int4", "int2", or "float" for float32 with the scale in them.
            Weights of layers that hold real numbers stay float32.
        image_size: side of the images, or (height, width); by default what the ticket or its network says.

    Raises:
        ValueError: another type; the package onnx is missing; see also :func:`mpt.compile`.
    """
    if weights not in BITS:
        raise ValueError(f"weights is the type of the weights, one of {', '.join(BITS)}, got {weights}")
    try:
        from onnx import helper
    except ImportError as error:
        raise ValueError(f"ONNX files need an extra: pip install '{DISTRIBUTION}[onnx]'") from error
    nodes = operations(ticket, image_size=image_size)
    writer = _Writer(weights)
    for node in nodes:
        writer.add(node)
    writer.emit("Identity", [writer.values[id(nodes[-1])]], output="logits")
    ends = [
        helper.make_tensor_value_info(name, 1, ["batch", *shape])
        for name, shape in (("images", nodes[0].shape), ("logits", _shape(nodes[-1])))
    ]
    graph = helper.make_graph(writer.nodes, "ticket", ends[:1], ends[1:], list(writer.constants.values()))
    opsets = [helper.make_opsetid("", OPSETS[weights])]
    ir_version = helper.find_min_ir_version_for(opsets)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name=DISTRIBUTION)
    model.producer_version = version()
    about = {"ticket": ticket.digest}
    about |= {key: json.dumps(ticket.header[key]) for key in ("class_names", "normalization") if key in ticket.header}
    helper.set_model_props(model, about)
    return bytes(model.SerializeToString())


def _is_features(node: Node) -> bool:
    return node.shape[1:] == (1, 1)


def _shape(node: Node) -> tuple[int, ...]:
    """Of a value in the file, without the batch."""
    return node.shape[:1] if _is_features(node) else node.shape


class _Writer:
    """Operations as nodes of ONNX."""

    def __init__(self, weights: str) -> None:
        self.weights = weights
        self.nodes, self.names = list[Any](), {"images", "logits"}
        self.constants: dict[tuple[object, ...], Any] = {}  # by type, shape and content: equal ones once
        self.values: dict[int, str] = {}

    def emit(self, operation: str, inputs: list[str], *, output: str, **attributes: Any) -> str:
        """Add a node; the name of its output."""
        from onnx import helper

        name = output if output == "logits" else self._name(output)
        self.nodes.append(helper.make_node(operation, inputs, [name], **attributes))
        return name

    def _name(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self.names:
            count += 1
            name = f"{wanted}_{count}"
        self.names.add(name)
        return name

    def constant(self, array: np.ndarray, name: str) -> str:
        """The name of a constant: float32, int64, or int8 of which :attr:`weights` says how many bits are kept."""
        from onnx import TensorProto, helper

        kind = {"float32": "FLOAT", "int64": "INT64", "int8": self.weights.upper()}[str(array.dtype)]
        raw = _packed(array, BITS[self.weights]) if array.dtype == np.int8 else array.tobytes()
        key = kind, array.shape, raw
        if key not in self.constants:
            made = helper.make_tensor(self._name(name), getattr(TensorProto, kind), array.shape, raw, raw=True)
            self.constants[key] = made
        return str(self.constants[key].name)

    def add(self, node: Node) -> None:
        """Write an operation of the engine."""
        value = str(getattr(self, f"_{node.kind}")(node, *(self.values[id(source)] for source in node.inputs)))
        self.values[id(node)] = self.emit("Relu", [value], output=f"{node.name}.relu") if node.relu else value

    def image(self, node: Node, value: str) -> str:
        """The value of ``node`` with four dimensions."""
        if not _is_features(node):
            return value
        shape = self.constant(np.array([0, -1, 1, 1]), "image")
        return self.emit("Reshape", [value, shape], output=f"{node.name}.image")

    def features(self, node: Node, value: str) -> str:
        """What was computed for ``node`` with four dimensions, with two if it is features."""
        return self.emit("Flatten", [value], output=f"{node.name}.features") if _is_features(node) else value

    def _input(self, node: Node) -> str:
        return self.features(node, "images")

    def _conv(self, node: Node, x: str, residual: str | None = None) -> str:
        assert node.conv is not None
        conv, source, name = node.conv, node.inputs[0], node.name
        weight, bias = self._weight(conv, name)
        inputs = [weight, self.constant(bias, f"{name}.bias")]
        if _is_features(source) and _is_features(node) and conv.weight.shape[2:] == (1, 1) and conv.groups == 1:
            flat = self.emit("Flatten", [weight], output=f"{name}.matrix")
            y = self.emit("Gemm", [x, flat, inputs[1]], output=name, transB=1)
        else:
            top, bottom, left, right = conv.padding
            options: dict[str, Any] = {"kernel_shape": conv.weight.shape[2:], "pads": [top, left, bottom, right]}
            options |= {"strides": conv.stride, "dilations": conv.dilation, "group": conv.groups}
            y = self.emit("Conv", [self.image(source, x), *inputs], output=name, **options)
            y = self.features(node, y)
        if conv.threshold is not None:
            return self.emit("Sign", [y], output=f"{name}.sign")
        if residual is not None:
            y = self.emit("Add", [y, residual], output=f"{name}.sum")
        return self.emit("Relu", [y], output=f"{name}.relu") if conv.relu else y

    def _weight(self, conv: Conv, name: str) -> tuple[str, np.ndarray]:
        """The weight's name, and the bias.

        ``sum >= threshold`` is ``sum - threshold + 1/2 > 0`` for an integer sum, and its opposite
        ``-sum + threshold - 1/2 > 0``; neither is ever 0.
        """
        scale, bias, signs = conv.scale.astype(np.float32), conv.shift.astype(np.float32), conv.signs
        if conv.threshold is not None and conv.flip is not None:
            scale = np.where(conv.flip, -1, 1).astype(np.float32)
            bias = ((0.5 - conv.threshold) * scale).astype(np.float32)
        outputs = (-1, 1, 1, 1)
        if signs is None or self.weights == "float":
            weight = (conv.weight if signs is None else signs) * scale.reshape(outputs)
            return self.constant(weight.astype(np.float32), f"{name}.weight"), bias
        weight = np.where(scale < 0, -1, 1).reshape(outputs) * signs  # a scale of DequantizeLinear is not negative
        parts = [
            self.constant(weight.astype(np.int8), f"{name}.weight"),
            self.constant(abs(scale), f"{name}.scale"),
        ]
        return self.emit("DequantizeLinear", parts, output=f"{name}.float", axis=0), bias

    def _channels(self, node: Node, numbers: np.ndarray, name: str) -> str:
        """A number for each channel, to be multiplied with or added to the value of ``node``."""
        shape = (-1,) if _is_features(node) else (-1, 1, 1)
        return self.constant(numbers.astype(np.float32).reshape(shape), f"{node.name}.{name}")

    def _affine(self, node: Node, x: str) -> str:
        assert node.affine is not None
        y = self.emit("Mul", [x, self._channels(node, node.affine.scale, "scale")], output=f"{node.name}.scaled")
        return self.emit("Add", [y, self._channels(node, node.affine.shift, "shift")], output=node.name)

    def _flip(self, node: Node, x: str) -> str:
        assert node.flips is not None
        return self.emit("Mul", [x, self._channels(node, np.where(node.flips, -1, 1), "flips")], output=node.name)

    def _sign(self, node: Node, x: str) -> str:
        zero, one, less = (self.constant(np.array(v, np.float32), name) for v, name in ((0, "0"), (1, "1"), (-1, "-1")))
        test = self.emit("GreaterOrEqual", [x, zero], output=f"{node.name}.test")
        return self.emit("Where", [test, one, less], output=node.name)

    def _real(self, node: Node, x: str) -> str:
        return x

    def _relu(self, node: Node, x: str) -> str:
        return self.emit("Relu", [x], output=node.name)

    def _add(self, node: Node, a: str, b: str) -> str:
        return self.emit("Add", [a, b], output=node.name)

    def _flatten(self, node: Node, x: str) -> str:
        return x if _is_features(node.inputs[0]) else self.emit("Flatten", [x], output=node.name)

    def _concat(self, node: Node, *parts: str) -> str:
        return self.emit("Concat", list(parts), output=node.name, axis=1)

    def _pool(self, node: Node, x: str) -> str:
        assert node.pool is not None
        pool, source = node.pool, node.inputs[0]
        x, even = self.image(source, x), _even_windows(pool, source.shape[1:])
        if even is None:
            x = self._uneven(self._uneven(x, node, axis=2), node, axis=3)
        else:
            x = self.emit("MaxPool" if pool.kind == "max" else "AveragePool", [x], output=node.name, **even)
        return self.features(node, x)

    def _uneven(self, x: str, node: Node, *, axis: int) -> str:
        """A pool along one axis, whatever its windows: by their places, or for a mean as a product with a matrix."""
        assert node.pool is not None
        pool, size = node.pool, node.inputs[0].shape[axis - 1]
        windows, sizes = ((pool.rows, pool.row_sizes), (pool.columns, pool.column_sizes))[axis - 2]
        if pool.kind == "mean":
            matrix = np.zeros((len(windows), size), np.float32)
            for i, window in enumerate(windows):
                matrix[i, list(window)] = 1 / sizes[i]
            order = [self.constant(matrix, f"{node.name}.rows"), x] if axis == 2 else None
            order = order or [x, self.constant(np.ascontiguousarray(matrix.T), f"{node.name}.columns")]
            return self.emit("MatMul", order, output=node.name)
        longest = max(map(len, windows))
        places = np.array([[*window, *window[:1] * (longest - len(window))] for window in windows], np.int64)
        taps = self.emit("Gather", [x, self.constant(places, f"{node.name}.places")], output=node.name, axis=axis)
        axes = self.constant(np.array([axis + 1]), "axis")
        return self.emit("ReduceMax", [taps, axes], output=node.name, keepdims=0)


def _packed(array: np.ndarray, bits: int) -> bytes:
    """int8 numbers as ``bits`` of two's complement each, the first one in the lowest bits of a byte."""
    each = 8 // bits
    flat = array.ravel().view(np.uint8) & (2**bits - 1)
    flat = np.pad(flat, (0, -len(flat) % each)).reshape(-1, each)
    packed: np.ndarray = np.bitwise_or.reduce(flat << (bits * np.arange(each, dtype=np.uint8)), axis=1)
    return packed.astype(np.uint8).tobytes()


def _even_windows(pool: Pool, sides: tuple[int, ...]) -> dict[str, Any] | None:
    """The attributes of ONNX's pool with the windows of ``pool``, if it has one."""
    found = [_even(windows, n) for windows, n in zip((pool.rows, pool.columns), sides, strict=True)]
    if found[0] is None or found[1] is None:
        return None
    (kernel, strides, dilations, before, after) = zip(*(side for side in found if side), strict=True)
    options: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "pads": [*before, *after]}
    if pool.kind == "max":
        return options | {"dilations": dilations}
    sides_and_sizes = ((pool.rows, pool.row_sizes, kernel[0]), (pool.columns, pool.column_sizes, kernel[1]))
    if all(len(w) == size for windows, sizes, _ in sides_and_sizes for w, size in zip(windows, sizes, strict=True)):
        return options | {"count_include_pad": 0}
    whole = all({*sizes} == {k} for _, sizes, k in sides_and_sizes)
    return options | {"count_include_pad": 1} if whole else None


def _even(windows: Windows, n: int) -> tuple[int, int, int, int, int] | None:
    """Kernel, stride, dilation and padding before and after of windows that move evenly over ``n`` entries."""
    longest = max(windows, key=len)
    first, kernel, many = windows.index(longest), len(longest), len(windows)
    dilation = longest[1] - longest[0] if kernel > 1 else 1
    reach = (kernel - 1) * dilation + 1
    for stride in range(1, n + 1):
        before = first * stride - longest[0]
        starts = range(-before, many * stride - before, stride)
        inside = [tuple(p for p in range(s, s + reach, dilation) if 0 <= p < n) for s in starts]
        after = max(0, starts[-1] + reach - n)
        fits = 0 <= before < kernel and after < kernel and (n + before + after - reach) // stride + 1 == many
        if inside == list(windows) and fits:
            return kernel, stride, dilation, before, after
    return None
