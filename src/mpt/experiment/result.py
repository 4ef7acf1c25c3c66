"""The row of results of one run: measured on the ticket file read back, written down, said on the terminal."""

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

import mpt
from mpt import backbones
from mpt.data import ImageData
from mpt.experiment.evaluate import accuracy
from mpt.experiment.monitor import Monitor
from mpt.search.methods import Method
from mpt.ticket.ticket import Ticket


def about(config: dict[str, Any], data: ImageData, *, epoch: int) -> dict[str, Any]:
    """What a ticket's header says beyond its layers; ``epoch``, from 1, is the one it is of."""
    parameters = (
        "prune",
        "width",
        "binary_activations",
        "learn_batchnorm",
        "epochs",
        "batch",
        "label_smoothing",
        "select",
        "seed",
    )
    here = ("cache", "stream", "workers")  # of this machine, not of the ticket
    described = {key: value for key, value in config["data"].items() if value is not None and key not in here}
    return {
        "data": {**described, "image_size": data.image_size, "channels": data.channels},
        "class_names": list(data.class_names),
        "normalization": {"mean": list(data.mean), "std": list(data.std)},
        "parameters": {key: config[key] for key in parameters} | {"optim": config["optim"], "method": config["method"]},
        "epoch": epoch,
    }


def monitor_of(trainer: L.Trainer) -> Monitor:
    """The monitor that watched the run."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, Monitor))  # type: ignore[attr-defined]


def row(
    config: dict[str, Any],
    method: Method,
    data: ImageData,
    trainer: L.Trainer,
    ticket_path: Path,
    backbone: torch.nn.Module,
) -> dict[str, Any]:
    """The row of results; ``test_acc`` is measured on the ticket file as it is read back."""
    ticket = Ticket.load(ticket_path)
    net, device = ticket.network(backbone), trainer.strategy.root_device
    measured = {"test": data.test} | ({"val": data.val} if data.val is not None else {})
    accs = {name: accuracy(net, split, data=data, batch=500, device=device) for name, split in measured.items()}
    monitor = monitor_of(trainer)
    rows, best = monitor.rows, monitor.best("test/acc")
    assert best is not None
    return {
        "status": "done",
        "test_acc": accs["test"],
        "test_acc_max": best["test/acc"],
        "test_acc_max_epoch": best["epoch"],
        **({"val_acc": accs["val"]} if "val" in accs else {}),
        "train_acc": rows[ticket.header["epoch"] - 1]["train/acc"],
        "epoch": ticket.header["epoch"],
        "model": config["model"]["name"],
        "method": config["method"]["name"],
        "width": config["width"],
        "prune": method.prune,
        "density": ticket.density,
        "num_weights": ticket.num_weights,
        "num_kept": ticket.num_kept,
        "ticket_bytes": ticket_path.stat().st_size,
        "seconds": sum(row["seconds"] for row in rows),
        "images_per_second": sorted(row["images_per_second"] for row in rows)[len(rows) // 2],
        "epochs": config["epochs"],
        "seed": config["seed"],
        "data": config["data"]["name"],
        "num_train": len(data.train),
        "num_test": len(data.test),
        "processes": trainer.world_size,
        "precision": str(trainer.precision),
        "sweep": config["sweep"],
        "budget": config["budget"],
        "config": config,
        "commit": _commit(),
        "versions": _versions(),
        "hardware": _hardware(device),
    }


def print_result(row: dict[str, Any], directory: Path, config: dict[str, Any]) -> None:
    """What was found: accuracy, weights kept, size against float32, where it lies, and how to evaluate it."""
    path, dense_bytes = directory / "ticket.safetensors", 4 * row["num_weights"]
    root, own = config["data"]["root"], config["model"]["target"] not in backbones.TARGETS
    words = ["mpt-eval", *(["--config-dir", "<yours>"] if own else []), shlex.quote(str(path)), f"data={row['data']}"]
    words += [shlex.quote(f"data.root={root}")] if root else []
    words += [f"model={config['model']['name']}"] if own else []
    smaller = dense_bytes / row["ticket_bytes"]
    chosen = f" of epoch {row['epoch']}, the best on held-out images" if config["select"] == "best_val" else ""
    print(
        f"\naccuracy  {100 * row['test_acc']:.2f} % of {row['num_test']:,} test images, measured on the file{chosen}"
        f" (best epoch {100 * row['test_acc_max']:.2f} %)\n"
        f"weights   {row['num_kept']:,} of {row['num_weights']:,} kept ({100 * row['density']:.1f} %)\n"
        f"size      {row['ticket_bytes']:,} bytes, {dense_bytes:,} in float32: {smaller:.1f} times smaller\n"
        f"ticket    {path}\n"
        f"evaluate  {' '.join(words)}",
        flush=True,
    )


def _commit() -> str | None:
    """Commit of the checkout that mpt runs from; None if it does not run from one."""
    command = ["git", "-C", str(Path(mpt.__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "lightning", "hydra-core", "numpy", "torchmetrics")
    ours = {"python": platform.python_version(), "mpt": mpt.__version__}
    return ours | {name: metadata.version(name) for name in packages}


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"
