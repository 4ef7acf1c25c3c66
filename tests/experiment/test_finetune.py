from __future__ import annotations

import json

import pytest
import torch

import mpt
from mpt.search.layers import ticket_layers
from tests.commands.test_cli import refused
from tests.console import SMALL, command, read_result

TRAINER = ("trainer.accelerator=cpu", "trainer.devices=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished search in ``run``."""
    folder = tmp_path_factory.mktemp("searched")
    command("train", *SMALL, "epochs=1", "prune=0.8", "hydra.run.dir=run", cwd=folder)
    return folder


def tune(folder, *arguments, ticket="run/ticket.safetensors"):
    return command("finetune", ticket, *TRAINER, *arguments, cwd=folder)


def metrics(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_fine_tuning_lowers_the_loss_keeps_the_mask_and_leaves_a_ticket_with_its_history(folder):
    output = tune(folder, "layers=all", "optim.lr=0.3", "batch=32", "epochs=6", "hydra.run.dir=all").stdout
    before, after = (mpt.Ticket.load(folder / run / "ticket.safetensors") for run in ("run", "all"))
    row, losses = read_result(folder / "all"), [row["train/loss"] for row in metrics(folder / "all")]
    assert losses[-1] < 0.9 * losses[0]
    assert row["test_acc_before"] == read_result(folder / "run")["test_acc"]
    assert f"before    {100 * row['test_acc_before']:.2f} %" in output
    assert row["test_acc"] != row["test_acc_before"]
    assert (row["method"], row["layers"], row["ticket_digest"]) == ("finetune_all", "all", before.digest)
    turned = 0
    for layer in before.header["layers"]:
        name = layer["name"]
        assert torch.equal(after.mask(name), before.mask(name))
        turned += int((torch.sign(after.weight(name)) != torch.sign(before.weight(name))).sum())
    assert turned > 0
    assert all(layer["form"] == "binary" for layer in after.header["layers"])
    (done,) = after.header["history"]
    assert (done["ticket"], done["layers"], done["epochs"], done["optim"]["lr"]) == (before.digest, "all", 6, 0.3)
    assert {key: after.header[key] for key in ("parameters", "method", "seed", "data")} == {
        key: before.header[key] for key in ("parameters", "method", "seed", "data")
    }
    shown = command("eval", "all/ticket.safetensors", "json=true", cwd=folder).stdout
    assert json.loads(shown)["acc"] == pytest.approx(row["test_acc"], abs=1e-6)
    assert "tuned     layers all, epochs 6" in command("ticket", "info", "all/ticket.safetensors", cwd=folder).stdout


def test_the_default_is_the_paper_s_best_setting_and_trains_the_last_layer_alone(folder):
    tune(folder, "epochs=2", "hydra.run.dir=last")
    result = read_result(folder / "last")
    config = result["config"]
    assert (config["layers"], config["batch"], config["optim"]["name"], config["optim"]["lr"]) == (
        "last",
        256,
        "sgd",
        1e-3,
    )
    assert config["optim"]["schedule"] == "cosine"
    start = mpt.convert(mpt.backbones.conv2(width=0.125, image_size=8, num_classes=4), mpt.Biprop(prune=0.8), seed=0)
    state = torch.load(folder / "last" / "last.ckpt", weights_only=True)["state_dict"]
    moved = {
        name: not torch.equal(state[f"net.{name}.weight"], layer.weight) for name, layer in ticket_layers(start).items()
    }
    assert moved == dict.fromkeys(moved, False) | {"classifier.4": True}


@pytest.mark.slow
def test_a_repeated_run_is_not_run_again_an_interrupted_one_resumes_and_the_directory_follows_from_ticket_and_settings(
    folder,
):
    arguments = ("layers=classifier.*", "optim.lr=0.1", "epochs=3", "runs=mine")
    tune(folder, *arguments)
    (directory,) = (folder / "mine").iterdir()
    assert directory.name.startswith("conv2-synthetic-finetune_classifier._-p0.8-w0.125-e3-s0-")
    content = (directory / "ticket.safetensors").read_bytes()
    assert "this run is finished" in tune(folder, *arguments).stdout
    (directory / "result.json").unlink()  # as if killed after the last epoch
    assert "resuming from" in tune(folder, *arguments).stdout
    assert (directory / "ticket.safetensors").read_bytes() == content
    (folder / "moved.safetensors").write_bytes((folder / "run" / "ticket.safetensors").read_bytes())
    assert "this run is finished" in tune(folder, *arguments, ticket="moved.safetensors").stdout
    tune(folder, *arguments, ticket=str(directory / "ticket.safetensors"))  # fine-tuned once more: another ticket
    assert len(list((folder / "mine").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["layers=fc"], ["layers names 'fc'", "features.0"]),
        (["prune=0.5"], ["prune cannot change, because the ticket was searched with it"]),
        (["+method.init=x"], ["method.init cannot change"]),
        (["width=2"], ["width cannot change"]),
        (["epochs=0"], ["epochs must be at least 1"]),
        (["data=digits"], ["1 channel "]),
        (["layer=last"], ["no option layer"]),
    ],
)
def test_a_wrong_fine_tuning_ends_with_one_sentence_and_writes_nothing(folder, arguments, words):
    before = set(folder.rglob("*"))
    output = refused("finetune", "run/ticket.safetensors", *TRAINER, *arguments, cwd=folder)
    for word in words:
        assert word in output
    assert set(folder.rglob("*")) == before


def test_a_file_that_cannot_be_fine_tuned_is_refused(folder):
    assert "one ticket file" in refused("finetune", cwd=folder)
    assert "no ticket at nowhere" in refused("finetune", "nowhere", cwd=folder)
    dense = mpt.convert(mpt.backbones.conv2(width=0.125, image_size=8), mpt.Dense(), seed=0)
    mpt.Ticket.from_network(dense).save(folder / "dense.safetensors")
    output = refused("finetune", "dense.safetensors", "data=synthetic", *TRAINER, cwd=folder)
    assert "dense baseline" in output
    assert "layers" in command("finetune", "--help", cwd=folder).stdout
