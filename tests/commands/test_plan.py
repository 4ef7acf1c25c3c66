from __future__ import annotations

import pytest

from tests.console import SMALL, command


@pytest.fixture(scope="module")
def ticket(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    command("train", *SMALL, "epochs=1", "hydra.run.dir=run", cwd=folder)
    return folder / "run" / "ticket.safetensors"


def test_a_dry_run_says_what_the_run_would_do_and_writes_nothing(tmp_path):
    lines = command("train", *SMALL, "--dry-run", cwd=tmp_path).stdout.splitlines()
    assert lines[0].startswith("missing     runs/conv2-synthetic-biprop-p0.5-")
    assert lines[1].startswith("device      cpu, 1 process, 32-true")
    assert lines[2] == "data        synthetic: 320 training images of 3x8x8 in 4 classes"
    assert lines[3].split()[:4] == ["layer", "shape", "weights", "kept"]
    assert lines[-1].startswith("estimate: about")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dense=[nope]"], "dense names 'nope'"),
        (["optim.arguments={fused: maybe}"], "optim.arguments.fused must be true or false, got maybe"),
        (["optim.arguments={nope: 1}"], "nope"),
        (["trainer.strategy=nope"], "trainer.strategy must be"),
        (["trainer.devices=3"], "batch"),
        (["data=image_folder", "data.root=nowhere"], "no image folder at"),
        (["data=image_folder"], "data.root"),
        (["model=torchvision", "model.name=resnet19", "width=1"], "no classifier 'resnet19'"),
        (["model.target=nope"], "model.target=nope"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would_refuse(tmp_path, arguments, words):
    small = [o for o in SMALL if not (arguments[0] == "data=image_folder" and o.startswith("data"))]
    done = command("train", *small, *arguments, "--dry-run", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_fine_tuning_shows_the_ticket(tmp_path, ticket):
    out = command("finetune", str(ticket), "--dry-run", cwd=tmp_path).stdout
    assert "features.0" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("finetune", ["model=conv4", "--dry-run"], "cannot replace the ticket's own network, conv2"),
        ("finetune", ["model=conv2", "width=2", "--dry-run"], "width cannot change"),
        ("finetune", ["data.num_images=2", "data=digits", "--dry-run"], "data.num_images has an effect only with"),
        ("eval", ["width=2"], "width belongs to a network that model= names"),
        ("eval", ["data=cifar10"], "the ticket was searched for images of 3 channels in 4 classes, cifar10 has"),
        ("predict", ["x.png", "width=2"], "width belongs to a network that model= names"),
        ("ticket", ["width=2"], "width belongs to a network that model= names"),
    ],
)
def test_options_that_the_ticket_decides_are_refused(tmp_path, ticket, name, arguments, words):
    verb = ["report"] if name == "ticket" else []
    done = command(name, *verb, str(ticket), *arguments, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
