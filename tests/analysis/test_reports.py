from __future__ import annotations

import json

import pytest

from mpt.analysis.reports import histograms, read_report

SCORES = {"min": -1.0, "max": 1.0, "edges": [-1.0, 0.0, 1.0], "counts": [3, 4]}
LAYERS = [
    {"name": "a", "tied": None, "shape": [8, 3], "kernel": None, "zero": 0.5, "scores": SCORES},
    {"name": "b", "tied": "a", "scores": SCORES},
    {"name": "c"},
]


def read(tmp_path, content):
    (tmp_path / "report.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return read_report(tmp_path / "report.json")


def test_a_report_is_read_as_it_was_written_and_histograms_come_once_per_weight(tmp_path):
    report = read(tmp_path, {"acceleration": 1.5, "all_kernels": {"zero": 0.1}, "layers": LAYERS})
    assert report["layers"] == LAYERS
    assert histograms(report) == {"a": SCORES}
    assert histograms(read(tmp_path, {})) == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[" * 5000, "nested too deep|Expecting"),
        ("[]", "not a report"),
        ('{"x": 1e999}', "not a number"),
        ({"layers": {}}, "have no names"),
        ({"layers": ["a"]}, "have no names"),
        ({"layers": [{"name": 3}]}, "have no names"),
        ({"layers": [{"name": "a", "tied": 3}]}, "in the row of a, tied is 3"),
        ({"layers": [{"name": "a", "scores": [1]}]}, "scores is"),
        ({"layers": [{"name": "a", "scores": {"edges": [0.0, 1.0]}}]}, "not whole"),
        ({"layers": [{"name": "a", "scores": SCORES | {"counts": [1]}}]}, "not whole"),
        ({"layers": [{"name": "a", "scores": SCORES | {"edges": ["0", "1", "2"]}}]}, "scores is"),
    ],
)
def test_what_is_no_report_is_refused_in_a_clause(tmp_path, content, reason):
    with pytest.raises(ValueError, match=reason):
        read(tmp_path, content)
