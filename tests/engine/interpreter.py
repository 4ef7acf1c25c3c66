"""The operations of :mod:`mpt.engine.graph` one by one, NumPy, float64: slow, obvious, what the engine is held to."""

from __future__ import annotations

import numpy as np


def run(nodes, images):
    """The last node's value for ``images`` (N, C, H, W), float64."""
    values = {id(nodes[0]): np.asarray(images, np.float64)}
    for node in nodes[1:]:
        inputs = [values[id(source)] for source in node.inputs]
        value = _compute(node, inputs)
        values[id(node)] = value = np.maximum(value, 0) if node.relu else value
        assert value.shape[1:] == node.shape, (node.name, value.shape, node.shape)
    return values[id(nodes[-1])]


def _compute(node, inputs):
    x, n = inputs[0], len(inputs[0])
    if node.kind == "conv":
        return _convolve(node.conv, *inputs)
    if node.kind == "affine":
        return x * _channels(node.affine.scale) + _channels(node.affine.shift)
    if node.kind == "relu":
        return np.maximum(x, 0)
    if node.kind == "sign":
        return np.where(x >= 0, 1.0, -1.0)
    if node.kind == "real":
        return x
    if node.kind == "flip":
        return np.where(_channels(node.flips), -x, x)
    if node.kind == "add":
        return inputs[0] + inputs[1]
    if node.kind == "concat":
        return np.concatenate(inputs, axis=1)
    if node.kind == "flatten":
        return x.reshape(n, -1, 1, 1)
    assert node.kind == "pool"
    return _pooled(node.pool, x)


def _channels(numbers):
    return np.asarray(numbers, np.float64)[None, :, None, None]


def _convolve(conv, x, residual=None):
    top, bottom, left, right = conv.padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    weight = (conv.weight if conv.signs is None else conv.signs).astype(np.float64)
    outputs, inputs, height, width = weight.shape
    rows = (x.shape[2] - (height - 1) * conv.dilation[0] - 1) // conv.stride[0] + 1
    columns = (x.shape[3] - (width - 1) * conv.dilation[1] - 1) // conv.stride[1] + 1
    out = np.zeros((len(x), outputs, rows, columns))
    each = outputs // conv.groups
    for group in range(conv.groups):
        out_of, into = slice(group * inputs, (group + 1) * inputs), slice(group * each, (group + 1) * each)
        for ky in range(height):
            for kx in range(width):
                top, left = ky * conv.dilation[0], kx * conv.dilation[1]
                ys = slice(top, top + (rows - 1) * conv.stride[0] + 1, conv.stride[0])
                xs = slice(left, left + (columns - 1) * conv.stride[1] + 1, conv.stride[1])
                out[:, into] += np.einsum("oi,niyx->noyx", weight[into, :, ky, kx], x[:, out_of, ys, xs], optimize=True)
    if conv.threshold is not None:
        return np.where((out >= _channels(conv.threshold)) != _channels(conv.flip).astype(bool), 1.0, -1.0)
    out = out * _channels(conv.scale) + _channels(conv.shift) + (0 if residual is None else residual)
    return np.maximum(out, 0) if conv.relu else out


def _pooled(pool, x):
    out = np.zeros((*x.shape[:2], len(pool.rows), len(pool.columns)))
    for i, rows in enumerate(pool.rows):
        for j, columns in enumerate(pool.columns):
            window = x[:, :, rows][:, :, :, columns]
            if pool.kind == "max":
                out[:, :, i, j] = window.max(axis=(2, 3))
            else:
                out[:, :, i, j] = window.sum(axis=(2, 3)) / (pool.row_sizes[i] * pool.column_sizes[j])
    return out
