from __future__ import annotations

import json

import pytest
import torch
import torchvision
from safetensors.torch import save, save_file
from torch import nn

import mpt
from mpt import backbones
from mpt.search.layers import ticket_layers

METHODS = {
    "biprop": mpt.Biprop(prune=0.8),
    "biprop_bias": mpt.Biprop(prune=0.3, bias=True),
    "edge_popup_constant": mpt.EdgePopup(prune=0.5),
    "edge_popup_real": mpt.EdgePopup(prune=0.5, init="kaiming_normal"),
    "dense": mpt.Dense(),
}
BACKBONES = {
    "conv2": lambda: backbones.conv2(width=0.25, image_size=8),
    "resnet20": lambda: backbones.cifar_resnet20(width=0.5, num_classes=4),
    "resnet18": lambda: backbones.torchvision(name="resnet18", num_classes=4),
}


@pytest.mark.parametrize(
    ("backbone", "method"),
    [
        *(("conv2", method) for method in METHODS),
        ("resnet20", "biprop"),
        *(pytest.param("resnet18", method, marks=pytest.mark.slow) for method in METHODS),
    ],
)
def test_a_ticket_read_back_gives_the_same_logits_to_the_bit(tmp_path, method, backbone):
    net = mpt.convert(BACKBONES[backbone](), METHODS[method], seed=0)
    net(torch.randn(8, 3, 8, 8))  # batch-norm has something to remember
    net.eval()
    mpt.Ticket.from_network(net).save(tmp_path / "t.safetensors")
    again = mpt.Ticket.load(tmp_path / "t.safetensors").network()
    x = torch.randn(4, 3, 8, 8)
    assert not again.training
    assert torch.equal(net(x), again(x))
    assert torch.equal(mpt.to_dense(net)(x), again(x))
    for name, layer in ticket_layers(net).items():
        assert torch.equal(layer.mask(), again.get_submodule(name).mask())
        assert torch.equal(layer.ticket_weight(), again.get_submodule(name).ticket_weight())


def test_the_ticket_of_a_ticket_is_that_ticket():
    ticket = mpt.Ticket.from_network(mpt.convert(BACKBONES["resnet20"](), mpt.Biprop(prune=0.8), seed=0))
    again = mpt.Ticket.from_network(ticket.network())
    assert again.header == ticket.header
    assert all(torch.equal(again.tensors[name], value) for name, value in ticket.tensors.items())


WRAPPERS = {
    "compiled": torch.compile,
    "parallel": nn.DataParallel,
    "both": lambda net: torch.compile(nn.DataParallel(net)),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_only_wraps_a_network_does_not_show_in_its_ticket_or_table(mlp, wrapper):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5, selection="global", ramp=2), seed=0)
    wrapped = WRAPPERS[wrapper](net)
    mpt.start_epoch(wrapped, 5)
    assert net.conversion.epoch == 5
    ticket, expected = mpt.Ticket.from_network(wrapped), mpt.Ticket.from_network(net)
    assert ticket.header == expected.header
    assert all(torch.equal(ticket.tensors[name], value) for name, value in expected.tensors.items())
    assert mpt.layer_table(wrapped) == mpt.layer_table(net)
    again = mpt.convert(WRAPPERS[wrapper](mlp), net.conversion.method, seed=0)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())
    assert list(ticket.network(WRAPPERS[wrapper](mlp)).state_dict()) == list(ticket.network(mlp).state_dict())
    assert list(mpt.to_dense(wrapped).state_dict()) == list(mpt.to_dense(net).state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("prune", [0.2, 0.5, 0.8, 0.95])
def test_large_layers_take_two_minus_prune_bits_a_weight(prune):
    ticket = mpt.Ticket.from_network(mpt.convert(BACKBONES["resnet18"](), mpt.Biprop(prune=prune), seed=0))
    large = [row for row in ticket.table().layers if row.num_weights > 10_000]
    assert len(large) >= 18
    assert max(row.bits / row.num_weights for row in large) <= 2 - prune + 0.02


def test_bits_of_what_is_not_binary_are_counted_in_full():
    net = mpt.convert(BACKBONES["conv2"](), mpt.Dense(), seed=0)
    ticket = mpt.Ticket.from_network(net)
    assert ticket.bits == 32 * sum(p.numel() for p in net.parameters())
    assert ticket.num_weights == ticket.num_kept == sum(p.numel() for p in net.parameters())
    real = mpt.Ticket.from_network(mpt.convert(BACKBONES["conv2"](), METHODS["edge_popup_real"], seed=0))
    assert real.bits >= real.num_weights + 32 * real.num_kept


def test_counts_are_those_of_the_masks(tmp_path):
    net = mpt.convert(BACKBONES["resnet20"](), mpt.Biprop(prune=0.8), seed=0)
    ticket = mpt.Ticket.from_network(net)
    assert ticket.num_weights == sum(layer.weight.numel() for layer in ticket_layers(net).values())
    assert ticket.num_kept == sum(int(layer.mask().sum()) for layer in ticket_layers(net).values())


def test_a_backbone_of_ones_own_is_passed_in(tmp_path, mlp):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0)
    ticket = mpt.Ticket.from_network(net)
    x = torch.randn(2, 6)
    assert torch.equal(ticket.network(backbone=mlp)(x), net(x))
    assert type(mlp[0]) is nn.Linear
    with pytest.raises(ValueError, match="pass the plain network as backbone="):
        ticket.network()


