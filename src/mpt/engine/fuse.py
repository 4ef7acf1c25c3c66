"""Fewer operations: what a convolution can do when it stores its sums is moved into it.

    conv, affine (, add) (, relu)          one convolution, relu(scale[o] sum + shift[o] + residual)
    conv (, max-pool), affine, sign        one convolution that compares: its input is signs, its sums are integers

The second needs one integer an output, since batch-norm rises or falls with the sum: the smallest sum at which the
output changes, found by bisection with torch's own batch-norm formula, so that the signs are torch's to the bit. Where
it falls (a negative learned scale) the sign is flipped, behind the pool: the sum's maximum is below the threshold where
all its sums are.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from mpt.engine.graph import Affine, Conv, Node, used

MOST = 32_000  # weights an output: sums are added up in 16 bits


def fuse(nodes: list[Node]) -> list[Node]:
    """The operations with batch-norm, sum, ReLU and sign in the convolutions in front of them, and types settled."""
    for node in nodes:
        if node.conv is not None:
            _set_signs(node.conv)
    nodes = _fold(_compare(nodes))
    return _settle(nodes)


def _set_signs(conv: Conv) -> None:
    """Find out whether each output's weights are -gain, 0 and +gain, and take the gain into the scale."""
    flat = conv.weight.reshape(conv.outputs, -1)
    gain = np.maximum(flat.max(axis=1, initial=0), -flat.min(axis=1, initial=0))
    plus, minus = ((flat == sign * gain[:, None]) & (gain > 0)[:, None] for sign in (1, -1))
    if np.count_nonzero(plus) + np.count_nonzero(minus) == conv.kept:
        signs = plus.view(np.int8) - minus.view(np.int8)
        conv.signs, conv.scale = signs.reshape(conv.weight.shape), conv.scale * gain


def _takers(nodes: list[Node]) -> dict[int, list[Node]]:
    takers: dict[int, list[Node]] = {id(node): [] for node in nodes}
    for node in nodes:
        for source in node.inputs:
            takers[id(source)].append(node)
    return takers


def _replace(nodes: list[Node], old: Node, new: Node) -> None:
    """Let whoever reads ``old`` read ``new``."""
    for node in nodes:
        node.inputs = [new if source is old else source for source in node.inputs]


def _fold(nodes: list[Node]) -> list[Node]:
    """Batch-norm, sum and ReLU into the convolution that only they read."""
    nodes, at = list(nodes), 0
    readers = {key: len(takers) for key, takers in _takers(nodes).items()}
    while at < len(nodes):
        node = nodes[at]
        if node.kind == "relu" and node.inputs[0].kind in ("affine", "add") and readers[id(node.inputs[0])] == 1:
            node.inputs[0].relu = True
            _replace(nodes, node, node.inputs[0])
            readers[id(node.inputs[0])] = readers[id(node)]
            del nodes[at]
            continue
        conv = _foldable(node, readers)
        if conv is None:
            at += 1
            continue
        source, numbers = conv, conv.conv
        assert numbers is not None
        if node.affine is not None:
            numbers.shift = numbers.shift * node.affine.scale + node.affine.shift
            numbers.scale = numbers.scale * node.affine.scale
        elif node.kind == "relu":
            numbers.relu = True
        else:
            source.inputs = [source.inputs[0], node.inputs[0] if node.inputs[1] is source else node.inputs[1]]
        source.shape = node.shape
        nodes.remove(source)
        at -= 1
        nodes[at] = source  # where the sum was: its other operand is there by then
        _replace(nodes, node, source)
        readers[id(source)] = readers[id(node)]
    return nodes


def _foldable(node: Node, readers: dict[int, int]) -> Node | None:
    """The convolution that ``node`` can be moved into, if any."""
    for source in reversed(node.inputs):
        conv = source.conv
        if conv is None or conv.relu or conv.threshold is not None or readers[id(source)] != 1:
            continue
        if node.kind == "relu" or (node.kind in ("affine", "add") and len(source.inputs) == 1):
            return source
    return None


