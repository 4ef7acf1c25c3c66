from __future__ import annotations

import pytest

from mpt import data
from mpt.data import memory as module
from mpt.data.memory import check_memory, memory


def test_the_memory_of_this_machine_is_plausible():
    assert 2**28 < memory() < 2**50


def test_what_does_not_fit_is_refused_with_both_sizes(monkeypatch):
    monkeypatch.setattr(module, "memory", lambda: 10**9)
    check_memory(10**9, what="this", remedy="take less")
    with pytest.raises(
        ValueError, match=r"^this would take about 2\.0 GB, and there are 1\.0 GB of memory: take less$"
    ):
        check_memory(2 * 10**9, what="this", remedy="take less")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("synthetic", {"num_images": 10**12}, r"data\.num_images=\d+ fits"),
        ("synthetic", {"image_size": 10**5}, r"data\.image_size=\d+ fits"),
        ("synthetic", {"num_classes": 10**12, "num_images": 10**12}, r"lower data\.num_classes"),
        ("digits", {"image_size": 10**6}, r"data\.image_size=\d+ fits"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_memory_is_taken(name, options, words):
    with pytest.raises(ValueError, match=words):
        data.load(name, **options)