def test_a_method_of_ones_own_needs_nothing_to_be_read():
    net = mpt.convert(BACKBONES["conv2"](), mpt.Biprop(prune=0.5), seed=0).eval()
    ticket = mpt.Ticket.from_network(net)
    ticket.header["method"] = {"name": "Mine", "prune": 0.5, "whatever": 3}
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(ticket.network()(x), net(x))


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (lambda: backbones.conv2(width=0.5, image_size=8), "layer 'features.0' is"),
        (lambda: backbones.conv4(width=0.25, image_size=8), "another backbone"),
        (lambda: torchvision.models.resnet18(num_classes=10), "no layer 'features.0'"),
        (lambda: nn.Sequential(nn.Linear(2, 2)), "another backbone"),
    ],
)
def test_another_backbone_is_refused(other, sentence):
    ticket = mpt.Ticket.from_network(mpt.convert(BACKBONES["conv2"](), mpt.Biprop(prune=0.8), seed=0))
    with pytest.raises(ValueError, match=sentence):
        ticket.network(backbone=other())


def test_state_that_only_one_side_has_is_refused():
    ticket = mpt.Ticket.from_network(mpt.convert(BACKBONES["conv2"](), mpt.Biprop(prune=0.8), seed=0))
    backbone = BACKBONES["conv2"]()
    backbone.register_buffer("extra", torch.zeros(2))
    with pytest.raises(ValueError, match="only the backbone has 'extra'"):
        ticket.network(backbone=backbone)


def test_one_ticket_is_one_sequence_of_bytes(tmp_path):
    ticket = mpt.Ticket.from_network(mpt.convert(BACKBONES["conv2"](), mpt.Biprop(prune=0.8), seed=0))
    for i in range(8):
        ticket.save(tmp_path / f"{i}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@pytest.fixture(params=[2, 3])
def saved(tmp_path, request):
    path = tmp_path / "t.safetensors"
    ticket = mpt.Ticket.from_network(mpt.convert(BACKBONES["conv2"](), mpt.Biprop(prune=0.8), seed=0))
    ticket.save(path, format=request.param)
    return path


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, -1])
def test_a_truncated_file_is_refused(saved, kept):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match="truncated or altered"):
        mpt.Ticket.load(saved)


