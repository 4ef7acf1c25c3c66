"""What ``mpt-finetune`` does: a run like any other (:mod:`mpt.experiment.train`) that starts from a ticket file.

Its configuration is that of a run whose method, model and parameters are the ticket's; its directory follows from the
configuration and the ticket's digest, so that repeating the command resumes or returns it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, open_dict

import mpt
from mpt import backbones
from mpt.experiment import config as configs
from mpt.experiment import resolved, schemas
from mpt.experiment.build import build_backbone, check_takes
from mpt.experiment.evaluate import accuracy, best_device
from mpt.commands.evaluate import data_of, keep_stored_data
from mpt.experiment.train import Start
from mpt.ticket.finetune import Finetune, chosen_layers, finetuning_network, history
from mpt.ticket.ticket import Ticket


def completed(composed: DictConfig, given: set[str]) -> dict[str, Any]:
    """The plain configuration of a fine-tuning run: what the command line (its keys ``given``) leaves to the ticket.

    Raises:
        ValueError: what fine-tuning cannot change is given, or a layer that the ticket does not have.
    """
    ticket = Ticket.load(composed.ticket)
    chosen_layers(ticket, composed.layers)
    own = (*schemas.SEARCHED_WITH, *(() if composed.model else ("width",)))
    for key in given:
        if key.partition(".")[0] in own:
            raise ValueError(f"{key} is what the ticket was searched with and stays as it is: leave it out")
    found = ticket.header.get("parameters", {})
    with open_dict(composed):
        composed.model = composed.model or _model(ticket)
        composed.method = {"name": f"finetune_{composed.layers}", "target": f"{Finetune.__module__}.Finetune"}
        composed.prune = ticket.header["method"]["prune"]
        for key in ("width", "binary_activations", "learn_batchnorm"):
            composed[key] = found.get(key, composed[key]) if key not in given else composed[key]
        keep_stored_data(ticket, composed, given, splits=True)
    configs.check(composed, schemas.FinetuneConfig)
    plain = resolved.plain(composed) | {"ticket_digest": ticket.digest}
    plain["ticket"] = str(Path(plain["ticket"]).resolve())
    return plain


def _model(ticket: Ticket) -> dict[str, str]:
    """How a run's configuration names the ticket's own backbone."""
    origin = ticket.header["backbone"] or {}
    target = origin.get("target")
    if target not in backbones.TARGETS:
        raise ValueError(f"the ticket's backbone {target!r} is not one of mpt's own: give model=<its YAML>")
    return {"name": str(origin["arguments"].get("name", target.rpartition(".")[2])), "target": target}


def start(config: dict[str, Any]) -> Start:
    """What a fine-tuning run begins with: the ticket's network, and what it reaches before."""
    ticket = Ticket.load(config["ticket"])
    if ticket.digest != config["ticket_digest"]:
        raise ValueError(f"{config['ticket']} is not the ticket that this run was begun with: choose another directory")
    data = data_of(ticket, config["data"] | {"progress": config["trainer"]["progress"]})
    if config["model"]["target"] in backbones.TARGETS and ticket.header["backbone"]:
        backbone = backbones.build(ticket.header["backbone"])
    else:
        backbone = build_backbone(config["model"], data, width=config["width"], seed=0)
    net = finetuning_network(ticket, backbone, layers=config["layers"], seed=config["seed"])
    example = torch.zeros(2, data.channels, data.image_size, data.image_size)
    check_takes(net, example, num_classes=data.num_classes, name="the ticket's network")
    told = {key: config[key] for key in ("layers", "epochs", "batch", "seed", "optim")}
    done = history(ticket, **told, names=chosen_layers(ticket, config["layers"]), data=data.name, mpt=mpt.__version__)
    header = {"history": done} | {key: ticket.header[key] for key in ("parameters",) if key in ticket.header}
    row = {"layers": config["layers"], "ticket_digest": ticket.digest}
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        device = best_device(config["trainer"]["accelerator"])
        row["test_acc_before"] = accuracy(ticket.network(backbone), data.test, data=data, batch=500, device=device)
    return Start(Finetune(prune=config["prune"]), data, backbone, net, header, row)
