from __future__ import annotations

import pytest
import torch

import mpt
from mpt.data import Batch
from mpt.experiment.losses import jensen_shannon
from mpt.experiment.module import TicketModule
from mpt.run.result import read_metrics
from mpt.search.mask import flips
from tests.console import SMALL, command, compose, read_result
from tests.experiment.test_train import LAYERS, rows


@pytest.mark.slow
def test_label_smoothing_changes_the_ticket_and_not_what_is_reported_as_loss(run_here):
    still = (
        "optim.lr=1e-9",
        "optim.weight_decay=0",
        "data.val_size=64",
        "epochs=1",
    )  # scores stay: losses are comparable
    reported = []
    for label_smoothing in ("0", "0.3"):
        _, directory = run_here(*still, f"label_smoothing={label_smoothing}", directory=label_smoothing)
        reported.append([rows(directory)[0][name] for name in ("train/loss", "val/loss")])
    assert reported[0] == pytest.approx(reported[1], rel=1e-5)
    tickets = []
    for label_smoothing in ("0", "0.3"):
        _, directory = run_here("epochs=1", f"label_smoothing={label_smoothing}", directory=f"moved{label_smoothing}")
        tickets.append((directory / "ticket.safetensors").read_bytes())
    assert tickets[0] != tickets[1]


@pytest.mark.slow
def test_a_gradient_that_is_clipped_to_nothing_moves_no_mask(run_here):
    _, directory = run_here("optim.clip_grad_norm=1e-9", "optim.weight_decay=0", "epochs=1")
    assert rows(directory)[0]["ticket/flips"] == 0
    _, directory = run_here("optim.weight_decay=0", "epochs=1", directory="free")
    assert rows(directory)[0]["ticket/flips"] > 0.01


@pytest.mark.slow
def test_a_batch_in_parts_is_the_same_step(run_here):
    """319 images: the last step has fewer, and its last part fewer still."""
    tickets, losses = [], []
    for parts in (1, 4):
        overrides = ("data.num_images=319", "epochs=2", f"optim.accumulate={parts}")
        _, directory = run_here(*overrides, directory=str(parts))
        tickets.append(mpt.Ticket.load(directory / "ticket.safetensors"))
        losses.append(rows(directory)[-1]["train/loss"])
    assert flips(*([ticket.mask(name) for name in LAYERS] for ticket in tickets)) <= 0.001
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["optim.accumulate=3"], "batch must be divisible by optim.accumulate, got 32 in 3 parts"),
        (
            ["optim.accumulate=16", "trainer.devices=4"],
            "must be divisible by 4 processes times optim.accumulate=16, got 32",
        ),
        (["trainer.devices=2", "trainer.sync_batchnorm=true"], "sync_batchnorm=true needs accelerators"),
        (
            ["model=torchvision", "model.name=resnet18", "width=1", "optim.accumulate=32"],
            "training images for an epoch's last step",
        ),
        (["optim._target_=nowhere.Nothing"], "cannot be imported"),
        (
            ["model=torchvision", "model.name=shufflenet_v2_x0_5", "width=1", "trainer.precision=bf16-mixed"],
            r"bf16-mixed gives stage3\.0\.branch1\.0 a wrong gradient on the CPU, because its stride of 2 exceeds the "
            r"width of its input, 1: use trainer\.precision=32-true or a larger data\.image_size",
        ),
    ],
)
def test_contradictory_options_are_refused_before_anything_is_written(run_here, tmp_path, overrides, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_here(*overrides)
    assert not (tmp_path / "run").exists()


def test_three_views_of_an_image_add_their_divergence_to_the_loss_and_only_the_clean_one_is_reported():
    net = mpt.convert(mpt.backbones.conv2(width=0.125, num_classes=4, image_size=8), mpt.Biprop(prune=0.5))
    optim = compose().optim
    module = TicketModule(net, num_classes=4, splits=("test",), seed=0, optim=optim, epochs=1)
    images, labels = torch.randn(3 * 5, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0])
    loss = module.training_step(Batch(images, labels, 1.0, 3), 0)
    plain = module.training_step(Batch(images[:5], labels, 1.0), 0)
    divergence = jensen_shannon(*net(images).chunk(3))
    assert divergence > 0.001
    assert loss.item() == pytest.approx((plain + 12 * divergence).item(), rel=1e-5)
    assert module.train_loss.compute().item() == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.slow
def test_test_images_are_measured_in_the_chosen_epochs_and_the_last_and_the_ticket_stays(tmp_path):
    options = (*SMALL, "data.val_size=64", "select=best_val", "optim.lr=1.0", "epochs=5")
    results, tickets = [], []
    for every in (1, 2):
        command("train", *options, f"evaluate_every={every}", f"hydra.run.dir=every{every}", cwd=tmp_path)
        results.append(read_result(tmp_path / f"every{every}"))
        tickets.append(mpt.Ticket.load(tmp_path / f"every{every}" / "ticket.safetensors").digest)
    rows, fewer = (read_metrics(tmp_path / name) for name in ("every1", "every2"))
    assert [row["epoch"] for row in fewer if "test/acc" in row] == [2, 4, 5]
    assert [row["test/acc"] for row in fewer if "test/acc" in row] == [rows[i]["test/acc"] for i in (1, 3, 4)]
    assert [row["val/acc"] for row in fewer] == [row["val/acc"] for row in rows]
    assert [row["ticket/flips"] for row in fewer] == [row["ticket/flips"] for row in rows]
    assert tickets[0] == tickets[1]
    assert results[0]["test_acc"] == results[1]["test_acc"]
    assert results[1]["test_acc_max"] == max(rows[i]["test/acc"] for i in (1, 3, 4))
    assert results[1]["test_acc_max_epoch"] in (2, 4, 5)
    again = command("train", *options, "evaluate_every=3", "hydra.run.dir=every2", cwd=tmp_path)
    assert "this run is finished" in again.stdout  # the ticket does not depend on it


@pytest.mark.slow
def test_a_run_that_resumes_goes_on_measuring_the_chosen_epochs(tmp_path, monkeypatch):
    options = (*SMALL, "evaluate_every=2", "epochs=5")
    command("train", *options, "hydra.run.dir=whole", cwd=tmp_path)
    begin = TicketModule.on_train_epoch_start

    def stop(module):
        if module.current_epoch == 3:
            raise ValueError("stopped here")
        begin(module)

    with monkeypatch.context() as patch:
        patch.setattr(TicketModule, "on_train_epoch_start", stop)
        assert command("train", *options, "hydra.run.dir=halves", cwd=tmp_path, check=False).returncode == 1
    assert len(read_metrics(tmp_path / "halves")) == 3
    command("train", *options, "hydra.run.dir=halves", cwd=tmp_path)
    whole, halves = (read_metrics(tmp_path / name) for name in ("whole", "halves"))
    assert [row.get("test/acc") for row in whole] == [row.get("test/acc") for row in halves]
    assert [row["epoch"] for row in halves if "test/acc" in row] == [2, 4, 5]
