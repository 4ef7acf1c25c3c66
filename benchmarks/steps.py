"""Measure training steps and epochs: dense, searched by mpt, and searched as others do (:mod:`benchmarks.searches`)."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.row import DEVICE, Row, in_turn
from benchmarks.searches import PRUNE, binary, biprop, clamped_kthvalue, dense, full_sort, kthvalue
from mpt import Biprop, backbones, convert
from mpt.data import ImageData, Images, Loader
from mpt.search.adam import ScoreAdam
from mpt.search.fast.memory import freed_memory_kept
from mpt.search.layers import ticket_layers
from mpt.search.sgd import ScoreSGD

BATCH = 128
EMULATED = 32  # images of a step in emulated bfloat16, which takes about 14 times as long
BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "conv2": backbones.conv2,
    "conv4": backbones.conv4,
    "conv6": backbones.conv6,
    "conv6 width 1.5": partial(backbones.conv6, width=1.5),
    "vgg_small": backbones.vgg_small,
    "torchvision resnet18": partial(backbones.torchvision, name="resnet18"),
    "cifar_resnet18": backbones.cifar_resnet18,
}
# a step of these takes seconds, so they get fewer rounds, and none in emulated bfloat16
LONG = ("conv6 width 1.5", "vgg_small", "cifar_resnet18")
# whole epochs of BATCHES batches are measured for these backbones
EPOCHS = ("conv2", "conv4", "conv6", "torchvision resnet18")
BATCHES = 4
_SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
MPT_TRAIN: Optimizer = partial(ScoreSGD, **_SGD, fused=True)  # the default of mpt-train
OPTIMIZERS: dict[str, dict[str, Optimizer]] = {
    "sgd": {"one pass": MPT_TRAIN, "torch": partial(torch.optim.SGD, **_SGD, fused=True)},
    "adam": {
        "one pass": partial(ScoreAdam, lr=3e-4, fused=True),
        "torch": partial(torch.optim.Adam, lr=3e-4, fused=True),
    },
}


def trainer(
    net: nn.Module, *, precision: str, layout: torch.memory_format, optimizer: Optimizer
) -> Callable[[Tensor, Tensor], None]:
    """A function that trains ``net`` for a step on images (N, C, H, W) and labels (N,), with weights in ``layout``."""
    net = net.to(DEVICE, memory_format=layout).train()  # type: ignore[call-overload]
    moves = optimizer([parameter for parameter in net.parameters() if parameter.requires_grad])

    def step(images: Tensor, labels: Tensor) -> None:
        def gradients() -> None:
            moves.zero_grad()
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = F.cross_entropy(net(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]

        moves.step(gradients)  # type: ignore[arg-type]  # the loss is not asked for

    return step


def training_step(
    net: nn.Module, *, batch: int, precision: str, layout: torch.memory_format, optimizer: Optimizer = MPT_TRAIN
) -> Callable[[], None]:
    """A function that trains ``net`` for one step on ``batch`` random images, with weights and images in ``layout``."""
    images = torch.randn(batch, 3, 32, 32, device=DEVICE).to(memory_format=layout)
    labels = torch.randint(10, (batch,), device=DEVICE)
    return partial(trainer(net, precision=precision, layout=layout, optimizer=optimizer), images, labels)


def native_bf16() -> bool:
    """Whether the device multiplies in bfloat16."""
    return DEVICE.type == "cuda" or torch.cpu._is_avx512_bf16_supported()


def images_of_a_step(precision: str) -> int:
    """How many images a step has in ``precision``."""
    return BATCH if precision == "float32" or native_bf16() else EMULATED


def step_row(name: str, *, precision: str, rounds: int) -> Row:
    """Milliseconds of a training step of the backbone ``name``, dense and searched by biprop."""
    batch, backbone = images_of_a_step(precision), BACKBONES[name]()
    make = partial(training_step, batch=batch, precision=precision)
    steps: dict[str, Callable[[], object]] = {
        "dense": make(dense(backbone), layout=torch.channels_last),
        "biprop": make(biprop(backbone), layout=torch.channels_last),
    }
    with freed_memory_kept():
        return Row(f"step {name} {precision}", in_turn(steps, rounds=rounds), base="dense", batch=batch)


def optimizers_row(name: str, *, kind: str, precision: str, rounds: int) -> Row:
    """Milliseconds of a biprop step whose scores move in one pass, and by torch's fused optimizer of this ``kind``."""
    batch, backbone = images_of_a_step(precision), BACKBONES[name]()
    make = partial(training_step, batch=batch, precision=precision, layout=torch.channels_last)
    steps: dict[str, Callable[[], object]] = {
        who: make(biprop(backbone), optimizer=optimizer) for who, optimizer in OPTIMIZERS[kind].items()
    }
    with freed_memory_kept():
        return Row(f"{kind} {name} {precision}", in_turn(steps, rounds=rounds), base="one pass", batch=batch)


