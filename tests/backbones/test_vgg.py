from __future__ import annotations

import pytest
import torch
from torch import nn

from mpt import backbones


def weights(net):
    return sum(p.numel() for p in net.parameters() if p.dim() > 1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({}, 4_656_512), ({"relus": "all"}, 4_656_512), ({"width": 1.25, "binary_activations": True}, 7_249_120)],
)
def test_vgg_small_has_the_published_number_of_weights(arguments, expected):
    assert weights(backbones.vgg_small(**arguments)) == expected


def test_both_published_forms_have_their_layers_in_order():
    def steps(net):
        return "".join(
            {"Conv2d": "c", "BatchNorm2d": "b", "ReLU": "r", "MaxPool2d": "p"}[type(m).__name__] for m in net
        )

    two, every = (backbones.vgg_small(width=0.125, relus=relus) for relus in ("two", "all"))
    assert steps(two.features) == "crcpb" + 2 * "ccpb"  # and a ReLU in the forward
    assert steps(every.features) == 2 * "cbrcpbr" + "cbrcpb"
    for net in (two, every):
        inputs = []
        net.classifier.register_forward_pre_hook(lambda _, x, inputs=inputs: inputs.append(x[0].detach()))
        net(torch.randn(4, 3, 32, 32))
        assert float(inputs[0].min()) == 0.0


def test_binary_activations_select_the_form_with_all_relus_and_the_origin_records_it():
    net = backbones.vgg_small(width=0.125, binary_activations=True)
    assert net.origin["arguments"]["relus"] == "all"
    assert str(backbones.build(net.origin)) == str(net)


@pytest.mark.parametrize("relus", ["two", "all"])
def test_logits_of_a_batch_of_one_have_one_column_a_class(relus):
    net = backbones.vgg_small(width=0.125, num_classes=7, in_channels=1, image_size=9, relus=relus).eval()
    assert net(torch.zeros(1, 1, 9, 9)).shape == (1, 7)
    assert not any(m.bias is not None for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"image_size": 7}, "image_size must be at least 8 for vgg_small"),
        ({"width": 0.001}, "width multiplies the channels"),
        ({"relus": "none"}, "relus must be one of two, all, got 'none'"),
        ({"relus": "two", "binary_activations": True}, "relus=two has no form with binary activations"),
    ],
)
def test_impossible_shapes_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        backbones.vgg_small(**arguments)
