from __future__ import annotations

import pytest
import torch

import mpt
from mpt import backbones
from mpt.ticket.check import MAX_MATCHES, check_header, check_tensors, data_settings

LONG = "x" * 2000


@pytest.fixture(scope="module")
def ticket():
    net = mpt.convert(backbones.conv2(width=0.25, image_size=8), mpt.Biprop(prune=0.8), seed=0, binary_activations=True)
    return mpt.Ticket.from_network(
        net,
        class_names=["a", "b"],
        data={"name": "digits", "image_size": 8, "channels": 3, "whatever": [1, {"a": None}]},
        normalization={"mean": [0.5, 0, 1], "std": [0.5, 1, 2]},
        parameters={"width": 0.25},
        history=[{"ticket": "0" * 32, "layers": "all"}],
        epoch=3,
    )


ENTRIES = {
    "format": ["2", 0, 4, True, None, 2.0],
    "mpt": [1, LONG],
    "backbone": [
        *("x", {}, {"target": 3, "arguments": {}}, {"target": "x", "arguments": []}),
        *({"target": "x", "arguments": arguments} for arguments in ({"a": 2**30}, {"a": [1] * 65}, {"a": "b" * 2000})),
        *({"target": "x", "arguments": arguments} for arguments in ({"image_size": "8"}, {"in_channels": 2**20})),
    ],
    "method": [
        None,
        {},
        {"name": "x"},
        {"name": "x", "prune": 1.0},
        {"name": "x", "prune": 0.5, "init": "os.system"},
        {"name": "x", "prune": 0.5, "selection": "x" * 900},
        {"name": "x", "prune": 0.5, "prune_layers": {"a": 2}},
        {"name": "x", "prune": 0.5, "scale_fan": 3},
    ],
    "seed": [-1, 2**63, 1.0, "0", True],
    "signs": [None, "no", 1],
    "binary_activations": [
        1,
        {},
        {"t": "1", "signs": []},
        {"t": 1.0, "signs": [{}]},
        {"t": 1.0, "signs": [{"activation": "a", "behind": None, "features": 2**40, "dims": 4}]},
    ],
    "layers": [None, {}, "x"],
    "others": [
        None,
        [None],
        [{"name": "x", "shape": [-1], "trained": None}],
        [{"name": "x", "shape": [1], "trained": 1}],
    ],
    "data": [
        *(None, [], {"name": 3}, {"image_size": "8"}, {"image_size": 2**20}, {"channels": 0}, {"mean": ["${x}"]}),
        *({"channels": 2**12, "image_size": 2**12}, {"crop": "${oc.env:HOME}"}, {"flip": "yes"}, {"val_size": "1"}),
        *({"augment": "${oc.env:HOME}"}, {"resized_crop": 1}, {"num_images": -1}, {"noise_std": float("inf")}),
    ],
    "class_names": [None, "ab", {"0": "a"}, [1], [LONG], range(2)],
    "normalization": [
        None,
        {},
        {"mean": [0.0], "std": []},
        {"mean": [0.0], "std": [0.0]},
        {"mean": ["0"], "std": [1]},
        {"mean": [float("nan")], "std": [1.0]},
        {"mean": [], "std": []},
    ],
    "parameters": [
        *(None, [], {"width": "${oc.env:HOME}"}, {"width": 0}, {"binary_activations": 1}, {"learn_batchnorm": "yes"}),
        *({"optim": range(3)}, {"x": "a" * 20_000}, {3: 4}),
    ],
    "epoch": [-1, "3"],
    "imported": [[], {"a": object()}],
    "history": [{}, [{}], [3], [{"ticket": 3}], [{"ticket": "x", "seed": float("nan")}]],
}


def test_what_mpt_writes_passes(ticket):
    check_header(ticket.header)
    check_tensors(ticket.header, ticket.tensors)


@pytest.mark.parametrize("key", ENTRIES)
def test_an_entry_of_another_type_or_range_is_refused_by_name(ticket, key):
    for value in ENTRIES[key]:
        with pytest.raises(ValueError, match=f"header's {key} is|header's entry of a") as caught:
            check_header(ticket.header | {key: value})
        assert len(str(caught.value)) < 300
    without = {name: value for name, value in ticket.header.items() if name != key}
    if key in ("format", "mpt", "backbone", "method", "seed", "layers", "others"):
        with pytest.raises(ValueError, match=f"header's {key} is"):
            check_header(without)
    else:
        check_header(without)


@pytest.mark.parametrize(
    "change",
    [
        {"name": 3},
        {"shape": [16, 3, 3, 3.0]},
        {"shape": []},
        {"shape": [1] * 9},
        {"shape": [0, 3]},
        {"kept": 0},
        {"kept": 433},
        {"kept": 1.0},
        {"kept": True},
        {"form": "other"},
        {"tied": "features.0"},
        {"tied": 3},
        {"binary_input": 1},
        {"name": "features.2"},
    ],
)
def test_a_row_of_a_layer_that_does_not_fit_is_refused(ticket, change):
    first, *rest = ticket.header["layers"]
    with pytest.raises(ValueError, match=r"header's entry of|lists a name twice"):
        check_header(ticket.header | {"layers": [first | change, *rest]})


@pytest.mark.parametrize(
    "gain",
    [torch.tensor([1.0]), torch.ones(1, 3, 3, 1), torch.ones(16), torch.tensor(1.0).double(), torch.tensor(-1.0)],
)
def test_a_gain_of_another_shape_type_or_sign_is_refused(ticket, gain):
    with pytest.raises(ValueError, match=r"the gain of features\.0 is not one number"):
        check_tensors(ticket.header, ticket.tensors | {"features.0.gain": gain})
    for right in (torch.ones(16, 1, 1, 1), torch.ones(1, 3, 1, 1)):
        check_tensors(ticket.header, ticket.tensors | {"features.0.gain": right})


@pytest.mark.slow
def test_a_header_without_weights_or_with_too_many_patterns_is_refused(ticket):
    with pytest.raises(ValueError, match="it holds no weights"):
        check_header(ticket.header | {"layers": [], "others": []})
    patterns = {f"{number}*": 0.5 for number in range(MAX_MATCHES)}
    method = ticket.header["method"] | {"prune_layers": patterns}
    with pytest.raises(ValueError, match="too many patterns"):
        check_header(ticket.header | {"method": method})


def test_only_plain_settings_of_the_data_are_used_again():
    stored = {"name": "x", "image_size": 8, "crop": 4, "flip": None}
    others = {"root": "/home/x", "cache": "x", "download": True, "workers": 8, "stream": True, "own": 3}
    assert data_settings({"data": stored | others}) == {"name": "x", "image_size": 8, "crop": 4}
