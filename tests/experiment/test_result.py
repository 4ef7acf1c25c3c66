from __future__ import annotations

import shlex

import pytest
import torch

import mpt
from tests.console import SMALL, command, read_result
from tests.experiment.test_train import RESULT_KEYS, rows


def test_the_reported_accuracy_is_measured_on_the_file_read_back(run_here):
    from mpt.data import load
    from mpt.experiment.evaluate import accuracy

    result, directory = run_here()
    data = load(**result["config"]["data"])
    net = mpt.Ticket.load(directory / "ticket.safetensors").network()
    right = 0
    for i in range(len(data.test)):
        image = (data.test.pixels[i : i + 1] / 255 - torch.tensor(data.mean).view(1, -1, 1, 1)) / torch.tensor(
            data.std
        ).view(1, -1, 1, 1)
        right += int(net(image).argmax()) == int(data.test.labels[i])
    assert result["test_acc"] == pytest.approx(right / len(data.test), abs=1e-6)
    assert accuracy(net, data.test, data=data, batch=7) == pytest.approx(result["test_acc"], abs=1e-6)
    assert result["test_acc"] == pytest.approx(rows(directory)[-1]["test/acc"], abs=1e-6)


@pytest.mark.slow
def test_held_out_images_are_measured_under_their_own_name(run_here):
    result, directory = run_here("data.val_size=64", "epochs=1")
    assert set(result) == RESULT_KEYS | {"val_acc"}
    assert result["num_train"] == 256
    assert {"val/loss", "val/acc"} <= set(rows(directory)[0])
    assert result["val_acc"] == pytest.approx(rows(directory)[0]["val/acc"], abs=1e-6)


@pytest.mark.slow
def test_the_last_lines_describe_the_ticket_and_the_printed_command_evaluates_it(tmp_path):
    done = command("train", *SMALL, "epochs=1", "hydra.run.dir=my run", cwd=tmp_path)
    lines = dict(
        line.split(None, 1)
        for line in done.stdout.splitlines()
        if line[:8] in {"accuracy", "weights ", "size    ", "evaluate"}
    )
    result = read_result(tmp_path / "my run")
    assert f"{100 * result['test_acc']:.2f} %" in lines["accuracy"]
    assert f"{result['num_kept']:,} of {result['num_weights']:,}" in lines["weights"]
    assert "times smaller" in lines["size"]
    name, *arguments = shlex.split(lines["evaluate"])
    assert name == "mpt-eval"
    shown = command("eval", *arguments, cwd=tmp_path)
    assert f"accuracy  {100 * result['test_acc']:.2f} %" in shown.stdout
