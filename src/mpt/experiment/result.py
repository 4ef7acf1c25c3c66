"""The result of one run: measured on the ticket file read back, recorded, and printed."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning as L
import torch

from mpt import backbones
from mpt.data import ImageData
from mpt.experiment.evaluate import accuracy
from mpt.experiment.trainer import monitor_of
from mpt.files import PACKAGE, checksum, processor, version
from mpt.phases import note, tell
from mpt.run.compose import model_options
from mpt.run.name import flat, purpose
from mpt.run.result import Result
from mpt.run.settings import Settings, plain
from mpt.search.methods import Method
from mpt.ticket.check import data_settings
from mpt.ticket.ticket import Ticket


def write_run_page(directory: Path) -> None:
    """Write the page of the finished run in ``directory``, and say where it is."""
    from mpt.pages.build import write_page

    try:
        tell(f"page      {write_page(directory, speed=True)}")
    except (OSError, ValueError) as error:  # the run is finished all the same
        note(f"the page could not be written: {error}", directory)


def build_header(settings: Settings, data: ImageData, *, epoch: int) -> dict[str, Any]:
    """The part of a ticket's header that its run decides; ``epoch``, from 1, is the epoch of the ticket."""
    config = plain(settings)
    groups = {key.partition(".")[0] for key in flat(config) if purpose(key) == "result"} | {"distill_checksum"}
    elsewhere = {"data", "model", "trainer", "layers"}
    elsewhere |= {"distill_weight", "distill_temperature"} if settings.distill is None else set()
    parameters = {key: config[key] for key in config if key in groups - elsewhere}
    about = data.about()
    return {
        **about,
        "data": data_settings(config) | about["data"],
        "parameters": parameters,
        "precision": settings.trainer.precision,
        "epoch": epoch,
    }


def measure(
    ticket: Ticket,
    settings: Settings,
    method: Method,
    data: ImageData,
    trainer: L.Trainer,
    path: Path,
    backbone: torch.nn.Module,
    **more: Any,
) -> Result:
    """Measure the result of a run.

    Args:
        ticket: read back from its file at ``path``; accuracies are measured on it.
        settings: of the run.
        method: of the search.
        data: of the run.
        trainer: after training.
        path: of the ticket file.
        backbone: the plain network.
        more: optional keys of the result.
    """
    net, device = ticket.network(backbone), trainer.strategy.root_device
    splits = {"test": data.test} | ({"val": data.val} if data.val is not None else {})
    accs = {name: accuracy(net, split, data=data, batch=500, device=device) for name, split in splits.items()}
    monitor = monitor_of(trainer)
    rows, best = monitor.rows, monitor.best("test/acc")
    assert best is not None
    return Result(
        status="done",
        test_acc=accs["test"],
        test_acc_max=best["test/acc"],
        test_acc_max_epoch=best["epoch"],
        val_acc=accs.get("val"),
        train_acc=rows[ticket.header["epoch"] - 1]["train/acc"],
        epoch=ticket.header["epoch"],
        model=settings.model.name,
        method=settings.method.name,
        width=settings.width,
        prune=method.prune,
        density=ticket.density,
        num_weights=ticket.num_weights,
        num_kept=ticket.num_kept,
        ticket_bytes=path.stat().st_size,
        bits_per_weight=ticket.entropy_bits / ticket.num_weights,
        file_bits_per_weight=8 * path.stat().st_size / ticket.num_weights,
        ticket_checksum=checksum(path),
        seconds=sum(row["seconds"] for row in rows),
        images_per_second=sorted(row["images_per_second"] for row in rows)[len(rows) // 2],
        epochs=settings.epochs,
        seed=settings.seed,
        data=settings.data.name,
        num_train=len(data.train),
        num_test=len(data.test),
        processes=trainer.world_size,
        precision=str(trainer.precision),
        sweep=settings.sweep,
        budget=settings.budget,
        config=plain(settings),
        commit=_commit(),
        versions=_versions(),
        hardware=_hardware(device),
        **more,
    )


def describe_result(result: dict[str, Any], directory: Path, settings: Settings) -> str:
    """The lines that end a run: accuracy, weights kept, size compared with float32, and how to evaluate the ticket."""
    path, dense_bytes = directory / "ticket.safetensors", 4 * result["num_weights"]
    root, custom = settings.data.root, settings.model.target not in backbones.TARGETS
    words = ["mpt-eval", shlex.quote(str(path)), f"data={result['data']}"]
    words += [shlex.quote(f"data.root={root}")] if root else []
    words += map(shlex.quote, model_options()) if custom else []
    if settings.model.target.startswith("given."):  # no command can build a network that Python handed over
        words = [f"mpt.Ticket.load({str(path)!r}).network(backbone)"]
    ratio = dense_bytes / result["ticket_bytes"]
    compared = f"{ratio:.1f} times smaller" if ratio >= 1 else f"{1 / ratio:.1f} times as large"
    epoch = f" of epoch {result['epoch']}, the best on held-out images" if settings.select == "best_val" else ""
    before = f"before    {100 * result['test_acc_before']:.2f} %\n" if "test_acc_before" in result else ""
    return (
        f"\naccuracy  {100 * result['test_acc']:.2f} % of {result['num_test']:,} test images, measured on the file"
        f"{epoch} (best epoch {100 * result['test_acc_max']:.2f} %)\n{before}"
        f"weights   {result['num_kept']:,} of {result['num_weights']:,} kept ({100 * result['density']:.1f} %)\n"
        f"size      {result['ticket_bytes']:,} bytes, {dense_bytes:,} in float32: {compared}\n"
        f"ticket    {path}\n"
        f"evaluate  {' '.join(words)}"
    )


def _commit() -> str | None:
    """Commit of the checkout from which mpt runs; None outside a checkout."""
    command = ["git", "-C", str(PACKAGE), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "lightning", "hydra-core", "numpy", "torchmetrics")
    ours = {"python": platform.python_version(), "mpt": version()}
    return ours | {name: metadata.version(name) for name in packages}


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {os.cpu_count()} cores"
