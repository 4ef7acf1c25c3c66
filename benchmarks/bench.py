"""How fast mpt is, as ratios: ``python -m benchmarks.bench`` prints one table and writes ``results.json``.

Alternatives are measured in turn in one process (A B C A B C ..., after one warm-up each), and every ratio is the
median of the ratios within the rounds, so that a machine that drifts favours none of them. Wall time throughout.

    step       one training step on random 3x32x32 images: forward, cross-entropy, backward, SGD step (lr 0.1,
               momentum 0.9, weight decay 1e-4)
        dense      the backbone as it is, all weights trained
        biprop     the same backbone searched by Biprop(prune=0.8)
        naive      the same search with one full sort a layer and forward, contiguous in memory; the others are
                   channels-last
    select     the mask of the 20 % largest of n scores; beside it torch.sort and torch.topk, which make no mask yet
    loader     one epoch of 20,000 random 3x32x32 images in batches: cropped (padding 4) and flipped, and as they are
    start-up   an mpt-train command from start to exit: help, printed configuration, mistyped option (exit code 1)

In bfloat16 (autocast) a step has 128 images like the others where the device computes in bfloat16, else 8.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpt import Biprop, Dense, backbones, convert
from mpt.data import ImageData, Images, Loader
from mpt.files import write_atomically
from mpt.search.layers import ticket_layers
from mpt.search.mask import num_kept, select

BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "conv2": backbones.conv2,
    "conv6": backbones.conv6,
    "resnet18": partial(backbones.torchvision, name="resnet18"),
}
PRECISIONS = ("float32", "bf16")
SCORES = (36_864, 589_824, 2_359_296)  # of 3x3 convolutions with 64, 256 and 512 channels
PRUNE = 0.8
BATCH = 128
IMAGES = 20_000
COMMANDS = {"--help": 0, "--cfg job": 0, "prun=0.5": 1}  # arguments of mpt-train -> exit code
PACKAGES = ("mpt", "torch", "torchvision", "lightning", "hydra-core", "numpy")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Row:
    """Alternatives that were measured in turn.

    Attributes:
        measured: what was.
        seconds: wall time of each alternative in each round; the rounds of all are in the same order.
        base: the alternative by which the others are divided, None for no ratios.
        batch: images a step or batch, None where there are no images.
        images: images of a whole run where their rate is of interest, else None.
    """

    measured: str
    seconds: dict[str, list[float]]
    base: str | None = None
    batch: int | None = None
    images: int | None = None

    @property
    def unit(self) -> str:
        """Of the medians."""
        return "images/s" if self.images else "ms"

    def medians(self) -> dict[str, float]:
        """Median of each alternative in ``unit``."""
        seconds = {name: median(times) for name, times in self.seconds.items()}
        return {name: self.images / s if self.images else 1e3 * s for name, s in seconds.items()}

    def ratios(self) -> dict[str, float]:
        """Median over the rounds of each alternative's time divided by that of ``base`` in the same round."""
        bases = self.seconds[self.base] if self.base else []
        return {
            f"{name}/{self.base}": median(a / b for a, b in zip(times, bases, strict=True))
            for name, times in self.seconds.items()
            if self.base and name != self.base
        }

    def cells(self) -> list[str]:
        """The row as it is printed: what, batch, three times name and median, ratios."""
        cells = [self.measured, str(self.batch or "")]
        for name, value in self.medians().items():
            cells += [name, f"{value:,.{2 if value < 10 else 0}f} {self.unit}"]
        cells += [""] * (8 - len(cells))
        return [*cells, ", ".join(f"{name} {ratio:.2f}" for name, ratio in self.ratios().items())]

    def as_json(self) -> dict[str, Any]:
        """The row as it is stored, with the seconds of every round."""
        numbers = {"unit": self.unit, "medians": self.medians(), "ratios": self.ratios(), "seconds": self.seconds}
        return {"measured": self.measured, "batch": self.batch} | numbers


