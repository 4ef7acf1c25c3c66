"""One row of the table: alternatives measured in turn, their medians and the medians of their ratios."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from statistics import median, quantiles
from typing import Any

import torch

from mpt.files import processor, version

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "numpy", "numba")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Row:
    """Alternatives that were measured in turn.

    Attributes:
        measured: name of the measurement.
        values: seconds (or megabytes) of each alternative in each round, with all rounds in the same order.
        base: alternative by which the others are divided, None for no ratios.
        batch: images per step or batch, None without images.
        images: images of a whole run if the row reports their rate, else None.
        megabytes: whether the values are memory.
        weights: weights of the network, None if irrelevant.
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
        """Unit of the medians."""
        return "MB" if self.megabytes else "images/s" if self.images else "ms"

    def medians(self) -> dict[str, float]:
        """Median of each alternative, in ``unit``."""
        medians = {name: median(values) for name, values in self.values.items()}
        if self.megabytes:
            return medians
        return {name: self.images / s if self.images else 1e3 * s for name, s in medians.items()}

    def ratios(self) -> dict[str, float]:
        """Median over the rounds of each alternative's value divided by the value of ``base`` in the same round."""
        return {name: median(ratios) for name, ratios in self._by_base().items()}

    def quartiles(self) -> dict[str, list[float]]:
        """First and third quartile of the ratios behind the medians of :meth:`ratios`, if there are several."""
        by_name = self._by_base().items()
        return {name: quantiles(ratios, method="inclusive")[::2] for name, ratios in by_name if len(ratios) > 1}

    def _by_base(self) -> dict[str, list[float]]:
        bases = self.values[self.base] if self.base else []
        return {
            f"{name}/{self.base}": [a / b for a, b in zip(values, bases, strict=True)]
            for name, values in self.values.items()
            if self.base and name != self.base
        }

    def as_json(self) -> dict[str, Any]:
        """The row as stored in a file, with the values of every round."""
        ratios = {"ratios": self.ratios(), "quartiles": self.quartiles()}
        numbers = {"unit": self.unit, "medians": self.medians(), **ratios, "values": self.values}
        return {"measured": self.measured, "batch": self.batch, "weights": self.weights} | numbers


def in_turn(
    runs: dict[str, Callable[[], object]], *, rounds: int, before: Callable[[], object] | None = None
) -> dict[str, list[float]]:
    """Measure the seconds of each of ``runs`` in each of ``rounds`` rounds, after an uncounted warm-up round.

    A run that returns a float measures its own seconds. ``before`` is called before each round, untimed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        if before is not None:
            before()
        for name, run in runs.items():
            start = time.perf_counter()
            returned = run()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize(DEVICE)
            if number > 0:
                seconds[name].append(returned if isinstance(returned, float) else time.perf_counter() - start)
    return seconds


def circumstances(rounds: int) -> dict[str, Any]:
    """Date, hardware, cores, threads, load average before the first measurement, and versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "rounds": rounds,
        "versions": {"python": platform.python_version(), "mpt": version()}
        | {name: metadata.version(name) for name in PACKAGES},
    }


def hardware() -> str:
    """Name of the computing device."""
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name(DEVICE)
    return processor()
