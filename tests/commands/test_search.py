"""``mpt.search`` takes the path of ``mpt-train``: the same directory, the same bits, the same sentences."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import mpt
from mpt.commands.search import spell
from tests.console import command

TINY = {"width": 0.125, "batch": 100, "trainer": {"accelerator": "cpu", "progress": False}}


@dataclass(frozen=True, kw_only=True)
class TwiceAsLarge(mpt.Biprop):
    """A method of this file."""

    def gain(self, weight, mask):
        return 2 * super().gain(weight, mask)


def small(num_classes=10, in_channels=3):
    """A backbone of this file."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes, bias=False))


@pytest.fixture(scope="module")
def digits():
    return mpt.data.load("digits", train_size=200)


@pytest.mark.slow
def test_a_call_and_a_command_share_directory_and_bits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = mpt.search("conv2", "digits", "biprop", prune=0.8, epochs=2, optim={"lr": 0.05}, **TINY)
    options = ["width=0.125", "batch=100", "trainer.accelerator=cpu", "optim.lr=0.05", "prune=0.8", "epochs=2"]
    done = command("train", "model=conv2", "data=digits", *options, cwd=tmp_path)
    assert f"this run is finished: {found.directory}" in done.stdout
    command("train", "model=conv2", "data=digits", *options, "hydra.run.dir=again", cwd=tmp_path)
    assert mpt.Ticket.load("again/ticket.safetensors").digest == found.ticket.digest
    assert [row["epoch"] for row in found.history] == [1, 2]
    assert found.result == json.loads((found.directory / "result.json").read_text())
    assert f"{100 * found.result['test_acc']:.2f} % of 359 test images" in found._repr_html_()


@pytest.mark.slow
def test_an_instance_of_a_method_is_the_run_of_its_name(tmp_path, capsys):
    named = mpt.search("conv2", "digits", "edge_popup", prune=0.5, epochs=1, runs=str(tmp_path), **TINY)
    given = mpt.search("conv2", "digits", mpt.EdgePopup(prune=0.5), epochs=1, runs=str(tmp_path), **TINY)
    assert given.directory == named.directory
    assert "this run is finished" in capsys.readouterr().out
    other = mpt.EdgePopup(prune=0.5, power=2.0)
    found = mpt.search("conv2", "digits", other, epochs=1, runs=str(tmp_path), **TINY)
    assert found.directory != named.directory
    assert found.result["config"]["method"]["power"] == 2.0


@pytest.mark.slow
def test_own_functions_images_and_methods_run_and_are_found_again(tmp_path, digits, capsys):
    settings = {"epochs": 1, "runs": str(tmp_path)} | TINY | {"width": 1.0}
    found = mpt.search(small, digits, TwiceAsLarge(prune=0.5), **settings)
    assert found.result["num_train"] == 200
    assert found.directory.name.startswith("small-digits-twice_as_large-p0.5")
    layer = found.ticket.layer("1")
    mean = found.ticket.random_weight(layer, seed=0, stream="1").abs()[found.ticket.mask("1")].mean()
    torch.testing.assert_close(found.ticket.weight("1").abs().max(), 2 * mean)
    assert mpt.search(small, digits, TwiceAsLarge(prune=0.5), **settings).directory == found.directory
    assert "this run is finished" in capsys.readouterr().out
    fewer = mpt.data.load("digits", train_size=100)
    assert mpt.search(small, fewer, TwiceAsLarge(prune=0.5), **settings).directory != found.directory


@pytest.mark.slow
def test_a_module_counts_by_its_architecture(tmp_path, digits):
    settings = {"epochs": 1, "runs": str(tmp_path)} | TINY | {"width": 1.0}
    first, again, other = small(in_channels=1), small(in_channels=1), nn.Sequential(small(in_channels=1))
    found = mpt.search(first, digits, mpt.Biprop(prune=0.5), **settings)
    assert mpt.search(again, digits, mpt.Biprop(prune=0.5), **settings).directory == found.directory
    assert mpt.search(other, digits, mpt.Biprop(prune=0.5), **settings).directory != found.directory
    assert not torch.equal(first[1].weight, found.ticket.network(first)[1].weight)


def test_a_local_function_is_known_by_its_code(tmp_path, digits):
    def build(channels):
        def local(in_channels=1):
            return nn.Sequential(nn.Flatten(), nn.Linear(64, channels), nn.ReLU(), nn.Linear(channels, 10))

        return local

    settings = {"epochs": 1, "runs": str(tmp_path), "prune": 0.5} | TINY | {"width": 1.0}
    four, again, five = (mpt.search(build(channels), digits, **settings) for channels in (4, 4, 5))
    assert four.directory == again.directory
    assert five.directory != four.directory


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        (("conv2", "digits"), {"prun": 0.5}, ["no option prun", "did you mean prune?"]),
        (("conv2", "digits"), {"prune": 1.2}, ["fraction removed", "1.2"]),
        (("conv2", "digits"), {"epochs": "many"}, ["epochs must be a whole number"]),
        (("conv2", "digits"), {"optim": {"lrr": 1}}, ["no option optim.lrr", "optim.lr?"]),
        (("nope", "digits"), {}, ["model has no choice 'nope'", "conv6"]),
        ((3, "digits"), {}, ["backbone is a name, a function or a torch module, got int"]),
        (("conv2", 3), {}, ["data are a name or images of mpt.data", "int"]),
        (("conv2", "digits", mpt.Biprop(prune=0.5)), {"prune": 0.8}, ["brings prune=0.5"]),
        (("conv2", "digits", 3), {}, ["method is a name or an instance"]),
        (("conv2", "digits"), {"trainer": {"accelerator": "cpu", "devices": 2}}, ["this process alone", "mpt-train"]),
        (("conv2", "digits"), {"sweeps": "fig2"}, ["sweeps", "use mpt-train"]),
        (("conv2", "own"), {}, ["data has no choice 'own'"]),
    ],
)
def test_a_wrong_value_raises_one_sentence_and_writes_nothing(tmp_path, monkeypatch, arguments, settings, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"\w") as caught:
        mpt.search(*arguments, **settings)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*"))


def test_options_of_images_that_are_given_are_refused(digits):
    with pytest.raises(ValueError, match="images are given, so that data"):
        mpt.search("conv2", digits, **{"data.crop": 1})


def test_ctrl_c_raises_keyboard_interrupt_and_the_same_call_continues(tmp_path):
    def stop():
        while not list(tmp_path.rglob("last.ckpt")) and not over.wait(0.01):
            pass
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    over, before = threading.Event(), signal.signal(signal.SIGINT, signal.default_int_handler)
    finger = threading.Thread(target=stop)
    finger.start()
    try:
        with pytest.raises(KeyboardInterrupt, match=r"interrupted after epoch.*the same call continues"):
            mpt.search("conv2", "digits", epochs=400, runs=tmp_path, **TINY)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        over.set()
        finger.join()
        signal.signal(signal.SIGINT, before)


def test_the_room_of_the_search_stays_a_module_that_can_be_called():
    import mpt.search.mask

    assert callable(mpt.search)
    assert mpt.search.mask.num_kept


def test_values_are_spelled_in_the_grammar_of_overrides():
    assert spell([0.9, None, True]) == "[0.9,null,true]"
    assert spell([np.bool_(False), np.float32(0.1), np.int64(3), np.array(2)]) == "[false,0.1,3,2]"
    assert spell({"betas": [0.9, 0.99]}) == "{betas:[0.9,0.99]}"
    assert spell("a folder, (new)") == "'a folder, (new)'"
