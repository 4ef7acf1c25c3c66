from __future__ import annotations

import pytest
import torch

import mpt
from mpt.experiment.monitor import Monitor
from mpt.run import result as schema
from mpt.search.mask import flips
from tests.console import SMALL, compose
from tests.experiment.test_train import LAYERS, rows

METRICS = {
    "epoch",
    "images_per_second",
    "lr",
    "seconds",
    "test/acc",
    "ticket/density",
    "ticket/flips",
    "train/acc",
    "train/loss",
    *(f"ticket/{what}/{layer}" for what in ("gain", "flips", "binarization_error") for layer in LAYERS),
}


def test_no_epoch_of_a_ramp_is_the_best(tmp_path):
    ramp = mpt.Biprop(prune=0.8, selection="global", ramp=2).ramp_epochs
    monitor = Monitor(tmp_path, num_images=1, show=False, first_epoch=ramp)
    monitor.rows = [{"epoch": e, "val/acc": acc} for e, acc in ((1, 0.9), (2, 0.8))]
    assert monitor.best("val/acc") is None
    monitor.rows += [{"epoch": e, "val/acc": acc} for e, acc in ((3, 0.5), (4, 0.6), (5, 0.6))]
    assert monitor.best("val/acc")["epoch"] == 4  # the earliest of equals


def test_metrics_have_their_fixed_names_and_one_row_per_epoch(run_here):
    _, directory = run_here("prune=0.8")
    written = rows(directory)
    assert [row["epoch"] for row in written] == [1, 2, 3]
    assert all(set(row) == METRICS for row in written)
    documented = {name.replace("<layer>", layer) for name in schema.METRICS for layer in LAYERS}
    assert documented - METRICS == {"val/loss", "val/acc"}
    assert all(row["ticket/density"] == pytest.approx(0.2, abs=1e-3) for row in written)
    assert written[0]["ticket/flips"] > 0
    assert [row["lr"] for row in written] == pytest.approx([0.1, 0.075, 0.025])


def test_flips_and_binarization_error_follow_their_definitions(run_here):
    _, directory = run_here("epochs=1", "prune=0.5")
    settings = compose(*SMALL, "epochs=1", "prune=0.5")
    backbone = mpt.backbones.conv2(width=settings.width, num_classes=4, image_size=8)
    start = mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0)
    state = torch.load(directory / "last.ckpt", weights_only=True)["state_dict"]
    end = mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0)
    end.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
    row = rows(directory)[0]
    layers = [(start.get_submodule(name), end.get_submodule(name)) for name in LAYERS]
    assert row["ticket/flips"] == pytest.approx(flips([a.mask() for a, _ in layers], [b.mask() for _, b in layers]))
    for name, (_, layer) in zip(LAYERS, layers, strict=True):
        w, m, g = layer.weight.detach(), layer.mask(), layer.gain()
        expected = (m * (w - g * torch.sign(w))).norm()
        assert row[f"ticket/binarization_error/{name}"] == pytest.approx(expected.item(), rel=1e-4)
