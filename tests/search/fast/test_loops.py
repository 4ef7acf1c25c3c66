from __future__ import annotations

import gc
import threading
import weakref

import numba
import numpy as np
import pytest
import torch

import mpt
from mpt.search import mask as masks
from mpt.search import weight as weights
from mpt.search.fast import loops, threshold
from mpt.search.layers import TicketWeight
from tests import reference
from tests.own_methods import PerChannel

LARGE = loops.LARGE
TWO_PARTS = loops.PART + 3 * loops.CHUNK + 777


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.setattr(loops, "threads", lambda: 2)


@pytest.fixture
def no_loops(monkeypatch):
    """A function that turns the compiled loops off."""
    return lambda: monkeypatch.setattr(loops, "arrays", lambda *tensors, least=0: None)


def random_layer(n=TWO_PARTS, *, seed=1):
    generator = torch.Generator().manual_seed(seed)
    weight, scores, grad = torch.randn(3, n, generator=generator)
    for x in (weight, scores, grad):
        x[:3] = torch.tensor([0.0, -0.0, -1.0])
    return weight, scores, grad


def run_formulas(method, weight, scores, grad):
    """Mask, gain, ticket weight and score gradient of one layer."""
    mask = method.mask(scores, kept=method.num_kept(scores.numel()))
    gain = method.gain(weight, mask)
    return mask, gain, method.ticket_weight(weight, mask, gain), method.score_gradient(grad, weight, scores, gain)


def assert_same_bits(actual, expected):
    for x, y in zip(actual, expected, strict=True):
        assert x.dtype == y.dtype
        assert x.stride() == y.stride()
        assert torch.equal(x, y)
        assert torch.equal(torch.signbit(x), torch.signbit(y))


@pytest.mark.parametrize("score_grad", weights.SCORE_GRADS)
@pytest.mark.parametrize("score_abs", [True, False])
@pytest.mark.parametrize("kind", [mpt.Biprop, mpt.EdgePopup])
def test_compiled_loops_give_the_bits_of_the_operations_they_replace(kind, score_grad, score_abs, no_loops):
    method = kind(prune=0.8, score_grad=score_grad, score_abs=score_abs)
    with_loops = run_formulas(method, *random_layer())
    no_loops()
    assert_same_bits(with_loops, run_formulas(method, *random_layer()))


@pytest.mark.parametrize("score_grad", weights.SCORE_GRADS)
@pytest.mark.parametrize("channels", [1, 3])
def test_gains_of_channels_give_the_same_bits_with_and_without_the_loops(channels, score_grad, no_loops):
    method = PerChannel(prune=0.8, score_grad=score_grad)
    layer = [x.view(channels, -1) for x in random_layer(3 * LARGE)]
    with_loops = run_formulas(method, *layer)
    assert with_loops[1].shape == (channels, 1)
    no_loops()
    assert_same_bits(with_loops, run_formulas(method, *layer))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(threads, no_loops, monkeypatch):
    monkeypatch.setattr(loops, "threads", lambda: threads)
    method = mpt.Biprop(prune=0.8)
    # the second and third time search near the previous threshold
    with_loops = [run_formulas(method, *random_layer(5 * loops.PART + 1)) for _ in range(3)]
    no_loops()
    for one in with_loops:
        assert_same_bits(one, run_formulas(method, *random_layer(5 * loops.PART + 1)))


@pytest.mark.skipif(loops.parallel() is None, reason="torch computes with another OpenMP than GNU's")
def test_memory_that_parts_were_computed_from_is_free_without_the_collector_of_circles():
    array = np.ones(3)
    gone = weakref.ref(array)
    gc.disable()
    try:
        assert loops.side_by_side([(array,), (array,)], np.sum) == [3, 3]
        del array
        assert gone() is None
    finally:
        gc.enable()


def test_parts_are_computed_side_by_side_and_their_errors_reach_the_caller(monkeypatch):
    monkeypatch.setattr(loops, "compiled", lambda loop: loop)
    together = threading.Barrier(2)

    def first(part):
        together.wait(timeout=60)
        return part[0]

    def refuse(part):
        raise KeyboardInterrupt

    numbers = np.arange(2 * loops.PART)
    assert loops.run(first, numbers) == [0, loops.PART]
    with pytest.raises(KeyboardInterrupt):
        loops.run(refuse, numbers)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "mixed", "strided", "transposed"])
def test_loops_support_only_tensors_with_one_order_in_memory(layout, no_loops):
    weight, scores, grad = (x.view(64, 64, 3, 3) for x in random_layer(64 * 64 * 9))
    if layout in ("channels_last", "mixed"):
        weight, scores = (x.contiguous(memory_format=torch.channels_last) for x in (weight, scores))
        grad = grad.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else grad
    elif layout == "strided":
        grad = torch.ones(()).expand(grad.shape)
    elif layout == "transposed":
        weight, scores, grad = (x.transpose(0, 1) for x in (weight, scores, grad))
    assert (loops.arrays(weight, scores, grad) is not None) == (layout in ("contiguous", "channels_last"))
    with_loops = run_formulas(mpt.Biprop(prune=0.7), weight, scores, grad)
    no_loops()
    for x, y in zip(with_loops, run_formulas(mpt.Biprop(prune=0.7), weight, scores, grad), strict=True):
        assert torch.equal(x, y)
    assert with_loops[0].stride() == scores.stride()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_loops_leave_other_dtypes_and_small_layers_to_torch(dtype):
    assert loops.arrays(torch.rand(LARGE).to(dtype)) is None
    assert loops.arrays(torch.rand(LARGE - 1)) is None
    assert loops.arrays(torch.rand(LARGE)) is not None