def variants_row(measured: str, variants: dict[str, Callable[[], nn.Module]], *, rounds: int) -> Row:
    """Milliseconds of a float32 training step of each of ``variants``; the first is the base."""
    steps: dict[str, Callable[[], object]] = {
        name: training_step(make(), batch=BATCH, precision="float32", layout=torch.channels_last)
        for name, make in variants.items()
    }
    with freed_memory_kept():
        return Row(measured, in_turn(steps, rounds=rounds), base=next(iter(variants)), batch=BATCH)


def selections_row(name: str, *, rounds: int) -> Row:
    """Milliseconds of a biprop step that selects masks in each layer, over the network, or by a threshold."""
    variants = {
        selection: partial(convert, BACKBONES[name](), Biprop(prune=PRUNE, selection=selection))
        for selection in ("layerwise", "global", "calibrated")
    }
    return variants_row(f"selection {name}", variants, rounds=rounds)


def activations_row(name: str, *, rounds: int) -> Row:
    """Milliseconds of a biprop step of MPT-1/32 and of MPT-1/1."""
    make = {"1/32": partial(biprop, BACKBONES[name]()), "1/1": partial(binary, BACKBONES[name]())}
    return variants_row(f"activations {name}", make, rounds=rounds)


def rivals_row(name: str, *, rounds: int) -> Row:
    """Milliseconds of a step searched by mpt, and with masks as in three published implementations."""
    searches = {"mpt": biprop, "published": full_sort, "IteRand": kthvalue, "torchao": clamped_kthvalue}
    variants = {who: partial(search, BACKBONES[name]()) for who, search in searches.items()}
    return variants_row(f"searches {name}", variants, rounds=rounds)


def random_data(count: int) -> ImageData:
    """``count`` random 3x32x32 training images and a batch of test images."""
    make = partial(torch.randint, 256, dtype=torch.uint8)
    train = Images(make((count, 3, 32, 32)), torch.randint(10, (count,)))
    test = Images(make((BATCH, 3, 32, 32)), torch.randint(10, (BATCH,)))
    return ImageData("random", train, test, tuple("0123456789"), mean=(0.5,) * 3, std=(0.25,) * 3, crop=4, flip=True)


