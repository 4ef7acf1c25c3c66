from __future__ import annotations

import bz2
import copy
import json
import time

import numpy as np
import pytest
import torch
from torch import nn

import mpt
from mpt import backbones
from mpt.search.layers import ticket_layers
from mpt.ticket import format as files
from mpt.ticket.compact import MAX_HEADER, compact, expand
from tests.ticket.test_pack import ChannelGains


def conv2():
    return backbones.conv2(width=0.25, image_size=8)


def flipped(net):
    """``net`` with the sign of one kept weight changed."""
    layer = list(ticket_layers(net).values())[1]
    layer.weight[layer.mask().nonzero()[0].unbind()] *= -1
    return net


class Buffers(nn.Module):
    """Every kind of state, a weight of two layers, and a 0-d and an empty buffer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(40, 40), nn.Linear(40, 40, bias=False), nn.BatchNorm1d(40)
        self.b.weight = self.a.weight
        self.register_buffer("counts", torch.tensor([1, -2]))
        self.register_buffer("flag", torch.tensor(True))
        self.register_buffer("none", torch.zeros(0, 3))

    def forward(self, x):
        return self.norm(self.b(torch.relu(self.a(x))))


pytestmark = pytest.mark.filterwarnings("ignore::mpt.search.dead.DeadLayers")  # "very sparse" keeps next to nothing

NETWORKS = {
    "biprop": lambda: mpt.convert(conv2(), mpt.Biprop(prune=0.8), seed=0),
    "no seed": lambda: mpt.convert(conv2(), mpt.Biprop(prune=0.8), seed=None),
    "flipped": lambda: flipped(mpt.convert(conv2(), mpt.Biprop(prune=0.8), seed=0)),
    "unsigned": lambda: mpt.convert(conv2(), mpt.Biprop(prune=0.8, init="unsigned_constant"), seed=0),
    "nothing pruned": lambda: mpt.convert(conv2(), mpt.Biprop(prune=0.0), seed=0),
    "very sparse": lambda: mpt.convert(conv2(), mpt.Biprop(prune=0.9999), seed=0),
    "real": lambda: mpt.convert(conv2(), mpt.EdgePopup(prune=0.5, init="kaiming_normal"), seed=0),
    "channels": lambda: mpt.convert(conv2(), ChannelGains(prune=0.8), seed=0),
    "dense": lambda: mpt.convert(conv2(), mpt.Dense(), seed=0),
    "buffers": lambda: mpt.convert(Buffers(), mpt.Biprop(prune=0.7, bias=True), seed=0, learn_batchnorm=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_content_comes_back_from_either_format_with_the_same_digest(tmp_path, name):
    ticket = mpt.Ticket.from_network(NETWORKS[name]())
    for version in (2, 3) if name != "channels" else (3,):
        ticket.save(tmp_path / f"{version}", format=version)
        again = mpt.Ticket.load(tmp_path / f"{version}")
        assert again.header == ticket.header
        assert again.tensors.keys() == ticket.tensors.keys()
        for tensor, value in ticket.tensors.items():
            assert again.tensors[tensor].dtype == value.dtype
            assert torch.equal(again.tensors[tensor], value)
        assert again.digest == ticket.digest
        assert again.file_bits == 8 * (tmp_path / "3").stat().st_size if version == 3 else True
        again.save(tmp_path / "again", format=version)
        assert (tmp_path / "again").read_bytes() == (tmp_path / f"{version}").read_bytes()


@pytest.mark.parametrize(
    ("name", "stored"), [("biprop", 0), ("unsigned", 0), ("very sparse", 0), ("flipped", 1), ("no seed", 5)]
)
def test_signs_are_stored_in_exactly_the_layers_where_they_are_not_the_seeds(name, stored):
    ticket = mpt.Ticket.from_network(NETWORKS[name]())
    parts = compact(ticket.header, ticket.tensors)
    layers = [
        layer for layer in ticket.layers if not layer.has_seed_signs(seed=ticket.header["seed"], init="kaiming_normal")
    ]
    if name == "unsigned":
        assert "signs" not in parts
        return
    assert len(layers) == stored
    assert sum(len(layer.parts["signs"]) for layer in layers) == (parts["signs"].numel() if stored else 0)
    assert ("signs" in parts) == bool(stored)


def test_a_gain_for_each_channel_takes_no_values_and_no_older_format(tmp_path):
    ticket = mpt.Ticket.from_network(NETWORKS["channels"]())
    parts = compact(ticket.header, ticket.tensors)
    assert "values" not in parts
    assert parts["gains"].numel() == 16 + 16 + 64 + 64 + 10
    assert ticket.header["format"] == 3
    assert [tuple(layer.gain.shape) for layer in ticket.layers] == [(16, 1, 1, 1)] * 2 + [(64, 1), (64, 1), (10, 1)]
    with pytest.raises(ValueError, match="a gain for each channel, or with several masks, does not fit into format 2"):
        ticket.save(tmp_path / "t", format=2)
    with pytest.raises(ValueError, match="format of a ticket file must be 2 or 3, got 1"):
        ticket.save(tmp_path / "t", format=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("backbone", "most", "entropy"),
    [
        (backbones.conv6, 0.73, 0.7221),
        pytest.param(backbones.cifar_resnet18, 0.752, 0.722, marks=pytest.mark.slow),
    ],
)
def test_published_networks_take_about_their_entropy_everything_counted(tmp_path, backbone, most, entropy):
    about = {
        "class_names": [f"class {i}" for i in range(10)],
        "parameters": {f"parameter_{i}": i / 7 for i in range(40)},
    }
    ticket = mpt.Ticket.from_network(mpt.convert(backbone(), mpt.Biprop(prune=0.8), seed=0), **about)
    start = time.process_time()
    ticket.save(tmp_path / "t")
    again = mpt.Ticket.load(tmp_path / "t")
    assert time.process_time() - start < 1.5
    assert ticket.file_bits == 8 * (tmp_path / "t").stat().st_size
    assert again.digest == ticket.digest
    assert ticket.file_bits <= most * ticket.num_weights
    assert ticket.entropy_bits / ticket.num_weights == pytest.approx(entropy, abs=1e-4)


def test_entropy_counts_signs_that_are_not_the_seeds_and_every_gain_or_value():
    ticket = mpt.Ticket.from_network(NETWORKS["biprop"]())
    masks = 0.0
    for layer in ticket.layers:
        p = layer.kept / layer.num_weights
        masks -= layer.num_weights * (p * np.log2(p) + (1 - p) * np.log2(1 - p))
    assert ticket.entropy_bits == pytest.approx(masks + 5 * 32)
    other = mpt.Ticket.from_network(NETWORKS["flipped"]())
    assert other.entropy_bits == pytest.approx(masks + 5 * 32 + other.layers[1].kept)
    seedless = mpt.Ticket(ticket.header | {"seed": None}, ticket.tensors)
    assert seedless.entropy_bits == pytest.approx(masks + 5 * 32 + ticket.num_kept)
    dense = mpt.Ticket.from_network(NETWORKS["dense"]())
    assert dense.entropy_bits == 32 * dense.num_weights


def signed(path, stored, header=None):
    """Write ``stored`` as a file of format 3 whose digests are right, as somebody who knows mpt could."""
    content = header or {}
    try:
        content, tensors = expand(stored) if header is None else (header, {})
        digest = files.digest_of(content, tensors)
    except Exception:  # a content that cannot be read has no digest
        digest = "0" * 32
    about = {"digest": digest, "header": {"format": 3}, "stored": files.digest_of({}, stored)}
    path.write_bytes(files.to_bytes(stored, {"ticket": json.dumps(about)}))


def packed_header(content):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return torch.from_numpy(np.frombuffer(bz2.compress(text), dtype=np.uint8).copy())


def content_of(stored):
    return json.loads(bz2.decompress(stored["header"].numpy().tobytes()))


VALUES = [None, True, -1, 0, 1, 7, 2**31, 2**64, 1e308, "", "x", "seed", [], {}, [[]], {"a": []}, "\x1b[31m", [1] * 50]


def mutated(content, random):
    """``content`` with one entry, anywhere in it, replaced, removed or doubled."""
    content = copy.deepcopy(content)
    places = []

    def walk(value):
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                walk(value[key])

    walk(content)
    place, key = places[random.integers(len(places))]
    kind = random.integers(3)
    if kind == 0:
        place[key] = VALUES[random.integers(len(VALUES))]
    elif kind == 1:
        del place[key]
    elif isinstance(place, list):
        place.append(place[key])
    elif isinstance(place[key], int):
        place[key] += int(random.integers(-3, 4))
    return content


@pytest.mark.slow
@pytest.mark.parametrize("name", ["biprop", "flipped", "channels", "real", "buffers"])
def test_mutated_files_with_right_digests_are_refused_in_one_sentence_or_load(tmp_path, name):
    ticket = mpt.Ticket.from_network(NETWORKS[name](), class_names=["a"], data={"name": "x", "channels": 3})
    original = compact(ticket.header, ticket.tensors)
    random, refused = np.random.default_rng(0), 0
    for _ in range(60):
        stored = {key: value.clone() for key, value in original.items()}
        if random.random() < 0.6:
            stored["header"] = packed_header(mutated(content_of(stored), random))
        else:
            key = list(stored)[random.integers(len(stored))]
            value, cut = stored[key], int(random.integers(stored[key].numel() + 1))
            value.view(torch.uint8)[random.integers(value.nbytes)] ^= 1 << int(random.integers(8))
            stored[key] = [value, value[:cut], torch.cat([value, value[:1]])][random.integers(3)].contiguous()
        signed(tmp_path / "t", stored)
        sentence = first_refusal(tmp_path / "t", BACKBONES.get(name))
        refused += sentence is not None
        assert sentence is None or (len(sentence) < 600 and len(sentence.splitlines()) == 1)
    assert refused > 20


BACKBONES = {"buffers": Buffers}


def first_refusal(path, backbone):
    """The sentence with which the ticket, its table or its network is refused, or None."""
    try:
        ticket = mpt.Ticket.load(path)
        str(ticket.table())
        ticket.network(backbone() if backbone else None)
    except ValueError as error:
        return str(error)
    return None


def bomb(content, **changes):
    content = copy.deepcopy(content)
    for path, value in changes.items():
        place = content
        *keys, last = path.split("__")
        for key in keys:
            place = place[int(key) if key.isdigit() else key]
        place[last] = value
    return content


BOMBS = {
    "many weights": lambda c: bomb(c, header__layers__0__shape=[2**30, 2**10], header__layers__0__kept=1),
    "many dimensions": lambda c: bomb(c, header__layers__0__shape=[1] * 400_000),
    "a large buffer": lambda c: bomb(
        c, header__others=[{"name": "x", "shape": [2**30, 2**10], "trained": None}], coding__others=["floats"]
    ),
    "a large gain": lambda c: bomb(c, coding__layers__0__gains=0),
    "nested": lambda c: b'{"header":' + b"[" * 100_000 + b"]" * 100_000 + b',"coding":{}}',
    "a wide backbone": lambda c: bomb(c, header__backbone__arguments__width=600),
    "a large batch-norm": lambda c: bomb(
        c,
        header__binary_activations={
            "t": 1.0,
            "signs": [{"activation": "features.1", "behind": None, "features": 2**40, "dims": 4}],
        },
    ),
    "nested 40 deep": lambda c: bomb(c, header__parameters=json.loads('{"a":' * 40 + "1" + "}" * 40)),
    "large text": lambda c: b" " * (MAX_HEADER + 1) + json.dumps(c).encode(),
    "infinity": lambda c: json.dumps(bomb(c, header__seed=float("inf"))).encode(),
    "an infinite number": lambda c: json.dumps(c).replace('"prune": 0.8', '"prune": 1e999').encode(),
    "not an object": lambda c: [1, 2],
    "an unknown initializer": lambda c: bomb(c, header__method__init="os.system"),
    "a range of classes": lambda c: bomb(c, header__class_names={"0": 1}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_header_that_promises_more_than_the_file_holds_is_refused_at_once(tmp_path, name):
    ticket = mpt.Ticket.from_network(NETWORKS["biprop"]())
    stored = compact(ticket.header, ticket.tensors)
    stored["header"] = packed_header(BOMBS[name](content_of(stored)))
    signed(tmp_path / "t", stored)
    start = time.process_time()
    with pytest.raises(ValueError, match=r"is not consistent|has a broken header|is for another backbone"):
        mpt.Ticket.load(tmp_path / "t").network()
    assert time.process_time() - start < 1


def test_bytes_behind_the_end_of_a_header_and_other_tensors_are_refused(tmp_path):
    ticket = mpt.Ticket.from_network(NETWORKS["biprop"]())
    original = compact(ticket.header, ticket.tensors)
    changes = {
        "behind its end": {"header": torch.cat([original["header"], torch.zeros(1, dtype=torch.uint8)])},
        "cannot be decompressed": {"header": torch.zeros(10, dtype=torch.uint8)},
        "a tensor that format 3 does not have": {"stowaway": torch.zeros(1)},
        r"uint8.*float32|float32": {"masks": original["masks"].float()},
        "go on behind": {"masks": torch.cat([original["masks"], torch.zeros(4, dtype=torch.uint8)])},
    }
    for sentence, change in changes.items():
        signed(tmp_path / "t", original | change)
        with pytest.raises(ValueError, match=sentence):
            mpt.Ticket.load(tmp_path / "t")
    del original["header"]
    signed(tmp_path / "t", original)
    with pytest.raises(ValueError, match="it has no header"):
        mpt.Ticket.load(tmp_path / "t")
