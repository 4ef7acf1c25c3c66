"""``mpt-ticket``: describe a ticket file, report on it, or convert a published checkpoint to a ticket file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mpt.commands.arguments import check_ending
from mpt.commands.evaluate import render
from mpt.commands.schemas import ImportSettings, ReportSettings, TicketSettings
from mpt.data import ImageData, Images
from mpt.engine.speed import LAYOUTS, measure_briefly
from mpt.experiment.build import build_backbone
from mpt.files import is_stream, write_atomically
from mpt.pages.draw import draw_ticket
from mpt.run.compose import compose, settings_of
from mpt.schema import printable
from mpt.ticket.check import FORMAT
from mpt.ticket.format import PLAIN, encode
from mpt.ticket.published import import_published, read_published
from mpt.ticket.report import blank, image_of, report_file
from mpt.ticket.ticket import Ticket


def info(path: Path, overrides: list[str]) -> str:
    """Describe the ticket at ``path``: its layers, origin, bits and history."""
    ticket = Ticket.load(path)
    header, size = ticket.header, path.stat().st_size
    method = header["method"]
    backbone = header["backbone"] or {"target": "your own backbone", "arguments": ""}
    lines = [
        str(ticket.table()),
        "",
        f"backbone  {printable(backbone['target'])} {printable(str(backbone['arguments']), 500)}",
        f"method    {printable(method['name'])}, seed {header['seed']}, prune {method['prune']:g}, "
        f"selection {printable(method.get('selection', 'layerwise'))}",
        f"weights   {ticket.num_kept:,} of {ticket.num_weights:,} kept ({100 * ticket.density:.2f} %)",
        f"file      {size:,} bytes, {8 * size / ticket.num_weights:.3f} bits per weight with everything; "
        f"entropy {ticket.entropy_bits / ticket.num_weights:.3f} bits per weight (masks, gains"
        f"{'' if ticket.weight_seed is not None else ', signs'})",
        f"float32   {4 * ticket.num_weights:,} bytes: {4 * ticket.num_weights / size:.1f} times as much",
    ]
    if "data" in header:
        name, classes = header["data"].get("name", "without a name"), header.get("class_names", ["without names"])
        lines.append(f"data      {printable(name)}, classes {', '.join(map(printable, classes))}")
    if "imported" in header:
        lines.append(f"imported  {_pairs(header['imported'])}")
    if built := header.get("constructed"):
        keys = ("form", "keep", "accuracy", "delta", "target")
        lines.append(f"built     {_pairs({key: built[key] for key in keys if key in built})}")
        if isinstance(proved := built.get("certificate"), dict):
            lines.append(f"certified {_pairs({key: proved.get(key) for key in ('weight_error', 'output_error')})}")
    for step in header.get("history", []):
        keys = ("layers", "epochs", "batch", "seed", "data")
        details = _pairs({key: step[key] for key in keys if key in step})
        lines.append(f"tuned     {details}; from ticket {printable(step['ticket'][:12])}")
    return "\n".join([*lines, f"digest    {ticket.digest}"])


def _pairs(content: dict[str, Any]) -> str:
    return ", ".join(f"{printable(key)} {printable(value)}" for key, value in content.items())


def report(path: Path, overrides: list[str]) -> str:
    """The report (:func:`mpt.ticket.report.report`) on the ticket at ``path``, as a table or as JSON."""
    ticket = Ticket.load(path)
    settings = settings_of(compose("report", overrides, ReportSettings), ReportSettings)
    if settings.checkpoint is None and any(override.startswith("bins=") for override in overrides):
        raise ValueError("bins are those of the scores in checkpoint=: name the run's last.ckpt, or leave bins out")
    if settings.checkpoint:
        _check_same_run(Path(settings.checkpoint), ticket)
    channels, size = image_of(ticket, size=settings.image_size)
    backbone = backbone_of(ticket, settings, size=size)
    content = report_file(
        ticket,
        path=path,
        backbone=backbone,
        image=blank(channels, size),
        checkpoint=Path(settings.checkpoint) if settings.checkpoint else None,
        bins=settings.bins,
    )
    if settings.speed:
        content["speed"] = measure_briefly(ticket, size=size)
    return render(content, _report_table(content, json_=settings.json), json_=settings.json)


def _check_same_run(checkpoint: Path, ticket: Ticket) -> None:
    """ValueError if the ticket next to ``checkpoint`` is another one; without a readable one nothing is known."""
    beside, other = checkpoint.parent / "ticket.safetensors", ticket.digest
    with suppress(ValueError, OSError):
        other = Ticket.load(beside).digest
    if other != ticket.digest:
        raise ValueError(f"checkpoint={checkpoint} is of another run, whose ticket is {beside}: take this ticket's")


def backbone_of(ticket: Ticket, settings: TicketSettings, *, size: int | None = None) -> nn.Module | None:
    """The plain backbone that ``settings`` names with ``model=``, for images of the ticket; None if it names none."""
    if settings.model is None:
        return None
    channels, side = image_of(ticket, size=size)
    data = stand_in(channels, side, num_classes=len(ticket.header.get("class_names", range(10))))
    return build_backbone(settings.model, data, width=settings.width, seed=0)


def draw(path: Path, overrides: list[str]) -> str:
    """Draw the ticket at ``path`` as an SVG file; the line to print."""
    ticket, out = Ticket.load(path), new_file(_out(overrides), path, ending=".svg")
    check_ending(out, ".svg")
    write_atomically(out, draw_ticket(ticket))
    return f"drawing   {out}"


def pack(path: Path, overrides: list[str]) -> str:
    """Write the ticket at ``path`` in the smallest format; the lines to print."""
    return _convert(path, overrides, format=FORMAT, ending=".packed.safetensors")


def unpack(path: Path, overrides: list[str]) -> str:
    """Write the ticket at ``path`` in format 2, for readers older than mpt 0.2; the lines to print."""
    return _convert(path, overrides, format=PLAIN, ending=".unpacked.safetensors")


def _convert(path: Path, overrides: list[str], *, format: int, ending: str) -> str:
    ticket, out = Ticket.load(path), new_file(_out(overrides), path, ending=ending)
    content = encode(ticket.header, ticket.tensors, format=format)
    if content == path.read_bytes():
        raise ValueError(f"{path} has format {format} already: there is nothing to do")
    write_atomically(out, content)
    sizes = f"{path.stat().st_size:,} -> {len(content):,}"
    return f"bytes     {sizes}, format {format}\nticket    {out}\ndigest    {ticket.digest}"


def _out(overrides: list[str]) -> str | None:
    """The value of ``out=``, the only option of these commands."""
    keys = dict(override.partition("=")[::2] for override in overrides)
    if unknown := sorted(keys.keys() - {"out"}):
        raise ValueError(f"there is no option {unknown[0]}: give the file to write with out=")
    return keys.get("out")


def new_file(out: str | None, path: Path, *, ending: str) -> Path:
    """Where to write what is made of the file at ``path``: ``out``, or its name with another ending, in this folder.

    A device or a pipe is written to as it is.

    Raises:
        ValueError: there is a file already, or no such folder.
    """
    new = Path(out or path.with_suffix(ending).name)
    if new.exists() and not is_stream(new):
        raise ValueError(f"{new} is there already: give another file with out=")
    if not new.parent.is_dir():
        raise ValueError(f"there is no folder {new.parent}: create it, or give another file with out=")
    return new


def import_(path: Path, overrides: list[str]) -> str:
    """Convert the published checkpoint at ``path`` to a ticket file; return the lines to print."""
    settings = settings_of(compose("import", overrides, ImportSettings), ImportSettings)
    if settings.model is None:
        raise ValueError("model is not set: name the network of the checkpoint, for instance model=conv4")
    out = new_file(settings.out, path, ending=".safetensors")
    published = read_published(path)
    first, last = (list(published.layers.values())[at]["weight"].shape for at in (0, -1))
    channels = settings.in_channels or int(first[1])
    data = stand_in(channels, settings.image_size, num_classes=int(last[0]))
    binary = settings.binary_activations
    backbone = build_backbone(settings.model, data, width=settings.width, seed=0, binary_activations=binary)
    parameters = {"width": settings.width, "binary_activations": binary, "learn_batchnorm": published.learn_batchnorm}
    ticket = import_published(
        published,
        backbone,
        prune=settings.prune,
        selection=settings.selection,
        binary_activations=binary,
        image=blank(channels, settings.image_size),
        parameters=parameters,
    )
    ticket.save(out)
    return (
        f"weights   {ticket.num_kept:,} of {ticket.num_weights:,} kept ({100 * ticket.density:.2f} %) "
        f"in {len(ticket.header['layers'])} layers, {ticket.header['imported']['selection']}\n"
        f"ticket    {out}\n"
        f"evaluate  mpt-eval {out} data=cifar10"
    )


def stand_in(channels: int, size: int, *, num_classes: int) -> ImageData:
    """Data with one black image, to build a backbone without reading images."""
    images = Images(blank(channels, size).byte(), torch.zeros(1, dtype=torch.long))
    names = tuple(map(str, range(num_classes)))
    return ImageData("images", images, images, names, (0.0,) * channels, (1.0,) * channels, crop=0, flip=False)


def _report_table(content: dict[str, Any], *, json_: bool | str | None) -> str:
    head = ("layer", "kernel", "density", "gain", "kernels", "zero", "by chance", "difference")
    rows = [
        (
            printable(row["name"]),
            row["kernel"] or "-",
            f"{100 * row['density']:.2f} %",
            f"{row['gain']:.4g}",
            *_kernel_cells(row),
        )
        for row in content["layers"]
    ]
    sums = [(f"all {row['kernel']}", row["kernel"], "", "", *_kernel_cells(row)) for row in content["kernel_sizes"]]
    if len(sums) > 1:
        sums.append(("all kernels", "", "", "", *_kernel_cells(content["all_kernels"])))
    table = [head, *rows, *sums]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(w) if at < 2 else cell.rjust(w) for at, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    kept = f"{content['num_kept']:,} of {content['num_weights']:,} kept ({100 * content['density']:.2f} %)"
    lines += ["", f"weights       {kept}"]
    if content["acceleration"] is not None:
        lines.append(
            f"acceleration  {content['acceleration']:.3f} on images of side {content['image_size']}, by chance "
            f"{content['acceleration_chance']:.3f} (multiplications of all convolutions divided by multiplications in "
            "kernels with a weight: a count, not a time)"
        )
    if speed := content.get("speed"):
        lines.append(f"measured      {printable(speed['refused'], 500) if 'refused' in speed else _measured(speed)}")
    if not json_ and any("scores" in row for row in content["layers"]):
        lines.append("scores        histograms are in the JSON: json=FILE")
    return "\n".join(line.rstrip() for line in lines)


def _measured(speed: dict[str, Any]) -> str:
    ms, best = speed["ms"]["lists"], min(speed["ms"][layout] for layout in LAYOUTS)
    return (
        f"{speed['ratio']['lists']:.2f} times as fast as torch, {ms:.3f} ms an image instead of {best:.3f} "
        f"(mpt.compile by lists, batch 1, one thread of {speed['machine']}, load average {speed['load_average']:g}; "
        "mpt-ticket bench measures longer)"
    )


def _kernel_cells(row: dict[str, Any]) -> tuple[str, str, str, str]:
    if row["kernels"] is None:
        return "-", "-", "-", "-"
    zero, expected, difference = (f"{100 * row[key]:.2f} %" for key in ("zero", "zero_chance", "zero_difference"))
    return f"{row['kernels']:,}", zero, expected, difference if difference.startswith("-") else f"+{difference}"