def epoch_row(name: str, *, precision: str, rounds: int) -> Row:
    """Images per second of an epoch of mpt-train, of a bare loop over the same step, and of the naive search."""
    data, backbone = random_data(BATCHES * BATCH), BACKBONES[name]()

    def loop(
        net: nn.Module, *, precision: str, layout: torch.memory_format, optimizer: Optimizer
    ) -> Callable[[], None]:
        channels_last = layout == torch.channels_last
        loader = Loader(data.train, data=data, batch=BATCH, train=True, device=DEVICE, channels_last=channels_last)
        step = trainer(net, precision=precision, layout=layout, optimizer=optimizer)
        return lambda: [step(batch.images, batch.labels) for batch in loader] and None

    plain = partial(ScoreSGD, **_SGD)
    runs: dict[str, Callable[[], object]] = {
        "mpt-train": partial(mpt_train_epoch, name, data, precision=precision),
        "bare": loop(biprop(backbone), precision=precision, layout=torch.channels_last, optimizer=MPT_TRAIN),
        "naive": loop(full_sort(backbone), precision="float32", layout=torch.contiguous_format, optimizer=plain),
    }
    seconds = in_turn(runs, rounds=rounds)
    return Row(f"epoch {name} {precision}", seconds, base="mpt-train", batch=BATCH, images=len(data.train))


def mpt_train_epoch(name: str, data: ImageData, *, precision: str) -> float:
    """Seconds of the training part of the second epoch of ``mpt-train model=NAME prune=0.8`` on ``data``."""
    from mpt.experiment import train
    from mpt.run.compose import compose, settings_of
    from mpt.run.settings import Settings

    model, *rest = name.split()  # "torchvision resnet18"
    overrides = [f"model={model}", *(f"model.name={one}" for one in rest)]
    overrides += [f"trainer.precision={'bf16-mixed' if precision == 'bf16' else '32-true'}"]
    overrides += [f"prune={PRUNE}", f"batch={BATCH}", "epochs=2", "trainer.progress=false"]
    settings = settings_of(compose("train", overrides, Settings), Settings)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(train, "load_settings", return_value=data):
        with contextlib.redirect_stdout(io.StringIO()):
            train.run(settings, Path(folder))
        last = Path(folder, "metrics.jsonl").read_text().splitlines()[-1]
    return len(data.train) / float(json.loads(last)["images_per_second"])


def memory_row(name: str, *, kinds: Sequence[str], rounds: int) -> Row:
    """Megabytes that two steps of ``name`` add to the peak resident memory, each kind in its own process."""
    values: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, megabytes in values.items():
            command = [sys.executable, "-m", "benchmarks.steps", name, kind]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **_MALLOC})
            megabytes.append(float(done.stdout))
    weights = sum(layer.weight.numel() for layer in ticket_layers(biprop(BACKBONES[name]())).values())
    return Row(f"peak memory {name}", values, base="dense", batch=BATCH, megabytes=True, weights=weights)


def peak(name: str, kind: str) -> float:
    """Megabytes of the largest resident set in two steps, minus the resident set before the network was built."""
    torch.manual_seed(0)
    small = nn.Sequential(nn.Flatten(), nn.Linear(3072, 64), nn.ReLU(), nn.Linear(64, 10))
    training_step(KINDS[kind](small), **_STEP)()  # loads libraries and compiled loops, which must not count
    before = _resident("VmRSS")
    step = training_step(KINDS[kind](BACKBONES[name]()), **_STEP)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark: building is no step
    for _ in range(2):
        step()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    """Megabytes in a field of Linux's ``/proc/self/status``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) / 2**10


KINDS = {"dense": dense, "biprop": biprop, "1/1": binary}
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # glibc returns freed memory at once
_STEP: dict[str, Any] = {"batch": BATCH, "precision": "float32", "layout": torch.channels_last}


def profile(name: str, *, count: int = 15) -> dict[str, Any]:
    """A biprop step by operation: calls, own milliseconds (without operations it calls) and share of the step."""
    step = training_step(biprop(BACKBONES[name]()), **_STEP)
    for _ in range(3):
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        step()
    averages = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in averages)
    operations = [
        {
            "operation": event.key,
            "calls": event.count,
            "ms": event.self_cpu_time_total / 1e3,
            "percent": 100 * event.self_cpu_time_total / whole,
        }
        for event in averages[:count]
    ]
    return {"step": name, "operations": operations}


if __name__ == "__main__":
    print(peak(*sys.argv[1:]))
