from __future__ import annotations

import os

import pytest

from mpt.processes import Group, group, is_first

STEP = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1", "RANK": "2"}


@pytest.fixture
def environment(monkeypatch):
    """``environment(variables)``: these, and none of the machine's own that tell of processes."""

    def go(variables):
        for name in list(os.environ):
            if name.startswith("SLURM_") or name in (*TORCHRUN, "LOCAL_RANK", "NODE_RANK", "GROUP_WORLD_SIZE"):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return go


@pytest.mark.parametrize(
    ("variables", "expected", "first"),
    [
        ({}, None, True),
        (STEP, Group("srun", 2, 1, 1), False),
        (STEP | {"SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "0"}, Group("srun", 2, 2, 0), True),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None, True),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, None, True),  # a batch script, which is no task of srun
        (TORCHRUN | {"LOCAL_RANK": "0"}, Group("torchrun", 4, 2, 2), False),  # the first of the second machine
        (TORCHRUN | STEP | {"RANK": "0", "LOCAL_RANK": "0"}, Group("torchrun", 4, 2, 0), True),
        ({"LOCAL_RANK": "1"}, None, False),  # started by the first process of the run
    ],
)
def test_the_environment_says_who_started_how_many_processes(environment, variables, expected, first):
    environment(variables)
    assert (group(), is_first()) == (expected, first)


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK"),
        (TORCHRUN | {"NODE_RANK": "-1"}, "NODE_RANK"),
        (STEP | {"SLURM_PROCID": "\u00b2"}, "SLURM_PROCID"),
        (STEP | {"SLURM_JOB_ID": "x"}, "SLURM_JOB_ID"),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "two"}, "SLURM_NTASKS"),
        (TORCHRUN | {"WORLD_SIZE": ""}, "WORLD_SIZE"),
    ],
)
def test_a_variable_that_is_no_number_is_refused_by_name_and_breaks_no_sentence(environment, variables, name):
    environment(variables)
    with pytest.raises(ValueError, match=f"the environment variable {name} is the number that .*: unset it"):
        group()
    assert is_first() in (True, False)


@pytest.mark.parametrize(
    "variables", [{"LOCAL_RANK": "-1"}, {"NODE_RANK": "node7"}, {"NODE_RANK": ""}, {"SLURM_NTASKS": ""}]
)
def test_variables_that_nobody_reads_may_be_anything(environment, variables):
    environment(variables)
    assert group() is None
    assert is_first()


@pytest.mark.parametrize(
    "variables",
    [STEP | {"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1"}, TORCHRUN | {"WORLD_SIZE": "3"}],
)
def test_machines_with_different_numbers_of_processes_are_refused(environment, variables):
    environment(variables | {"GROUP_WORLD_SIZE": "2"})
    with pytest.raises(ValueError, match="on each"):
        group()
