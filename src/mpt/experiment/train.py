"""One run, from its settings to its result. :func:`run` is the story; the other functions are its details.

A run leaves ``config.yaml metrics.jsonl last.ckpt ticket.safetensors ticket.json result.json`` in its directory, and
``best.ckpt`` if held-out images choose the epoch. A repeated command resumes an interrupted run after its last
finished epoch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import nn

import mpt
from mpt.data import ImageData
from mpt.errors import ToldElsewhereError
from mpt.experiment import loggers
from mpt.experiment.batches import check_batch, check_last_batch
from mpt.experiment.build import (
    build_backbone,
    build_method,
    check_bf16_strides,
    check_model,
    check_ramp,
    convert,
)
from mpt.experiment.checkpoint import check_checkpoint, load_network
from mpt.experiment.children import find_cause, followed
from mpt.experiment.module import Loaders, TicketModule, evaluated_splits
from mpt.experiment.monitor import Monitor
from mpt.experiment.opening import opening
from mpt.experiment.optim import build_optim, try_optim
from mpt.experiment.recorded import check_recordable
from mpt.experiment.records import checkpoint_of, log_end, note_recorded
from mpt.experiment.result import build_header, describe_result, measure, write_run_page
from mpt.experiment.stored import load_settings
from mpt.experiment.teacher import Teacher, load_teacher
from mpt.experiment.team import share, together
from mpt.experiment.trainer import build_trainer, monitor_of
from mpt.files import write_atomically
from mpt.phases import note, say, tell
from mpt.processes import group, is_first
from mpt.run.apart import hand_on
from mpt.run.config import write_config
from mpt.run.name import run_digest
from mpt.run.result import write_result
from mpt.run.settings import Settings, plain
from mpt.run.status import forget_failure, record_failure, record_rank_failure
from mpt.search.fast.memory import freed_memory_kept
from mpt.search.layers import ticket_layers
from mpt.search.methods import Method
from mpt.ticket.facts import write_facts
from mpt.ticket.report import blank, image_of, report_file
from mpt.ticket.ticket import Ticket
from mpt.words import count, first_names


class Start(NamedTuple):
    """The start of a run. ``header`` goes into the ticket's header, ``result`` into the result."""

    method: Method
    data: ImageData
    backbone: nn.Module
    net: nn.Module
    header: dict[str, Any]
    result: dict[str, Any]


def search(settings: Settings) -> Start:
    """The start of a search or of a dense baseline: a network with random weights."""
    say("building the network")
    # first what needs no data, which may have to be downloaded
    check_ramp(build_method(settings.method, prune=settings.prune), epochs=settings.epochs)
    check_model(settings.model, width=settings.width)
    try_optim(settings.optim, epochs=settings.epochs)
    say(f"reading the data {settings.data.name}")
    data = load_settings(settings.data, progress=settings.trainer.progress)
    return start_search(settings, data)


def start_search(settings: Settings, data: ImageData) -> Start:
    """The start of a search on ``data``, of which only the shape of images and the number of classes matter here."""
    say("building the network")
    method = build_method(settings.method, prune=settings.prune)
    check_ramp(method, epochs=settings.epochs)
    backbone = build_backbone(
        settings.model,
        data,
        width=settings.width,
        seed=settings.seed,
        binary_activations=settings.binary_activations,
    )
    net = convert(
        backbone,
        method,
        data,
        seed=settings.seed,
        dense=settings.dense,
        trained=settings.trained,
        learn_batchnorm=settings.learn_batchnorm,
        binary_activations=settings.binary_activations,
        spline_t=settings.spline_t,
        name=settings.model.name,
    )
    return Start(method, data, backbone, net, {}, {})


def run(settings: Settings, directory: Path, *, start: Callable[[Any], Start] = search) -> dict[str, Any]:
    """Search (or train) as ``settings`` say, in ``directory``; return the result.

    Args:
        settings: checked ones.
        directory: of this run alone, which is not finished; created if absent.
        start: builds data and network.

    Raises:
        ValueError, OSError: the user can mend it. A run that fails in training leaves a ``result.json`` with
            ``status: failed``, and a repeated command tries again.
    """
    first = is_first()
    kinds = loggers.asked_for(settings.logger) if first else []
    with together():
        loggers.check(settings.logger)
        if settings.report == "html":
            from mpt.pages.library import check_installed

            check_installed()
        method, data, backbone, net, header, more = start(settings)
        teacher = load_teacher(settings, data, backbone)
        build_optim(net, settings.optim, epochs=settings.epochs)  # raises before anything is written
        trainer = build_trainer(settings, directory, num_images=len(data.train), first_epoch=method.unfinished_epochs)
        _check_batch(settings, trainer, net, data)
        _check_method(method, settings, data)
        check_recordable(settings, method, trainer)
        if settings.trainer.precision == "bf16-mixed" and trainer.strategy.root_device.type == "cpu":
            check_bf16_strides(net, data)
        if first:
            _create(directory)
            write_config(directory, plain(settings))
            forget_failure(directory)
    try:
        if first:
            tell(f"{opening(settings, directory, data, trainer)}\n{mpt.layer_table(net)}")
        with loggers.open_loggers(directory, settings, kinds=kinds) as active:
            trainer.loggers = [*active]
            _fit(trainer, net, data, settings, directory, teacher)
            if group() is None and not trainer.is_global_zero:
                return {}  # the first process, which started this one, measures

            def finish() -> dict[str, Any]:
                path = directory / "ticket.safetensors"
                say("writing the ticket")
                ticket = _ticket(net, data, settings, monitor_of(trainer), directory)
                Ticket(ticket.header | header, ticket.tensors).save(path)
                ticket = Ticket.load(path)  # every reported number is measured on the file
                facts = write_facts(ticket, path)
                say(f"measuring the ticket on {len(data.test):,} test images")
                result = measure(ticket, settings, method, data, trainer, path, backbone, **more).as_dict()
                if settings.report and method.searched:
                    say("writing the report")
                    _report(ticket, path, backbone, directory)
                log_end(active, directory, ticket, facts=facts, result=result)
                return result

            result = share(finish)
    except BaseException as error:
        if isinstance(error, ToldElsewhereError):
            raise
        ended = find_cause(error, trainer, settings, directory)
        if first:
            record_failure(directory, settings, ended)
        else:
            record_rank_failure(directory, trainer.global_rank, ended)
        if ended is error:
            raise
        raise ended from error
    if first:
        result = write_result(directory, result)
        note_recorded(kinds, directory, settings.logger, result["checksum"])
        tell(describe_result(result, directory, settings))
        if settings.report == "html":
            say("writing the page")
            write_run_page(directory)
        _say_what_stayed(net, monitor_of(trainer).unchanged(), directory)
    return result


