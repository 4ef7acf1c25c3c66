"""Trees of pictures from the command line, read by worker processes: runs train, resume and are measured."""

from __future__ import annotations

import json

import pytest

import mpt
from mpt.experiment.module import TicketModule
from mpt.search.mask import flips
from tests.console import command, process, read_result
from tests.data.conftest import make_pictures

NET = ("model=conv2", "width=0.125", "batch=16", "trainer.accelerator=cpu", "seed=3")
SMALL = ("data=imagenet", "data.image_size=8", *NET)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("tree"), train=75, val=30)


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def train(directory, root, *overrides, check=True, small=SMALL):
    run = (f"data.root={root}", f"hydra.run.dir={directory}", "trainer.devices=1", "epochs=3")
    return command("train", *small, *run, *overrides, cwd=directory.parent, check=check)


def evaluate(directory, *overrides):
    return command("eval", str(directory / "ticket.safetensors"), *overrides, cwd=directory.parent).stdout


def test_a_tree_is_searched_measured_and_its_control_reestimated(root, tmp_path):
    train(tmp_path / "run", root, "data.val_size=15", "data.workers=1", "learn_batchnorm=false")
    result = read_result(tmp_path / "run")
    assert (result["num_train"], result["num_test"], result["data"]) == (60, 30, "imagenet")
    assert result["test_acc"] > 0.6  # three classes
    assert result["test_acc"] == pytest.approx(rows(tmp_path / "run")[-1]["test/acc"], abs=1e-6)
    assert result["val_acc"] == pytest.approx(rows(tmp_path / "run")[-1]["val/acc"], abs=1e-6)
    header = mpt.Ticket.load(tmp_path / "run" / "ticket.safetensors").header
    assert header["class_names"] == ["ant", "bee", "cat"]
    assert not {"workers", "stream"} & set(header["data"])
    here = (f"data.root={root}", "data.workers=0")  # a ticket carries no path of its author
    output = evaluate(tmp_path / "run", *here)
    assert f"accuracy  {100 * result['test_acc']:.2f} % of 30 test images of imagenet" in output
    assert "control shuffled_mask" in evaluate(tmp_path / "run", "control=shuffled_mask", *here)


@pytest.mark.slow
def test_an_interrupted_search_on_files_gives_the_ticket_of_an_uninterrupted_one(root, tmp_path, monkeypatch):
    train(tmp_path / "whole", root, "data.workers=0")

    def cut(module):
        if module.current_epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TicketModule, "on_validation_epoch_start", cut)
        train(tmp_path / "cut", root, "data.workers=0", check=False)
    assert len(rows(tmp_path / "cut")) == 2
    assert "resuming from" in train(tmp_path / "cut", root, "data.workers=1").stdout
    whole, cut_off = ((tmp_path / name / "ticket.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut_off


@pytest.mark.slow
def test_a_folder_gives_one_ticket_from_memory_and_from_files(root, tmp_path):
    small = ("data=image_folder", "data.image_size=8", f"data.cache={tmp_path / 'cache'}", *NET)
    for name, stream in (("memory", "false"), ("files", "true")):
        train(tmp_path / name, root, f"data.stream={stream}", "data.workers=0", "epochs=1", small=small)
    memory, files = ((tmp_path / name / "ticket.safetensors").read_bytes() for name in ("memory", "files"))
    assert memory == files


@pytest.mark.slow
def test_other_pictures_in_the_folder_of_a_finished_run_are_refused(tmp_path):
    root = make_pictures(tmp_path / "tree", train=16, val=4)
    train(tmp_path / "run", root, "data.workers=0", "epochs=1")
    before = (tmp_path / "run" / "ticket.safetensors").read_bytes()
    make_pictures(root, train=16, val=4, seed=1)
    refused = train(tmp_path / "run", root, "data.workers=0", "epochs=1", check=False)
    assert refused.returncode == 1
    assert "data.root now holds different pictures from those used by the run in" in refused.stderr
    assert (tmp_path / "run" / "ticket.safetensors").read_bytes() == before
    root.rename(tmp_path / "away")
    assert "this run is finished" in train(tmp_path / "run", root, "epochs=1").stdout


@pytest.mark.slow
def test_a_broken_picture_ends_the_search_with_one_sentence_and_once_mended_it_resumes(tmp_path):
    root = make_pictures(tmp_path / "tree", train=16, val=4)
    broken = root / "train" / "bee" / "001.png"
    content = broken.read_bytes()
    broken.write_bytes(b"not a picture")
    refused = train(tmp_path / "run", root, "data.workers=1", "epochs=1", check=False)
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1] == (
        f"mpt-train: {broken} is not a readable picture: delete or replace it"
    )
    assert read_result(tmp_path / "run")["status"] == "failed"
    broken.write_bytes(content)
    train(tmp_path / "run", root, "data.workers=0", "epochs=1")
    assert read_result(tmp_path / "run")["status"] == "done"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["data.root=nowhere"], "there is no image folder at"),
        (["data.stream=false"], "data.stream=false excludes data.resized_crop=true"),
        (["data.workers=-1"], "data.workers must be 0 or more, got -1"),
        (["data.augment=mixup"], "data.augment must be none or augmix, got mixup"),
        (["data.noise_probability=2"], "data.noise_probability must be a probability in [0, 1], got 2"),
    ],
)
def test_impossible_options_are_refused_in_one_sentence(root, tmp_path, overrides, sentence):
    refused = train(tmp_path / "run", root, *overrides, check=False)
    assert refused.returncode == 1
    assert sentence in refused.stderr
    assert not list((tmp_path / "run").glob("*.*"))


@pytest.mark.slow
def test_two_processes_with_workers_find_the_masks_of_one(root, tmp_path):
    for name, count in (("one", 1), ("two", 2)):
        run = (f"data.root={root}", f"hydra.run.dir={name}", f"trainer.devices={count}", "epochs=2", "data.workers=1")
        done = process("train", *SMALL, *run, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = (mpt.Ticket.load(tmp_path / name / "ticket.safetensors") for name in ("one", "two"))
    names = [layer["name"] for layer in one.header["layers"]]
    assert flips(*([ticket.mask(name) for name in names] for ticket in (one, two))) <= 0.001
    assert read_result(tmp_path / "two")["processes"] == 2
    assert rows(tmp_path / "two")[-1]["test/acc"] == pytest.approx(read_result(tmp_path / "two")["test_acc"], abs=1e-6)
