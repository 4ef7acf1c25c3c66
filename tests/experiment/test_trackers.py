"""W&B and TensorBoard keep what they are given, as their own readers say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from mpt.experiment.loggers import open_loggers
from mpt.ticket.report import score_histograms
from tests.console import compose
from tests.recordings import events, offline

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
HISTOGRAM = score_histograms({"fc": torch.linspace(-1, 2, 300)}, bins=8)["fc"]


def log(directory, kind):
    (directory / "file").write_text("content")
    with open_loggers(directory, compose(f"logger={kind}"), kinds=[kind]) as (logger,):
        logger.log_metrics({"test/acc": 0.5}, step=1)
        logger.log_rows("rows", ["name", "number"], [["a|b", 1.5], ["c", None]], step=2)
        logger.log_picture("picture", PIXELS, step=2)
        logger.log_histogram("histogram", HISTOGRAM, step=2)
        logger.log_result({"acc": 0.25, "model": "x"}, config={"optim": {"lr": 0.1, "list": [1]}}, step=2)
        logger.log_file(directory / "file", kind="ticket")


def test_tensorboard_keeps_scalars_rows_pictures_and_histograms(tmp_path):
    for _ in range(2):  # the second time as the first: files of an earlier time are replaced
        log(tmp_path, "tensorboard")
        read = events(tmp_path)
        assert [(event.step, event.value) for event in read.Scalars("test/acc")] == [(1, 0.5)]
        assert [(event.step, event.value) for event in read.Scalars("result/acc")] == [(2, 0.25)]
        (text,) = read.Tensors("rows/text_summary")
        assert text.tensor_proto.string_val[0].decode().splitlines() == [
            "| name | number |",
            "| --- | --- |",
            "| a\\|b | 1.5 |",
            "| c |  |",
        ]
        (picture,) = read.Images("picture")
        assert (picture.height, picture.width) == (4, 6)
        (histogram,) = read.Histograms("histogram")
        value = histogram.histogram_value
        assert (value.min, value.max, value.num) == (-1, 2, 300)
        assert sum(value.bucket) == 300
        assert "_hparams_/session_start_info" in read.summary_metadata


@pytest.mark.slow
def test_wandb_keeps_metrics_rows_pictures_histograms_and_files(tmp_path):
    log(tmp_path, "wandb")
    (read,) = offline(tmp_path)
    assert [(item["_step"], item["test/acc"]) for item in read.history if "test/acc" in item] == [(1, 0.5)]
    assert read.table("rows") == (["name", "number"], [["a|b", 1.5], ["c", None]])
    assert np.array_equal(read.picture("picture"), PIXELS)
    assert read.value("histogram")["values"] == HISTOGRAM["counts"]
    assert read.value("histogram")["bins"] == pytest.approx(HISTOGRAM["edges"])
    assert read.summary["acc"] == 0.25
    assert f"ticket-{read.run['run_id']}" in read.artifacts


@pytest.mark.slow
def test_trackers_import_neither_package_before_something_is_logged():
    code = "import sys, mpt.experiment.train; sys.exit(bool({'wandb', 'tensorboard'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
