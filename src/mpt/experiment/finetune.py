"""A fine-tuning run: a run like any other (:mod:`mpt.experiment.train`) that starts from a ticket file.

The ticket decides its method, model and search parameters. Its directory follows from its settings and the ticket's
digest, so that a repeated command resumes it or returns its result.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, open_dict

from mpt import backbones
from mpt.experiment.build import build_backbone, check_fit
from mpt.experiment.evaluate import accuracy, best_device
from mpt.experiment.optim import try_optim
from mpt.experiment.stored import keep_stored_data, load_for
from mpt.experiment.train import Start
from mpt.files import version
from mpt.processes import is_first
from mpt.run.compose import settings_of
from mpt.run.settings import FinetuneSettings, plain
from mpt.schema import printable
from mpt.ticket.finetune import Finetune, chosen_layers, finetuning_network, history
from mpt.ticket.ticket import Ticket


def complete(composed: DictConfig, keys: set[str]) -> FinetuneSettings:
    """The settings of a fine-tuning run: from the command line, which sets ``keys``, and otherwise from the ticket.

    Raises:
        ValueError: ``keys`` has an option that fine-tuning cannot change, or ``layers`` names none of the ticket.
    """
    ticket = Ticket.load(composed.ticket)
    chosen_layers(ticket, composed.layers)
    own = (ticket.header["backbone"] or {}).get("target") in backbones.TARGETS
    fixed = {f.name for f in fields(FinetuneSettings) if f.metadata["search"]}
    fixed |= {"width"} if own or not composed.model else set()
    if own and composed.model and (composed.model.target, composed.model.name) != tuple(_model(ticket).values())[::-1]:
        own_name = _model(ticket)["name"]
        raise ValueError(
            f"model={composed.model.name} cannot replace the ticket's own network, {own_name}: leave it out"
        )
    for key in keys:
        if key.partition(".")[0] in fixed:
            raise ValueError(f"{key} cannot change, because the ticket was searched with it: leave it out")
    parameters = ticket.header.get("parameters", {})
    with open_dict(composed):
        composed.model = composed.model or _model(ticket)
        composed.method = {"name": f"finetune_{composed.layers}", "target": f"{Finetune.__module__}.Finetune"}
        composed.prune = ticket.header["method"]["prune"]
        for key in ("width", "binary_activations", "learn_batchnorm"):
            composed[key] = parameters.get(key, composed[key]) if key not in keys else composed[key]
        keep_stored_data(ticket, composed, keys, splits=True)
    settings = settings_of(composed, FinetuneSettings)
    return replace(settings, ticket=str(Path(settings.ticket).resolve()), ticket_digest=ticket.digest)


def _model(ticket: Ticket) -> dict[str, str]:
    """The ticket's own backbone, as settings name it."""
    origin = ticket.header["backbone"] or {}
    target = origin.get("target")
    if target not in backbones.TARGETS:
        raise ValueError(f"the ticket's backbone {printable(target)} is not part of mpt: give model=<its YAML>")
    name = str(origin["arguments"].get("name", target.rpartition(".")[2]))
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise ValueError(f"the ticket says that its backbone is {printable(name)!r}, which is no name: give model=...")
    return {"name": name, "target": target}


def start(settings: FinetuneSettings) -> Start:
    """The start of a fine-tuning run: the ticket's network, and its accuracy before fine-tuning."""
    try_optim(settings.optim, epochs=settings.epochs)
    ticket = Ticket.load(settings.ticket)
    if ticket.digest != settings.ticket_digest:
        raise ValueError(
            f"{settings.ticket} is no longer the ticket that this run started from: choose another directory"
        )
    data = load_for(ticket, settings.data, progress=settings.trainer.progress)
    if settings.model.target in backbones.TARGETS and ticket.header["backbone"]:
        backbone = ticket.backbone()
    else:
        backbone = build_backbone(settings.model, data, width=settings.width, seed=0)
    net = finetuning_network(ticket, backbone, layers=settings.layers, seed=settings.seed)
    example = torch.zeros(2, data.channels, data.image_size, data.image_size)
    check_fit(net, example, num_classes=data.num_classes, name="the ticket's network")
    options = {key: plain(settings)[key] for key in ("layers", "epochs", "batch", "seed", "optim")}
    names = chosen_layers(ticket, settings.layers)
    header: dict[str, Any] = {"history": history(ticket, **options, names=names, data=data.name, mpt=version())}
    header |= {key: ticket.header[key] for key in ("parameters",) if key in ticket.header}
    result: dict[str, Any] = {"layers": settings.layers, "ticket_digest": ticket.digest}
    if is_first():
        device = best_device(settings.trainer.accelerator)
        result["test_acc_before"] = accuracy(ticket.network(backbone), data.test, data=data, batch=500, device=device)
    return Start(Finetune(prune=settings.prune), data, backbone, net, header, result)
