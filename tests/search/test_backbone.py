from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import mpt
from mpt.search.backbone import copy_of
from mpt.search.layers import ticket_layers


def net(*layers):
    return nn.Sequential(nn.Linear(4, 4), *layers, nn.Linear(4, 3))


def locked():
    backbone = net(nn.ReLU())
    backbone[1].lock = threading.Lock()
    return backbone


def locked_beside_others():
    """A lock, and next to it what is no obstacle: a tensor with a history, and a list with the module of the lock."""
    backbone = locked()
    backbone[0].last, backbone[0].others = backbone[0](torch.ones(2, 4)), [backbone[1]]
    return backbone


class Uncopied(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        return x

    def __deepcopy__(self, memo):
        raise self.error


def frozen_code():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its end
        return net(torch.jit.freeze(torch.jit.script(nn.Linear(4, 4)).eval()))


def replaced():
    backbone = net(nn.ReLU())
    original = backbone[0].forward
    backbone[0].forward = lambda x: 2 * original(x)
    return backbone


def replaced_by_a_default():
    backbone = net(nn.ReLU())
    backbone[0].forward = lambda x, original=backbone[0].forward: 2 * original(x)
    return backbone


def attribute():
    backbone = net()
    backbone.updates = 0
    return backbone


class Taken(nn.Sequential):
    @property
    def conversion(self):
        raise AssertionError


def compiled_forward():
    backbone = net(nn.ReLU())
    backbone.forward = torch.compile(backbone.forward, backend="eager")
    return backbone


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its end
        return net(torch.jit.script(nn.Sequential(nn.Linear(4, 4))))


def called(*names):
    backbone = net()
    for name in names:
        backbone.add_module(name, nn.Identity())
    return backbone


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: print, "a backbone is a torch module, got a builtin_function_or_method"),
        (lambda: nn.Linear, "a backbone is a torch module, got the class Linear: build one"),
        (lambda: net(nn.LazyLinear(4), nn.LazyBatchNorm1d()), "1, 2 have no shape yet: run the backbone once"),
        (
            lambda: net(nn.Linear(4, 4, device="meta"), nn.BatchNorm1d(4, device="meta")),
            "1, 2 hold no values, on the m",
        ),
        (lambda: mpt.convert(net(nn.ReLU()), mpt.Biprop(prune=0.5)), "layers 0, 2 are ticket layers already"),
        (lambda: net(mpt.convert(nn.Linear(4, 4), mpt.Biprop(prune=0.5))), "layer '1' is a ticket layer already"),
        (scripted, "1, 1.0: compiled by torch.jit, whose layers cannot be changed: convert the Python module"),
        (frozen_code, "1: compiled by torch.jit, whose layers cannot be changed"),
        (locked, "Sequential cannot be copied, because its 1.lock cannot (cannot pickle '_thread.lock' object)"),
        (locked_beside_others, "Sequential cannot be copied, because its 1.lock cannot (cannot pickle"),
        (
            lambda: net(Uncopied(ValueError("there is but one"))),
            "Sequential cannot be copied, because a part of it cannot (there is but one)",
        ),
        (replaced, "the forward of 0 is a function put in the place of its class's"),
        (replaced_by_a_default, "the forward of 0 is a function put in the place of its class's"),
        (compiled_forward, "the forward of Sequential is a function put in the place of its class's"),
        (attribute, "the backbone has an attribute called updates, where mpt"),
        (lambda: Taken(nn.Linear(4, 3)), "the backbone has an attribute called conversion, where mpt"),
        (lambda: called("updates"), "the backbone has an attribute called updates, where mpt"),
        (
            lambda: called("conversion", "updates"),
            "has an attribute called conversion and one called updates, where mpt",
        ),
    ],
)
@pytest.mark.parametrize("method", [mpt.Biprop(prune=0.5), mpt.Dense()], ids=["biprop", "dense"])
def test_what_cannot_be_converted_is_refused_with_all_names(build, sentence, method):
    with pytest.raises(ValueError) as caught:
        mpt.convert(build(), method, example=torch.ones(2, 4))
    assert sentence in str(caught.value)


def test_a_dense_network_of_ours_may_be_searched():
    dense = mpt.convert(net(), mpt.Dense())
    assert list(ticket_layers(mpt.convert(dense, mpt.Biprop(prune=0.5)))) == ["0", "1"]


