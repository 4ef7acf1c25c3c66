from __future__ import annotations

import warnings
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import nn

import mpt
from mpt.values import check_choice, check_least, check_number, check_whole, is_number, of_kind, path_of, typed


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_choice("kind", "c", ("a", "b")), "kind must be one of a, b, got 'c'"),
        (lambda: check_whole("period", "the steps", 0, least=1), "the steps and must be a whole number of at least 1"),
        (lambda: check_whole("period", "the steps", True, least=1), "got True"),
        (lambda: check_number("rate", "in (0, 1]", 0.0, above=0, most=1), r"rate is in \(0, 1\], got 0.0$"),
        (lambda: check_number("rate", "in (0, 1]", 1.5, above=0, most=1), "got 1.5$"),
        (lambda: check_number("rate", "finite", float("nan")), "got nan$"),
        (lambda: check_number("rate", "finite", float("inf")), "got inf$"),
        (lambda: check_number("rate", "finite", -(10**400)), "got -10{400}$"),
        (lambda: check_number("rate", "a number", "1"), "got '1'$"),
        (lambda: check_number("rate", "in (0, 1]", 10**400, most=1), r"rate is in \(0, 1\], got 10{400}$"),
        (lambda: check_number("rate", "a number", np.float32(0.5)), r"write float\(...\) around it"),
        (lambda: check_number("rate", "a number", torch.tensor(0.5)), r"write float\(...\) around it"),
        (lambda: check_whole("period", "the steps", np.int64(2), least=1), r"write int\(...\) around it"),
        (lambda: check_least(classes=0), "classes must be a whole number of at least 1, got 0"),
        (lambda: of_kind("learn", "yes", "bool"), "learn must be True or False, got 'yes'"),
        (lambda: of_kind("learn", 2, "bool"), "learn must be True or False, got 2"),
        (lambda: path_of("a file", None, example="x"), "a file is a path, text or a pathlib.Path as 'x', got NoneType"),
        (lambda: path_of("a file", b"x", example="x"), "got bytes"),
        (lambda: path_of("a file", "", example="x"), "a file is a path as 'x', got ''"),
        (lambda: path_of("a file", "a\0b", example="x"), "got 'a.x00b'"),
    ],
)
def test_a_refused_value_is_named_with_what_it_must_be(check, message):
    with pytest.raises(ValueError, match=message):
        check()


def test_bounds_that_are_included_are_accepted():
    check_number("rate", "in (0, 1]", 1, above=0, most=1)
    check_number("power", "at least 1", 1, least=1)
    check_whole("period", "the steps", 1, least=1)
    check_least(0, classes=0)
    assert is_number(1.5)
    assert not is_number(True)
    assert path_of("a file", Path("a"), example="x") == path_of("a file", "a", example="x") == Path("a")