class FullSort(torch.autograd.Function):
    """Scores and weights to ticket weight by sorting all scores; straight-through ``dL/ds = dL/db w sign(s)``."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, weight: Tensor, kept: int) -> Tensor:
        order = torch.sort(scores.abs().flatten()).indices
        mask = torch.zeros(scores.numel(), device=scores.device)
        mask[order[-kept:]] = 1
        mask = mask.view(scores.shape)
        gain = (mask * weight.abs()).sum() / kept
        ctx.save_for_backward(scores, weight)
        return gain * mask * weight.sign()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scores, weight = ctx.saved_tensors
        return grads[0] * weight * scores.sign(), None, None


def naive(backbone: nn.Module) -> nn.Module:
    """``backbone`` searched by biprop as it would be by mpt, but for the full sort in every layer and forward."""
    net = convert(backbone, Biprop(prune=PRUNE))
    for layer in ticket_layers(net).values():
        sorting = partial(lambda layer: FullSort.apply(layer.scores, layer.weight, layer.num_kept), layer)
        layer.ticket_weight = sorting  # type: ignore[method-assign]
    return net


def in_turn(runs: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each of ``runs`` in each of ``rounds`` rounds, after a round of warm-up that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize(DEVICE)
            if number > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def training_step(net: nn.Module, *, batch: int, precision: str, layout: torch.memory_format) -> Callable[[], None]:
    """A function that trains ``net`` one step on ``batch`` random images, with weights and images in ``layout``."""
    net = net.to(DEVICE, memory_format=layout).train()  # type: ignore[call-overload]
    learned = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=0.1, momentum=0.9, weight_decay=1e-4)
    images = torch.randn(batch, 3, 32, 32, device=DEVICE).to(memory_format=layout)
    labels = torch.randint(10, (batch,), device=DEVICE)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(net(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def step_row(name: str, *, precision: str, rounds: int) -> Row:
    """Milliseconds of a training step of the backbone ``name``: dense, biprop and naive."""
    native = DEVICE.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    batch = BATCH if precision == "float32" or native else 8
    backbone = BACKBONES[name]()
    make = partial(training_step, batch=batch, precision=precision)
    steps: dict[str, Callable[[], object]] = {
        "dense": make(convert(backbone, Dense()), layout=torch.channels_last),
        "biprop": make(convert(backbone, Biprop(prune=PRUNE)), layout=torch.channels_last),
        "naive": make(naive(backbone), layout=torch.contiguous_format),
    }
    return Row(f"step {name} {precision}", in_turn(steps, rounds=rounds), base="dense", batch=batch)


def selection_row(n: int, *, rounds: int) -> Row:
    """Milliseconds to select the 20 % largest of ``n`` scores, to sort them, and to find the largest by topk."""
    importance, kept = torch.rand(n, device=DEVICE), num_kept(n, prune=PRUNE)
    runs: dict[str, Callable[[], object]] = {
        "sort": lambda: torch.sort(importance),
        "select": lambda: select(importance, kept=kept),
        "topk": lambda: torch.topk(importance, kept),
    }
    return Row(f"select among {n:,}", in_turn(runs, rounds=rounds), base="sort")


def loader_row(*, rounds: int) -> Row:
    """Images per second of the training loader (crop 4, flip) and of the evaluation loader, both channels-last."""
    pixels = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    images = Images(pixels, torch.randint(10, (IMAGES,)))
    data = ImageData("random", images, images, tuple("0123456789"), mean=(0.5,) * 3, std=(0.25,) * 3, crop=4, flip=True)
    make = partial(Loader, images, data=data, batch=BATCH, device=DEVICE, channels_last=True)
    loaders = {"train": make(train=True), "evaluate": make(train=False)}
    runs: dict[str, Callable[[], object]] = {
        name: partial(lambda loader: sum(1 for _ in loader), loader) for name, loader in loaders.items()
    }
    return Row("loader", in_turn(runs, rounds=rounds), batch=BATCH, images=IMAGES)


def startup_row(*, rounds: int) -> Row:
    """Milliseconds of each of ``COMMANDS`` as a process of its own; RuntimeError if one exits with another code."""
    script = shutil.which("mpt-train", path=str(Path(sys.executable).parent)) or "mpt-train"
    with tempfile.TemporaryDirectory() as folder:

        def run(arguments: str) -> None:
            done = subprocess.run([script, *arguments.split()], cwd=folder, capture_output=True, text=True)
            if done.returncode != COMMANDS[arguments]:
                raise RuntimeError(f"mpt-train {arguments} exited with {done.returncode}: {done.stderr}")

        seconds = in_turn({arguments: partial(run, arguments) for arguments in COMMANDS}, rounds=rounds)
    return Row("start-up of mpt-train", seconds)


def measured_rows(names: list[str], *, rounds: int) -> Iterator[Row]:
    """All rows, one after the other; selection, which is quick, in five times as many rounds."""
    for precision in PRECISIONS:
        for name in names:
            yield step_row(name, precision=precision, rounds=rounds)
    for n in SCORES:
        yield selection_row(n, rounds=5 * rounds)
    yield loader_row(rounds=rounds)
    yield startup_row(rounds=rounds)


def circumstances(rounds: int) -> dict[str, Any]:
    """Date, hardware, cores, threads, load by others (before the first measurement) and versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "rounds": rounds,
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
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


def table(rows: list[Row]) -> str:
    """The rows under a head, columns aligned, numbers to the right."""
    head = ["measured in turn", "batch", "first", "median", "second", "median", "third", "median", "median of ratios"]
    lines = [head, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [[f"{cell:{'<><><><><'[i]}{widths[i]}}" for i, cell in enumerate(line)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def main() -> None:
    """Measure, print the table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description="How fast mpt is, as ratios.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement, 5 by default")
    parser.add_argument("--quick", action="store_true", help="one round, and of the backbones only conv2")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"), help="file to write")
    chosen = parser.parse_args()
    rounds, names = (1, ["conv2"]) if chosen.quick else (chosen.rounds, list(BACKBONES))
    torch.manual_seed(0)
    about, rows = circumstances(rounds), []
    for row in measured_rows(names, rounds=rounds):
        rows.append(row)
        print(f"measured {row.measured}", file=sys.stderr, flush=True)
    cores = f"{about['cores']} cores, {about['threads']} threads, load average {about['load_average']} before"
    print(f"{about['hardware']}, {cores}, torch {torch.__version__}, {about['date']}, {rounds} rounds\n")
    print(table(rows))
    stored = about | {"rows": [row.as_json() for row in rows]}
    write_atomically(chosen.output, json.dumps(stored, indent=2) + "\n")


if __name__ == "__main__":
    main()
