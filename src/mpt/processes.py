"""The processes of one run, as SLURM, torchrun or Lightning started and numbered them, read from the environment."""

from __future__ import annotations

import os
import re
from typing import NamedTuple


class Group(NamedTuple):
    """Processes that srun or torchrun started for one command."""

    starter: str  # srun or torchrun
    size: int
    nodes: int
    rank: int  # of this process, from 0

    @property
    def per_node(self) -> int:
        """Processes of each machine; ``size`` is divisible by ``nodes``."""
        return self.size // self.nodes


def group() -> Group | None:
    """The processes among which this one was started from outside; None for a process that stands alone.

    One task of srun stands alone: it may start others. A batch script without srun is no task.

    Raises:
        ValueError: the machines have different numbers of processes, or a variable is no number.
    """
    _check_numbers()
    if is_torchrun():
        nodes = _number("GROUP_WORLD_SIZE", _number("WORLD_SIZE", 1) // max(1, _number("LOCAL_WORLD_SIZE", 1)))
        return _even(Group("torchrun", _number("WORLD_SIZE", 1), nodes, _number("RANK", 0)))
    count = _number("SLURM_STEP_NUM_TASKS", 1) if "SLURM_STEP_ID" in os.environ else 1
    if count == 1:
        return None
    tasks = re.sub(r"\(x\d+\)", "", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if "," in tasks:
        raise ValueError(f"srun started {tasks} tasks on its machines: start as many on each, with --ntasks-per-node")
    return _even(Group("srun", count, _number("SLURM_STEP_NUM_NODES", 1), _number("SLURM_PROCID", 0)))


def _even(group: Group) -> Group:
    if group.size % group.nodes:
        raise ValueError(f"{group.starter} started {group.size} processes on {group.nodes} machines: as many on each")
    return group


def is_torchrun() -> bool:
    """True in a process that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first() -> bool:
    """True in the first process of a run, and before the others start."""
    if is_torchrun():
        return _number("RANK", 0) == 0
    ranks = [_number(name, 0) for name in ("LOCAL_RANK", "NODE_RANK")]
    in_step = "SLURM_STEP_ID" in os.environ
    return not any(ranks) and not (in_step and _number("SLURM_STEP_NUM_TASKS", 1) > 1 and _number("SLURM_PROCID", 0))


def slurm_job() -> str | None:
    """The id of this process's SLURM job, the same for all its tasks; None outside SLURM."""
    return os.environ.get("SLURM_JOB_ID")


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if _is_number(value) else default


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdigit()


def _check_numbers() -> None:
    """ValueError if a variable of those that say how many processes there are, and which this is, is no number."""
    names = ["LOCAL_RANK"]  # which Lightning always reads; -1 is none
    if is_torchrun():
        names += ["NODE_RANK", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"]
    if "SLURM_STEP_ID" in os.environ or "SLURM_JOB_ID" in os.environ:
        names += ["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_PROCID"]
        names += ["SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODEID"]
    for name in names:
        value = os.environ.get(name, "0")
        if not _is_number(value) and (name, value) != ("LOCAL_RANK", "-1"):
            raise ValueError(
                f"the environment variable {name} is the number that srun or torchrun sets, got {value!r}: unset it"
            )
