"""On a CUDA GPU: the same masks as on the CPU, no waiting for the device in a step, and recorded steps to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

import mpt
from mpt import backbones
from mpt.files import checksum
from mpt.search.epochs import calibrate, current_masks
from mpt.search.layers import ticket_layers
from tests.console import SMALL, command

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

SELECTIONS = {
    "layerwise": {},
    "global": {"selection": "global", "ramp": 0},
    "threshold": {"selection": "threshold", "threshold": 0.01},
    "calibrated": {"selection": "calibrated"},
}
SMALL_CUDA = (*SMALL[:-2], "trainer.accelerator=cuda", "trainer.devices=1")


@pytest.fixture(autouse=True)
def _exact_float32():
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
        yield
        torch.backends.cuda.matmul.allow_tf32 = before


def pair(options, *, tied=False):
    """A small network on the CPU and its copy on the GPU."""
    backbone = backbones.conv4(width=0.25)
    method = mpt.Biprop(prune=options.pop("prune", 0.8), **options)
    net = mpt.convert(backbone, method, seed=3)
    if tied:
        for layer in ticket_layers(net).values():
            layer.scores.data.mul_(200).round_().div_(200)
    return net, copy.deepcopy(net).cuda()


@pytest.mark.parametrize(
    ("selection", "tied"),  # many equal scores leave no threshold to calibrate
    [*((name, False) for name in SELECTIONS), *((name, True) for name in SELECTIONS if name != "calibrated")],
)
def test_masks_are_those_of_the_cpu_and_gains_within_rounding(selection, tied):
    host, device = pair(dict(SELECTIONS[selection]), tied=tied)
    for net in (host, device):
        mpt.start_epoch(net, 0)
        calibrate(net)
    expected, found = current_masks(host), current_masks(device)
    for name, layer in ticket_layers(host).items():
        assert torch.equal(found[name].cpu(), expected[name]), name
        one, other = layer.ticket(), ticket_layers(device)[name].ticket()
        assert float(other.gain) == pytest.approx(float(one.gain), rel=1e-6)
        torch.testing.assert_close(other.ticket_weight.cpu(), one.ticket_weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("options", [{}, {"score_grad": "sign"}, {"gains": "channel"}, {"power": 1.5}])
def test_score_gradients_are_those_of_the_cpu(options):
    host, device = pair(dict(options))
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    for net, to in ((host, "cpu"), (device, "cuda")):
        F.cross_entropy(net(images.to(to)), labels.to(to)).backward()
    for name, layer in ticket_layers(host).items():
        found = ticket_layers(device)[name].scores.grad.cpu()
        assert float((found - layer.scores.grad).norm() / layer.scores.grad.norm()) < 1e-4, name


@pytest.mark.parametrize("selection", ["layerwise", "global", "threshold", "calibrated"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_step_does_not_wait_for_the_device(selection, precision):
    _, net = pair(dict(SELECTIONS[selection]))
    mpt.start_epoch(net, 0)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1, momentum=0.9, fused=True)
    images, labels = torch.randn(16, 3, 32, 32, device="cuda"), torch.arange(16, device="cuda") % 10
    for mode in ("default", "error"):
        torch.cuda.set_sync_debug_mode(mode)
        try:
            with torch.autocast("cuda", dtype=precision, enabled=precision != torch.float32):
                loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("trainer.precision=bf16-mixed", "data.num_images=333"),
        ("method.selection=global", "method.ramp=2"),
        ("learn_batchnorm=true", "model=cifar_resnet20", "optim=adam"),
        ("model=conv4", "method.gains=learned", "data.num_images=1000"),
        ("method.gains=learned", "trainer.precision=bf16-mixed", "data.num_images=333"),
        ("model=conv4", "binary_activations=true", "data.num_images=1000"),
        ("model=conv4", "method=signed", "data.num_images=1000"),
    ],
    ids=["plain", "bf16 and a short batch", "ramp", "batchnorm", "learned", "learned in bf16", "MPT-1/1", "signed"],
)
def test_a_recorded_step_gives_the_ticket_of_plain_steps(tmp_path, options):
    tickets = set()
    for name, graph in (("recorded", "true"), ("plain", "false")):
        command("train", *SMALL_CUDA, *options, f"trainer.graph={graph}", f"hydra.run.dir={name}", cwd=tmp_path)
        tickets.add(checksum(tmp_path / name / "ticket.safetensors"))
    assert len(tickets) == 1


@pytest.mark.parametrize("crop", [0, 4])
def test_batches_are_those_of_the_cpu(crop):
    data = mpt.data.load("synthetic", num_images=300, image_size=32, crop=crop, flip=True)
    loaders = [mpt.data.Loader(data.train, data=data, batch=64, train=True, device=where) for where in ("cpu", "cuda")]
    for host, device in zip(*loaders, strict=True):
        assert torch.equal(device.labels.cpu(), host.labels)
        torch.testing.assert_close(device.images.cpu(), host.images, rtol=1e-6, atol=1e-6)


def test_a_run_on_the_gpu_is_repeated_to_the_bit_and_read_on_the_cpu(tmp_path):
    for name in ("one", "two"):
        command("train", *SMALL_CUDA, f"hydra.run.dir={name}", cwd=tmp_path)
    one, two = (tmp_path / name / "ticket.safetensors" for name in ("one", "two"))
    assert checksum(one) == checksum(two)
    dense = mpt.to_dense(mpt.Ticket.load(one).network())
    images = torch.randn(64, 3, 8, 8)
    on_device = copy.deepcopy(dense).cuda()(images.cuda()).cpu()
    torch.testing.assert_close(on_device, dense(images), rtol=1e-4, atol=1e-4)
