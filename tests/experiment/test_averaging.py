from __future__ import annotations

import lightning as L
import pytest
import torch

import mpt
from mpt.experiment import averaging
from mpt.experiment.trainer import quieten
from tests.experiment.test_train import rows


class Watch(L.Callback):
    """The scores of the first layer after every step, by epoch."""

    def __init__(self):
        self.scores = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.scores.append([])

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.scores[-1].append(pl_module.net.features[0].scores.detach().clone())


@pytest.fixture
def watched(run_here, monkeypatch):
    """``run(*overrides)`` -> (scores by epoch and step, the last checkpoint)."""

    def go(*overrides):
        watch, trainer = Watch(), L.Trainer
        monkeypatch.setattr(L, "Trainer", lambda **a: trainer(**(a | {"callbacks": [*a["callbacks"], watch]})))
        _, directory = run_here(*overrides)
        return watch.scores, torch.load(directory / "last.ckpt", weights_only=True)

    return go


def expected_ema(steps, *, decay, start):
    average = None
    for epoch, scores in enumerate(steps):
        for s in scores:
            average = s.double() if average is None or epoch < start else decay * average + (1 - decay) * s
        if epoch < start:
            average = None
    return average


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 2])
def test_ema_is_the_exponential_average_over_all_steps_from_its_first_epoch(watched, start):
    overrides = ["optim.averaging=ema", "optim.averaging_decay=0.9", f"optim.averaging_start={start}", "epochs=4"]
    steps, end = watched(*overrides)
    expected = expected_ema(steps, decay=0.9, start=start)
    torch.testing.assert_close(end["state_dict"]["net.features.0.scores"].double(), expected, rtol=1e-4, atol=1e-6)
    assert not torch.equal(end["state_dict"]["net.features.0.scores"], steps[-1][-1])
    assert torch.equal(end["current_model_state"]["net.features.0.scores"], steps[-1][-1])


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 1])
def test_swa_is_the_mean_of_the_scores_at_the_ends_of_its_epochs(watched, start):
    steps, end = watched("optim.averaging=swa", f"optim.averaging_start={start}", "epochs=4")
    expected = torch.stack([scores[-1] for scores in steps[start:]]).mean(0)
    torch.testing.assert_close(end["state_dict"]["net.features.0.scores"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("averaged", ["optim.averaging=ema", "optim.averaging=swa"])
def test_the_ticket_and_every_evaluation_use_the_averaged_scores_and_the_frozen_weights_stay(run_here, averaged):
    result, directory = run_here(averaged, "optim.averaging_decay=0.95", "prune=0.8")
    state = torch.load(directory / "last.ckpt", weights_only=True)["state_dict"]
    backbone = mpt.backbones.conv2(width=0.125, num_classes=4, image_size=8)
    start = mpt.convert(backbone, mpt.Biprop(prune=0.8), seed=0)
    net = mpt.convert(backbone, mpt.Biprop(prune=0.8), seed=0)
    net.load_state_dict({k.removeprefix("net."): v for k, v in state.items()})
    ticket = mpt.Ticket.load(directory / "ticket.safetensors")
    for name in ("features.0", "features.2", "classifier.0", "classifier.2", "classifier.4"):
        assert torch.equal(ticket.mask(name), net.get_submodule(name).mask())
        assert torch.equal(net.get_submodule(name).weight, start.get_submodule(name).weight)
    last = rows(directory)[-1]
    assert last["test/acc"] == pytest.approx(result["test_acc"], abs=1e-6)
    assert last["ticket/gain/features.0"] == pytest.approx(net.features[0].gain().item(), rel=1e-6)


def test_a_module_without_averages_stays_as_it_is():
    quieten()  # where srun is on the path, Lightning warns
    module = L.LightningModule()
    with averaging.use_averages(L.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False), module):
        pass