def test_typed_checks_plain_hints_and_leaves_the_rest():
    @typed
    def scale(values: list, factor: float, *, steps: int | None = None, name: str | Path = "x") -> float:
        return factor * len(values)

    assert scale("ab", 2, steps=3, name=Path("y")) == 4
    for arguments, message in (
        ({"factor": "2"}, "factor must be a number, got '2'"),
        ({"factor": 2, "steps": 1.5}, "steps must be a whole number, or None, got 1.5"),
        ({"factor": 2, "steps": True}, "got True"),
        ({"factor": 2, "name": 3}, "name must be text, or a path, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            scale([], **arguments)
    with pytest.raises(TypeError, match=r"scale\(\) got an unexpected keyword argument 'other'"):
        scale([], 2, other=3)


@pytest.mark.parametrize(
    ("kind", "value", "own"),
    [
        ("int", np.int64(3), 3),
        ("int", 4.0, 4),
        ("int", np.float32(4), 4),
        ("int", torch.tensor(3), 3),
        ("float", 2, 2),
        ("float", np.float32(0.25), 0.25),
        ("float", np.float64(0.1), 0.1),
        ("float", np.int64(2), 2),
        ("float", Fraction(1, 4), 0.25),
        ("bool", np.bool_(True), True),
        ("bool", 0, False),
        ("bool", 1.0, True),
    ],
)
def test_typed_hands_over_what_python_has(kind, value, own):
    def function(value):
        return value

    function.__annotations__["value"] = kind
    taken = typed(function)(value)
    assert taken == own
    assert type(taken) is type(own)


def test_numbers_of_other_libraries_build_networks_whose_tickets_can_be_saved(tmp_path):
    arguments = {"width": np.float32(0.25), "num_classes": np.int64(3), "image_size": 8.0}
    assert mpt.backbones.mlp(hidden=[np.int64(3)]).origin["arguments"]["hidden"] == [3]
    net = mpt.backbones.build(MappingProxyType({"target": "mpt.backbones.conv2", "arguments": arguments}))
    wide = mpt.backbones.expanded(of=MappingProxyType(net.origin), hidden={"classifier.0": np.int64(4)})
    assert wide.origin["arguments"]["hidden"] == {"classifier.0": [4]}
    method = mpt.Biprop(prune=0.5)
    converted = mpt.convert(
        net, method, seed=np.int64(1), binary_activations=np.bool_(True), learn_batchnorm=1, spline_t=np.float32(1)
    )
    mpt.Ticket.from_network(converted).save(tmp_path / "ticket.safetensors")
    loaded, images = mpt.Ticket.load(tmp_path / "ticket.safetensors"), torch.randn(2, 3, 8, 8)
    assert loaded.header["backbone"]["arguments"] == {
        "width": 0.25,
        "num_classes": 3,
        "in_channels": 3,
        "image_size": 8,
    }
    assert torch.equal(loaded.network()(images), converted.eval()(images))


def test_whole_floats_and_0_and_1_are_taken_as_images_and_loaders_take_them():
    digits = mpt.data.load("digits", crop=4.0, flip=1, download=0)
    assert (digits.crop, digits.flip) == (4, True)
    assert _digits_loader(train=1, batch=np.int64(8)).train is True


def _digits_loader(**changed):
    digits = mpt.data.load("digits")
    given = {"images": digits.train, "data": digits, "batch": 64, "train": True} | changed
    return mpt.data.Loader(given.pop("images"), **given)


BACKBONE = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
with warnings.catch_warnings(action="ignore"):  # torch warns of a layer without weights
    EMPTY = nn.Sequential(nn.Linear(0, 3))
SLIPS = {  # what a function of the public interface is given, and what it says
    "method, a name": (lambda: mpt.convert(BACKBONE, "biprop"), r"an instance, such as mpt.Biprop\(prune=0.8\), got"),
    "method, a class": (lambda: mpt.convert(BACKBONE, mpt.Biprop), "an instance, such as"),
    "seed": (lambda: mpt.convert(BACKBONE, mpt.Biprop(prune=0.5), seed="0"), "seed must be a whole .*got '0'"),
    "flag": (lambda: mpt.convert(BACKBONE, mpt.Biprop(prune=0.5), binary_activations="no"), "must be True or False"),
    "spline_t": (lambda: mpt.BinaryActivation("1"), "spline_t is half the width .*got '1'"),
    "pattern": (lambda: mpt.convert(BACKBONE, mpt.Biprop(prune=0.5), dense=[1]), "names or patterns, got 1 in it"),
    "prune": (lambda: mpt.Biprop(prune="0.5"), "prune is the fraction .*got '0.5'"),
    "prune_layers": (lambda: mpt.Biprop(prune=0.5, prune_layers={1: 0.5}), "names or patterns of layers as keys"),
    "lazy": (lambda: mpt.convert(nn.Sequential(nn.LazyLinear(3)), mpt.Biprop(prune=0.5)), "0 has no shape yet"),
    "empty": (lambda: mpt.convert(EMPTY, mpt.Biprop(prune=0.5)), "weight of 0 has no entry"),
    "width": (lambda: mpt.backbones.conv2(width="1"), "width must be a number, got '1'"),
    "classes": (lambda: mpt.backbones.cifar_resnet18(num_classes=0), "num_classes must be a whole number of at least"),
    "side": (lambda: mpt.backbones.conv2(image_size=8.5), "image_size must be a whole number, got 8.5"),
    "hidden": (lambda: mpt.backbones.mlp(hidden=None), r"hidden lists the features .*as in \[300\], got None"),
    "name": (lambda: mpt.backbones.torchvision(name=3), "name must be text, got 3"),
    "origin": (lambda: mpt.backbones.build(None), "origin is the dictionary of a backbone"),
    "of": (lambda: mpt.backbones.expanded(of=None, hidden={}), "of is a network or its origin"),
    "data": (lambda: mpt.data.load("digits", val_size="5"), "val_size must be a number, got '5'"),
    "mean": (lambda: mpt.data.load("digits", mean=0.5), "data.mean is a list of numbers, one per channel, got 0.5"),
    "batch": (lambda: _digits_loader(batch=0), "batch is the number of images per step and must be at least 1"),
    "split": (lambda: _digits_loader(images=None), r"a split and its data set, as Loader\(data.train, data=data\)"),
    "target": (lambda: mpt.construct(nn.Linear(3, 3), accuracy=0.1), "as torch.nn.Sequential"),
    "weights": (lambda: mpt.construct(EMPTY, accuracy=0.1), "layer 0 of the target has no"),
    "directory": (lambda: mpt.search("mlp", "digits", directory=3), "directory is a path, text or a pathlib.Path"),
    "network": (
        lambda: mpt.search("mlp", "digits", model="conv2"),
        "backbone is the network .*: leave model='conv2'",
    ),
    "option": (lambda: mpt.search("mlp", "digits", dense={"a"}), "dense must be text, numbers, True or .*, got set"),
    "number": (lambda: mpt.search("mlp", "digits", optim={"lr": torch.ones(1)}), "optim.lr must be .*, got Tensor"),
    "load": (lambda: mpt.Ticket.load(None), "a ticket is a path, text or a pathlib.Path"),
    "save": (lambda: mpt.Ticket.from_network(BACKBONE).save(""), "the place of a ticket is a path as 'runs"),
    "about": (
        lambda: mpt.Ticket.from_network(BACKBONE, note=torch.ones(1)).save("x"),
        "note of a ticket must be plain",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_wrong_argument_of_the_public_interface_is_named_with_what_it_must_be(slip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, message = SLIPS[slip]
    with pytest.raises(ValueError, match=message):
        call()
    assert not list(tmp_path.iterdir())