def test_without_numba_a_large_layer_is_searched_with_the_same_bits(monkeypatch):
    method = mpt.Biprop(prune=0.8)
    with_loops = run_formulas(method, *random_layer())
    monkeypatch.setattr(loops, "available", lambda: False)
    assert loops.arrays(torch.rand(LARGE)) is None
    assert_same_bits(with_loops, run_formulas(method, *random_layer()))


def test_numba_that_may_not_compile_is_not_available(monkeypatch):
    assert loops.available.__wrapped__()
    with monkeypatch.context() as patch:
        patch.setenv("NUMBA_DISABLE_JIT", "1")
        numba.config.reload_config()  # as when it is imported
        assert not loops.available.__wrapped__()
    numba.config.reload_config()
    assert loops.available.__wrapped__()


@pytest.mark.parametrize("n", [LARGE, LARGE + 1, 5 * loops.CHUNK + 129, loops.PART, 2 * loops.PART + 8191])
def test_the_gain_is_summed_in_the_order_of_numpy(n):
    weight = torch.randn(n) * torch.exp(8 * torch.randn(n))  # of very different size, so that every order has its sum
    mask = torch.rand(n) < 0.3
    kept = weight.abs().numpy() * mask.numpy()
    total = np.add.reduce(kept, dtype=np.float64)
    assert weights._kept_sum(*loops.arrays(weight, mask)).item() == total
    assert weights.gain(weight, mask).item() == np.float32(total / np.count_nonzero(mask))


def moves(scores):
    """Scores that hardly move, jump, are all different, nearly all equal, huge, infinite, what they were long ago."""
    generator = torch.Generator().manual_seed(2)
    yield from (scores.add_(torch.randn(scores.shape, generator=generator), alpha=1e-4) for _ in range(3))
    yield scores.mul_(7)
    yield scores.neg_()
    yield scores.copy_(torch.randn(scores.shape, generator=generator).mul(4).round())
    yield scores
    yield scores.fill_(0.5)
    yield scores
    yield scores.copy_(torch.randn(scores.shape, generator=generator) * 1e30)
    yield scores.copy_(torch.where(scores > 0, torch.inf, scores))
    yield scores
    yield scores.copy_(torch.randn(scores.shape, generator=generator) * 1e-30)


@pytest.mark.parametrize("kept", [1, 7000, LARGE - 2, LARGE])
@pytest.mark.parametrize("absolute", [True, False])
def test_searching_near_the_last_threshold_never_changes_the_mask(kept, absolute):
    scores = torch.randn(LARGE + 1)
    for scores_now in moves(scores):
        importance = scores_now.abs() if absolute else scores_now
        order = np.argsort(-importance.numpy(), kind="stable")
        expected = np.zeros(len(order), dtype=bool)
        expected[order[:kept]] = True
        assert np.array_equal(masks.select(scores_now, kept=kept, absolute=absolute).numpy(), expected)


