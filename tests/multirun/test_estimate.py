from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mpt.multirun.estimate import _size, check_methods, estimate
from mpt.run.settings import Choice, plain
from tests.console import compose

CONV2 = ("model=conv2", "data=cifar10", "epochs=10")


def write_result(directory, settings):
    directory.mkdir()
    row = {"status": "done", "seconds": 600.0, "num_train": 1000, "epochs": settings.epochs, "config": plain(settings)}
    (directory / "result.json").write_text(json.dumps(row))


def test_the_work_of_conv2_is_counted_by_hand():
    first, second = 32 * 32 * 64 * 3 * 9, 32 * 32 * 64 * 64 * 9
    dense = 64 * 16 * 16 * 256 + 256 * 256 + 256 * 10
    assert _size(compose(*CONV2)) == (first + second + dense, 4_300_992)


def test_seconds_come_from_runs_that_are_done(tmp_path):
    settings = compose(*CONV2, "data.train_size=1000")
    write_result(tmp_path / "run", settings)
    output = estimate([replace(settings, seed=1), replace(settings, epochs=20)], tmp_path)
    assert "30 minutes" in output  # 10 and 20
    assert "(from 1 run that finished)" in output
    assert "111.8 MB" in output


def test_data_of_unknown_size_have_no_estimate(tmp_path):
    folder = compose("data=image_folder", "data.root=x", "data.train_size=1000")
    assert "unknown until they are read" in estimate([folder], tmp_path)
    assert "about" in estimate([replace(folder, data=replace(folder.data, image_size=16))], tmp_path)


def test_nothing_that_a_result_names_is_built(tmp_path):
    settings, marker = compose(*CONV2, "data.train_size=1000"), tmp_path / "called"
    foreign = replace(settings, model=Choice("x", "os.system", {"command": f"touch {marker}"}))
    write_result(tmp_path / "run", foreign)
    assert "from timing one convolution" in estimate([settings], tmp_path)
    assert not marker.exists()


def test_an_incomplete_result_is_no_measure_of_time(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text('{"status": "done", "test_acc": 0.5}')
    assert "from timing one convolution" in estimate([compose(*CONV2)], tmp_path)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("model=conv8", "data=digits"), "image_size must be at least 16"),
        (("method.score_grad=sgn",), "score_grad"),
    ],
)
def test_a_method_that_cannot_be_built_is_refused_before_anything_starts(tmp_path, overrides, sentence):
    config = compose(*overrides)
    with pytest.raises(ValueError, match=sentence):
        check_methods([config]) or estimate([config], tmp_path)
