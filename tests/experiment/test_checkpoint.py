from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mpt
from mpt.experiment.checkpoint import WholeOrNothing
from mpt.experiment.monitor import Monitor
from tests.console import SMALL, process, row_of
from tests.experiment.test_train import killed, rows

BEST = ("select=best_val", "data.val_size=64", "epochs=6", "optim.lr=1.0")  # a rate at which the last is not the best
TARGETS = (
    "optim._target_=torch.optim.RMSprop",
    "optim.lr=0.003",
    "optim.schedule={_target_:torch.optim.lr_scheduler.ExponentialLR,gamma:0.5}",
)
EVERYTHING = (
    *("optim=adamw", "optim.lr=0.01", "optim.warmup=2", "optim.clip_grad_norm=0.5", "optim.accumulate=2"),
    *("label_smoothing=0.1", "optim.averaging=ema", "optim.averaging_decay=0.9", "optim.averaging_start=1"),
    *("select=best_val", "data.val_size=64"),
)


class CutError(Exception):
    """Where a run is cut off."""


def timeless(directory):
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows(directory)]


@pytest.mark.slow
def test_the_ticket_of_best_val_is_that_of_the_best_epoch_on_held_out_images_and_says_which(run_here):
    row, directory = run_here(*BEST)
    written = rows(directory)
    best = max(written, key=lambda r: r["val/acc"])
    assert row["epoch"] == best["epoch"] < 6
    assert row["test_acc"] == pytest.approx(best["test/acc"], abs=1e-6)
    assert row["val_acc"] == pytest.approx(best["val/acc"], abs=1e-6)
    assert row["train_acc"] == best["train/acc"]
    assert row["test_acc_max"] == max(r["test/acc"] for r in written)
    ticket = mpt.Ticket.load(directory / "ticket.safetensors")
    assert ticket.header["epoch"] == best["epoch"]
    state = torch.load(directory / "best.ckpt", weights_only=True)
    assert state["epoch"] + 1 == best["epoch"]
    last, _ = run_here(*BEST, "select=last", directory="last")
    assert last["epoch"] == 6
    assert last["test_acc"] == pytest.approx(written[-1]["test/acc"], abs=1e-6)
    assert not (directory.parent / "last" / "best.ckpt").exists()


def test_no_epoch_from_before_the_end_of_a_ramp_is_the_best(tmp_path):
    ramp = mpt.Biprop(prune=0.8, selection="global", ramp=2).ramp_epochs
    monitor = Monitor(tmp_path, num_images=1, show=False, first_epoch=ramp)
    monitor.rows = [{"epoch": e, "val/acc": acc} for e, acc in ((1, 0.9), (2, 0.8))]
    assert monitor.best("val/acc") is None
    monitor.rows += [{"epoch": e, "val/acc": acc} for e, acc in ((3, 0.5), (4, 0.6), (5, 0.6))]
    assert monitor.best("val/acc")["epoch"] == 4  # the earliest of equals


@pytest.mark.slow
def test_a_run_cut_off_between_its_two_checkpoints_keeps_the_right_best(run_here, monkeypatch):
    whole, path = run_here(*BEST)
    save, seen = WholeOrNothing.save_checkpoint, []

    def cut(self, checkpoint, path, storage_options=None):
        if path.name == "last.ckpt" and seen and seen[-1] == "best.ckpt" and checkpoint["epoch"] + 1 == whole["epoch"]:
            raise CutError
        seen.append(path.name)
        save(self, checkpoint, path, storage_options)

    with monkeypatch.context() as patch:
        patch.setattr(WholeOrNothing, "save_checkpoint", lambda s, c, p, storage_options=None: cut(s, c, Path(p)))
        with pytest.raises(CutError):
            run_here(*BEST, directory="cut")
    assert row_of(path.parent / "cut")["status"] == "failed"
    again, cut_path = run_here(*BEST, directory="cut")
    assert again["epoch"] == whole["epoch"]
    assert (cut_path / "ticket.safetensors").read_bytes() == (path / "ticket.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        EVERYTHING,
        pytest.param(BEST, marks=pytest.mark.slow),
        pytest.param(
            (
                "prune=0.8",
                "method.selection=global",
                "method.ramp=2",
                "optim.averaging=ema",
                "optim.averaging_decay=0.9",
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(("prune=0.8", "method.selection=calibrated", "optim.averaging=ema"), marks=pytest.mark.slow),
        pytest.param(TARGETS, marks=pytest.mark.slow),
        pytest.param(("optim.averaging=swa", "optim.averaging_start=1"), marks=pytest.mark.slow),
        pytest.param(
            ("optim.schedule=multi_step", "optim.milestones=[1,3]", "optim.nesterov=true"), marks=pytest.mark.slow
        ),
        pytest.param(("optim=adam", "optim.decay_scores=false", "optim.schedule=constant"), marks=pytest.mark.slow),
    ],
)
def test_a_run_cut_off_and_repeated_is_the_uninterrupted_one_to_the_bit(run_here, monkeypatch, overrides):
    _, whole = run_here(*overrides, "epochs=5", directory="whole")
    start = Monitor.on_train_epoch_start

    def cut(self, trainer, pl_module):
        if trainer.current_epoch == 3:
            raise CutError
        start(self, trainer, pl_module)

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "on_train_epoch_start", cut)
        with pytest.raises(CutError):
            run_here(*overrides, "epochs=5", directory="cut")
    row, cut_off = run_here(*overrides, "epochs=5", directory="cut")
    assert (cut_off / "ticket.safetensors").read_bytes() == (whole / "ticket.safetensors").read_bytes()
    assert timeless(cut_off) == timeless(whole)
    assert row["epoch"] == row_of(whole)["epoch"]


@pytest.mark.slow
def test_a_run_cut_off_after_its_last_epoch_still_has_the_averaged_ticket(run_here, monkeypatch):
    overrides = ("optim.averaging=ema", "optim.averaging_decay=0.9")
    _, whole = run_here(*overrides, directory="whole")
    from mpt.experiment import train

    with monkeypatch.context() as patch:
        patch.setattr(train, "_ticket", lambda *_: (_ for _ in ()).throw(CutError()))
        with pytest.raises(CutError):
            run_here(*overrides, directory="cut")
    _, cut_off = run_here(*overrides, directory="cut")
    assert (cut_off / "ticket.safetensors").read_bytes() == (whole / "ticket.safetensors").read_bytes()


@pytest.mark.slow
def test_a_killed_run_with_every_option_gives_the_ticket_of_an_uninterrupted_one(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process("train", *SMALL, *EVERYTHING, "epochs=30", f"hydra.run.dir={whole}", cwd=tmp_path)
    assert killed(cut, *EVERYTHING, epochs=3) == -9
    process("train", *SMALL, *EVERYTHING, "epochs=30", f"hydra.run.dir={cut}", cwd=tmp_path)
    assert (cut / "ticket.safetensors").read_bytes() == (whole / "ticket.safetensors").read_bytes()
    assert timeless(cut) == timeless(whole)
    assert row_of(cut)["epoch"] == row_of(whole)["epoch"]
