from __future__ import annotations

import pytest

from mpt.search.checks import check_choice, check_number, check_prune_layers, check_whole


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_choice("kind", "c", ("a", "b")), "kind must be one of a, b, got 'c'"),
        (
            lambda: check_whole("period", "the steps", 0, least=1),
            "period is the steps and must be a whole number of at",
        ),
        (lambda: check_whole("period", "the steps", True, least=1), "got True"),
        (lambda: check_number("rate", "in (0, 1]", 0.0, above=0, most=1), r"rate is in \(0, 1\], got 0.0"),
        (lambda: check_number("rate", "in (0, 1]", 1.5, above=0, most=1), "got 1.5"),
        (lambda: check_number("rate", "finite", float("nan")), "got nan"),
        (lambda: check_number("rate", "finite", float("inf")), "got inf"),
        (lambda: check_number("rate", "a number", "1"), "got '1'"),
        (lambda: check_prune_layers([0.5], selection="layerwise"), r"as \{classifier.\*: 0.5\}, got \[0.5\]"),
        (lambda: check_prune_layers({"a": 0.5}, selection="global"), "take selection=layerwise"),
        (lambda: check_prune_layers({"a": 1.5}, selection="layerwise"), r"prune_layers\['a'\]"),
    ],
)
def test_a_refused_value_is_named_with_what_it_must_be(check, message):
    with pytest.raises(ValueError, match=message):
        check()


def test_bounds_that_are_included_are_accepted():
    check_number("rate", "in (0, 1]", 1, above=0, most=1)
    check_number("power", "at least 1", 1, least=1)
    check_whole("period", "the steps", 1, least=1)
    check_prune_layers({"a": 0.0}, selection="layerwise")
