"""One run, from a plain configuration to a row of results. ``run`` is the story; the rest is its footnotes.

A run's directory ends with ``config.yaml metrics.jsonl last.ckpt ticket.safetensors result.json``. Repeating the same
command finds it: finished, its row is returned; cut off, it goes on from the last epoch.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml

import mpt
from mpt import backbones
from mpt.data import ImageData
from mpt.data import load as load_data
from mpt.experiment import loggers
from mpt.experiment.build import build_backbone, build_method, check_last_batch, converted
from mpt.experiment.checkpoint import WholeOrNothing, last_checkpoint
from mpt.experiment.config import affects_result
from mpt.experiment.errors import USERS, sentence
from mpt.experiment.evaluate import accuracy
from mpt.experiment.module import MemoryData, TicketModule, evaluated_splits
from mpt.experiment.monitor import Monitor
from mpt.files import write_atomically
from mpt.search.methods import Method
from mpt.ticket.ticket import Ticket


def run(config: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Search (or train) as ``config`` says, in ``directory``; the row of results.

    Args:
        config: plain and resolved, see :class:`mpt.experiment.config.Config`.
        directory: of this run alone; made if it is not there.

    Raises:
        ValueError, OSError: what the user can mend, in one sentence. A run that fails in training leaves a
            ``result.json`` with ``status: failed`` and can be repeated.
    """
    loggers.check(config["logger"])
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0 and int(os.environ.get("NODE_RANK", 0)) == 0
    if first and (row := _finished(config, directory)):
        print(f"this run is finished: {directory} (remove the directory to run it again)")
        _print_result(row, directory, config)
        return row

    method = build_method(config["method"], prune=config["prune"])
    data = load_data(**config["data"], progress=config["trainer"]["progress"])
    backbone = build_backbone(config["model"], data, width=config["width"], seed=config["seed"])
    net = converted(
        backbone,
        method,
        data,
        seed=config["seed"],
        dense=config["dense"],
        learn_batchnorm=config["learn_batchnorm"],
        name=config["model"]["name"],
    )
    trainer = _trainer(config, directory, num_images=len(data.train))
    if config["batch"] % trainer.world_size:
        raise ValueError(
            f"batch is the global batch and must divide by the {trainer.world_size} processes, got {config['batch']}"
        )
    check_last_batch(net, data, batch=config["batch"], processes=trainer.world_size)

    if first:
        _make(directory)
        write_atomically(directory / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        (directory / "result.json").unlink(missing_ok=True)  # of a failed try
        print(mpt.layer_table(net), flush=True)
    try:
        with loggers.opened(directory, config, enabled=first) as opened:
            trainer.loggers = opened
            _fit(trainer, net, data, config, directory)
            if not trainer.is_global_zero:
                return {}
            ticket_path = directory / "ticket.safetensors"
            Ticket.from_network(net, **_about(config, data)).save(ticket_path)
            row = _row(config, method, data, trainer, ticket_path, backbone)
            loggers.finished(opened, ticket_path, row)
    except BaseException as error:
        if first:
            _record_failure(directory, config, error)
        raise
    write_atomically(directory / "result.json", json.dumps(row, indent=2) + "\n")
    _print_result(row, directory, config)
    return row


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"the run's directory {directory} cannot be made ({error.strerror}): "
            "choose another with runs= or hydra.run.dir="
        ) from error


