from __future__ import annotations

import pytest

from mpt.search.checks import check_prune_layers


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_prune_layers([0.5], selection="layerwise"), r"as \{classifier.\*: 0.5\}, got \[0.5\]"),
        (lambda: check_prune_layers({"a": 0.5}, selection="global"), "take selection=layerwise"),
        (lambda: check_prune_layers({"a": 1.5}, selection="layerwise"), r"prune_layers\['a'\]"),
        (lambda: check_prune_layers({1: 0.5}, selection="layerwise"), "names or patterns of layers as keys, got 1"),
    ],
)
def test_a_refused_value_is_named_with_what_it_must_be(check, message):
    with pytest.raises(ValueError, match=message):
        check()


def test_bounds_that_are_included_are_accepted():
    check_prune_layers({"a": 0.0}, selection="layerwise")