def _compare(nodes: list[Node]) -> list[Node]:
    """Convolutions on signs that compare their sums with a threshold."""
    nodes = list(nodes)
    takers, binary = _takers(nodes), dict[int, bool]()
    for node in nodes:
        passes = node.kind in ("flatten", "concat") or (node.pool is not None and node.pool.kind == "max")
        binary[id(node)] = node.kind == "sign" or (passes and all(binary[id(source)] for source in node.inputs))
        if node.kind != "sign":
            continue
        chain = [node]
        while len(chain[-1].inputs) == 1 and (len(chain) == 1 or len(takers[id(chain[-1])]) == 1):
            chain.append(chain[-1].inputs[0])
            if chain[-1].kind not in ("affine", "pool"):
                break
        if _comparable(chain, takers, binary):
            binary[id(_move_sign(nodes, chain))] = True
    return [node for node in nodes if node.kind != "gone"]


def _comparable(chain: list[Node], takers: dict[int, list[Node]], binary: dict[int, bool]) -> bool:
    """Whether ``chain`` is sign, affine (, max-pool), convolution on signs, each read by the next alone.

    A convolution that compares already has signs as its output, not sums.
    """
    kinds, conv = [node.kind for node in chain], chain[-1].conv
    if kinds not in (["sign", "affine", "conv"], ["sign", "affine", "pool", "conv"]):
        return False
    if conv is None or conv.threshold is not None:
        return False
    if any(len(takers[id(node)]) != 1 for node in chain[1:]) or (kinds[2] == "pool" and chain[2].pool.kind != "max"):  # type: ignore[union-attr]
        return False
    return lanes_fit(conv) and binary[id(chain[-1].inputs[0])]


def lanes_fit(conv: Conv) -> bool:
    """Whether the sums of ``conv`` on signs are integers that 16 bits hold."""
    return (
        conv.signs is not None
        and int(np.abs(conv.signs).reshape(conv.outputs, -1).sum(1, dtype=np.int64).max()) <= MOST
    )


def _move_sign(nodes: list[Node], chain: list[Node]) -> Node:
    """Let the convolution at the end of ``chain`` compare; the node whose value is the signs now."""
    sign, affine, source = chain[0], chain[1], chain[-1]
    assert source.conv is not None
    assert affine.affine is not None
    threshold, falls = _threshold(source.conv, affine.affine)
    pooled = chain[2] if len(chain) == 4 else None
    flip = falls if pooled is None else np.zeros_like(falls)
    source.conv = dataclasses.replace(source.conv, threshold=threshold, flip=flip)
    source.binary = True
    affine.kind = "gone"
    end = source if pooled is None else pooled
    if pooled is not None and falls.any():
        sign.kind, sign.inputs, sign.flips = "flip", [pooled], falls
    else:
        sign.kind = "gone"
        _replace(nodes, sign, end)
        return end
    return sign


def _threshold(conv: Conv, affine: Affine) -> tuple[np.ndarray, np.ndarray]:
    """Smallest sum of each output at which ``sign(norm(scale sum + shift))`` changes, and whether it falls there."""
    assert conv.signs is not None
    falls = affine.scale < 0
    most = np.abs(conv.signs).reshape(conv.outputs, -1).sum(1, dtype=np.int64)
    low, high = -most, most + 1  # the change is in [low, high]; behind the largest sum: there is none
    while (low < high).any():
        middle = (low + high) // 2
        x = (middle * conv.scale.astype(np.float32) + conv.shift).astype(np.float32)
        positive = affine.norm(torch.from_numpy(x)[None]).numpy()[0] >= 0
        changed = positive != falls
        high, low = np.where(changed, middle, high), np.where(changed, low, np.minimum(middle + 1, high))
    return low.astype(np.int32), falls


def _settle(nodes: list[Node]) -> list[Node]:
    """Mark values of one byte, and put ``real`` in front of whoever takes float32 instead."""
    settled: list[Node] = []
    real: dict[int, Node] = {}
    for node in nodes:
        passes = node.kind in ("flatten", "concat") or (node.pool is not None and node.pool.kind == "max")
        binary = bool(node.inputs) and passes and all(source.binary for source in node.inputs)
        for i, source in enumerate(node.inputs):
            takes = binary or node.kind == "flip" or (i == 0 and node.conv is not None and lanes_fit(node.conv))
            if source.binary and not takes:
                if id(source) not in real:
                    real[id(source)] = Node("real", source.name, [source], source.shape)
                    settled.append(real[id(source)])
                node.inputs[i] = real[id(source)]
        if node.conv is None or node.conv.threshold is None:
            node.binary = binary or node.kind in ("sign", "flip")
        settled.append(node)
    if settled[-1].binary:
        settled.append(Node("real", settled[-1].name, [settled[-1]], settled[-1].shape))
    return used(settled, settled[-1])