@pytest.mark.slow
def test_every_altered_byte_is_refused(saved):
    content = saved.read_bytes()
    for place in range(8, len(content), max(1, len(content) // 200)):
        altered = bytearray(content)
        altered[place] ^= 1
        saved.write_bytes(altered)
        with pytest.raises(ValueError):
            mpt.Ticket.load(saved)


def rewritten(path, **changes):
    """A file of format 2 with header entries changed by somebody who also knows how to compute the digest."""
    from mpt.ticket import format as files

    ticket = mpt.Ticket.load(path)
    tensors = ticket.tensors | changes.pop("tensors", {})
    for name in changes.pop("without", ()):
        del tensors[name]
    header = {**ticket.header, **changes}
    content = json.dumps({"digest": files.digest_of(header, tensors), "header": header}, sort_keys=True)
    path.write_bytes(save(tensors, {"ticket": content}))


def test_a_newer_format_is_refused_with_the_reason(saved):
    rewritten(saved, format=99)
    with pytest.raises(ValueError, match="format 99 and this mpt reads up to 3: a newer mpt wrote it"):
        mpt.Ticket.load(saved)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tensors": {"features.0.mask": torch.zeros(54, dtype=torch.uint8)}}, "does not keep the"),
        ({"tensors": {"features.0.mask": torch.zeros(7, dtype=torch.uint8)}}, "7 bytes where 432 bits take 54"),
        ({"tensors": {"features.0.signs": torch.full((11,), 255, dtype=torch.uint8)}}, "bits behind its end"),
        ({"tensors": {"features.0.gain": torch.tensor(float("nan"))}}, "gain of features.0"),
        ({"tensors": {"features.0.gain": torch.tensor(-1.0)}}, "gain of features.0"),
        ({"tensors": {"stowaway": torch.zeros(1)}}, "stowaway', which the header does not list"),
        ({"without": ["features.0.signs"]}, "features.0.signs is missing"),
        ({"layers": None}, "its header's layers is None"),
        ({"layers": [{"name": "features.0"}]}, "entry of a layer is {'name': 'features.0'}"),
        ({"method": {"name": "Biprop"}}, "its header's method is {'name': 'Biprop'}"),
        ({"backbone": "x"}, "its header's backbone is 'x'"),
        ({"format": 0}, "ticket format 0"),
        ({"format": float("inf")}, "is not a ticket"),
        ({"format": "x"}, "is not a ticket"),
        ({"parameters": json.loads('{"a":' * 400 + "1" + "}" * 400)}, "is not a ticket"),
        ({"layers": [{"name": "x", "shape": [1] * 400_000, "kept": 1, "form": "real"}]}, "entry of a layer is"),
        ({"class_names": {"0": "a"}}, "its header's class_names is"),
    ],
)
def test_a_file_that_is_not_consistent_is_refused(saved, changes, sentence):
    rewritten(saved, **changes)
    with pytest.raises(ValueError, match=sentence):
        mpt.Ticket.load(saved)


def test_buffers_of_any_integer_kind_come_back(tmp_path, mlp):
    mlp.register_buffer("counts", torch.tensor([1, 2], dtype=torch.int16))
    mlp.register_buffer("flag", torch.tensor(True))
    mpt.Ticket.from_network(mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0)).save(tmp_path / "t")
    net = mpt.Ticket.load(tmp_path / "t").network(mlp)
    assert net.counts.tolist() == [1, 2]
    assert bool(net.flag)


@pytest.mark.parametrize(
    ("backbone", "options", "shape"),
    [
        (lambda: nn.Linear(6, 4), {"bias": True}, (2, 6)),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, affine=False)), {}, (2, 6)),
        (lambda: nn.BatchNorm1d(6), None, (2, 6)),
    ],
    ids=["bare_layer", "batchnorm_without_scale", "nothing_to_search"],
)
def test_unusual_backbones_come_back(backbone, options, shape):
    plain = backbone()
    if options is None:
        with pytest.raises(ValueError, match="nothing to search"):
            mpt.convert(plain, mpt.Biprop(prune=0.5), seed=0)
        return
    learn = not isinstance(plain, nn.Linear)
    net = mpt.convert(plain, mpt.Biprop(prune=0.5, **options), seed=0, learn_batchnorm=learn).eval()
    x = torch.randn(shape)
    assert torch.equal(mpt.Ticket.from_network(net).network(plain)(x), net(x))


def test_a_backbone_that_would_read_other_files_is_never_built():
    ticket = mpt.Ticket.from_network(mpt.convert(BACKBONES["conv2"](), mpt.Biprop(prune=0.8), seed=0))
    arguments = {"name": "resnet10t", "checkpoint_path": "/etc/passwd"}
    ticket.header["backbone"] = {"target": "mpt.backbones.timm", "arguments": arguments}
    with pytest.raises(ValueError, match="never built from a file with checkpoint_path"):
        ticket.network()


