from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import mpt
from mpt.search.activations import MaxPool2d
from tests import reference


@pytest.mark.parametrize("t", [1.0, 0.5, 3.0])
def test_a_binary_activation_is_the_sign_and_its_gradient_the_slope_of_the_spline(t):
    edges = torch.tensor([0.0, -0.0, t, -t, t / 2, -t / 2, 2 * t, -2 * t], dtype=torch.float64)
    x = torch.cat([edges, torch.randn(100, dtype=torch.float64)]).requires_grad_()
    upstream = torch.randn(108, dtype=torch.float64)
    out = mpt.BinaryActivation(t)(x)
    out.backward(upstream)
    values = x.detach().numpy()
    np.testing.assert_array_equal(out.detach().numpy(), reference.sign(values))
    np.testing.assert_allclose(x.grad.numpy(), upstream.numpy() * reference.spline_slope(values, t), rtol=1e-12)
    assert out[:2].tolist() == [1.0, 1.0]


def test_an_exported_binary_activation_is_the_same_sign_in_common_operations():
    x = torch.tensor([[0.0, -0.0, 1e-45, -1e-45, 2.0, -3.0]])
    program = torch.export.export(mpt.BinaryActivation(), (x,))
    assert torch.equal(program.module()(x), mpt.BinaryActivation()(x))
    assert "where" in str(program.graph)
    assert "copysign" not in str(program.graph)


def test_a_binary_activation_keeps_dtype_and_memory_format_and_changes_no_input():
    x = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    out = mpt.BinaryActivation()(x)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_convolution_recomputes_the_signs_it_sees_instead_of_saving_them(dtype):
    act = mpt.BinaryActivation()
    conv = mpt.convert(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), mpt.Biprop(prune=0.5))[0].to(dtype)
    x = torch.randn(2, 3, 5, 5, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    upstream = torch.randn(2, 4, 5, 5, dtype=dtype)

    def gradients(forward):
        x.grad = conv.scores.grad = None
        forward().backward(upstream)
        return x.grad, conv.scores.grad

    plain = gradients(lambda: conv._conv_forward(act(x), conv.ticket_weight(), None))
    assert plain[1].any()
    for actual, expected in zip(gradients(lambda: conv(act(x))), plain, strict=True):
        assert torch.equal(actual, expected)
    for forward, kept in ((conv, False), (lambda x: conv._conv_forward(x, conv.ticket_weight(), None), True)):
        signs = act(x)
        memory = StorageWeakRef(signs.untyped_storage())
        out = forward(signs)
        del signs
        assert memory.expired() is not kept
    assert out.requires_grad, "and with it the graph, which is what keeps tensors"
    signs = act(x)
    signs.sum().backward()
    with torch.no_grad():
        assert torch.equal(conv(signs), conv(signs.detach())), "what the sign kept is gone, and not needed here"


@pytest.mark.parametrize("t", [0, -1.0, float("nan"), float("inf")])
def test_a_spline_without_a_width_is_refused(t):
    with pytest.raises(ValueError, match="spline_t is half the width"):
        mpt.BinaryActivation(t)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "settings", [{}, {"stride": 1, "padding": 1}, {"dilation": 2}, {"ceil_mode": True}, {"return_indices": True}]
)
def test_a_max_pool_in_front_of_a_sign_has_torchs_numbers_and_saves_no_input(settings, layout):
    plain = nn.MaxPool2d(3, **settings)
    lean = MaxPool2d.like(plain)
    assert repr(lean) == repr(plain)
    outs, grads, kept = [], [], []
    for pool in (plain, lean):
        leaf = torch.randn(2, 5, 8, 9, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
        x = leaf.requires_grad_() * 2
        memory = StorageWeakRef(x.untyped_storage())
        out = pool(x)
        del x
        kept.append(not memory.expired())
        out = out[0] if "return_indices" in settings else out
        (out * torch.arange(out.numel()).view(out.shape)).sum().backward()
        outs.append(out)
        grads.append(leaf.grad)
    assert kept == [True, False]
    assert torch.equal(*outs)
    assert torch.equal(*grads)
    assert grads[1].abs().sum() > 0


def test_a_max_pool_in_front_of_a_sign_takes_an_empty_batch_and_can_be_traced():
    pool = MaxPool2d(2)
    empty = torch.zeros(0, 3, 6, 6, requires_grad=True)
    pool(empty).sum().backward()
    assert empty.grad.shape == empty.shape
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(torch.fx.symbolic_trace(nn.Sequential(pool))(x), nn.MaxPool2d(2)(x))
