from __future__ import annotations

import re
import time

import pytest
import torch
from torch import nn

import mpt
from mpt import backbones
from mpt.search.methods import EdgePopup
from tests.engine import networks


@pytest.fixture
def ticket():
    net = mpt.convert(backbones.conv2(width=0.25, image_size=8), mpt.Biprop(prune=0.5), seed=0)
    return mpt.Ticket.from_network(net)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"width": 600}, "layer 'features.0' is"),
        ({"width": 1e9}, "cannot be built"),
        ({"width": -1}, "width multiplies the channels"),
        ({"width": "x"}, "width must be a number"),
        ({"image_size": 10**6}, "another backbone"),
        ({"unknown": 1}, "cannot be built"),
    ],
)
def test_a_backbone_of_another_size_is_refused_before_it_takes_memory(monkeypatch, ticket, arguments, sentence):
    ticket.header["backbone"]["arguments"] |= arguments
    devices, register = set(), nn.Module.register_parameter

    def watch(module, name, parameter):
        devices.add(parameter.device.type if parameter is not None else None)
        register(module, name, parameter)

    monkeypatch.setattr(nn.Module, "register_parameter", watch)
    with pytest.raises(ValueError, match=sentence) as caught:
        ticket.network()
    assert devices <= {"meta", None}
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "arguments", "sentence"),
    [
        ("mlp", {"hidden": [3] * 10**5, "in_channels": 3, "image_size": 8}, "more than 1,[0-9]+ parameters"),
        ("torchvision", {"name": "vit_b_16", "image_size": 2**14}, "another backbone|cannot be built"),
        ("timm", {"name": "hf_hub:someone/something"}, "cannot be built|has no model|needs the package"),
        ("torchvision", {"name": "resnet18", "weights": "DEFAULT"}, "never built from a file with weights"),
    ],
)
def test_a_backbone_of_many_layers_or_from_elsewhere_is_refused_at_once(ticket, target, arguments, sentence):
    ticket.header["backbone"] = {"target": f"mpt.backbones.{target}", "arguments": arguments}
    start = time.process_time()
    with pytest.raises(ValueError, match=sentence):
        ticket.network()
    assert time.process_time() - start < 10


def test_the_plain_backbone_of_a_ticket_is_built_after_the_same_trial(ticket):
    assert ticket.backbone().features[0].weight.shape == (16, 3, 3, 3)
    ticket.header["backbone"]["arguments"]["width"] = 600
    with pytest.raises(ValueError, match="another backbone"):
        ticket.backbone()


def test_a_method_that_is_not_one_of_mpts_own_is_never_imported(ticket):
    for name in ("os.system", "Finetune", "Method", "Mine"):
        ticket.header["method"] = {"name": name, "prune": 0.5, "init": "kaiming_normal"}
        assert type(ticket.network().conversion.method) is EdgePopup


def test_a_dense_ticket_of_an_older_mpt_may_name_options_that_the_baseline_does_not_use():
    net = mpt.convert(backbones.conv2(width=0.1, image_size=8), mpt.Dense())
    ticket = mpt.Ticket.from_network(net)
    ticket.header["method"] |= {"score_grad": "gain", "score_lr": 2.0, "learn_scores": False}
    again = ticket.network()
    assert torch.equal(again.features[0].weight, net.features[0].weight)
    assert mpt.Ticket.from_network(again).header == ticket.header


def test_the_scores_of_a_ticket_learn_and_its_weights_do_not(ticket):
    net = ticket.network()
    assert {name.rpartition(".")[2] for name, p in net.named_parameters() if p.requires_grad} == {"scores"}
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    assert net.features[0].scores.grad.abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("binary", [False, True], ids=["1/32", "1/1"])
def test_torch_export_saves_the_dense_network_and_loads_the_same_logits(tmp_path, binary):
    backbone = backbones.conv2(width=0.1, image_size=8)
    net = mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0, binary_activations=binary)
    dense = mpt.to_dense(mpt.Ticket.from_network(net).network())
    batch = {0: torch.export.Dim("batch")}
    torch.export.save(
        torch.export.export(dense, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=(batch,)), tmp_path / "n.pt2"
    )
    again = torch.export.load(tmp_path / "n.pt2").module()
    for n in (1, 5):
        images = torch.randn(n, 3, 8, 8)
        torch.testing.assert_close(again(images), dense(images))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.filterwarnings("ignore")  # of torch's exporter
def test_torchs_onnx_exporter_takes_the_dense_network(tmp_path, binary):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    found = networks.ticket(backbones.conv2(width=0.1, image_size=8), binary_activations=binary)
    dense, images = mpt.to_dense(found.network()), torch.randn(3, 3, 8, 8)
    torch.onnx.export(dense, (images,), tmp_path / "n.onnx", dynamo=True, input_names=["images"], verbose=False)
    run = runtime.InferenceSession(tmp_path / "n.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = dense(images)
    got = torch.from_numpy(run.run(None, {"images": images.numpy()})[0])
    assert float((got - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


def test_random_parameters_are_not_drawn_for_a_ticket(ticket):
    state = torch.random.get_rng_state()
    net = ticket.network()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(value.isfinite().all() for value in net.state_dict().values())
    assert not torch.equal(next(ticket.backbone().parameters()), next(ticket.backbone().parameters()))


@pytest.mark.parametrize("method", [mpt.Biprop(prune=0.5), mpt.Dense()], ids=["biprop", "dense"])
def test_a_ticket_whose_names_hold_the_wrappers_inside_its_backbone_fits_it(method):
    """mpt 0.1.0 wrote such names."""
    part = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.DataParallel(nn.Linear(4, 4)), nn.BatchNorm1d(4))
    backbone = nn.Sequential(nn.Linear(4, 4), torch.compile(part, backend="eager"), nn.Linear(4, 3))
    activations = isinstance(method, mpt.Biprop)
    converted = mpt.convert(backbone, method, binary_activations=activations, example=torch.ones(2, 4)).eval()
    ticket, x = mpt.Ticket.from_network(converted), torch.randn(5, 4)

    def old(value):
        if isinstance(value, dict):
            return {old(key): old(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [old(entry) for entry in value]
        return (
            re.sub(r"^1\.2", "1._orig_mod.2.module", re.sub(r"^1\.(?!2)", "1._orig_mod.", value))
            if isinstance(value, str)
            else value
        )

    header, tensors = old(ticket.header | {"mpt": ""}), {old(name): value for name, value in ticket.tensors.items()}
    assert "1._orig_mod.2.module" in str(header)
    network = mpt.Ticket(header, tensors).network(backbone)
    assert torch.equal(network(x), converted(x))
    assert mpt.Ticket.from_network(network).digest == ticket.digest
    with pytest.raises(ValueError, match="another backbone"):
        mpt.Ticket(header, tensors).network(nn.Sequential(nn.Linear(4, 4), part, nn.Linear(4, 3)))


@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.parametrizations.orthogonal])
@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch announces the end of weight_norm
def test_a_layer_that_is_left_out_may_have_its_weight_in_parts(wrap):
    backbone, x = nn.Sequential(nn.Linear(4, 4), wrap(nn.Linear(4, 4)), nn.Linear(4, 3)), torch.randn(5, 4)
    converted = mpt.convert(backbone, mpt.Biprop(prune=0.5), dense=["1"]).eval()
    network = mpt.Ticket.from_network(converted).network(backbone)
    assert torch.equal(network(x), converted(x))