@pytest.mark.parametrize("prune", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("score_abs", [True, False])
def test_searching_near_the_last_threshold_never_changes_joint_masks(prune, score_abs):
    layers = [
        torch.randn(40, 27),
        torch.randn(LARGE + 1),
        torch.randn(9, 8, 3, 3).to(memory_format=torch.channels_last),
    ]
    kept = masks.num_kept(sum(layer.numel() for layer in layers), prune=prune)
    for scores_now in moves(layers[1]):
        if scores_now.isinf().any():
            continue  # the first of each layer counts as infinite
        layers[0].mul_(0.9)  # until it has none among the largest
        layers[2].add_(torch.randn(layers[2].shape), alpha=1e-4)
        selected = masks.select_jointly(layers, kept=kept, absolute=score_abs)
        flats = [layer.abs().flatten().numpy() if score_abs else layer.flatten().numpy() for layer in layers]
        later = np.concatenate([np.arange(flat.size) != np.argmax(flat) for flat in flats])  # the first of each is sure
        expected = np.zeros(later.size, dtype=bool)
        expected[np.lexsort((np.arange(later.size), -np.concatenate(flats), later))[:kept]] = True
        assert np.array_equal(np.concatenate([mask.flatten().numpy() for mask in selected]), expected)
        assert selected[2].is_contiguous(memory_format=torch.channels_last)


def test_a_joint_threshold_that_hardly_moves_is_searched_among_few_scores(monkeypatch):
    sizes, layers = [], [torch.randn(10, 10), torch.randn(4 * LARGE)]
    monkeypatch.setattr(threshold, "_windows", {})
    kth_largest = threshold.introselect
    monkeypatch.setattr(threshold, "introselect", lambda x, kept: sizes.append(x.size) or kth_largest(x, kept))
    for _ in range(8):
        masks.select_jointly(layers, kept=LARGE, absolute=True)
        layers[1].add_(torch.randn(layers[1].shape), alpha=1e-4)
    assert sizes[0] == 4 * LARGE + 100
    assert max(sizes[1:]) < LARGE / 4


@pytest.mark.parametrize(
    "window",
    [
        *((0.0, 0.0), (0.5, 0.1), (-9.0, 1.0), (9.0, 1.0), (0.5, 0.5)),
        *((float("nan"), 1.0), (0.5, float("inf")), (-3e38, 3e38), (3e38, 3e38)),
    ],
)
def test_any_earlier_window_gives_the_mask_of_the_reference(window):
    scores = torch.rand(LARGE)
    expected, address = reference.mask(scores.numpy(), 0.8), scores.data_ptr()
    threshold._windows[address] = threshold.Window(*window, int(expected.sum()), True, (address,))
    for _ in range(3):
        assert np.array_equal(mpt.Biprop(prune=0.8).mask(scores, kept=int(expected.sum())).numpy(), expected)


def test_a_threshold_that_hardly_moves_is_searched_among_few_scores(monkeypatch):
    sizes, scores = [], torch.randn(4 * LARGE)
    monkeypatch.setattr(threshold, "_windows", {})  # one of other scores may have this address
    kth_largest = threshold.introselect
    monkeypatch.setattr(threshold, "introselect", lambda x, kept: sizes.append(x.size) or kth_largest(x, kept))
    for _ in range(12):
        masks.select(scores, kept=LARGE, absolute=True)
        scores.add_(torch.randn(scores.shape), alpha=1e-4)
    assert sizes[0] == 4 * LARGE
    assert max(sizes[1:]) < LARGE / 4
    assert sizes[-1] < LARGE / 32


def test_soon_after_a_leap_the_threshold_is_searched_among_few_scores_again(monkeypatch):
    sizes, scores = [], torch.randn(4 * LARGE)
    monkeypatch.setattr(threshold, "_windows", {})
    kth_largest = threshold.introselect
    monkeypatch.setattr(threshold, "introselect", lambda x, kept: sizes.append(x.size) or kth_largest(x, kept))
    for leap in (1, 100, 0.01, 1, 1, 1, 1):
        masks.select(scores.mul_(leap), kept=LARGE, absolute=True)
    assert sizes[:4] == [4 * LARGE] * 4  # the last leap leaves a window that holds them all
    assert sizes[6] < LARGE / 2


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_ties_in_a_large_layer_are_dropped_by_flat_index_among_few_scores(layout, monkeypatch):
    sizes = []
    scores = torch.randn(64, 256, 3, 3).mul(1024).round().div(1024).to(memory_format=layout)  # some 60 of each value
    monkeypatch.setattr(threshold, "_windows", {})
    kth_largest = threshold.introselect
    monkeypatch.setattr(threshold, "introselect", lambda x, kept: sizes.append(x.size) or kth_largest(x, kept))
    order = np.argsort(-scores.abs().flatten().numpy(), kind="stable")
    for kept in range(LARGE, LARGE + 200, 9):
        mask = masks.select(scores, kept=kept, absolute=True)
        assert np.array_equal(np.flatnonzero(mask.flatten().numpy()), np.sort(order[:kept]))
        assert mask.is_contiguous(memory_format=layout)
    assert sizes.count(scores.numel()) < 10  # of 23: where the threshold went to the next value


def test_large_layers_whose_scores_are_not_numbers_are_refused_with_advice():
    scores = torch.randn(LARGE)
    masks.select(scores, kept=100, absolute=True)
    scores[77] = float("nan")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"NaN.*lower optim\.lr"):
            masks.select(scores, kept=100, absolute=True)
        with pytest.raises(ValueError, match=r"NaN.*lower optim\.lr"):
            masks.select_jointly([scores, torch.ones(3)], kept=100, absolute=True)


class Own(mpt.Biprop):
    """Other formulas: the smallest scores, twice the largest weight, tanh, the negative gradient."""

    def mask(self, scores, *, kept):
        return masks.select(-scores.detach().abs(), kept=kept)

    def gain(self, weight, mask):
        return 2 * weight.abs().amax()

    def ticket_weight(self, weight, mask, gain):
        return gain * mask * torch.tanh(weight)

    def score_gradient(self, grad, weight, scores, gain):
        return -grad


def test_large_layers_use_the_formulas_of_your_own_method():
    weight, scores, grad = random_layer(LARGE)
    scores.requires_grad_()
    method = Own(prune=0.5)
    ticket_weight = TicketWeight.apply(scores, weight, method, method.mask(scores, kept=100))
    ticket_weight.backward(grad)
    smallest = reference.mask(-scores.detach().abs().numpy(), 1 - 100 / LARGE, score_abs=False)
    expected = 2 * weight.abs().amax() * torch.from_numpy(smallest) * torch.tanh(weight)
    torch.testing.assert_close(ticket_weight.detach(), expected)
    assert torch.equal(scores.grad, -grad)
