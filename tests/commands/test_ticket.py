from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import mpt
from tests.commands.test_cli import refused
from tests.console import SMALL, command
from tests.ticket.test_published import Conv4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished search in ``run``."""
    folder = tmp_path_factory.mktemp("searched")
    command("train", *SMALL, "epochs=1", "prune=0.8", "hydra.run.dir=run", cwd=folder)
    return folder


@pytest.mark.slow
def test_a_report_prints_a_table_and_writes_the_same_numbers_with_histograms_of_the_run_s_scores(folder):
    arguments = ("run/ticket.safetensors", "checkpoint=run/last.ckpt", "bins=7", "json=report.json")
    table = command("ticket", "report", *arguments, cwd=folder).stdout
    report = json.loads((folder / "report.json").read_text())
    assert report["image_size"] == 8
    assert f"acceleration  {report['acceleration']:.3f}" in table
    assert f"measured      {report['speed']['ratio']['lists']:.2f} times as fast as torch" in table
    assert report["speed"]["machine"] in table
    assert "json=FILE" not in table  # it has been written
    row = next(row for row in report["layers"] if row["name"] == "features.2")
    assert f"{100 * row['zero']:.2f} %" in table
    state = torch.load(folder / "run" / "last.ckpt", weights_only=True)["state_dict"]
    for row in report["layers"]:
        scores = state[f"net.{row['name']}.scores"].flatten().numpy()
        assert row["scores"]["counts"] == np.histogram(scores, bins=7)[0].tolist()
    arguments = ("run/ticket.safetensors", "image_size=8", "speed=false", "--json")
    printed = json.loads(command("ticket", "report", *arguments, cwd=folder).stdout)
    assert printed["acceleration"] == report["acceleration"]
    assert "speed" not in printed


def test_a_report_on_a_ticket_that_cannot_be_compiled_says_why(folder):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 3))
    mpt.Ticket.from_network(mpt.convert(net, mpt.Biprop(prune=0.5), seed=0)).save(folder / "own.safetensors")
    with pytest.raises(ValueError, match="backbone"):
        mpt.compile(folder / "own.safetensors", image_size=8)
    config = folder / "mine" / "model"
    config.mkdir(parents=True)
    (config / "own.yaml").write_text("name: own\ntarget: tests.commands.test_ticket.own\n")
    arguments = ("own.safetensors", "--config-dir", "mine", "model=own", "image_size=8")
    output = command("ticket", "report", *arguments, cwd=folder).stdout
    assert "acceleration" in output
    assert "measured      " in output
    assert "times as fast" not in output


def own(num_classes=3, in_channels=3, image_size=8, width=1.0):
    """A backbone that no ticket can name."""
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "run/ticket.safetensors", "image_size=16"], ["image_size=16 does not fit"]),
        (["report", "run/ticket.safetensors", "checkpoint=run/config.yaml"], ["config.yaml is damaged"]),
        (["report", "run/ticket.safetensors", "checkpoint=nowhere"], ["nowhere"]),
        (["report", "run/ticket.safetensors", "bin=3"], ["no option bin"]),
        (["report", "other.safetensors", "checkpoint=run/last.ckpt"], ["of another run"]),
        (["report", "run/ticket.safetensors", "model=nope"], ["nope", "conv2"]),
        (["import", "x.pth", "model=nope"], ["nope", "conv2"]),
        (["import", "x.pth"], ["model is not set"]),
        (["import", "x.pth", "model=conv4"], ["no checkpoint at x.pth"]),
        (["import", "x.pth", "model=conv4", "prune=2"], ["prune is the fraction removed"]),
        (["import", "run/last.ckpt", "model=conv4", "prune=0.5"], ["net.classifier.0", "one 4-D shape"]),
        (["report"], ["one ticket file"]),
        (["nonsense"], ["info|report|draw|bench|import"]),
    ],
)
def test_a_wrong_command_ends_with_one_sentence(folder, arguments, words):
    other = mpt.convert(mpt.backbones.conv4(width=0.125, image_size=8), mpt.Biprop(prune=0.8), seed=0)
    mpt.Ticket.from_network(other).save(folder / "other.safetensors")
    output = refused("ticket", *arguments, cwd=folder)
    for word in words:
        assert word in output


@pytest.mark.slow
def test_a_published_file_becomes_a_ticket_that_every_command_takes(folder):
    Conv4(width=0.125).save(folder / "model_best.pth", prune_rate=0.2, conv_type="SubnetConv")
    output = command("ticket", "import", "model_best.pth", "model=conv4", "width=0.125", cwd=folder).stdout
    assert "mpt-eval model_best.safetensors data=cifar10" in output
    ticket = mpt.Ticket.load(folder / "model_best.safetensors")
    assert ticket.header["method"]["prune"] == 0.8
    assert ticket.header["backbone"]["target"] == "mpt.backbones.conv4"
    assert "best_acc1 88.0" in command("ticket", "info", "model_best.safetensors", cwd=folder).stdout
    assert "acceleration" in command("ticket", "report", "model_best.safetensors", cwd=folder).stdout
    data = ("data=synthetic", "data.image_size=32", "data.num_images=40")
    assert "accuracy" in command("eval", "model_best.safetensors", *data, cwd=folder).stdout
    tuned = ("epochs=1", "batch=20", "hydra.run.dir=tuned", "trainer.accelerator=cpu", "trainer.devices=1")
    assert "before" in command("finetune", "model_best.safetensors", *data, *tuned, cwd=folder).stdout
    output = refused("eval", "model_best.safetensors", "data=synthetic", "data.num_classes=4", cwd=folder)
    assert "must give one logit for each of 4 classes" in output
    output = refused("ticket", "import", "model_best.pth", "model=conv4", "width=0.125", cwd=folder)
    assert "model_best.safetensors is there already" in output


def test_a_drawing_is_written_once_and_as_svg(folder):
    done = command("ticket", "draw", "run/ticket.safetensors", "out=drawn.svg", cwd=folder)
    assert done.stdout == "drawing   drawn.svg\n"
    assert (folder / "drawn.svg").read_text().startswith("<svg ")
    for out, words in (("drawn.svg", "is there already"), ("drawn.png", "must end in .svg")):
        assert words in refused("ticket", "draw", "run/ticket.safetensors", f"out={out}", cwd=folder)
