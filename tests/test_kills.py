"""A few of the cases of :mod:`tests.kills`, which by hand runs as many as one likes."""

from __future__ import annotations

import pytest

from tests import kills


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("runs", 2), ("signals", 3), ("sweeps", 1)])
def test_what_is_stopped_at_a_random_moment_ends_in_the_same_tickets(kind, count, capsys):
    assert kills.main(kind, count, seed=5) == 0, capsys.readouterr().out
