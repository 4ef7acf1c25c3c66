from __future__ import annotations

from dataclasses import replace

import pytest

from mpt.processes import Group
from mpt.run import layout
from mpt.run.layout import check_processes, count_processes, needs_processes
from mpt.run.name import identity, run_name
from mpt.run.settings import plain
from tests.console import SMALL, compose

ONE = {"num_nodes": 1, "accelerator": "cpu", "devices": 1}


@pytest.fixture
def started(monkeypatch):
    """``started(starter, size)``: as if that program had started ``size`` processes on one machine."""
    return lambda starter, size: monkeypatch.setattr(layout, "group", lambda: Group(starter, size, 1, 0))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"devices": "1"}, False),
        ({"devices": "auto"}, False),
        ({"devices": [0]}, False),
        ({"devices": 2}, True),
        ({"devices": "2"}, True),
        ({"devices": [0, 1]}, True),
        ({"devices": "0,1"}, True),
        ({"num_nodes": 2}, True),
    ],
)
def test_only_a_run_of_several_processes_needs_a_fresh_interpreter(options, expected):
    assert needs_processes(ONE | options) is expected


@pytest.mark.parametrize(("devices", "size"), [(1, 2), (2, 1), (4, 2)])
@pytest.mark.parametrize(("starter", "option"), [("srun", "--ntasks-per-node"), ("torchrun", "--nproc-per-node")])
def test_another_number_of_processes_than_was_started_is_refused_with_what_to_change(
    started, starter, option, devices, size
):
    started(starter, size)
    with pytest.raises(
        ValueError, match=f"{starter} started {size} .* takes {devices}: leave out trainer.devices .*{option}"
    ):
        check_processes(ONE | {"devices": devices})


def test_auto_takes_the_processes_that_are_there_and_starts_no_more(started):
    assert count_processes(ONE | {"devices": "auto"}) == 1
    started("srun", 2)
    for devices in ("auto", 2):
        check_processes(ONE | {"devices": devices})
        assert count_processes(ONE | {"devices": devices}) == 2
        assert not needs_processes(ONE | {"devices": devices})
    check_processes(ONE | {"num_nodes": 2})  # two tasks, wherever they are


def test_the_number_of_processes_names_a_run_not_the_machines_they_are_on():
    few = [o for o in SMALL if not o.startswith("trainer.devices")]
    options = [[], ["trainer.devices=1"], ["trainer.devices=2"], ["trainer.num_nodes=2", "trainer.devices=1"]]
    runs = [compose(*few, *more) for more in options]
    names = [run_name(run) for run in runs]
    assert names[0] == names[1] != names[2] == names[3]
    assert identity(plain(runs[2])) == identity(plain(runs[3]))
    assert run_name(replace(runs[0], trainer=replace(runs[0].trainer, devices="0,1"))) == names[2]
