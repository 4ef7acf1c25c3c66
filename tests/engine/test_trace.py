"""Networks as operations: what is understood, held against torch, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mpt
from mpt.engine.trace import trace
from tests.engine import interpreter
from tests.engine.networks import with_statistics


def assert_traced(net, shape, *, n=2):
    images = torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = net.double().eval()(images.double()).numpy()
    got = interpreter.run(trace(net.float(), shape=shape), images.numpy())
    np.testing.assert_allclose(got.reshape(wanted.shape), wanted, atol=1e-5, rtol=1e-5)


class Function(nn.Module):
    """A forward without modules."""

    def __init__(self, forward):
        super().__init__()
        self.run = forward

    def forward(self, x):
        return self.run(x)


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2),
        nn.Conv2d(4, 8, (3, 2), groups=4, padding="same", bias=False),
        nn.Conv2d(4, 6, 2, padding="valid"),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(2, dilation=2, stride=1),
        nn.AvgPool2d(3, stride=2, padding=1),
        nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(2, stride=3, ceil_mode=True),
        nn.AdaptiveAvgPool2d(3),
        nn.AdaptiveAvgPool2d((11, None)),
        nn.AdaptiveMaxPool2d((3, 1)),
        with_statistics(nn.BatchNorm2d(4)),
        nn.BatchNorm2d(4, affine=False),
        mpt.BinaryActivation(),
        nn.Sequential(nn.Dropout(0.5), nn.Identity(), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Flatten(), nn.Linear(1, 1)),
    ],
    ids=lambda layer: str(layer).replace("\n", ""),
)
def test_a_layer_is_what_it_is_in_torch(layer, side):
    if isinstance(layer, nn.Sequential) and isinstance(layer[-1], nn.Linear):
        layer = nn.Sequential(nn.Flatten(), nn.Linear(4 * side * side, 5))
    assert_traced(nn.Sequential(layer), (4, side, side))


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: F.relu(x) + x,
        lambda x: torch.flatten(F.max_pool2d(x, 2), 1),
        lambda x: F.avg_pool2d(x, 3, 1, 1).view(x.size(0), -1),
        lambda x: F.adaptive_avg_pool2d(x, 1).reshape(x.shape[0], -1),
        lambda x: x.mean([2, 3]),
        lambda x: torch.cat([x, F.relu(x)], dim=1),
        lambda x: F.dropout(x[:, :, ::2, 1::3], training=False),
        lambda x: torch.add(x, x.relu()).flatten(1),
    ],
    ids=range(8),
)
def test_functions_and_methods_are_what_they_are_in_torch(forward):
    assert_traced(Function(forward), (3, 6, 7))


def _add_in_place(x):
    y = z = F.relu(x) + x
    z += x
    return z + y


def _add_in_place_to_an_identity(x):
    y = x + x
    z = F.dropout(y, training=False)
    z += x
    return torch.cat([y, z], dim=1)


def _change_with_functions_and_methods(x):
    y = x + x
    z = torch.relu_(y)
    z.add_(x)
    return z + y


def _change_by_a_positional_argument(x):
    y = x + x
    z = F.relu(y, True)
    return z + y


def _change_a_view_that_alone_is_read_later(x):
    y = (x + x).flatten(1)
    y.relu_()
    y += y
    return y


def _read_a_view_before_the_change(x):
    y = x + x
    total = y.mean([2, 3]) + y[:, :, ::2].mean([2, 3])
    y += x
    return total + y.mean([2, 3])


def _add_to_a_number(x):
    rows, columns = x.shape[2], x.shape[3]
    rows += 28  # a number, not a tensor
    return F.adaptive_avg_pool2d(x, columns).view(-1, rows)


@pytest.mark.parametrize(
    "forward",
    [
        _add_to_a_number,
        _add_in_place,
        _add_in_place_to_an_identity,
        _change_with_functions_and_methods,
        _change_by_a_positional_argument,
        _change_a_view_that_alone_is_read_later,
        _read_a_view_before_the_change,
    ],
)
def test_a_tensor_changed_in_place_is_changed_for_later_readers(forward):
    assert_traced(Function(forward), (2, 4, 4))


def _change_a_view(x):
    y = x + x
    y.flatten(1).relu_()
    return y


def _change_what_a_view_is_of(x):
    y = x + x
    flat = y.view(y.shape[0], -1)
    y += x
    return flat


def _change_some_rows(x):
    y = x + x
    rows = y[:, :, ::2]
    rows.relu_()
    return y.flatten(1)


def _change_one_view_and_read_another(x):
    y = x + x
    a, b = y.flatten(1), y.reshape(-1, 32)
    a.add_(a)
    return b


@pytest.mark.parametrize(
    "forward", [_change_a_view, _change_what_a_view_is_of, _change_some_rows, _change_one_view_and_read_another]
)
def test_a_change_in_place_that_is_read_in_another_shape_is_refused(forward):
    with pytest.raises(ValueError, match=r"in another shape later .layer (add|iadd|relu)"):
        trace(Function(forward), shape=(2, 4, 4))


@pytest.mark.parametrize(
    ("net", "names"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU()), ("GELU", "layer 1")),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")), ("circular", "layer 0")),
        (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), ("batch", "layer 0")),
        (nn.Sequential(nn.Linear(8, 2)), ("flattened", "layer 0")),
        (nn.Sequential(nn.ConvTranspose2d(3, 2, 3)), ("ConvTranspose2d", "layer 0")),
        (Function(lambda x: x * 2), ("mul",)),
        (Function(lambda x: x + 1), ("sum",)),
        (Function(torch.softmax), ("cannot follow",)),
        (Function(lambda x: x if x.sum() > 0 else -x), ("cannot follow",)),
        (Function(lambda x: (x, x)), ("several",)),
        (Function(lambda x: x.flatten(2)), ("flatten",)),
        (Function(lambda x: x.mean()), ("mean",)),
        (Function(lambda x: F.dropout(x)), ("dropout",)),
        (mpt.backbones.torchvision(name="mobilenet_v2"), ("ReLU6",)),
    ],
)
def test_what_is_unknown_is_refused_by_name(net, names):
    with pytest.raises(ValueError, match=r".") as error:
        trace(net, shape=(3, 8, 8))
    assert all(name in str(error.value) for name in names), str(error.value)


def test_channels_that_do_not_fit_are_refused_by_layer():
    with pytest.raises(ValueError, match="layer 1 takes 5 channels"):
        trace(nn.Sequential(nn.ReLU(), nn.Conv2d(5, 1, 1)), shape=(3, 8, 8))
