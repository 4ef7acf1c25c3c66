from __future__ import annotations

import json

import pytest

from mpt.analysis.details import load_rows
from mpt.analysis.plotting import plot
from tests.console import SMALL, command


def test_a_run_writes_the_report_that_mpt_ticket_report_makes_of_its_files(tmp_path):
    command("train", *SMALL, "report=true", "hydra.run.dir=run", cwd=tmp_path)
    found = json.loads((tmp_path / "run" / "report.json").read_text())
    again = command("ticket", "report", "run/ticket.safetensors", "checkpoint=run/last.ckpt", "json=true", cwd=tmp_path)
    assert {**json.loads(again.stdout), "ticket": found["ticket"]} == found
    assert all(sum(layer["scores"]["counts"]) > 0 for layer in found["layers"])
    for figure in ("scores", "zero_kernels", "acceleration"):  # what they are drawn from is what a run writes
        assert plot(tmp_path, figure=figure).axes
    shares = load_rows(tmp_path, "scores").groupby("layer")["share"].sum()
    assert shares.to_dict() == {layer["name"]: pytest.approx(1) for layer in found["layers"]}


def test_a_dense_baseline_has_no_report_and_a_run_none_unless_asked_for(tmp_path):
    command("train", *SMALL, "report=true", "method=dense", "epochs=1", "hydra.run.dir=dense", cwd=tmp_path)
    command("train", *SMALL, "epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    assert not list(tmp_path.glob("*/report.json"))
