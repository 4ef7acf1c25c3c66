from __future__ import annotations

import json

import numpy as np
import pytest

import mpt
from tests.commands.test_cli import refused
from tests.console import SMALL, command, read_result

RGB = [o for o in SMALL if not o.startswith(("data.image_size", "data.num_classes"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished search in ``run``, on colour images of 32x32 in 10 classes."""
    folder = tmp_path_factory.mktemp("measured")
    command("train", *RGB, "data.image_size=32", "epochs=5", "prune=0.8", "hydra.run.dir=run", cwd=folder)
    return folder


def measure(folder, *arguments):
    return json.loads(command("eval", "run/ticket.safetensors", "json=true", *arguments, cwd=folder).stdout)


def write_corruptions(folder, *, labels=range(10)):
    """``CIFAR-10-C`` as it is published, with 20 images a severity: of one colour a class, fog and noise over them."""
    rng, root = np.random.default_rng(0), folder / "C"
    root.mkdir(exist_ok=True)
    np.save(root / "labels.npy", np.tile(np.array([list(labels)[i % len(labels)] for i in range(20)]), 5))
    for name in ("fog", "gaussian_noise"):
        np.save(root / f"{name}.npy", rng.integers(0, 255, (100, 32, 32, 3), dtype=np.uint8))
    return root


def test_a_ticket_is_measured_as_its_run_said_and_the_json_has_all_numbers(folder):
    values = measure(folder)
    assert values["acc"] == pytest.approx(read_result(folder / "run")["test_acc"], abs=1e-6)
    assert 0.25 < values["acc"] <= values["acc_top5"] <= 1
    assert 0 <= values["calibration_error"] <= 1
    assert [row["class"] for row in values["per_class"]] == [str(label) for label in range(10)]
    command("eval", "run/ticket.safetensors", "json=out.json", cwd=folder)
    assert json.loads((folder / "out.json").read_text()) == values
    table = command("eval", "run/ticket.safetensors", "per_class=true", cwd=folder).stdout
    assert f"accuracy  {100 * values['acc']:.2f} %" in table
    assert f"top-5     {100 * values['acc_top5']:.2f} %" in table
    assert f"{100 * values['per_class'][3]['acc']:.2f} %" in table


@pytest.mark.parametrize("engine", ["lists", "unrolled"])
def test_a_compiled_ticket_has_the_accuracy_of_its_network(folder, engine):
    found, expected = measure(folder, f"engine={engine}"), measure(folder)
    assert found["acc"] == expected["acc"]
    assert found["calibration_error"] == pytest.approx(expected["calibration_error"], abs=1e-4)
    for option in ("control=shuffled_mask", "model=conv2", "accelerator=gpu"):
        assert "leave out" in refused("eval", "run/ticket.safetensors", f"engine={engine}", option, cwd=folder)


def test_every_control_loses_accuracy(folder):
    acc = measure(folder)["acc"]
    assert acc > 0.4  # ten classes
    for control in ("shuffled_mask", "random_mask", "fresh_weights"):
        assert measure(folder, f"control={control}")["acc"] < 0.7 * acc, control


def test_every_corruption_and_severity_and_their_mean_are_measured(folder):
    root = write_corruptions(folder)
    values = measure(folder, f"corruptions={root}")
    cells = [(row["corruption"], row["severity"], row["num_images"]) for row in values["corruptions"]]
    assert sorted(cells) == [(name, s, 20) for name in ("fog", "gaussian_noise") for s in range(1, 6)]
    assert values["corruptions_acc"] == pytest.approx(np.mean([row["acc"] for row in values["corruptions"]]))
    table = command("eval", "run/ticket.safetensors", f"corruptions={root}", cwd=folder).stdout
    assert "severity 5" in table
    assert f"mean accuracy over the standard corruptions  {100 * values['corruptions_acc']:.2f} %" in table
    assert len(values["corruptions_missing"]) == 13
    assert "NOT included, because their files are missing: shot_noise," in table


def test_the_mean_over_corruptions_includes_the_standard_ones_only(folder, tmp_path):
    root = write_corruptions(tmp_path)
    np.save(root / "saturate.npy", np.zeros((100, 32, 32, 3), dtype=np.uint8))
    values = measure(folder, f"corruptions={root}")
    standard = [row["acc"] for row in values["corruptions"] if row["corruption"] != "saturate"]
    assert len(values["corruptions"]) == len(standard) + 5
    assert values["corruptions_acc"] == pytest.approx(np.mean(standard))


def test_an_unknown_model_is_refused(folder):
    output = refused("eval", "run/ticket.safetensors", "model=nope", cwd=folder)
    assert "nope" in output


def test_a_file_that_cannot_be_written_is_refused_before_measuring(folder):
    output = refused("eval", "run/ticket.safetensors", "json=nowhere/x.json", "data.root=nowhere", cwd=folder)
    assert "json must be true, false, or a file in an existing folder, got nowhere/x.json" in output


def test_corruptions_that_do_not_fit_are_refused(folder, tmp_path):
    output = refused("eval", "run/ticket.safetensors", "corruptions=nowhere", cwd=folder)
    assert "no labels.npy in nowhere" in output
    root = write_corruptions(tmp_path, labels=range(12))
    output = refused("eval", "run/ticket.safetensors", f"corruptions={root}", cwd=folder)
    assert "holds 12 classes, but the ticket knows 10" in output


def test_a_ticket_made_in_python_says_its_data(tmp_path):
    digits = mpt.data.load("digits")
    net = mpt.convert(mpt.backbones.conv2(in_channels=1, image_size=8, width=0.1), mpt.Biprop(prune=0.5), seed=0)
    mpt.Ticket.from_network(net, **digits.about()).save(tmp_path / "digits.safetensors")
    assert "359 test images of digits" in command("eval", "digits.safetensors", cwd=tmp_path).stdout
