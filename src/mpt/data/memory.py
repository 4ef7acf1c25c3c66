"""How much memory there is, and a sentence for what does not fit: Linux would kill the process without a word."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch

from mpt.words import size


def memory() -> int:
    """Bytes of memory: the minimum over this machine, its container and its accelerators."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError):  # no container, or no limit ("max")
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    sizes += [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return min(sizes)


def check_memory(needed: float, *, what: str, remedy: str) -> None:
    """Raise ValueError if ``what`` takes more than the memory: ``needed`` bytes. ``remedy`` says what would fit."""
    if needed > (there := memory()):
        raise ValueError(f"{what} would take about {size(needed)}, and there are {size(there)} of memory: {remedy}")
