from __future__ import annotations

import json

import pytest

from mpt.analysis.details import BINS, load_epochs, load_rows
from mpt.analysis.plotting import plot
from tests.analysis.conftest import result, write

LAYERS = [
    {"name": "features.0", "shape": [8, 3, 3, 3], "kernel": "3x3", "density": 0.2, "zero": 0.3, "zero_chance": 0.134},
    {"name": "classifier.0", "shape": [8, 8], "kernel": None, "density": 0.2, "zero": None, "zero_chance": None},
]


def write_reports(folder, *rows, scores=None):
    write(folder, *rows)
    layers = [LAYERS[0] | {"scores": scores}, *LAYERS[1:]] if scores else LAYERS
    report = {"acceleration": 1.25, "all_kernels": {"zero": 0.3, "zero_chance": 0.2}, "layers": layers}
    for directory in folder.iterdir():
        (directory / "report.json").write_text(json.dumps(report))
    return folder


def test_every_epoch_of_a_finished_run_is_a_row_with_its_settings(tmp_path):
    write(tmp_path, result(prune=0.8))
    (directory,) = tmp_path.iterdir()
    lines = [json.dumps({"epoch": epoch, "test/acc": epoch / 10, "ticket/flips": 0.1}) for epoch in (1, 2)]
    (directory / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    rows = load_epochs(tmp_path)
    assert rows["test/acc"].tolist() == [0.1, 0.2]
    assert rows["prune"].tolist() == [0.8, 0.8]
    (line,) = plot(tmp_path, x="epoch", y="test/acc", hue="prune").axes[0].get_lines()  # one seed: no bars
    assert line.get_xydata().tolist() == [[1, pytest.approx(10)], [2, pytest.approx(20)]]


def test_the_layers_of_a_report_are_rows_and_its_numbers_columns(tmp_path):
    write_reports(tmp_path, result(prune=0.8))
    rows = load_rows(tmp_path, "layers")
    assert rows["layer"].tolist() == ["features.0", "classifier.0"]
    assert rows["zero"].tolist()[0] == 0.3
    (run,) = load_rows(tmp_path, "runs").to_dict("records")
    assert (run["report/acceleration"], run["report/all_kernels/zero"]) == (1.25, 0.3)
    heights = [
        bar.get_height()
        for c in plot(tmp_path, figure="zero_kernels").axes[0].containers
        for bar in getattr(c, "patches", ())
    ]
    assert heights == [pytest.approx(30), pytest.approx(13.4)]


def test_histograms_with_different_edges_keep_their_mass_on_one_grid(tmp_path):
    wide = {"min": -0.4, "max": 0.4, "edges": [-0.4, 0.0, 0.4], "counts": [30, 10]}
    narrow = {"min": -0.1, "max": 0.1, "edges": [-0.1, 0.1], "counts": [40]}
    write_reports(tmp_path / "a", result(method__power=1.0), scores=wide)
    write_reports(tmp_path / "b", result(method__power=3.0), scores=narrow)
    rows = load_rows(tmp_path, "scores")
    assert len(rows) == 2 * BINS
    shares = rows.groupby("method.power")["share"].sum()
    assert shares.tolist() == pytest.approx([1, 1])
    first = rows[rows["method.power"] == 1.0]
    assert first[first["score"] < -0.004]["share"].sum() == pytest.approx(0.75, abs=0.01)
    ranges = load_rows(tmp_path, "runs").set_index("method.power")["report/score_range"]
    assert ranges.tolist() == pytest.approx([0.8, 0.2])
    drawing = plot(tmp_path, figure="scores")
    assert [text.get_text() for text in drawing.legends[0].get_texts()] == ["power 1", "power 3"]


def test_the_error_for_a_folder_without_reports_names_the_command_that_writes_them(tmp_path):
    write(tmp_path, result())
    with pytest.raises(ValueError, match=r"has a report.json: write it with mpt-ticket report"):
        load_rows(tmp_path, "layers")
    (next(tmp_path.iterdir()) / "report.json").write_text("{broken")
    assert len(load_rows(tmp_path, "runs")) == 1
