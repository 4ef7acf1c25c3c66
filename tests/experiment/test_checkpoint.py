from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import torch

import mpt
from mpt.experiment.checkpoint import OUTLINE, WholeOrNothing, _frozen, _outline, read_checkpoint
from mpt.experiment.monitor import Monitor
from mpt.files import digest, write_atomically
from mpt.run.progress import finished_epochs
from tests.console import SMALL, command, process, read_result
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


class InterruptError(Exception):
    """Interrupts a run."""


def timeless(directory):
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows(directory)]


@pytest.mark.slow
def test_best_val_keeps_the_ticket_of_the_best_epoch_on_held_out_images_and_says_which(run_here):
    result, directory = run_here(*BEST)
    written = rows(directory)
    best = max(written, key=lambda r: r["val/acc"])
    assert result["epoch"] == best["epoch"] < 6
    assert result["test_acc"] == pytest.approx(best["test/acc"], abs=1e-6)
    assert result["val_acc"] == pytest.approx(best["val/acc"], abs=1e-6)
    assert result["train_acc"] == best["train/acc"]
    assert result["test_acc_max"] == max(r["test/acc"] for r in written)
    ticket = mpt.Ticket.load(directory / "ticket.safetensors")
    assert ticket.header["epoch"] == best["epoch"]
    state = torch.load(directory / "best.ckpt", weights_only=True)
    assert state["epoch"] + 1 == best["epoch"]
    last, _ = run_here(*BEST, "select=last", directory="last")
    assert last["epoch"] == 6
    assert last["test_acc"] == pytest.approx(written[-1]["test/acc"], abs=1e-6)
    assert not (directory.parent / "last" / "best.ckpt").exists()


@pytest.mark.slow
def test_a_run_interrupted_between_its_two_checkpoints_keeps_the_right_best(run_here, monkeypatch):
    whole, path = run_here(*BEST)
    save, seen = WholeOrNothing.save_checkpoint, []

    def cut(self, checkpoint, path, storage_options=None):
        if path.name == "last.ckpt" and seen and seen[-1] == "best.ckpt" and checkpoint["epoch"] + 1 == whole["epoch"]:
            raise InterruptError
        seen.append(path.name)
        save(self, checkpoint, path, storage_options)

    with monkeypatch.context() as patch:
        patch.setattr(WholeOrNothing, "save_checkpoint", lambda s, c, p, storage_options=None: cut(s, c, Path(p)))
        with pytest.raises(InterruptError):
            run_here(*BEST, directory="cut")
    assert read_result(path.parent / "cut")["status"] == "failed"
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
def test_an_interrupted_and_repeated_run_equals_the_uninterrupted_one_to_the_bit(run_here, monkeypatch, overrides):
    _, whole = run_here(*overrides, "epochs=5", directory="whole")
    start = Monitor.on_train_epoch_start

    def cut(self, trainer, pl_module):
        if trainer.current_epoch == 3:
            raise InterruptError
        start(self, trainer, pl_module)

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "on_train_epoch_start", cut)
        with pytest.raises(InterruptError):
            run_here(*overrides, "epochs=5", directory="cut")
    result, interrupted = run_here(*overrides, "epochs=5", directory="cut")
    assert (interrupted / "ticket.safetensors").read_bytes() == (whole / "ticket.safetensors").read_bytes()
    assert timeless(interrupted) == timeless(whole)
    assert result["epoch"] == read_result(whole)["epoch"]


@pytest.mark.slow
def test_a_run_interrupted_after_its_last_epoch_still_has_the_averaged_ticket(run_here, monkeypatch):
    overrides = ("optim.averaging=ema", "optim.averaging_decay=0.9")
    _, whole = run_here(*overrides, directory="whole")
    from mpt.experiment import train

    with monkeypatch.context() as patch:
        patch.setattr(train, "_ticket", lambda *_: (_ for _ in ()).throw(InterruptError()))
        with pytest.raises(InterruptError):
            run_here(*overrides, directory="cut")
    _, interrupted = run_here(*overrides, directory="cut")
    assert (interrupted / "ticket.safetensors").read_bytes() == (whole / "ticket.safetensors").read_bytes()