def test_what_is_no_ticket_is_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is not a ticket"):
        mpt.Ticket.load(tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("hello, this is no safetensors file")
    with pytest.raises(ValueError, match="truncated or altered"):
        mpt.Ticket.load(tmp_path / "text")
    with pytest.raises(FileNotFoundError, match=r"there is no ticket at .*: name a ticket file"):
        mpt.Ticket.load(tmp_path / "missing")


def test_a_ticket_that_cannot_be_written_leaves_the_old_one(saved, monkeypatch):
    old = saved.read_bytes()
    ticket = mpt.Ticket.load(saved)

    def full(*_):
        raise OSError(28, "No space left on device", str(saved))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        ticket.save(saved)
    assert saved.read_bytes() == old
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("learn_batchnorm", [False, True])
@pytest.mark.parametrize(
    "backbone",
    [
        lambda: mpt.backbones.conv2(width=0.25, image_size=8),
        lambda: mpt.backbones.vgg_small(width=0.0625, image_size=8, binary_activations=True),
        pytest.param(lambda: mpt.backbones.torchvision(name="resnet18"), marks=pytest.mark.slow),
    ],
)
def test_a_ticket_with_binary_activations_is_rebuilt_with_its_signs(tmp_path, backbone, learn_batchnorm):
    plain, x = backbone(), torch.randn(4, 3, 8, 8)
    net = mpt.convert(
        plain, mpt.Biprop(prune=0.5), binary_activations=True, spline_t=0.5, learn_batchnorm=learn_batchnorm
    )
    net.train()(x)  # running statistics of its own
    mpt.Ticket.from_network(net).save(tmp_path / "ticket")
    ticket = mpt.Ticket.load(tmp_path / "ticket")
    for again in (ticket.network(), ticket.network(backbone=plain)):
        assert torch.equal(again(x), net.eval()(x))
        assert {m.t for m in again.modules() if isinstance(m, mpt.BinaryActivation)} == {0.5}
    assert not any(isinstance(m, mpt.BinaryActivation) for m in plain.modules())
    real = [row.name for row in mpt.layer_table(net).layers if not row.binary_input]
    assert [row.name for row in ticket.table().layers if not row.binary_input] == real
    assert mpt.Ticket.from_network(again).header == ticket.header


def test_broken_binary_activations_of_a_header_are_refused(tmp_path):
    net = mpt.convert(mpt.backbones.conv2(width=0.25, image_size=8), mpt.Biprop(prune=0.5), binary_activations=True)
    ticket = mpt.Ticket.from_network(net)
    broken = mpt.Ticket({**ticket.header, "binary_activations": {"t": 1.0}}, ticket.tensors)
    with pytest.raises(ValueError, match="the ticket's binary_activations cannot be read"):
        broken.network()


class Tied(nn.Module):
    """Two linear layers of one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


def test_the_bits_of_a_tied_weight_are_stored_and_counted_once(tmp_path):
    net = mpt.convert(Tied(), mpt.Biprop(prune=0.5), seed=0).eval()
    ticket = mpt.Ticket.from_network(net)
    ticket.save(tmp_path / "t")
    again = mpt.Ticket.load(tmp_path / "t")
    assert set(again.tensors) == {"a.mask", "a.signs", "a.gain"}
    assert (again.num_weights, again.num_kept, again.bits) == (256, 128, 256 + 128 + 32)
    assert torch.equal(again.weight("b"), again.weight("a"))
    x = torch.randn(3, 16)
    assert torch.equal(again.network(Tied())(x), net(x))
    for table in (again.table(), mpt.layer_table(net)):
        assert (table.num_weights, table.num_kept) == (256, 128)
        assert [row.bits for row in table.layers] == [256 + 128 + 32, 0]
        assert "tied to a" in str(table)
    rewritten(tmp_path / "t", layers=[again.header["layers"][0], {**again.header["layers"][1], "tied": "b"}])
    with pytest.raises(ValueError, match="tied to a layer that does not fit it"):
        mpt.Ticket.load(tmp_path / "t")
