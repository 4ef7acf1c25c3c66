"""Numbers on an axis are short."""

from __future__ import annotations

import pytest

from mpt.analysis.panel import short


@pytest.mark.parametrize(
    ("value", "text"), [(0.01, "0.01"), (500, "500"), (20_000, "20k"), (1.5e6, "1.5M"), (2e9, "2G")]
)
def test_a_number_is_written_in_few_letters(value, text):
    assert short(value) == text
