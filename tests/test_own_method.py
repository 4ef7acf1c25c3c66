"""Your own methods that act between steps, add to the loss, or have several gains: as users run them, by mpt-train."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass

import pytest
import torch

import mpt
from mpt.analysis.plotting import plot
from mpt.search.layers import ticket_layers
from tests.console import SMALL, command, read_result
from tests.own_methods import IteRand

YAML = "defaults: [biprop, _self_]\nname: {name}\ntarget: {target}\n"


@dataclass(frozen=True, kw_only=True)
class Decayed(mpt.Biprop):
    """Adds ``strength`` times the mean square of all scores to the loss."""

    strength: float = 100.0

    def penalty(self, layers):
        return self.strength * sum(layer.scores.square().mean() for layer in layers.values())


@pytest.fixture
def mine(tmp_path):
    """A folder with ``method=iterand``, ``decayed`` and ``channels`` in ``conf``."""
    (tmp_path / "conf" / "method").mkdir(parents=True)
    targets = {
        "iterand": "tests.own_methods.IteRand\nperiod: 4\nshare: 0.5",
        "decayed": "tests.test_own_method.Decayed",
        "channels": "tests.own_methods.PerChannel",
    }
    for name, target in targets.items():
        (tmp_path / "conf" / "method" / f"{name}.yaml").write_text(YAML.format(name=name, target=target))
    return tmp_path


def train(mine, method, *overrides, run="run"):
    command("train", "--config-dir", "conf", *SMALL, f"method={method}", *overrides, f"hydra.run.dir={run}", cwd=mine)
    return mpt.Ticket.load(mine / run / "ticket.safetensors")


def weights_of(run):
    state = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    return torch.cat([value.flatten() for name, value in state.items() if name.endswith(".weight")])


def test_weights_are_drawn_again_between_steps_and_the_header_says_that_signs_are_not_the_seeds(mine):
    ticket, plain = train(mine, "iterand"), train(mine, "biprop", run="plain")
    changed = (weights_of(mine / "run") != weights_of(mine / "plain")).float().mean()
    assert 0.5 < changed < 0.95
    assert (ticket.header["signs"], plain.header["signs"]) == ("stored", "seed")
    shown = command("eval", "run/ticket.safetensors", "json=true", cwd=mine).stdout
    assert json.loads(shown)["acc"] == read_result(mine / "run")["test_acc"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("method.selection=global", "method.ramp=0"), ("optim.accumulate=2",)])
def test_an_interrupted_run_that_is_resumed_ends_in_the_same_file_to_the_byte(mine, monkeypatch, more):
    from mpt.experiment.module import TicketModule

    train(mine, "iterand", *more, run="whole")
    start = TicketModule.on_train_epoch_start

    def stop_in_the_third(self):
        if self.current_epoch == 2:
            raise ValueError("stopped by the test")
        start(self)

    with monkeypatch.context() as patch:
        patch.setattr(TicketModule, "on_train_epoch_start", stop_in_the_third)
        stopped = ("--config-dir", "conf", *SMALL, "method=iterand", *more, "hydra.run.dir=cut")
        assert "stopped by the test" in command("train", *stopped, cwd=mine, check=False).stderr
    train(mine, "iterand", *more, run="cut")
    contents = [(mine / run / "ticket.safetensors").read_bytes() for run in ("whole", "cut")]
    assert contents[0] == contents[1]


def test_steps_are_optimizer_steps_with_accumulated_gradients_too(mine, monkeypatch):
    steps = []
    monkeypatch.setattr(IteRand, "update", lambda self, layers, *, seed, epoch, step: steps.append((epoch, step)))
    train(mine, "iterand", "optim.accumulate=4", "epochs=2")
    per_epoch = read_result(mine / "run")["num_train"] // 32
    assert steps == [(epoch, step) for epoch in range(2) for step in range(per_epoch)]


@pytest.mark.parametrize("more", [pytest.param((), marks=pytest.mark.slow), ("optim.accumulate=2",)])
def test_a_penalty_is_minimised_and_not_reported(mine, more):
    train(mine, "decayed", "epochs=1", "optim.lr=0.001", "optim.momentum=0", *more)
    train(mine, "biprop", "epochs=1", "optim.lr=0.001", "optim.momentum=0", *more, run="plain")
    norms, losses = [], []
    for run in ("run", "plain"):
        state = torch.load(mine / run / "last.ckpt", weights_only=True)["state_dict"]
        norms.append(sum(float(v.square().sum()) for name, v in state.items() if name.endswith(".scores")))
        losses.append(json.loads((mine / run / "metrics.jsonl").read_text())["train/loss"])
    assert norms[0] < 0.999 * norms[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # the plain cross-entropy, of slightly other scores


@pytest.mark.parametrize(
    "more",
    [
        (),
        *(
            pytest.param((more,), marks=pytest.mark.slow)
            for more in ("method.selection=global", "binary_activations=true", "epochs=12")
        ),
    ],
)
def test_a_gain_for_each_output_channel_goes_from_the_search_to_the_file_and_back(mine, more):
    train(mine, "channels", "report=true", *more)
    result = read_result(mine / "run")
    shown = json.loads(command("eval", "run/ticket.safetensors", "json=true", cwd=mine).stdout)
    assert shown["acc"] == result["test_acc"]
    net = mpt.Ticket.load(mine / "run" / "ticket.safetensors").network()
    for layer in ticket_layers(net).values():
        magnitudes = layer.ticket_weight().detach().abs().flatten(1)
        for channel in magnitudes:
            kept = channel[channel > 0]
            assert kept.numel() == 0 or torch.equal(kept, kept[0].expand_as(kept))
    assert "gain" in command("ticket", "info", "run/ticket.safetensors", cwd=mine).stdout


@pytest.mark.slow
def test_an_own_method_stands_next_to_the_papers_in_a_figure(tmp_path):
    pytest.importorskip("pandas")
    command("train", "--version", cwd=tmp_path)
    from mpt.commands.new import new

    with contextlib.chdir(tmp_path):
        new(["method", "root_mean"])
    small = ("data=synthetic", "data.num_images=64", "data.image_size=8", "data.train_size=null", "epochs=1")
    small += (
        "width=0.125",
        "model=conv2",
        "prune=0.5",
        "method.norm=3",
        "trainer=cpu",
        "recipe=fast_conv,mpt_conv_dense",
    )
    options = ("sweeps=fig2", "budget=mini", "add.method=root_mean", *small)
    done = command("train", "--config-dir", "conf", *options, cwd=tmp_path)
    assert "3 of 3 runs" in done.stdout
    rows = [read_result(path.parent) for path in sorted(tmp_path.rglob("result.json"))]
    assert sorted(row["method"] for row in rows) == ["biprop", "dense", "root_mean"]
    assert [row["config"]["method"].get("norm") for row in rows if row["method"] == "root_mean"] == [3]
    drawing = plot(tmp_path / "runs" / "fig2-mini", figure="fig2")
    assert [text.get_text() for text in drawing.legends[0].get_texts()] == ["MPT-1/32", "root_mean 1/32", "dense"]
