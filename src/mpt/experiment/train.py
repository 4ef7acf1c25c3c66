"""One run, from a plain configuration to a row of results. ``run`` is the story; the rest is its footnotes.

A run's directory ends with ``config.yaml metrics.jsonl last.ckpt ticket.safetensors result.json``, and ``best.ckpt``
where held-out images choose the epoch. Repeating the same command finds it: finished, its row is returned; cut off, it
goes on from the last epoch.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
import yaml
from torch import nn

import mpt
from mpt.data import FOLDERS, ImageData, checksum
from mpt.data import load as load_data
from mpt.experiment import loggers
from mpt.experiment.averaging import ScoreAveraging
from mpt.experiment.build import (
    build_backbone,
    build_method,
    check_bf16_strides,
    check_last_batch,
    check_ramp,
    converted,
)
from mpt.experiment.checkpoint import BestCheckpoint, WholeOrNothing, last_checkpoint, load_network
from mpt.experiment.isolation import is_first
from mpt.experiment.memory import freed_memory_kept
from mpt.experiment.module import Loaders, TicketModule, evaluated_splits
from mpt.experiment.monitor import Monitor
from mpt.experiment.optim import build_optim
from mpt.experiment.report import blank, image_of, reported
from mpt.experiment.result import about, monitor_of, print_result, row
from mpt.experiment.status import finished, forget_failure, record_failure, record_rank_failure
from mpt.files import write_atomically
from mpt.search.methods import Method
from mpt.ticket.ticket import Ticket


class Start(NamedTuple):
    """What a run begins with; ``header`` and ``row`` are added to the ticket's header and to the row of results."""

    method: Method
    data: ImageData
    backbone: nn.Module
    net: nn.Module
    header: dict[str, Any]
    row: dict[str, Any]


def search(config: dict[str, Any]) -> Start:
    """The start of a search, or of a dense baseline: a network of random weights."""
    method = build_method(config["method"], prune=config["prune"])
    check_ramp(method, epochs=config["epochs"])
    data = load_data(**config["data"], progress=config["trainer"]["progress"])
    backbone = build_backbone(
        config["model"],
        data,
        width=config["width"],
        seed=config["seed"],
        binary_activations=config["binary_activations"],
    )
    net = converted(
        backbone,
        method,
        data,
        seed=config["seed"],
        dense=config["dense"],
        learn_batchnorm=config["learn_batchnorm"],
        binary_activations=config["binary_activations"],
        spline_t=config["spline_t"],
        name=config["model"]["name"],
    )
    return Start(method, data, backbone, net, {}, {})


