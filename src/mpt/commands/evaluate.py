"""What ``mpt-eval`` does: a ticket file, or a control of it, measured on images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import nn

from mpt.data import ImageData
from mpt.data import load as load_data
from mpt.experiment import config as configs
from mpt.experiment import resolved, schemas
from mpt.experiment.build import build_backbone, check_takes
from mpt.experiment.evaluate import best_device, measurements, reestimate_batchnorm
from mpt.files import write_atomically
from mpt.ticket.controls import control
from mpt.ticket.ticket import Ticket


def measure(path: Path, overrides: list[str]) -> str:
    """The table (or the JSON) of what test images, or corrupted ones, say of the ticket at ``path`` or of a control."""
    ticket = Ticket.load(path)
    composed = _composed(ticket, overrides)
    data = data_of(ticket, resolved.plain(composed.data))
    backbone = None
    if composed.model is not None:
        choice = resolved.plain(composed.model)
        binary = bool(ticket.header.get("parameters", {}).get("binary_activations"))
        backbone = build_backbone(choice, data, width=composed.width, seed=0, binary_activations=binary)
    measured = control(ticket, composed.control, seed=composed.seed) if composed.control else ticket
    net, device = measured.network(backbone), best_device(composed.accelerator)
    example = torch.zeros(2, data.channels, data.image_size, data.image_size)
    check_takes(net, example, num_classes=data.num_classes, name="the ticket's network")
    if composed.control:
        reestimate_batchnorm(net, data.train, data=data, batch=composed.batch, device=device)
    found: dict[str, Any] = {"ticket": str(path), "control": composed.control, "seed": composed.seed, "data": data.name}
    found |= measurements(net, data.test, data=data, batch=composed.batch, device=device)
    if composed.corruptions:
        found |= _corrupted(net, Path(composed.corruptions), data, composed)
    return shown(found, _table(found, per_class=composed.per_class), json_=composed.json)


def shown(found: dict[str, Any], table: str, *, json_: str | None) -> str:
    """What is printed: the table, or with ``json=true`` the JSON; with ``json=FILE`` that is written to the file."""
    if json_ is None or json_.lower() == "false":
        return table
    text = json.dumps(found, indent=2)
    if json_.lower() == "true":
        return text
    write_atomically(json_, text + "\n")
    return f"{table}\njson      {json_}"


def _corrupted(net: nn.Module, root: Path, data: ImageData, composed: DictConfig) -> dict[str, Any]:
    """Accuracy on each corruption at each severity; their mean is over the 15 standard ones, as it is published."""
    from mpt.data.corruptions import STANDARD, corruptions

    rows, device = [], best_device(composed.accelerator)
    for name, severity, images in corruptions(root):
        if tuple(images.pixels.shape[1:]) != (data.channels, data.image_size, data.image_size):
            raise ValueError(
                f"corruptions={root} holds images of shape {tuple(images.pixels.shape[1:])} and the ticket takes "
                f"{(data.channels, data.image_size, data.image_size)}"
            )
        if int(images.labels.max()) >= data.num_classes:
            raise ValueError(
                f"corruptions={root} holds {int(images.labels.max()) + 1} classes, the ticket knows {data.num_classes}"
            )
        said = measurements(net, images, data=data, batch=composed.batch, device=device)
        rows.append({"corruption": name, "severity": severity, "acc": said["acc"], "num_images": said["num_images"]})
    standard = [row["acc"] for row in rows if row["corruption"] in STANDARD]
    there = {row["corruption"] for row in rows}
    return {
        "corruptions": rows,
        "corruptions_acc": fmean(standard) if standard else None,
        "corruptions_missing": [name for name in STANDARD if name not in there],
    }


def _table(found: dict[str, Any], *, per_class: bool) -> str:
    what = f"control {found['control']}, seed {found['seed']}" if found["control"] else "ticket"
    lines = [
        f"accuracy  {100 * found['acc']:.2f} % of {found['num_images']:,} test images of {found['data']} "
        f"({what}: {found['ticket']})"
    ]
    if found["acc_top5"] is not None:
        lines.append(f"top-5     {100 * found['acc_top5']:.2f} %")
    lines.append(f"calibration error  {100 * found['calibration_error']:.2f} % (expected, 15 bins)")
    if per_class:
        wide = max(len(row["class"]) for row in found["per_class"])
        lines += ["", f"{'class':<{max(wide, 5)}}  accuracy  images"]
        lines += [
            f"{row['class']:<{max(wide, 5)}}  {_percent(row['acc']):>8}  {row['num_images']:>6,}"
            for row in found["per_class"]
        ]
    if "corruptions" in found:
        lines += ["", *_corruption_lines(found["corruptions"])]
        lines += [f"mean accuracy over the standard corruptions  {_percent(found['corruptions_acc'])}"]
        if missing := found["corruptions_missing"]:
            lines += [f"NOT in it, for want of their files: {', '.join(missing)}"]
    return "\n".join(lines)


def _corruption_lines(rows: list[dict[str, Any]]) -> list[str]:
    accs = {(row["corruption"], row["severity"]): row["acc"] for row in rows}
    names, severities = dict.fromkeys(row["corruption"] for row in rows), sorted({row["severity"] for row in rows})
    wide = max(10, *(len(name) for name in names))
    lines = [f"{'corruption':<{wide}}" + "".join(f"{f'severity {s}':>12}" for s in severities) + f"{'mean':>10}"]
    for name in names:
        own = [accs.get((name, severity)) for severity in severities]
        known = [acc for acc in own if acc is not None]
        lines.append(
            f"{name:<{wide}}" + "".join(f"{_percent(acc):>12}" for acc in own) + f"{_percent(fmean(known)):>10}"
        )
    return lines


def _percent(acc: float | None) -> str:
    return "-" if acc is None else f"{100 * acc:.2f} %"


def _composed(ticket: Ticket, overrides: list[str]) -> DictConfig:
    """mpt-eval's configuration: the ticket's own data unless ``overrides`` say otherwise."""
    given = given_keys(overrides)
    configs.register(schemas.EvalConfig)
    with initialize_config_dir(str(configs.CONF), version_base="1.3"):
        composed = compose("eval", overrides=[*own_data(ticket, given), *overrides])
    keep_stored_data(ticket, composed, given)
    configs.check(composed, schemas.EvalConfig)
    return composed


def given_keys(overrides: list[str]) -> set[str]:
    """The keys that a command line sets."""
    return {override.partition("=")[0].lstrip("+") for override in overrides}


def own_data(ticket: Ticket, given: set[str]) -> list[str]:
    """The override that names the data the ticket was searched for, unless other data are given."""
    if "data" in given:
        return []
    if "name" not in (stored := ticket.header.get("data", {})):
        raise ValueError("the ticket does not say which data it was searched for: give data=...")
    return [f"data={stored['name']}"]


def keep_stored_data(ticket: Ticket, composed: DictConfig, given: set[str], *, splits: bool = False) -> None:
    """Put what the ticket says of its data into ``composed.data`` where the command line says nothing.

    ``splits``: which training images were used and held out as well.
    """
    stored: dict[str, Any] = dict(ticket.header.get("data", {}))
    same, without = composed.data.name == stored.get("name"), ("name", *(() if splits else ("train_size", "val_size")))
    for key, value in stored.items():
        wanted = key == "image_size" or (same and key not in without)
        if wanted and f"data.{key}" not in given and key in composed.data:
            composed.data[key] = value


def data_of(ticket: Ticket, choice: dict[str, Any]) -> ImageData:
    """The data, normalised as the ticket says; ValueError if its images or classes are not those of the ticket."""
    data, header = load_data(**choice), ticket.header
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
