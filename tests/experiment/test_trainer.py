from __future__ import annotations

from types import SimpleNamespace

import lightning as L
import pytest
import torch

from mpt.experiment.trainer import build_trainer, monitor_of
from tests.console import SMALL, command, compose, read_result

BF16 = ("trainer.precision=bf16-mixed", "epochs=1")


class Dtypes(L.Callback):
    """The types of the network's outputs in training and in evaluation."""

    def on_fit_start(self, trainer, pl_module):
        self.training, self.evaluation = set(), set()
        pl_module.net.register_forward_hook(self.record)

    def record(self, net, inputs, output):
        (self.training if net.training else self.evaluation).add(output.dtype)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*mkldnn.*")
def test_a_run_in_bf16_trains_in_bf16_and_evaluates_in_float32(run_here, monkeypatch):
    dtypes, trainer = Dtypes(), L.Trainer
    monkeypatch.setattr(
        L, "Trainer", lambda **options: trainer(**options | {"callbacks": [*options["callbacks"], dtypes]})
    )
    result, _ = run_here(*BF16)
    assert (dtypes.training, dtypes.evaluation) == ({torch.bfloat16}, {torch.float32})
    assert result["precision"] == "bf16-mixed"
    assert result["test_acc"] == result["test_acc_max"]  # of the file and of the epoch: both in float32


@pytest.mark.parametrize("precision", ["auto", "bf16-true", "16-true", "64-true"])
def test_a_precision_that_would_round_the_frozen_weights_or_depend_on_the_machine_is_refused(precision):
    with pytest.raises(ValueError, match=rf"must be 32-true, .* \(others would round .*\), got {precision}"):
        compose(f"trainer.precision={precision}")


@pytest.mark.slow
def test_a_machine_with_srun_gets_no_warning(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    done = command("train", *SMALL, "epochs=1", "hydra.run.dir=run", cwd=tmp_path)  # warnings are errors here
    assert read_result(tmp_path / "run")["status"] == "done"
    assert "srun" not in done.stdout + done.stderr


def trainer_of(tmp_path, *overrides):
    return build_trainer(compose(*SMALL, *overrides), tmp_path, num_images=320, first_epoch=0)


def test_devices_auto_is_one_process_on_a_cpu(tmp_path):
    assert trainer_of(tmp_path, "trainer.devices=auto").world_size == 1
    assert trainer_of(tmp_path, "trainer.devices=2").world_size == 2


def test_images_of_an_epoch_are_counted_up_to_the_limit_of_batches(tmp_path):
    assert monitor_of(trainer_of(tmp_path)).num_images == 320
    assert monitor_of(trainer_of(tmp_path, "trainer.limit_batches=3")).num_images == 3 * 32


def test_a_machine_without_the_accelerator_is_said_with_the_name_of_the_option(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: False))
    with pytest.raises(ValueError, match=r"trainer\.accelerator=gpu is not on this machine: "):
        trainer_of(tmp_path, "trainer.accelerator=gpu")
