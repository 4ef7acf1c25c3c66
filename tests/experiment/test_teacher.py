from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import mpt
from mpt.experiment import kinds
from mpt.experiment.monitor import Monitor
from mpt.experiment.teacher import Teacher
from mpt.files import checksum
from mpt.run.compose import compose
from mpt.run.settings import Settings
from tests import reference
from tests.console import SMALL, command, read_result
from tests.experiment.test_checkpoint import InterruptError, timeless

IMAGES = torch.randn(7, 3, 2, 2, generator=torch.Generator().manual_seed(0))
LOGITS = torch.randn(7, 5, generator=torch.Generator().manual_seed(1)) * 3
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1])


def teacher(*, weight=0.25, temperature=3.0, factor=1.0, summand=0.0):
    torch.manual_seed(2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    affine = torch.full((3, 1, 1), factor), torch.full((3, 1, 1), summand)
    return Teacher(net, weight=weight, temperature=temperature, affine=affine)


def test_the_loss_equals_the_slow_transcription():
    own = teacher()
    plain = torch.tensor(reference.cross_entropy(LOGITS.numpy(), LABELS.numpy()))
    theirs = own.net(IMAGES).detach().numpy()
    expected = reference.distilled(LOGITS.numpy(), theirs, LABELS.numpy(), weight=0.25, temperature=3.0)
    assert own.loss(plain, IMAGES, LOGITS).item() == pytest.approx(expected, rel=1e-5)


def test_who_imitates_perfectly_has_no_loss_and_the_teacher_gets_no_gradient():
    own = teacher(weight=1.0)
    logits = own.net(IMAGES).detach().requires_grad_()
    loss = own.loss(torch.tensor(9.0), IMAGES, logits)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6
    assert all(parameter.grad is None for parameter in own.net.parameters())


def test_the_teacher_sees_images_as_its_own_data_were_normalised():
    other, plain = teacher(factor=2.0, summand=1.0), torch.tensor(1.0)
    expected = teacher().loss(plain, 2 * IMAGES + 1, LOGITS)
    torch.testing.assert_close(other.loss(plain, IMAGES, LOGITS), expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a finished dense run, ``dense``."""
    path = tmp_path_factory.mktemp("teacher")
    command("train", *SMALL, "epochs=2", "method=dense", "prune=0", "hydra.run.dir=dense", cwd=path)
    return path


def search(folder, *overrides, directory):
    """``mpt-train`` of this process, as far as a test may interrupt it."""
    given = [*SMALL, f"distill={folder / 'dense' / 'ticket.safetensors'}", *overrides]
    settings = kinds.resolve(compose("train", given, Settings), given)
    return kinds.run(settings, directory), directory


def test_a_teacher_changes_the_ticket_and_its_checksum_is_recorded_and_no_checkpoint_holds_it(folder, tmp_path):
    command("train", *SMALL, "epochs=1", "hydra.run.dir=alone", cwd=tmp_path)
    result, _ = search(folder, "epochs=1", directory=tmp_path / "taught")
    tickets = [(tmp_path / name / "ticket.safetensors").read_bytes() for name in ("alone", "taught")]
    assert tickets[0] != tickets[1]
    assert result["config"]["distill_checksum"] == checksum(folder / "dense" / "ticket.safetensors")
    assert "distill_checksum" not in read_result(tmp_path / "alone")["config"]
    alone, taught = (mpt.Ticket.load(tmp_path / name / "ticket.safetensors") for name in ("alone", "taught"))
    assert taught.header["parameters"]["distill_checksum"] == checksum(folder / "dense" / "ticket.safetensors")
    assert not any(key.startswith("distill") for key in alone.header["parameters"])
    states = [
        torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"] for name in ("alone", "taught")
    ]
    assert states[0].keys() == states[1].keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("optim.averaging=ema", "optim.averaging_decay=0.9", "distill_temperature=2"),
        ("optim.accumulate=2", "data.augment=augmix", "data.workers=0"),
    ],
)
def test_an_interrupted_run_with_a_teacher_gives_the_same_ticket_to_the_byte(folder, tmp_path, monkeypatch, overrides):
    _, whole = search(folder, *overrides, directory=tmp_path / "whole")
    start = Monitor.on_train_epoch_start

    def cut(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise InterruptError
        start(self, trainer, pl_module)

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "on_train_epoch_start", cut)
        with pytest.raises(InterruptError):
            search(folder, *overrides, directory=tmp_path / "cut")
    _, resumed = search(folder, *overrides, directory=tmp_path / "cut")
    assert (resumed / "ticket.safetensors").read_bytes() == (whole / "ticket.safetensors").read_bytes()
    assert timeless(resumed) == timeless(whole)


@pytest.mark.slow
def test_fine_tuning_may_have_a_teacher_too(folder, tmp_path):
    command("train", *SMALL, "epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    tuned = ["run/ticket.safetensors", "epochs=1", "layers=all", "optim.lr=0.1"]
    command("finetune", *tuned, "hydra.run.dir=alone", cwd=tmp_path)
    command("finetune", *tuned, f"distill={folder}/dense/ticket.safetensors", "hydra.run.dir=taught", cwd=tmp_path)
    assert read_result(tmp_path / "alone")["ticket_checksum"] != read_result(tmp_path / "taught")["ticket_checksum"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["distill=nothing.safetensors"], "distill=nothing.safetensors cannot be read (No such file or directory)"),
        (["distill=dense"], "distill=dense cannot be read (Is a directory)"),
        (["distill=dense/config.yaml"], "is not a whole ticket file"),
        (["distill=dense/ticket.safetensors", "data.image_size=12"], "images of another shape or with other classes"),
        (["distill=dense/ticket.safetensors", "data.num_classes=3"], "images of another shape or with other classes"),
        (["distill_temperature=2"], "distill_temperature has an effect only with distill"),
        (["distill=dense/ticket.safetensors", "distill_weight=0"], "distill_weight must be in (0, 1]"),
        (["distill=dense/ticket.safetensors", "distill_temperature=0"], "distill_temperature must be above 0"),
        (["distill=dense/ticket.safetensors", "trainer.graph=true"], "trainer.graph=true needs"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused_in_one_sentence(folder, overrides, words):
    done = command("train", *SMALL, *overrides, "hydra.run.dir=refused", cwd=folder, check=False)
    assert done.returncode == 1
    assert words in done.stderr.splitlines()[-1]
    assert not (folder / "refused" / "config.yaml").exists()


def test_another_file_in_the_teacher_s_place_is_another_run(folder, tmp_path):
    _, directory = search(folder, "epochs=1", directory=tmp_path / "run")
    other = tmp_path / "other.safetensors"
    other.write_bytes((directory / "ticket.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"holds a run with other settings .distill_checksum"):
        search(folder, "epochs=1", f"distill={other}", directory=directory)


def test_the_reference_of_equal_networks_is_the_weighted_loss_of_the_labels():
    plain = reference.cross_entropy(LOGITS.numpy(), LABELS.numpy())
    both = reference.distilled(LOGITS.numpy(), LOGITS.numpy(), LABELS.numpy(), weight=0.25, temperature=3.0)
    assert both == pytest.approx(0.75 * plain)
    assert np.isfinite(both)
