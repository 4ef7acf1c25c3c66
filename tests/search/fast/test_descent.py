from __future__ import annotations

import numpy as np
import pytest
import torch

import mpt
from mpt.search import mask as masks
from mpt.search.fast import descent, loops, threshold
from mpt.search.fast.descent import TASK, Layer, Rule, descend, fits
from mpt.search.fast.updates import Adam, Sgd

UPDATES = {
    **{f"sgd {n} {d}": Sgd(0.03, 0.9, d, n) for n in (False, True) for d in (0.0, 1e-4)},
    **{
        f"adam {betas[0]} {decoupled} {d} {t}": Adam(0.003, betas, 1e-8, d, decoupled, t)
        for betas in ((0.9, 0.999), (0.4, 0.95))
        for decoupled, d, t in ((False, 0.0, 2.0), (False, 1e-4, 7.0), (True, 0.1, 1000.0))
    },
}
SGD = Sgd(1e-4, 0.9, 0.0, nesterov=False)
needs_exact = pytest.mark.skipif(not all(map(descent.is_exact, (Sgd, Adam))), reason="this torch rounds in another way")


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.setattr(loops, "threads", lambda: 2)
    monkeypatch.setattr(threshold, "_windows", {})
    monkeypatch.setattr(threshold, "_hints", {})


def draw(*shape, dtype=torch.float32, layout=torch.contiguous_format, seed=1, kind=Sgd):
    five = torch.randn(5, *shape, generator=torch.Generator().manual_seed(seed))
    five[:, 0] = 0.0
    five[1:, 1] = -0.0
    five[4].abs_()
    grad, weight, scores, *moments = (x.contiguous(memory_format=layout) if x.dim() == 4 else x.clone() for x in five)
    return Layer(grad.to(dtype), weight, scores, tuple(moments[: len(kind.moments)]), 0.7)


def move(layers, update, method, **kind):
    """The scores and their moments after torch's step with the method's gradient."""
    parameters = [layer.scores.clone().requires_grad_() for layer in layers]
    options = {"lr": update.lr, "weight_decay": update.decay}
    if isinstance(update, Sgd):
        options |= {"momentum": update.momentum, "nesterov": update.nesterov}
        optimizer = torch.optim.SGD(parameters, **options, **kind)
    else:
        options |= {"betas": update.betas, "eps": update.eps}
        optimizer = (torch.optim.AdamW if update.decoupled else torch.optim.Adam)(parameters, **options, **kind)
    for layer, p in zip(layers, parameters, strict=True):
        state = dict(zip(update.moments, (x.clone() for x in layer.moments), strict=True))
        optimizer.state[p] = state | ({"step": torch.tensor(update.step - 1)} if isinstance(update, Adam) else {})
        gain = torch.tensor(layer.magnitude)
        p.grad = method.score_gradient(layer.grad.float(), layer.weight, layer.scores, gain)
    optimizer.step()
    return [[p.detach(), *(optimizer.state[p][name] for name in update.moments)] for p in parameters]


def assert_moved(layers, expected):
    for layer, tensors in zip(layers, expected, strict=True):
        assert all(map(torch.equal, (layer.scores, *layer.moments), tensors))


@needs_exact
@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("score_grad", ["weight", "sign", "gain"])
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_has_the_bits_of_torchs_fused_step(name, score_grad, absolute, dtype):
    update = UPDATES[name]
    layers = [draw(n, dtype=dtype, seed=n, kind=type(update)) for n in (16, 48, 4096, 3 * TASK + 80)]
    method = mpt.Biprop(prune=0.5, score_grad=score_grad, score_abs=absolute)
    magnitude = 0.7 if score_grad == "gain" else 1.0
    layers = [layer._replace(magnitude=magnitude) for layer in layers]
    expected = move(layers, update, method, fused=True)
    assert all(fits(layer, type(update)) for layer in layers)
    descend(layers, Rule(update, score_grad != "weight", absolute))
    assert_moved(layers, expected)


@needs_exact
@pytest.mark.parametrize("kind", [{"foreach": True}, {"foreach": False}])
@pytest.mark.parametrize("name", [name for name, update in UPDATES.items() if isinstance(update, Sgd)])
def test_a_step_of_sgd_has_the_bits_of_torchs_other_steps_too(kind, name):
    layers = [draw(n, seed=n) for n in (16, 48, 4096, 3 * TASK + 80)]
    expected = move(layers, UPDATES[name], mpt.Biprop(prune=0.5), **kind)
    descend(layers, Rule(UPDATES[name], signs_only=False, absolute=True))
    assert_moved(layers, expected)


@needs_exact
@pytest.mark.parametrize("name", ["sgd False 0.0001", "adam 0.9 True 0.1 1000.0"])
def test_channels_last_layers_are_moved_in_the_order_of_their_memory(name):
    update = UPDATES[name]
    layer = draw(32, 16, 3, 3, layout=torch.channels_last, kind=type(update))
    expected = move([layer], update, mpt.Biprop(prune=0.5), fused=True)
    assert fits(layer, type(update))
    descend([layer], Rule(update, signs_only=False, absolute=True))
    assert_moved([layer], expected)


@needs_exact
def test_only_whole_vectors_in_one_order_and_supported_dtypes_fit():
    assert fits(draw(160), Sgd)
    assert not fits(draw(161), Sgd)
    assert not fits(draw(160, dtype=torch.float16), Sgd)
    assert not fits(draw(160)._replace(scores=torch.zeros(160, dtype=torch.float64)), Sgd)
    last = draw(32, 16, 3, 3, layout=torch.channels_last)
    assert not fits(last._replace(grad=last.grad.contiguous()), Sgd)


@pytest.mark.parametrize("absolute", [False, True])
def test_the_count_finds_the_threshold_that_the_moved_scores_have(absolute):
    layers = [draw(n, seed=n) for n in (3 * TASK, 2 * TASK + 16)]
    kept = 9000
    arrays = [layer.scores.numpy() for layer in layers]
    threshold.near_last(arrays, kept, absolute=absolute)  # opens a window
    rule = Rule(SGD, False, absolute)
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
    descend([layer], Rule(Sgd(100.0 if damage == "leap" else 1e-4, 0.9, 0.0, False), False, True))
    assert threshold.take_hint(layer.scores.data_ptr()) is None


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", ["sgd True 0.0001", "adam 0.9 False 0.0001 7.0"])
def test_the_number_of_threads_changes_no_bit(threads, name, monkeypatch):
    kind = type(UPDATES[name])
    layers = [[draw(n, seed=n, kind=kind) for n in (7 * TASK, 16, 20 * TASK + 32)] for _ in range(2)]
    rule = Rule(UPDATES[name], False, True)
    descend(layers[0], rule)
    monkeypatch.setattr(loops, "threads", lambda: threads)
    descend(layers[1], rule)
    assert_moved(layers[0], [(layer.scores, *layer.moments) for layer in layers[1]])
