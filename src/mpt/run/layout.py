"""How many processes a run takes: as many as its settings ask for, or as srun or torchrun started."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mpt.processes import group

_DRIVERS = ("nvidia[0-9]*", "kfd", "dxg", "dri/renderD*")  # of accelerators, below /dev


def check_processes(trainer: Mapping[str, Any]) -> None:
    """Raise ValueError if srun or torchrun started another number of processes than ``trainer`` asks for."""
    team = group()
    if team is None or _is_auto(trainer):
        return
    if (asked := _count(trainer)) != team.size:
        option = "--ntasks-per-node" if team.starter == "srun" else "--nproc-per-node"
        raise ValueError(
            f"{team.starter} started {team.size} {'process' if team.size == 1 else 'processes'}, but trainer.devices="
            f"{trainer['devices']} on trainer.num_nodes={trainer['num_nodes']} takes {asked}: leave out "
            f"trainer.devices to use those that are there, or change {option}"
        )


def count_processes(trainer: Mapping[str, Any]) -> int:
    """Number of processes of a run with these plain settings of its ``trainer``."""
    team = group()
    return team.size if team is not None and _is_auto(trainer) else _count(trainer)


def needs_processes(trainer: Mapping[str, Any]) -> bool:
    """True if Lightning would start more processes for a run with these plain settings of its ``trainer``."""
    return group() is None and count_processes(trainer) > 1


def _is_auto(trainer: Mapping[str, Any]) -> bool:
    return str(trainer.get("devices", "auto")) in ("auto", "-1") and trainer.get("num_nodes", 1) == 1


def _count(trainer: Mapping[str, Any]) -> int:
    devices = trainer.get("devices", "auto")  # an altered file may lack keys
    if isinstance(devices, (list, tuple)):
        each = len(devices)
    elif str(devices) in ("auto", "-1"):
        each = 1 if trainer.get("accelerator") == "cpu" else max(1, _accelerators())
    else:
        text = str(devices)
        each = int(text) if text.isdigit() else len([part for part in text.split(",") if part.strip()])
    return each * int(trainer.get("num_nodes", 1))


@cache
def _accelerators() -> int:
    if sys.platform == "linux" and not any(next(Path("/dev").glob(driver), None) for driver in _DRIVERS):
        return 0  # without importing torch
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0
