"""One row of the table: alternatives measured in turn, their medians and the medians of their ratios."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

import mpt

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "numpy", "numba")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Row:
    """Alternatives that were measured in turn.

    Attributes:
        measured: what was.
        values: seconds (or megabytes) of each alternative in each round; the rounds of all are in the same order.
        base: the alternative by which the others are divided, None for no ratios.
        batch: images a step or batch, None where there are no images.
        images: images of a whole run where their rate is of interest, else None.
        megabytes: the values are memory.
        weights: of the network, where they are of interest.
    """

    measured: str
    values: dict[str, list[float]]
    base: str | None = None
    batch: int | None = None
    images: int | None = None
    megabytes: bool = False
    weights: int | None = None

    @property
    def unit(self) -> str:
        """Of the medians."""
        return "MB" if self.megabytes else "images/s" if self.images else "ms"

    def medians(self) -> dict[str, float]:
        """Median of each alternative in ``unit``."""
        medians = {name: median(values) for name, values in self.values.items()}
        if self.megabytes:
            return medians
        return {name: self.images / s if self.images else 1e3 * s for name, s in medians.items()}

    def ratios(self) -> dict[str, float]:
        """Median over the rounds of each alternative's value divided by that of ``base`` in the same round."""
        return {name: median(ratios) for name, ratios in self._by_base().items()}

    def quartiles(self) -> dict[str, list[float]]:
        """First and third quartile of the ratios of which :meth:`ratios` has the median, where there are several."""
        found = self._by_base().items()
        return {name: quantiles(ratios, method="inclusive")[::2] for name, ratios in found if len(ratios) > 1}

    def _by_base(self) -> dict[str, list[float]]:
        bases = self.values[self.base] if self.base else []
        return {
            f"{name}/{self.base}": [a / b for a, b in zip(values, bases, strict=True)]
            for name, values in self.values.items()
            if self.base and name != self.base
        }

    def as_json(self) -> dict[str, Any]:
        """The row as it is stored, with the values of every round."""
        ratios = {"ratios": self.ratios(), "quartiles": self.quartiles()}
        numbers = {"unit": self.unit, "medians": self.medians(), **ratios, "values": self.values}
        return {"measured": self.measured, "batch": self.batch, "weights": self.weights} | numbers


def in_turn(
    runs: dict[str, Callable[[], object]], *, rounds: int, before: Callable[[], object] | None = None
) -> dict[str, list[float]]:
    """Seconds of each of ``runs`` in each of ``rounds`` rounds, after a round of warm-up that is not counted.

    A run that returns a float has measured its own seconds. ``before`` is called before each round, untimed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        if before is not None:
            before()
        for name, run in runs.items():
            start = time.perf_counter()
            own = run()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize(DEVICE)
            if number > 0:
                seconds[name].append(own if isinstance(own, float) else time.perf_counter() - start)
    return seconds


def circumstances(rounds: int) -> dict[str, Any]:
    """Date, hardware, cores, threads, load by others (before the first measurement) and versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "rounds": rounds,
        "versions": {"python": platform.python_version(), "mpt": mpt.__version__}
        | {name: metadata.version(name) for name in PACKAGES},
    }


def hardware() -> str:
    """Name of the device that computes."""
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name(DEVICE)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