@pytest.mark.slow
def test_a_killed_run_with_every_option_gives_the_ticket_of_an_uninterrupted_one(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process("train", *SMALL, *EVERYTHING, "epochs=30", f"hydra.run.dir={whole}", cwd=tmp_path)
    assert killed(cut, *EVERYTHING, epochs=3) == -9
    process("train", *SMALL, *EVERYTHING, "epochs=30", f"hydra.run.dir={cut}", cwd=tmp_path)
    assert (cut / "ticket.safetensors").read_bytes() == (whole / "ticket.safetensors").read_bytes()
    assert timeless(cut) == timeless(whole)
    assert read_result(cut)["epoch"] == read_result(whole)["epoch"]


@pytest.fixture
def cut_short(run_here):
    """``cut_short(change)``: a run of which ``change`` altered the checkpoint and sealed it again, to be continued."""

    def cut(change, *overrides):
        _, directory = run_here(*overrides, "epochs=1")
        (directory / "result.json").unlink()
        (directory / "ticket.safetensors").unlink()
        content = change(torch.load(directory / "last.ckpt", weights_only=True))
        torch.save(content, file := io.BytesIO())
        write_atomically(directory / "last.ckpt", file.getvalue(), seal=True)
        return directory

    return cut


def doubled(content):
    content["state_dict"]["net.features.0.weight"] *= 2
    return content


def swapped(content):
    """Scores of another run."""
    scores = content["state_dict"]["net.features.0.scores"]
    scores.copy_(scores.flip(0))
    return content


def hurried(content):
    """A momentum of another run."""
    moments = content["optimizer_states"][0]["state"]
    moments[next(iter(moments))]["momentum_buffer"] *= 2
    return content


def without(name):
    """A change that loses the part ``name`` and makes the digest of the outline again."""

    def change(content):
        rest = {key: value for key, value in content.items() if key not in (name, OUTLINE)}
        return rest | {OUTLINE: digest(_outline(rest).encode())}

    return change


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimizer_states", "lr_schedulers", "loops", "callbacks", "epoch", "global_step"])
def test_a_checkpoint_that_lacks_a_part_is_refused_even_if_it_was_written_again(run_here, cut_short, name):
    cut_short(without(name))
    with pytest.raises(ValueError, match=r"last\.ckpt is not a whole checkpoint: remove it"):
        run_here("epochs=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: {}, "is not a whole checkpoint"),
        (lambda content: [content], "is not a whole checkpoint"),
        (lambda content: {k: v for k, v in content.items() if k != "optimizer_states"}, "is not a whole checkpoint"),
        (lambda content: content | {"optimizer_states": []}, "is not a whole checkpoint"),
        (lambda content: content | {"callbacks": {}, "loops": {}}, "is not a whole checkpoint"),
        (lambda content: content | {"epoch": 7}, "is not a whole checkpoint"),
        (swapped, "is not a whole checkpoint"),
        (hurried, "is not a whole checkpoint"),
        (lambda content: content | {"mpt_run": "0" * 32}, "is of a run with other settings"),
        (lambda content: content | {"state_dict": {}}, "is of another network"),
        (doubled, "has other frozen weights in features.0.weight than the seed draws"),
    ],
)
def test_a_checkpoint_that_is_not_this_runs_is_refused_in_one_sentence(run_here, cut_short, change, sentence):
    directory = cut_short(change)
    with pytest.raises(ValueError, match=rf"last\.ckpt {sentence}: remove it to start this run again"):
        run_here("epochs=1")
    assert not (directory / "ticket.safetensors").exists()
    (directory / "last.ckpt").unlink()
    assert run_here("epochs=1")[0]["status"] == "done"


@pytest.mark.slow
def test_the_best_checkpoint_is_checked_like_the_last(run_here):
    _, directory = run_here(*BEST)
    _, other = run_here(*BEST, "seed=1", directory="other")
    best, last = (directory / "best.ckpt").read_bytes(), (directory / "last.ckpt").read_bytes()
    (directory / "ticket.safetensors").unlink()
    (directory / "best.ckpt").unlink()
    with pytest.raises(ValueError, match=r"best\.ckpt is missing: remove last\.ckpt to start this run again"):
        run_here(*BEST)
    for content, sentence in (
        ((other / "best.ckpt").read_bytes(), "is of a run with other settings"),
        (last, "is of epoch 6 instead of"),
        (best[:-1], "is damaged"),
    ):
        (directory / "ticket.safetensors").unlink(missing_ok=True)
        (directory / "best.ckpt").write_bytes(content)
        with pytest.raises(ValueError, match=rf"best\.ckpt {sentence}.*: remove best\.ckpt and last\.ckpt"):
            run_here(*BEST)
        assert not (directory / "ticket.safetensors").exists()