def test_want_of_memory_is_no_fault_of_the_backbone():
    for error in (MemoryError(), RuntimeError("CUDA out of memory")):
        with pytest.raises(type(error)) as caught:
            copy_of(net(Uncopied(error)))
        assert caught.value is error


def test_a_ticket_refuses_a_backbone_without_values():
    ticket = mpt.Ticket.from_network(mpt.convert(net(), mpt.Biprop(prune=0.5)))
    with pytest.raises(ValueError, match="0, 1 hold no values"):
        ticket.network(net().to("meta"))


def test_a_tensor_that_a_module_has_computed_and_keeps_is_no_obstacle():
    class Keeping(nn.Linear):
        def forward(self, x):
            self.last = super().forward(x)
            return self.last

    backbone = net(Keeping(4, 4))
    backbone(torch.ones(2, 4))
    copied = copy_of(backbone)
    assert torch.equal(copied[1].last, backbone[1].last)
    assert copied[1].last.grad_fn is None
    assert backbone[1].last.grad_fn is not None
    converted = mpt.convert(backbone, mpt.Biprop(prune=0.5))
    x = torch.randn(2, 4)
    y = converted(x)
    assert torch.equal(mpt.to_dense(converted)(x), y)


@dataclass
class Node:
    value: torch.Tensor = field(init=False)
    parent: Node | None = None


def test_what_modules_keep_may_point_at_itself_have_unset_fields_and_be_deep():
    backbone = net(nn.ReLU())
    kept = {"last": backbone[0](torch.ones(2, 4)), "child": Node()}
    kept["itself"], kept["child"].parent = kept, kept["child"]
    kept["deep"] = (nested := [])
    for _ in range(100):
        nested.append(nested := [])
    nested.append(kept["last"])
    backbone[1].kept = kept
    copied = copy_of(backbone)[1].kept
    assert copied["itself"] is copied
    assert copied["child"].parent is copied["child"]
    assert copied["last"].grad_fn is None
    assert torch.equal(copied["last"], kept["last"])


def test_code_of_jit_without_layers_is_no_obstacle():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its end
        backbone = net(torch.jit.script(nn.ReLU()))
    converted, x = mpt.convert(backbone, mpt.Biprop(prune=0.5)).eval(), torch.randn(5, 4)
    assert list(ticket_layers(converted)) == ["0", "2"]
    assert torch.equal(mpt.Ticket.from_network(converted).network(backbone)(x), converted(x))


def test_wrappers_are_left_out_at_any_depth_and_what_is_shared_stays_shared():
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    plain, wrapped = net(inner), net(torch.compile(nn.DataParallel(inner), backend="eager"))
    wrapped.add_module("again", nn.Sequential(wrapped[1], nn.Linear(3, 3)))
    plain.add_module("again", nn.Sequential(plain[1], nn.Linear(3, 3)))
    names = [name for name, _ in copy_of(wrapped).named_modules(remove_duplicate=False)]
    assert names == [name for name, _ in plain.named_modules(remove_duplicate=False)]
    copied = copy_of(wrapped)
    assert copied[1] is copied.again[0]


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")], ids=["data", "compile"]
)
def test_a_ticket_of_a_backbone_with_a_wrapped_part_fits_it_with_and_without_the_wrapper(wrap):
    inner, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(5, 4)
    plain = net(inner)
    wrapped = nn.Sequential(plain[0], wrap(inner), plain[2])
    converted = mpt.convert(wrapped, mpt.Biprop(prune=0.5), example=x).eval()
    assert list(ticket_layers(converted)) == ["0", "1.0", "2"]
    ticket = mpt.Ticket.from_network(converted)
    for backbone in (plain, wrapped):
        assert torch.equal(ticket.network(backbone)(x), converted(x))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch announces the end of weight_norm
def test_weights_that_hooks_compute_are_named_and_the_advice_does():
    backbone = net(nn.utils.weight_norm(nn.Linear(4, 4)), nn.utils.spectral_norm(nn.Linear(4, 4)))
    with pytest.raises(ValueError, match=r"weight of 1, 2 is computed from other tensors .* dense=\['1', '2'\]"):
        mpt.convert(backbone, mpt.Biprop(prune=0.5))
    converted = mpt.convert(backbone, mpt.Biprop(prune=0.5), dense=["1", "2"])
    assert list(ticket_layers(converted)) == ["0", "3"]
