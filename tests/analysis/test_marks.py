"""A line looks the same wherever it means the same."""

from __future__ import annotations

from mpt.analysis.marks import COLORS, DENSE, marks


def test_a_variant_has_its_colour_and_marker_whatever_stands_next_to_it():
    alone = marks({"MPT-1/32": "MPT-1/32"})["MPT-1/32"]
    among = marks({name: name for name in ("MPT-1/1", "MPT-1/32", "edge-popup", "rms 1/32", "dense")})
    assert among["MPT-1/32"] == alone
    assert among["dense"].color == DENSE
    assert len({mark.color for mark in among.values()}) == 5


def test_own_methods_take_the_next_colours_by_name():
    kinds = {name: name for name in ("MPT-1/32", "b 1/32", "a 1/32", "dense")}
    found = marks(kinds)
    assert (found["a 1/32"].color, found["b 1/32"].color) == (COLORS[3], COLORS[4])


def test_lines_of_one_variant_are_tints_with_a_marker_each():
    labels = [f"MPT-1/32, {p} % pruned" for p in (50, 80, 90)]
    found = marks(dict.fromkeys(labels, "MPT-1/32"))
    assert len({mark.marker for mark in found.values()}) == 3
    reds = [found[label].color[0] for label in labels]
    assert reds == sorted(reds)


def test_the_diamond_is_the_dense_network_alone():
    kinds = {f"{number}": "MPT-1/32" for number in range(9)} | {"dense": "dense"}
    assert [label for label, mark in marks(kinds).items() if mark.marker == "D"] == ["dense"]