def test_a_checkpoint_that_is_no_regular_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(path := tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt is not a regular file: remove it"):
        read_checkpoint(path)


@pytest.mark.slow
def test_the_checkpoint_of_another_seed_is_refused(run_here, tmp_path):
    _, directory = run_here("epochs=1")
    _, other = run_here("epochs=1", "seed=1", directory="other")
    for name in ("result.json", "ticket.safetensors"):
        (other / name).unlink()
    (other / "last.ckpt").write_bytes((directory / "last.ckpt").read_bytes())
    with pytest.raises(ValueError, match=r"last\.ckpt is of a run with other settings"):
        run_here("epochs=1", "seed=1", directory="other")


def test_no_flipped_bit_of_a_checkpoint_is_read_and_neither_is_a_shorter_one(run_here):
    _, directory = run_here("epochs=1")
    path = directory / "last.ckpt"
    whole = path.read_bytes()
    for at in range(0, 8 * len(whole), 8 * len(whole) // 60):
        altered = bytearray(whole)
        altered[at // 8] ^= 1 << at % 8
        path.write_bytes(altered)
        with pytest.raises(ValueError, match=r"is damaged: remove it to start this run again \(it "):
            read_checkpoint(path)
    for length in range(0, len(whole), len(whole) // 25):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"is damaged: remove it"):
            read_checkpoint(path)
    path.write_bytes(whole)
    assert read_checkpoint(path)["epoch"] == 0


def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(run_here, monkeypatch):
    _, directory = run_here("epochs=1")
    for error in (PermissionError(13, "Permission denied", "last.ckpt"), MemoryError()):
        monkeypatch.setattr("mpt.experiment.checkpoint.check_seal", lambda _, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)):
            read_checkpoint(directory / "last.ckpt")


def test_weights_that_a_method_draws_again_are_not_compared_with_those_of_the_seed(run_here):
    from tests.own_methods import IteRand

    net = mpt.convert(mpt.backbones.conv2(width=0.1, image_size=8), IteRand(prune=0.5), seed=0)
    assert not _frozen(net)
    searched = mpt.convert(mpt.backbones.conv2(width=0.1, image_size=8), mpt.Biprop(prune=0.5), seed=0)
    assert {"features.0.weight", "classifier.4.weight"} <= _frozen(searched).keys()


@pytest.mark.slow
def test_checkpoints_every_so_many_epochs_resume_from_the_last_one(tmp_path, monkeypatch):
    arguments = (*SMALL, "epochs=4", "trainer.checkpoint_every=2")
    command("train", *SMALL, "epochs=4", "hydra.run.dir=whole", cwd=tmp_path)
    start = Monitor.on_train_epoch_start

    def stop_in_epoch_4(self, trainer, pl_module):
        if trainer.current_epoch == 3:
            raise ValueError("the power failed")
        start(self, trainer, pl_module)

    monkeypatch.setattr(Monitor, "on_train_epoch_start", stop_in_epoch_4)
    stopped = command("train", *arguments, "hydra.run.dir=stopped", cwd=tmp_path, check=False)
    assert "the power failed" in stopped.stderr
    assert finished_epochs(tmp_path / "stopped") == 2
    assert torch.load(tmp_path / "stopped" / "last.ckpt", weights_only=True)["epoch"] == 1
    monkeypatch.setattr(Monitor, "on_train_epoch_start", start)
    command("train", *arguments, "hydra.run.dir=stopped", cwd=tmp_path)
    assert torch.load(tmp_path / "stopped" / "last.ckpt", weights_only=True)["epoch"] == 3
    whole, resumed = ((tmp_path / name / "ticket.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert whole == resumed