def run(
    config: dict[str, Any], directory: Path, *, start: Callable[[dict[str, Any]], Start] = search
) -> dict[str, Any]:
    """Search (or train) as ``config`` says, in ``directory``; the row of results.

    Args:
        config: plain and resolved, see :class:`mpt.experiment.config.Config`.
        directory: of this run alone; made if it is not there.
        start: makes of ``config`` what the run begins with.

    Raises:
        ValueError, OSError: what the user can mend, in one sentence. A run that fails in training leaves a
            ``result.json`` with ``status: failed`` and can be repeated.
    """
    loggers.check(config["logger"])
    config, first = _identified(config), is_first()
    if first and (found := finished(config, directory)):
        print(f"this run is finished: {directory} (remove the directory to run it again)")
        if config["report"] and not (directory / "report.json").is_file():
            print(f"it ran without report=true; make one with: mpt-ticket report {directory / 'ticket.safetensors'}")
        print_result(found, directory, config)
        return found

    method, data, backbone, net, header, more = start(config)
    build_optim(net, config["optim"], epochs=config["epochs"])  # what cannot be built is said before anything is made
    trainer = _trainer(config, directory, num_images=len(data.train), first_epoch=method.ramp_epochs)
    parts = config["optim"]["accumulate"]
    if config["batch"] % (trainer.world_size * parts):
        raise ValueError(
            f"batch is the global batch and must divide by the {trainer.world_size} processes"
            f"{f' times optim.accumulate={parts}' if parts > 1 else ''}, got {config['batch']}"
        )
    check_last_batch(net, data, batch=config["batch"] // parts, processes=trainer.world_size)
    if trainer.precision == "bf16-mixed" and trainer.strategy.root_device.type == "cpu":
        check_bf16_strides(net, data)

    if first:
        _make(directory)
        write_atomically(directory / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        forget_failure(directory)
        print(mpt.layer_table(net), flush=True)
    try:
        with loggers.opened(directory, config, enabled=first) as opened:
            trainer.loggers = opened
            _fit(trainer, net, data, config, directory)
            if not trainer.is_global_zero:
                return {}
            ticket_path = directory / "ticket.safetensors"
            ticket = _ticket(net, data, config, monitor_of(trainer), directory)
            Ticket(ticket.header | header, ticket.tensors).save(ticket_path)
            found = row(config, method, data, trainer, ticket_path, backbone) | more
            if config["report"] and method.searched:
                _report(ticket_path, backbone, directory)
            loggers.finished(opened, ticket_path, found)
    except BaseException as error:
        if first:
            record_failure(directory, config, error)
        else:
            record_rank_failure(directory, trainer.global_rank, error)
        raise
    write_atomically(directory / "result.json", json.dumps(found, indent=2) + "\n")
    print_result(found, directory, config)
    return found


def _ticket(net: nn.Module, data: ImageData, config: dict[str, Any], monitor: Monitor, directory: Path) -> Ticket:
    """The ticket of the epoch that ``select`` chooses, from the checkpoint of that epoch."""
    best = monitor.best("val/acc") if config["select"] == "best_val" else None
    load_network(net, directory / ("best.ckpt" if best else "last.ckpt"))
    return Ticket.from_network(net, **about(config, data, epoch=best["epoch"] if best else config["epochs"]))


def _report(path: Path, backbone: nn.Module, directory: Path) -> None:
    """``report.json`` beside the ticket, which the figures of zero kernels and of scores are drawn from."""
    checkpoint = next(p for p in (directory / "best.ckpt", directory / "last.ckpt") if p.is_file())
    image = blank(*image_of(Ticket.load(path)))
    report = reported(path, backbone=backbone, image=image, checkpoint=checkpoint)
    write_atomically(directory / "report.json", json.dumps(report, indent=2) + "\n")


def _identified(config: dict[str, Any]) -> dict[str, Any]:
    """``config``, for an image folder with the checksum of its listing: other pictures in its place are other data."""
    name, root = config["data"]["name"], config["data"]["root"]
    found = checksum(root, name=name) if name in FOLDERS and root else None
    return config if found is None else {**config, "data_checksum": found}


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"the run's directory {directory} cannot be made ({error.strerror}): "
            "choose another with runs= or hydra.run.dir="
        ) from error


def _trainer(config: dict[str, Any], directory: Path, *, num_images: int, first_epoch: int) -> L.Trainer:
    choice, optim = config["trainer"], config["optim"]
    terminal, limit = choice["progress"] and sys.stderr.isatty(), choice["limit_batches"]
    num_images = _images_an_epoch(config, num_images)
    monitor = Monitor(directory, num_images=num_images, show=choice["progress"], first_epoch=first_epoch)
    try:
        trainer = L.Trainer(
            accelerator=choice["accelerator"],
            devices=_devices(choice),
            num_nodes=choice["num_nodes"],
            strategy=choice["strategy"],
            precision=_precision(choice["precision"]),
            max_epochs=config["epochs"],
            callbacks=[
                monitor,
                *_averaging(optim),
                *([BestCheckpoint(directory, monitor)] if config["select"] == "best_val" else []),
                last_checkpoint(directory),
                *([_progress_bar()] if terminal else []),
            ],
            accumulate_grad_batches=optim["accumulate"],
            gradient_clip_val=optim["clip_grad_norm"],
            sync_batchnorm=choice["sync_batchnorm"],
            plugins=[WholeOrNothing()],
            logger=False,
            default_root_dir=directory,
            limit_train_batches=limit * optim["accumulate"] if limit else 1.0,
            limit_val_batches=limit or 1.0,
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
    if choice["sync_batchnorm"] and trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu":
        raise ValueError("trainer.sync_batchnorm=true needs accelerators: torch has it for GPUs only, not for the CPU")
    return trainer


def _averaging(optim: dict[str, Any]) -> list[L.Callback]:
    if optim["averaging"] == "none":
        return []
    return [ScoreAveraging(kind=optim["averaging"], decay=optim["averaging_decay"], start=optim["averaging_start"])]


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
        label_smoothing=config["label_smoothing"],
    )
    accumulate = config["optim"]["accumulate"]
    loaders = Loaders(
        data, batch=config["batch"], accumulate=accumulate, seed=config["seed"], channels_last=channels_last
    )
    checkpoint = directory / "last.ckpt"
    _check_checkpoint(checkpoint)
    os.environ["MPT_DIRECTORY"] = str(directory.resolve())  # for the other processes of this run
    if checkpoint.is_file() and trainer.is_global_zero:
        print(f"resuming from {checkpoint}", flush=True)
    with freed_memory_kept():
        trainer.fit(module, loaders, ckpt_path=checkpoint if checkpoint.is_file() else None, weights_only=True)
    net.to("cpu")


def _check_checkpoint(path: Path) -> None:
    """ValueError if there is a checkpoint and it cannot be read."""
    try:
        if path.is_file():
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever torch and pickle raise on a broken file
        raise ValueError(f"{path} is damaged: remove it to start this run over") from error
