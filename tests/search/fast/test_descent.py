from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

import mpt
from mpt.search import mask as masks
from mpt.search.fast import descent, loops, threshold
from mpt.search.fast.descent import TASK, Layer, Rule, descend, fits

needs_exact = pytest.mark.skipif(not descent.is_exact(), reason="this torch rounds SGD in another way")


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.setattr(loops, "threads", lambda: 2)
    monkeypatch.setattr(threshold, "_windows", {})
    monkeypatch.setattr(threshold, "_hints", {})


def draw(*shape, dtype=torch.float32, layout=torch.contiguous_format, seed=1):
    four = torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed))
    four[:, 0] = 0.0
    four[1:, 1] = -0.0
    grad, weight, scores, momentum = (x.contiguous(memory_format=layout) if x.dim() == 4 else x.clone() for x in four)
    return Layer(grad.to(dtype), weight, scores, momentum, 0.7)


def move(layers, rule, method, **kind):
    """The scores and momenta after torch's step with the method's gradient."""
    parameters = [layer.scores.clone().requires_grad_() for layer in layers]
    optimizer = torch.optim.SGD(
        parameters, rule.lr, momentum=rule.momentum, weight_decay=rule.decay, nesterov=rule.nesterov, **kind
    )
    for layer, p in zip(layers, parameters, strict=True):
        optimizer.state[p]["momentum_buffer"] = layer.momentum.clone()
        gain = torch.tensor(layer.magnitude)
        p.grad = method.score_gradient(layer.grad.float(), layer.weight, layer.scores, gain)
    optimizer.step()
    return [(p.detach(), optimizer.state[p]["momentum_buffer"]) for p in parameters]


@needs_exact
@pytest.mark.parametrize("kind", [{"fused": True}, {"foreach": True}, {"foreach": False}])
@pytest.mark.parametrize(("nesterov", "decay"), list(product((False, True), (0.0, 1e-4))))
@pytest.mark.parametrize("score_grad", ["weight", "sign", "gain"])
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_has_the_bits_of_torchs_sgd(kind, nesterov, decay, score_grad, absolute, dtype):
    layers = [draw(n, dtype=dtype, seed=n) for n in (16, 48, 4096, 3 * TASK + 80)]
    method = mpt.Biprop(prune=0.5, score_grad=score_grad, score_abs=absolute)
    magnitude = 0.7 if score_grad == "gain" else 1.0
    layers = [layer._replace(magnitude=magnitude) for layer in layers]
    rule = Rule(0.03, 0.9, decay, nesterov, score_grad != "weight", absolute)
    expected = move(layers, rule, method, **kind)
    assert all(map(fits, layers))
    descend(layers, rule)
    for layer, (scores, momentum) in zip(layers, expected, strict=True):
        assert torch.equal(layer.scores, scores)
        assert torch.equal(layer.momentum, momentum)


@needs_exact
def test_channels_last_layers_are_moved_in_the_order_of_their_memory():
    layer = draw(32, 16, 3, 3, layout=torch.channels_last)
    rule = Rule(0.03, 0.9, 1e-4, False, False, True)
    ((scores, momentum),) = move([layer], rule, mpt.Biprop(prune=0.5), fused=True)
    assert fits(layer)
    descend([layer], rule)
    assert torch.equal(layer.scores, scores)
    assert torch.equal(layer.momentum, momentum)


@needs_exact
def test_only_whole_vectors_in_one_order_and_supported_dtypes_fit():
    assert fits(draw(160))
    assert not fits(draw(161))
    assert not fits(draw(160, dtype=torch.float16))
    assert not fits(draw(160)._replace(scores=torch.zeros(160, dtype=torch.float64)))
    last = draw(32, 16, 3, 3, layout=torch.channels_last)
    assert not fits(last._replace(grad=last.grad.contiguous()))


@pytest.mark.parametrize("absolute", [False, True])
def test_the_count_finds_the_threshold_that_the_moved_scores_have(absolute):
    layers = [draw(n, seed=n) for n in (3 * TASK, 2 * TASK + 16)]
    kept = 9000
    arrays = [layer.scores.numpy() for layer in layers]
    threshold.near_last(arrays, kept, absolute=absolute)  # opens a window
    rule = Rule(1e-4, 0.9, 0.0, False, False, absolute)
    for _ in range(3):
        descend(layers, rule)
        hint = threshold.take_hint(arrays[0].ctypes.data)
        values = np.sort(np.concatenate([np.abs(x) if absolute else x for x in arrays]))
        assert hint == values[values.size - kept]
        assert threshold.take_hint(arrays[0].ctypes.data) is None
    threshold.near_last(arrays[:1], kept // 2, absolute=absolute)  # now for the first layer alone
    descend(layers, rule)
    values = np.sort(np.abs(arrays[0]) if absolute else arrays[0])
    assert threshold.take_hint(arrays[0].ctypes.data) == values[values.size - kept // 2]


@pytest.mark.parametrize("damage", ["leap", "nan"])
def test_a_count_that_cannot_tell_the_threshold_says_nothing(damage):
    layer = draw(4 * TASK)
    masks.select(layer.scores, kept=5000, absolute=True)
    if damage == "nan":
        layer.grad[77] = float("nan")
    descend([layer], Rule(100.0 if damage == "leap" else 1e-4, 0.9, 0.0, False, False, True))
    assert threshold.take_hint(layer.scores.data_ptr()) is None


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(threads, monkeypatch):
    layers = [[draw(n, seed=n) for n in (7 * TASK, 16, 20 * TASK + 32)] for _ in range(2)]
    rule = Rule(0.1, 0.9, 1e-4, True, False, True)
    descend(layers[0], rule)
    monkeypatch.setattr(loops, "threads", lambda: threads)
    descend(layers[1], rule)
    for one, other in zip(*layers, strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.momentum, other.momentum)