def _finished(config: dict[str, Any], directory: Path) -> dict[str, Any] | None:
    """The row of a run that is finished in ``directory``; ValueError if another configuration lives there."""
    try:
        there = yaml.safe_load((directory / "config.yaml").read_text())
        before, now = affects_result(there), affects_result(config)
    except FileNotFoundError:
        if found := [name for name in ("last.ckpt", "ticket.safetensors") if (directory / name).exists()]:
            raise ValueError(
                f"{directory} holds {found[0]} of an unknown run, without its config.yaml: choose another directory"
            ) from None
        return None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{directory / 'config.yaml'} is damaged: remove the directory to run it again, or choose another"
        ) from error
    different = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    if different:
        changes = ", ".join(f"{key} is {before.get(key)} there and {now.get(key)} here" for key in different[:5])
        raise ValueError(f"{directory} holds a run of another configuration ({changes}): choose another directory")
    try:
        row = json.loads((directory / "result.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    done = isinstance(row, dict) and row.get("status") == "done"
    return row if done and (directory / "ticket.safetensors").is_file() else None


def _trainer(config: dict[str, Any], directory: Path, *, num_images: int) -> L.Trainer:
    choice = config["trainer"]
    terminal = choice["progress"] and sys.stderr.isatty()
    try:
        return L.Trainer(
            accelerator=choice["accelerator"],
            devices=_devices(choice),
            num_nodes=choice["num_nodes"],
            strategy=choice["strategy"],
            precision=_precision(choice["precision"]),
            max_epochs=config["epochs"],
            callbacks=[
                Monitor(directory, num_images=_images_an_epoch(config, num_images), show=choice["progress"]),
                last_checkpoint(directory),
                *([_progress_bar()] if terminal else []),
            ],
            plugins=[WholeOrNothing()],
            logger=False,
            default_root_dir=directory,
            limit_train_batches=choice["limit_batches"] or 1.0,
            limit_val_batches=choice["limit_batches"] or 1.0,
            enable_progress_bar=terminal,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,  # nothing is logged within an epoch; a short epoch would be warned of
            use_distributed_sampler=False,
        )
    except (RuntimeError, TypeError, ValueError) as error:  # MisconfigurationException is one of these
        raise ValueError(f"trainer={choice['name']} does not fit this machine: {error}") from error
    except Exception as error:
        if type(error).__name__ != "MisconfigurationException":
            raise
        raise ValueError(f"trainer={choice['name']} does not fit this machine: {error}") from error


def _devices(choice: dict[str, Any]) -> Any:
    """``auto`` is one process where there is no accelerator: two processes on one CPU gain nothing."""
    if choice["devices"] == "auto" and (choice["accelerator"] == "cpu" or not torch.accelerator.is_available()):
        return 1
    return choice["devices"]


def _precision(precision: str) -> Any:
    """``auto``: bf16-mixed where the machine multiplies in bf16 natively, else float32."""
    if precision == "bf16-true" or precision == "16-true":
        raise ValueError(f"trainer.precision={precision} would round the frozen weights: take bf16-mixed or 32-true")
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"


def _images_an_epoch(config: dict[str, Any], num_images: int) -> int:
    limit = config["trainer"]["limit_batches"]
    return min(num_images, limit * config["batch"]) if limit else num_images


def _progress_bar() -> L.Callback:
    from lightning.pytorch.callbacks import RichProgressBar

    return RichProgressBar(leave=False)


def _fit(trainer: L.Trainer, net: torch.nn.Module, data: ImageData, config: dict[str, Any], directory: Path) -> None:
    channels_last = config["trainer"]["channels_last"]
    if channels_last:
        net.to(memory_format=torch.channels_last)
    module = TicketModule(
        net,
        num_classes=data.num_classes,
        splits=evaluated_splits(data),
        seed=config["seed"],
        optim=config["optim"],
        epochs=config["epochs"],
    )
    loaders = MemoryData(data, batch=config["batch"], seed=config["seed"], channels_last=channels_last)
    checkpoint = directory / "last.ckpt"
    _check_checkpoint(checkpoint)
    os.environ["MPT_DIRECTORY"] = str(directory.resolve())  # for the other processes of this run
    if checkpoint.is_file() and trainer.is_global_zero:
        print(f"resuming from {checkpoint}", flush=True)
    trainer.fit(module, loaders, ckpt_path=checkpoint if checkpoint.is_file() else None, weights_only=True)
    net.to("cpu")


def _check_checkpoint(path: Path) -> None:
    """ValueError if there is a checkpoint and it cannot be read."""
    try:
        if path.is_file():
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever torch and pickle raise on a broken file
        raise ValueError(f"{path} is damaged: remove it to start this run over") from error


def _about(config: dict[str, Any], data: ImageData) -> dict[str, Any]:
    """What a ticket's header says beyond its layers."""
    parameters = ("prune", "width", "binary_activations", "learn_batchnorm", "epochs", "batch", "seed")
    described = {key: value for key, value in config["data"].items() if value is not None and key != "cache"}
    return {
        "data": {**described, "image_size": data.image_size, "channels": data.channels},
        "class_names": list(data.class_names),
        "normalization": {"mean": list(data.mean), "std": list(data.std)},
        "parameters": {key: config[key] for key in parameters} | {"optim": config["optim"], "method": config["method"]},
    }


def _row(
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
    rows = next(callback for callback in trainer.callbacks if isinstance(callback, Monitor)).rows  # type: ignore[attr-defined]
    best = max(rows, key=lambda row: row["test/acc"])
    return {
        "status": "done",
        "test_acc": accs["test"],
        "test_acc_max": best["test/acc"],
        "test_acc_max_epoch": best["epoch"],
        **({"val_acc": accs["val"]} if "val" in accs else {}),
        "train_acc": rows[-1]["train/acc"],
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
        "config": config,
        "commit": _commit(),
        "versions": _versions(),
        "hardware": _hardware(device),
    }


def _record_failure(directory: Path, config: dict[str, Any], error: BaseException) -> None:
    interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))
    text = "interrupted" if interrupted else sentence(error) if isinstance(error, USERS) else repr(error)
    row = {"status": "failed", "error": text, "config": config}
    try:
        write_atomically(directory / "result.json", json.dumps(row, indent=2) + "\n")
    except OSError as full:
        print(f"the failure could not be recorded in {directory}: {full}", file=sys.stderr)


def _print_result(row: dict[str, Any], directory: Path, config: dict[str, Any]) -> None:
    path, dense_bytes = directory / "ticket.safetensors", 4 * row["num_weights"]
    root, own = config["data"]["root"], config["model"]["target"] not in backbones.TARGETS
    words = ["mpt-eval", *(["--config-dir", "<yours>"] if own else []), shlex.quote(str(path)), f"data={row['data']}"]
    words += [shlex.quote(f"data.root={root}")] if root else []
    words += [f"model={config['model']['name']}"] if own else []
    smaller = dense_bytes / row["ticket_bytes"]
    print(
        f"\naccuracy  {100 * row['test_acc']:.2f} % of {row['num_test']:,} test images, measured on the file"
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
    packages = ("mpt", "torch", "torchvision", "lightning", "hydra-core", "numpy", "torchmetrics")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"
