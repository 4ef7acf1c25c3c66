"""mpt-theory: bounds, construct and figure on a dense ticket, and their errors, each in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mpt
from mpt import backbones
from tests.console import command
from tests.theory.networks import seeded

SEARCHED = Path(__file__).parents[1] / "ticket" / "files" / "biprop-0.1.0.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a dense ticket of digits that is right on some, ``dense.safetensors``."""
    folder = tmp_path_factory.mktemp("theory")
    digits = mpt.data.load("digits")
    net = seeded(lambda: backbones.mlp(hidden=[12], image_size=8))
    images, labels, *_ = next(iter(mpt.data.Loader(digits.train, data=digits, batch=1000, train=False)))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    mpt.Ticket.from_network(net, **digits.about()).save(folder / "dense.safetensors")
    return folder


def accuracy(folder, ticket):
    return json.loads(command("eval", ticket, "json=true", "accelerator=cpu", cwd=folder).stdout)["acc"]


def test_bounds_prints_each_theorem_and_as_json(folder):
    done = command("theory", "bounds", "dense.safetensors", "error=0.1", cwd=folder)
    assert "Diffenderfer & Kailkhura 2021" in done.stdout
    assert "measured, no theorem" in done.stdout
    content = json.loads(command("theory", "bounds", "dense.safetensors", "--json", cwd=folder).stdout)
    assert len(content["rows"]) == 12
    assert content["error"] == 0.01


def test_bounds_takes_a_network_by_name(folder):
    content = command(
        "theory", "bounds", "model=conv2", "width=0.1", "in_channels=1", "image_size=8", "--json", cwd=folder
    )
    rows = json.loads(content.stdout)["rows"]
    assert [row["columns"] for row in rows[:2]] == [9, 54]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["binary", "real", "doubling"])
def test_a_constructed_ticket_is_evaluated_and_described(folder, form):
    out = f"{form}.safetensors"
    done = command("theory", "construct", "dense.safetensors", "accuracy=0.02", f"form={form}", "-o", out, cwd=folder)
    assert "test images of digits certified" in done.stdout
    assert "random weights, " in done.stderr
    assert "as a network (hidden widths classifier.0 " in done.stderr
    assert abs(accuracy(folder, out) - accuracy(folder, "dense.safetensors")) < 0.02
    info = command("ticket", "info", out, cwd=folder).stdout
    assert f"form {form}" in info
    assert "certified weight_error" in info
    built = mpt.Ticket.load(folder / out).header["constructed"]
    assert built["accuracy"] == 0.02
    assert built.get("fit") == (1000 if form == "binary" else None)
    assert built["certificate"]["weight_error"] <= 0.02


def test_construct_says_that_images_are_missing_before_it_builds(folder):
    arguments = ("accuracy=0.02", "data=cifar10", "data.root=nowhere", "data.download=false", "out=n.safetensors")
    done = command("theory", "construct", "dense.safetensors", *arguments, cwd=folder, check=False)
    assert done.returncode != 0
    assert "random weights" not in done.stderr
    assert not (folder / "n.safetensors").exists()


@pytest.mark.slow
def test_construct_says_in_json_what_is_certified(folder):
    arguments = ("accuracy=0.02", "form=real", "keep=closest", "--json", "out=j.safetensors")
    content = json.loads(command("theory", "construct", "dense.safetensors", *arguments, cwd=folder).stdout)
    assert content["labels"]["num_images"] == 359
    assert content["labels"]["certified"] > 0.95
    assert content["labels"]["output_error"] <= content["certificate"]["output_error"]
    assert content["digest"] == mpt.Ticket.load(folder / "j.safetensors").digest


@pytest.mark.slow
def test_other_commands_take_a_constructed_ticket(folder):
    command(
        "theory", "construct", "dense.safetensors", "accuracy=0.02", "out=o.safetensors", "certify=false", cwd=folder
    )
    assert "density" in command("ticket", "report", "o.safetensors", "speed=false", cwd=folder).stdout
    assert "control shuffled_mask" in command("eval", "o.safetensors", "control=shuffled_mask", cwd=folder).stdout
    assert "accuracy" in command("eval", "o.safetensors", "engine=lists", cwd=folder).stdout


def test_figure_is_drawn_from_the_committed_table(tmp_path):
    table = Path(__file__).parents[2] / "results" / "theory" / "promised.csv"
    command("theory", "figure", f"table={table}", "-o", "a.svg", cwd=tmp_path)
    assert (tmp_path / "a.svg").read_bytes() == (Path(__file__).parents[2] / "docs" / "promised.svg").read_bytes()


ERRORS = [
    ("", "say what to do"),
    ("prove dense.safetensors", "bounds|construct|figure"),
    ("construct dense.safetensors", "accuracy (largest error of a weight; must be given) is not set"),
    ("construct dense.safetensors accuracy=0", "accuracy must be above 0"),
    ("construct dense.safetensors accuracy=50", "below the largest weight of each layer"),
    ("construct dense.safetensors accuracy=0.1 delta=1", "delta must be"),
    ("construct dense.safetensors accuracy=0.1 form=signs", "form must be"),
    ("construct dense.safetensors accuracy=0.1 keep=closest", "give form=real"),
    ("construct dense.safetensors accuracy=0.1 form=real fit=5", "fit rounds the weights of form=binary"),
    ("construct dense.safetensors accuracy=0.1 fit=-1", "fit must be 0 or more"),
    ("construct dense.safetensors accuracy=0.1 -o", "-o must be followed by"),
    ("construct dense.safetensors accuracy=0.1 out=dense.safetensors", "is there already"),
    ("construct dense.safetensors --accuracy 0.1", "write accuracy=0.1"),
    ("construct dense.safetensors accurcy=0.1", "did you mean accuracy?"),
    ("construct nowhere.safetensors accuracy=0.1", "no ticket at nowhere.safetensors"),
    (f"construct {SEARCHED} accuracy=0.1 data=digits", "a searched ticket"),
    (f"bounds {SEARCHED}", "a searched ticket"),
    ("bounds", "name one ticket file"),
    ("bounds model=conv2 x.safetensors", "takes options name=value alone here"),
    ("bounds dense.safetensors error=0", "error must be above 0"),
    ("figure -o x.txt", "must end in"),
    ("figure table=nowhere.csv", "nowhere.csv"),
    ("figure --nope", "no flag --nope"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "sentence"), ERRORS)
def test_an_error_is_one_sentence_and_writes_nothing(folder, words, sentence):
    before = sorted(folder.iterdir())
    done = command("theory", *words.split(), cwd=folder, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("mpt-theory: ")
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(folder.iterdir()) == before


def test_help_names_every_option_and_imports_no_torch():
    code = "import sys; sys.argv = ['mpt-theory', '--help']; from mpt.commands.cli import theory\ntry: theory()\n"
    code += "except SystemExit: pass\nsys.exit(bool({'torch', 'numpy', 'numba'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in ("accuracy", "delta", "radius", "keep", "certify", "csv"):
        assert option in done.stdout
