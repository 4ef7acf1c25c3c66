"""What ``mpt-ticket`` does: describe a ticket file, report on it, make one of a published checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from mpt.data import ImageData, Images
from mpt.experiment import config as configs
from mpt.experiment import resolved, schemas
from mpt.experiment.build import build_backbone
from mpt.commands.evaluate import shown
from mpt.ticket.report import blank, image_of, reported
from mpt.ticket.published import import_published, read_published
from mpt.ticket.ticket import Ticket


def info(path: Path, overrides: list[str]) -> str:
    """The layer table and the bits of the ticket at ``path``."""
    ticket = Ticket.load(path)
    header, size = ticket.header, path.stat().st_size
    method = header["method"]
    backbone = header["backbone"]["target"] if header["backbone"] else "a backbone of one's own"
    lines = [
        str(ticket.table()),
        "",
        f"backbone  {backbone} {header['backbone']['arguments'] if header['backbone'] else ''}",
        f"method    {method['name']}, seed {header['seed']}, prune {method['prune']:g}, "
        f"selection {method.get('selection', 'layerwise')}",
        f"weights   {ticket.num_kept:,} of {ticket.num_weights:,} kept ({100 * ticket.density:.2f} %)",
        f"bits      {ticket.bits:,} ({ticket.bits / ticket.num_weights:.3f} a weight, everything counted), "
        f"file {size:,} bytes with its header",
        f"float32   {4 * ticket.num_weights:,} bytes: {4 * ticket.num_weights / size:.1f} times as much",
    ]
    if "data" in header:
        lines.append(f"data      {header['data']['name']}, classes {', '.join(header['class_names'])}")
    if "imported" in header:
        lines.append(f"imported  {', '.join(f'{key} {value}' for key, value in header['imported'].items())}")
    for done in header.get("history", []):
        told = ", ".join(f"{key} {done[key]}" for key in ("layers", "epochs", "batch", "seed", "data") if key in done)
        lines.append(f"tuned     {told}; before it {done['ticket'][:12]}")
    return "\n".join([*lines, f"digest    {ticket.digest}"])


def report(path: Path, overrides: list[str]) -> str:
    """The table (or the JSON) of :func:`mpt.ticket.report.report` for the ticket at ``path``."""
    ticket = Ticket.load(path)
    composed = _composed("report", overrides, schemas.ReportConfig)
    channels, size = image_of(ticket, size=composed.image_size)
    backbone = None
    if composed.model is not None:
        data = _stand_in(channels, size, num_classes=len(ticket.header.get("class_names", range(10))))
        backbone = build_backbone(resolved.plain(composed.model), data, width=composed.width, seed=0)
    found = reported(
        path,
        backbone=backbone,
        image=blank(channels, size),
        checkpoint=Path(composed.checkpoint) if composed.checkpoint else None,
        bins=composed.bins,
    )
    return shown(found, _report_table(found), json_=composed.json)


def import_(path: Path, overrides: list[str]) -> str:
    """A ticket file of the published checkpoint at ``path``; what was made."""
    composed = _composed("import", overrides, schemas.ImportConfig)
    if composed.model is None:
        raise ValueError("model is not given: say of which network the checkpoint is, for instance model=conv4")
    out = Path(composed.out or path.with_suffix(".safetensors").name)
    if out.exists():
        raise ValueError(f"{out} is there already: give another file with out=")
    published = read_published(path)
    first, last = (list(published.layers.values())[at]["weight"].shape for at in (0, -1))
    channels = composed.in_channels or int(first[1])
    data = _stand_in(channels, composed.image_size, num_classes=int(last[0]))
    binary = composed.binary_activations
    choice = resolved.plain(composed.model)
    backbone = build_backbone(choice, data, width=composed.width, seed=0, binary_activations=binary)
    told = {"width": composed.width, "binary_activations": binary, "learn_batchnorm": published.learn_batchnorm}
    ticket = import_published(
        published,
        backbone,
        prune=composed.prune,
        selection=composed.selection,
        binary_activations=binary,
        image=blank(channels, composed.image_size),
        parameters=told,
    )
    ticket.save(out)
    return (
        f"weights   {ticket.num_kept:,} of {ticket.num_weights:,} kept ({100 * ticket.density:.2f} %) "
        f"in {len(ticket.header['layers'])} layers, {ticket.header['imported']['selection']}\n"
        f"ticket    {out}\n"
        f"evaluate  mpt-eval {out} data=cifar10"
    )


def _composed(name: str, overrides: list[str], schema: type) -> DictConfig:
    configs.register(schema)
    with initialize_config_dir(str(configs.CONF), version_base="1.3"):
        composed = compose(name, overrides=overrides)
    configs.check(composed, schema)
    return composed


def _stand_in(channels: int, size: int, *, num_classes: int) -> ImageData:
    """Data of one black image: what a backbone is built for, where no images are read."""
    images = Images(blank(channels, size).byte(), torch.zeros(1, dtype=torch.long))
    names = tuple(map(str, range(num_classes)))
    return ImageData("images", images, images, names, (0.0,) * channels, (1.0,) * channels, crop=0, flip=False)


def _report_table(found: dict[str, Any]) -> str:
    head = ("layer", "kernel", "density", "gain", "kernels", "zero", "by chance", "difference")
    rows = [
        (row["name"], row["kernel"] or "-", f"{100 * row['density']:.2f} %", f"{row['gain']:.4g}", *_kernel_cells(row))
        for row in found["layers"]
    ]
    sums = [(f"all {row['kernel']}", row["kernel"], "", "", *_kernel_cells(row)) for row in found["kernel_sizes"]]
    if len(sums) > 1:
        sums.append(("all kernels", "", "", "", *_kernel_cells(found["all_kernels"])))
    table = [head, *rows, *sums]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(w) if at < 2 else cell.rjust(w) for at, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    kept = f"{found['num_kept']:,} of {found['num_weights']:,} kept ({100 * found['density']:.2f} %)"
    lines += ["", f"weights       {kept}"]
    if found["acceleration"] is not None:
        lines.append(
            f"acceleration  {found['acceleration']:.3f} on images of side {found['image_size']}, by chance "
            f"{found['acceleration_chance']:.3f} (multiplications of all convolutions over those of kernels with a "
            "weight: a count, not a time)"
        )
    if any("scores" in row for row in found["layers"]):
        lines.append("scores        their histograms are in the JSON: json=FILE")
    return "\n".join(line.rstrip() for line in lines)


def _kernel_cells(row: dict[str, Any]) -> tuple[str, str, str, str]:
    if row["kernels"] is None:
        return "-", "-", "-", "-"
    zero, expected, difference = (f"{100 * row[key]:.2f} %" for key in ("zero", "zero_chance", "zero_difference"))
    return f"{row['kernels']:,}", zero, expected, difference if difference.startswith("-") else f"+{difference}"
