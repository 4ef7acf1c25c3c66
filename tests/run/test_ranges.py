from __future__ import annotations

import math

import pytest

from mpt.run.ranges import PRUNE, SEED, STRATEGIES, above, at_least, fraction, is_devices, one_of


def test_ranges_have_the_ends_that_their_words_say():
    assert at_least(1).accepts(1)
    assert not at_least(1).accepts(0)
    assert not above(0).accepts(0)
    assert fraction().accepts(0)
    assert not fraction().accepts(1)
    assert not any(valid.accepts(math.nan) for valid in (at_least(0), above(0), fraction(), PRUNE))
    assert not any(valid.accepts(math.inf) for valid in (at_least(0), above(0), fraction(), SEED))
    assert one_of("a", "b", "c").words == "a, b or c"


@pytest.mark.parametrize("value", ["auto", -1, 1, 8, "2", "0,1", [0, 1], (3,)])
def test_devices_are_a_number_or_a_list(value):
    assert is_devices(value)


@pytest.mark.parametrize("value", [0, -2, "abc", True, [], [-1], ["a"], {"a": 1}, 1.5, None, ""])
def test_other_values_are_no_devices(value):
    assert not is_devices(value)


def test_a_strategy_starts_its_processes_by_the_command():
    assert all(map(STRATEGIES.accepts, ("auto", "ddp", "ddp_find_unused_parameters_true")))
    others = ("ddp_spawn", "ddp_fork", "ddp_notebook_find_unused_parameters_true", "ddpx", "single_device", "")
    assert not any(map(STRATEGIES.accepts, others))
