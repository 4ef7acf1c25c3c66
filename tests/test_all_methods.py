"""Every method that mpt has, in everything that a user does with one: the same tests for all."""

from __future__ import annotations

import json
import signal
import time

import numpy as np
import pytest
import torch
from torch import nn

import mpt
from mpt.search.layers import ticket_layers
from mpt.ticket.controls import CONTROLS, control
from mpt.ticket.finetune import finetuning_network
from mpt.ticket.report import report
from tests.console import SMALL, command, compose, process, results

SHORT = [*(o for o in SMALL if not o.startswith(("epochs", "data.num_images"))), "epochs=2", "data.num_images=160"]

METHODS = {
    "channel": ["method.gains=channel"],
    "learned": ["method.gains=learned"],
    "signed": ["method=signed"],
    "iterand": ["method=iterand", "method.period=4"],
    "recycle": ["method=recycle", "method.period=4"],
    "frozen": ["method=frozen", "method.locked=0.3"],
    "multicoated": ["method=multicoated"],
    "gem": ["method=gem", "method.period=1"],
    "gumbel": ["method=gumbel"],
}
OUTCOME = ("gem", "multicoated")  # methods whose selection is their own
SETTINGS = {
    "1/32": [],
    "1/1 +BN": ["binary_activations=true", "learn_batchnorm=true", "optim.accumulate=2"],
    "global": ["method.selection=global", "method.ramp=0", "optim.accumulate=2"],
}
CASES = [
    pytest.param([*METHODS[method], *SETTINGS[setting], "prune=0.8"], id=f"{method}, {setting}")
    for method in METHODS
    for setting in SETTINGS
    if not (setting == "global" and method in OUTCOME)
]
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("arguments", CASES)
def test_a_run_that_is_stopped_in_an_epoch_and_repeated_gives_the_same_ticket(tmp_path, monkeypatch, arguments):
    from mpt.experiment.module import TicketModule

    command("train", *SHORT, *arguments, "hydra.run.dir=whole", cwd=tmp_path)
    step = TicketModule.training_step

    def stop_in_the_second(self, batch, batch_idx):
        if self.current_epoch == 1 and batch_idx == 4:
            raise ValueError("stopped by the test")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(TicketModule, "training_step", stop_in_the_second)
        done = command("train", *SHORT, *arguments, "hydra.run.dir=cut", cwd=tmp_path, check=False)
        assert "stopped by the test" in done.stderr
    command("train", *SHORT, *arguments, "hydra.run.dir=cut", cwd=tmp_path)
    contents = [(tmp_path / run / "ticket.safetensors").read_bytes() for run in ("whole", "cut")]
    assert contents[0] == contents[1]

    shown = command("eval", "whole/ticket.safetensors", "json=true", cwd=tmp_path).stdout
    row = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert json.loads(shown)["acc"] == row["test_acc"]
    _check_ticket(mpt.Ticket.load(tmp_path / "whole" / "ticket.safetensors"), row)


def _check_ticket(ticket, row):
    """Everything that takes a ticket takes this one."""
    images = torch.randn(6, 3, 8, 8)
    net, plain = ticket.network(), ticket.backbone()
    logits = net(images).detach()
    assert torch.equal(mpt.to_dense(net)(images), logits)
    engine = mpt.compile(ticket, image_size=8)
    np.testing.assert_allclose(engine(images.numpy()), logits.numpy(), rtol=1e-3, atol=1e-4)

    tuned = finetuning_network(ticket, plain, layers="all", seed=0).eval()
    assert float((tuned(images).detach() - logits).abs().max()) <= 1e-6 * max(1.0, float(logits.abs().max()))

    rows = report(ticket, net, image=images[:1])["layers"]
    assert [entry["num_kept"] for entry in rows] == [layer.kept for layer in ticket.layers]
    for name in CONTROLS:
        other = control(ticket, name, seed=1)
        assert (other.num_kept, other.num_weights) == (ticket.num_kept, ticket.num_weights)
        assert torch.isfinite(other.network()(images)).all()
    assert row["bits_per_weight"] == ticket.entropy_bits / ticket.num_weights
    assert ticket.entropy_bits < 1.05 * ticket.file_bits


@pytest.mark.parametrize("arguments", METHODS.values(), ids=METHODS)
def test_a_compiled_network_trains(arguments):
    settings = compose(*SMALL, *arguments, "prune=0.8")
    from mpt.experiment.build import build_method

    method = build_method(settings.method, prune=0.8)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    images, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 4
    nets = [mpt.convert(backbone, method, seed=0, example=images).train() for _ in range(2)]
    torch.compiler.reset()
    for net, step in ((nets[0], nets[0]), (nets[1], torch.compile(nets[1], backend="aot_eager"))):
        optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.01)
        for epoch in range(2):
            mpt.start_epoch(net, epoch)
            torch.manual_seed(epoch)
            for _ in range(5):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(step(images), labels)
                penalty = method.penalty(ticket_layers(net))
                (loss if penalty is None else loss + penalty).backward()
                optimizer.step()
    for one, other in zip(*(net.state_dict().values() for net in nets), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", ["learned", "iterand", "recycle", "gem", "gumbel", "frozen"])
def test_two_processes_agree(tmp_path, method):
    arguments = [*(o for o in SHORT if not o.startswith("trainer.devices")), *METHODS[method], "prune=0.8"]
    done = process("train", *arguments, "trainer.devices=2", "hydra.run.dir=two", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "two" / "result.json").read_text())
    assert row["processes"] == 2
    shown = command("eval", "two/ticket.safetensors", "json=true", cwd=tmp_path).stdout
    assert json.loads(shown)["acc"] == row["test_acc"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", ["iterand", "gumbel"])
def test_a_sweep_that_is_killed_goes_on_to_the_same_tickets(tmp_path, started, method):
    axes = ["-m", *SMALL, "prune=0.8", *METHODS[method], "seed=0,1"]
    assert process("train", *axes, "runs=whole", cwd=tmp_path).returncode == 0
    sweep = started(tmp_path, *axes, "runs=cut")
    while not list((tmp_path / "cut").glob("*/last.ckpt")) and sweep.poll() is None:
        time.sleep(0.01)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    assert process("train", *axes, "runs=cut", cwd=tmp_path).returncode == 0
    whole, cut = (
        {name: row["ticket_checksum"] for name, row in results(tmp_path / runs).items()} for runs in ("whole", "cut")
    )
    assert len(whole) == 2
    assert whole == cut


@pytest.mark.parametrize("method", ["iterand", "recycle", "gem"])
@pytest.mark.parametrize("averaging", ["ema", "swa"])
def test_averaging_is_refused_with_weights_that_change(tmp_path, method, averaging):
    arguments = [*SMALL, *METHODS[method], f"optim.averaging={averaging}"]
    done = command("train", *arguments, "hydra.run.dir=run", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "averag" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run" / "result.json").exists() or "done" not in (tmp_path / "run/result.json").read_text()
