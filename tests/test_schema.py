from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import pytest

from mpt.schema import MAX_DEPTH, fits, misfits, parse, printable, read_object, read_text

DEEP = "[" * 100_000 + "]" * 100_000


@dataclass
class Point:
    x: float
    name: str | None = None
    inner: dict[str, Any] | None = None


@pytest.mark.parametrize(
    "content", [None, "", "[1]", "{", "\xff", DEEP, '{"a": NaN}', '{"a": 1e999}', '{"a": 1' + "0" * 5000 + "}"]
)
def test_a_file_without_a_json_object_is_read_as_an_empty_one(tmp_path, content):
    if content is not None:
        (tmp_path / "x").write_text(content, encoding="latin-1")
    assert read_object(tmp_path / "x") == {}
    (tmp_path / "x").write_text('{"a": 1}')
    assert read_object(tmp_path / "x") == {"a": 1}


def test_depth_is_bounded():
    assert parse("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for depth in (MAX_DEPTH + 1, 1000, 100_000):
        with pytest.raises(ValueError, match="nested too deep"):
            parse("[" * depth + "]" * depth)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e999"])
def test_numbers_that_are_not_finite_are_refused_or_none(number):
    with pytest.raises(ValueError, match="is not a number of JSON"):
        parse(f"[{number}]")
    assert parse(f"[{number}]", finite=False) == [None]


def test_a_number_of_many_digits_is_refused():
    assert parse("[18446744073709551615, -5, 1.5e3]") == [2**64 - 1, -5, 1500.0]
    with pytest.raises(ValueError, match="more than 20 digits"):
        parse("1" * 21)


def test_only_regular_files_of_bounded_size_in_utf8_are_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_text("x" * 11)
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    for name, reason in (("fifo", "regular file"), ("large", "larger than 10 bytes"), ("binary", "not UTF-8")):
        with pytest.raises(ValueError, match=reason):
            read_text(tmp_path / name, most=10)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError) as caught:
        read_text(tmp_path)
    assert str(caught.value.filename) == str(tmp_path)


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (int, [0, -5, 2**63], [True, 1.0, "1", None, 2**64, [1]]),
        (float, [0, 1.5, -1e300], [True, "1", None, float("nan"), float("inf")]),
        (bool, [True, False], [0, 1, "true", None]),
        (str, ["", "a" * 10_000], [1, None, "a" * 10_001, b"a"]),
        (str | None, ["a", None], [1]),
        (list[int], [[], [1, 2]], [[1.0], (1,), "12", {"0": 1}]),
        (dict[str, float], [{}, {"a": 1}], [{"a": "1"}, {1: 1}, {"a" * 1001: 1}, []]),
        (Any, [None, True, 1, 1.5, "a", [{"b": [None]}]], [float("inf"), {1: 2}, object(), (1,), "a" * 10_001, 2**70]),
        (
            Point,
            [{}, {"x": 1}, {"x": 1.0, "name": None, "inner": {"a": [1]}}],
            [[], {"x": "1"}, {"inner": 3}, {"y": range(2)}],
        ),
    ],
)
def test_a_value_fits_the_annotation_of_its_type_alone(hint, right, wrong):
    assert all(fits(value, hint) for value in right)
    assert not [value for value in wrong if fits(value, hint)]


def test_misfits_name_the_entry_and_its_value_escaped_and_cut():
    assert misfits({"x": 1, "name": "a"}, Point) == []
    assert misfits({"x": "\x1b[31m" + "y" * 100}, Point) == [f"x is \\x1b[31m{'y' * 55}..."]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("conv2 Größe 猫", "conv2 Größe 猫"),
        ("a\x1b]0;title\x07b\nc\td\x9be", "a\\x1b]0;title\\x07b\\nc\\td\\x9be"),
        ("\u202ereversed\u200b", "\\u202ereversed\\u200b"),
        ("\ud800", "\\ud800"),
        (["\x1b"], "['\\x1b']"),
        ("x" * 100, "x" * 60 + "..."),
    ],
)
def test_printed_text_has_no_control_character_and_a_bounded_length(text, shown):
    assert printable(text) == shown
    assert printable(printable(text, 100), 100).isprintable()
