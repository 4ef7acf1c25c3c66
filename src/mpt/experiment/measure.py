"""What ``mpt-eval`` and ``mpt-ticket`` print: a ticket file measured, and described."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from mpt.data import ImageData
from mpt.data import load as load_data
from mpt.experiment import config as configs
from mpt.experiment.build import build_backbone
from mpt.experiment.evaluate import accuracy, best_device, reestimate_batchnorm
from mpt.ticket.controls import control
from mpt.ticket.ticket import Ticket


def measure(path: Path, overrides: list[str]) -> str:
    """One line with the accuracy of the ticket at ``path`` (or of a control) on test images."""
    ticket = Ticket.load(path)
    composed = _composed(ticket, overrides)
    data = _data(ticket, composed)
    backbone = None
    if composed.model is not None:
        choice = configs.plain(composed.model)
        binary = bool(ticket.header.get("parameters", {}).get("binary_activations"))
        backbone = build_backbone(choice, data, width=composed.width, seed=0, binary_activations=binary)
    measured = control(ticket, composed.control, seed=composed.seed) if composed.control else ticket
    net, device = measured.network(backbone), best_device(composed.accelerator)
    if composed.control:
        reestimate_batchnorm(net, data.train, data=data, batch=composed.batch, device=device)
    acc = accuracy(net, data.test, data=data, batch=composed.batch, device=device)
    what = f"control {composed.control}, seed {composed.seed}" if composed.control else "ticket"
    return f"accuracy  {100 * acc:.2f} % of {len(data.test):,} test images of {data.name} ({what}: {path})"


def info(path: Path) -> str:
    """The layer table and the bits of the ticket at ``path``."""
    ticket, header = Ticket.load(path), Ticket.load(path).header
    method = header["method"]
    backbone = header["backbone"]["target"] if header["backbone"] else "a backbone of one's own"
    lines = [
        str(ticket.table()),
        "",
        f"backbone  {backbone} {header['backbone']['arguments'] if header['backbone'] else ''}",
        f"method    {method['name']}, seed {header['seed']}, prune {method['prune']:g}",
        f"weights   {ticket.num_kept:,} of {ticket.num_weights:,} kept ({100 * ticket.density:.2f} %)",
        f"bits      {ticket.bits:,} ({ticket.bits / ticket.num_weights:.3f} a weight, everything counted), "
        f"file {path.stat().st_size:,} bytes with its header",
        f"float32   {4 * ticket.num_weights:,} bytes: {4 * ticket.num_weights / path.stat().st_size:.1f} times as much",
    ]
    if "data" in header:
        lines.append(f"data      {header['data']['name']}, classes {', '.join(header['class_names'])}")
    return "\n".join(lines)


def _composed(ticket: Ticket, overrides: list[str]) -> DictConfig:
    """mpt-eval's configuration: the ticket's own data unless ``overrides`` say otherwise."""
    stored: dict[str, Any] = dict(ticket.header.get("data", {}))
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    if "data" not in given and "name" not in stored:
        raise ValueError("the ticket does not say which data it was searched for: give data=...")
    configs.register()
    with initialize_config_dir(str(configs.CONF), version_base="1.3"):
        own = [] if "data" in given else [f"data={stored['name']}"]
        composed = compose("eval", overrides=[*own, *overrides])
    same = composed.data.name == stored.get("name")
    for key, value in stored.items():
        wanted = key == "image_size" or (same and key not in ("name", "train_size", "val_size"))
        if wanted and f"data.{key}" not in given and key in composed.data:
            composed.data[key] = value
    configs.check(composed, configs.EvalConfig)
    return composed


def _data(ticket: Ticket, composed: DictConfig) -> ImageData:
    """The data, normalised as the ticket says; ValueError if its images or classes are not those of the ticket."""
    data, header = load_data(**configs.plain(composed.data)), ticket.header
    if "normalization" not in header:
        return data
    expected = header["data"]["channels"], len(header["class_names"])
    if (data.channels, data.num_classes) != expected:
        raise ValueError(
            f"the ticket was searched for images of {expected[0]} channels in {expected[1]} classes, "
            f"{data.name} has {data.channels} channels and {data.num_classes} classes"
        )
    if data.class_names != tuple(header["class_names"]):
        raise ValueError(
            f"the ticket's classes are {', '.join(header['class_names'])} and those of {data.name} "
            f"are {', '.join(data.class_names)}: take data with the same classes"
        )
    mean, std = (tuple(header["normalization"][key]) for key in ("mean", "std"))
    return dataclasses.replace(data, mean=mean, std=std)