def _check_method(method: Method, settings: Settings, data: ImageData) -> None:
    """ValueError if the run does not suit ``method``."""
    batches = min(-(-len(data.train) // settings.batch), settings.trainer.limit_batches or sys.maxsize)
    method.check_run(epochs=settings.epochs, steps=batches)
    if method.changes_weights and settings.optim.averaging != "none":
        raise ValueError(
            f"method={settings.method.name} changes weights during the search, so optim.averaging would average old "
            "and new ones: set optim.averaging=none"
        )


def _say_what_stayed(net: nn.Module, unchanged: list[str], directory: Path) -> None:
    """Say in which layers no weight entered or left the mask, of those whose scores are learned."""
    layers = {name: layer for name, layer in ticket_layers(net).items() if layer.scores.requires_grad}
    stayed = [name for name in unchanged if name in layers and 0 < layers[name].num_kept < layers[name].weight.numel()]
    if not stayed:  # or no layer is searched
        return
    if len(stayed) == len(layers):
        words = "so that this ticket is the one of the start: raise optim.lr or epochs"
    else:
        words = f"in {count(len(stayed), 'layer')} of {len(layers)}: {first_names(stayed)}"
    note(f"no weight entered or left the mask, {words}", directory)


def _check_batch(settings: Settings, trainer: L.Trainer, net: nn.Module, data: ImageData) -> None:
    parts = settings.optim.accumulate
    check_batch(settings.batch, images=len(data.train), processes=trainer.world_size, parts=parts)
    check_last_batch(net, data, batch=settings.batch // parts, processes=trainer.world_size)


def _create(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"the run's directory {directory} cannot be created ({error.strerror}): "
            "choose another with runs= or hydra.run.dir="
        ) from error


def _fit(
    trainer: L.Trainer, net: nn.Module, data: ImageData, settings: Settings, directory: Path, teacher: Teacher | None
) -> None:
    channels_last = settings.trainer.channels_last
    if channels_last:
        net.to(memory_format=torch.channels_last)
    module = TicketModule(
        net,
        num_classes=data.num_classes,
        splits=evaluated_splits(data),
        seed=settings.seed,
        optim=settings.optim,
        epochs=settings.epochs,
        label_smoothing=settings.label_smoothing,
        teacher=teacher,
        evaluate_every=settings.evaluate_every,
        graph=settings.trainer.graph,
    )
    loaders = Loaders(
        data,
        batch=settings.batch,
        last_batch=settings.last_batch,
        accumulate=settings.optim.accumulate,
        seed=settings.seed,
        channels_last=channels_last,
        measures=module.measures,
    )
    checkpoint = directory / "last.ckpt"
    if checkpoint.exists():
        with together():
            check_checkpoint(checkpoint, net, run=run_digest(settings))
    if checkpoint.is_file() and trainer.is_global_zero:
        tell(f"resuming from {checkpoint}")
    with freed_memory_kept(), hand_on(directory), followed(trainer, settings, directory):
        trainer.fit(module, loaders, ckpt_path=checkpoint if checkpoint.is_file() else None, weights_only=True)
    net.to("cpu")


def _ticket(net: nn.Module, data: ImageData, settings: Settings, monitor: Monitor, directory: Path) -> Ticket:
    """The ticket of the epoch that ``select`` chooses, from the checkpoint of that epoch."""
    best = monitor.best("val/acc") if settings.select == "best_val" else None
    epoch = best["epoch"] if best else settings.epochs
    load_network(net, directory / ("best.ckpt" if best else "last.ckpt"), run=run_digest(settings), epoch=epoch)
    return Ticket.from_network(net, **build_header(settings, data, epoch=epoch))


def _report(ticket: Ticket, path: Path, backbone: nn.Module, directory: Path) -> None:
    """Write ``report.json``, the source of the figures of zero kernels and scores."""
    image = blank(*image_of(ticket))
    report = report_file(ticket, path=path, backbone=backbone, image=image, checkpoint=checkpoint_of(directory))
    write_atomically(directory / "report.json", json.dumps(report, indent=2) + "\n")
