"""``mpt-theory``: what the theorems ask of a network, a ticket constructed from it, and the figure of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpt.analysis.drawing import NO_DATE
from mpt.analysis.plotting import check_output, save
from mpt.analysis.table import check_finished, read_runs
from mpt.commands.evaluate import render
from mpt.commands.schemas import BoundsSettings, ConstructSettings, FigureSettings
from mpt.commands.ticket import backbone_of, new_file, stand_in
from mpt.data import ImageData, Loader
from mpt.experiment.build import build_backbone
from mpt.experiment.stored import keep_stored_data, load_for, stored_data_override
from mpt.run.check import check_given
from mpt.run.compose import compose, given_keys, settings_of
from mpt.theory import curves, widths
from mpt.theory.bounds import THEOREMS, Row, radius_of, required
from mpt.theory.certificate import BATCH, bound_outputs, certified_labels
from mpt.theory.construct import Construction, build_ticket
from mpt.theory.effective import effective_layers
from mpt.ticket.check import data_settings
from mpt.ticket.report import blank, image_of
from mpt.ticket.ticket import Ticket

ABOUT = ("data", "class_names", "normalization")  # entries of the target's header that its construction keeps
PROVED = {"paper": "as published", "here": "proved in mpt", "measured": "measured, no theorem"}


def bounds(path: Path | None, overrides: list[str]) -> str:
    """What each theorem asks of the network of a dense ticket, or of ``model=``; a table or JSON."""
    settings = settings_of(compose("bounds", overrides, BoundsSettings), BoundsSettings)
    if path is None:
        channels, side = settings.in_channels or 3, settings.image_size or 32
        data = stand_in(channels, side, num_classes=settings.num_classes)
        assert settings.model is not None
        net = build_backbone(settings.model, data, width=settings.width, seed=0)
        name, radius = settings.model.name, settings.radius
    else:
        if given := sorted({"num_classes", "in_channels"} & given_keys(overrides)):
            raise ValueError(f"{given[0]} belongs to a network that model= names, and {path} has its own: leave it out")
        ticket = Ticket.load(path)
        channels, side = image_of(ticket, size=settings.image_size)
        net, name = _trained(ticket, path, backbone_of(ticket, settings, size=side)), str(path)
        low, high = input_box(ticket, channels=channels, side=side)
        radius = settings.radius or radius_of(low, high)
    rows = required(net, error=settings.error, delta=settings.delta, radius=radius, example=blank(channels, side))
    content = {"network": name, "error": settings.error, "delta": settings.delta, "radius": radius}
    content |= {"rows": [row.as_dict() for row in rows]}
    return render(content, bounds_table(rows), json_=settings.json)


def bounds_table(rows: Sequence[Row]) -> str:
    """Rows of :func:`mpt.theory.bounds.required` for people."""
    names = {key: theorem.name for key, theorem in THEOREMS.items()} | {"counting": "the same, counted exactly"}
    lines = [("theorem", "layer", "weight error", "random a weight", "needed", "hidden width", "kept", "constants")]
    before = None
    for row in rows:
        lines.append(
            (
                names[row.theorem] if row.theorem != before else "",
                row.layer,
                f"{row.accuracy:.2g}",
                _short(row.neurons),
                _short(row.needed),
                _short(row.width),
                _short(row.kept),
                PROVED[row.proved] if row.theorem != before else "",
            )
        )
        before = row.theorem
    return aligned(lines, left=(0, 1, 7))


def _short(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:,.0f}" if number < 1e6 else f"{number:.2g}"


def aligned(lines: Sequence[Sequence[str]], *, left: Sequence[int]) -> str:
    """The lines as columns, those of ``left`` to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if at in left else cell.rjust(w)
            for at, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def construct(path: Path, overrides: list[str]) -> str:
    """Build a ticket from the dense ticket at ``path`` and save it; the lines to print."""
    ticket, keys = Ticket.load(path), given_keys(overrides)
    known = "data" in keys or "name" in data_settings(ticket.header)
    composed = compose(
        "construct", [*(stored_data_override(ticket, keys) if known else []), *overrides], ConstructSettings
    )
    keep_stored_data(ticket, composed, keys)
    settings = settings_of(composed, ConstructSettings)
    check_given(settings, keys)
    if "keep" in keys and settings.form != "real":
        raise ValueError(
            f"keep chooses among subsets of real weights: give form=real, or leave keep={settings.keep} out"
        )
    if "fit" in keys and settings.fit and settings.form != "binary":
        raise ValueError(f"fit rounds the weights of form=binary: leave it out with form={settings.form}")
    out = new_file(settings.out, path, ending=".constructed.safetensors")
    channels, side = image_of(ticket)
    net = _trained(ticket, path, backbone_of(ticket, settings))
    low, high = input_box(ticket, channels=channels, side=side)
    fits = settings.form == "binary" and settings.fit > 0
    if not (settings.certify or fits) and (given := sorted(key for key in keys if key.partition(".")[0] == "data")):
        raise ValueError(f"{given[0]} names images, which certify=false without fit looks at none of: leave it out")
    data = load_for(ticket, settings.data) if known and (settings.certify or fits) else None  # before anything is built
    made = build_ticket(
        net,
        accuracy=settings.accuracy,
        form=settings.form,
        keep=settings.keep,
        delta=settings.delta,
        seed=settings.seed,
        inputs=(low, high),
        example=blank(channels, side),
        fit=_some_images(data, settings.fit) if data and fits else None,
        progress=settings.progress,
        about={key: ticket.header[key] for key in ABOUT if key in ticket.header},
    )
    labels = _certify_labels(made, data) if data and settings.certify else None
    made.ticket.save(out)
    content = {"ticket": str(out), "digest": made.ticket.digest, "num_weights": made.ticket.num_weights}
    content |= {"num_kept": made.ticket.num_kept, "labels": labels, **made.ticket.header["constructed"]}
    return render(content, _construct_table(made, out, labels), json_=settings.json)


def _some_images(data: ImageData, number: int) -> Tensor:
    """Training images, evenly spaced, as the network sees them: float32 (at most ``number``, C, H, W)."""
    places = torch.linspace(0, len(data.train) - 1, min(number, len(data.train))).round().long()
    loader = Loader(data.train.take(places), data=data, batch=BATCH, train=False)
    return torch.cat([images for images, *_ in loader])


def _certify_labels(made: Construction, data: ImageData) -> dict[str, Any] | None:
    """How many labels of the test images are certified, and the largest error of an output there."""
    if made.target.graph is None:
        return None
    built, certified, error = effective_layers(made.target, made.ticket), list[Tensor](), 0.0
    for images, *_ in Loader(data.test, data=data, batch=BATCH, train=False):
        state = bound_outputs(made.target, built, images)
        certified.append(certified_labels(state))
        error = max(error, float(state.error.max()))
    all_labels = torch.cat(certified)
    return {
        "data": data.name,
        "num_images": len(all_labels),
        "certified": float(all_labels.double().mean()),
        "output_error": error,
    }


def _construct_table(made: Construction, out: Path, labels: dict[str, Any] | None) -> str:
    ticket, proof, built = made.ticket, made.certificate, made.ticket.header["constructed"]
    target = made.target.num_weights
    form = f"{built['form']}{', ' + built['keep'] if 'keep' in built else ''}"
    lines = [
        f"form      {form}: a weight within {proof.weight_error:.4g} (asked for {built['accuracy']:g})",
        f"weights   {ticket.num_kept:,} of {ticket.num_weights:,} kept ({100 * ticket.density:.2f} %), "
        f"{ticket.num_kept / target:.2f} for each of the target's {target:,}",
    ]
    if proof.output_error is not None:
        lines.append(f"certified outputs within {proof.output_error:.4g} for all images")
    else:
        lines.append(f"certified weights alone: torch.fx cannot follow the forward ({made.target.obstacle})")
    if labels:
        lines.append(
            f"labels    {100 * labels['certified']:.1f} % of {labels['num_images']:,} test images of {labels['data']} "
            f"certified to be the target's; outputs within {labels['output_error']:.4g} there"
        )
    return "\n".join([*lines, f"ticket    {out}", f"evaluate  mpt-eval {out}"])


def _trained(ticket: Ticket, path: Path, backbone: nn.Module | None) -> nn.Module:
    """The network of a dense ticket; ValueError for a searched one."""
    if ticket.layers:
        raise ValueError(
            f"{path} is a searched ticket, whose weights are random: take a trained network, such as the ticket "
            "of mpt-train method=dense"
        )
    return ticket.network(backbone)


def input_box(ticket: Ticket, *, channels: int, side: int) -> tuple[Tensor, Tensor]:
    """The lowest and highest normalized image, (C, H, W), float64; pixels are in [0, 1] before."""
    normalization = ticket.header.get("normalization", {"mean": [0.0] * channels, "std": [1.0] * channels})
    mean, std = (torch.tensor(normalization[key], dtype=torch.float64).view(-1, 1, 1) for key in ("mean", "std"))
    shape, rounding = (channels, side, side), 2.0**-20  # images are normalized in float32
    low, high = (0 - mean) / std, (1 - mean) / std
    return (low - rounding * low.abs()).expand(shape), (high + rounding * high.abs()).expand(shape)


def figure(overrides: list[str]) -> str:
    """Draw promised and needed neurons over the accuracy; the lines to print."""
    settings = settings_of(compose("figure", overrides, FigureSettings), FigureSettings)
    kind: Any  # the module of the table
    out = Path(settings.out)
    check_output(out, tuple(NO_DATE))
    if settings.csv and not Path(settings.csv).parent.is_dir():
        raise ValueError(f"there is no folder {Path(settings.csv).parent} for csv={settings.csv}: create it first")
    if settings.csv and Path(settings.csv).is_dir():
        raise ValueError(f"csv={settings.csv} is a folder: name a file in it")
    if settings.runs and settings.table:
        raise ValueError("runs computes a table and table reads one: give runs or table, not both")
    if settings.runs:
        rows, kind = _widths(Path(settings.runs)), widths
    elif settings.table:
        kind = widths if widths.is_table(settings.table) else curves
        rows = kind.read(settings.table)
    else:
        rows, kind = curves.promised(), curves
    save(kind.draw(rows), out)
    lines = [f"figure    {out}"]
    if settings.csv:
        kind.write(rows, settings.csv)
        lines.append(f"table     {settings.csv}")
    return "\n".join(lines)


def _widths(folder: Path) -> list[dict[str, Any]]:
    """The rows of :mod:`mpt.theory.widths` for the runs of ``sweeps=theory`` in ``folder``."""
    runs = read_runs(folder)
    check_finished(runs, folder)
    rows = widths.searched(runs.rows)
    dense = next(run["run"] for run in runs.rows if run["variant"] == "dense")
    path = folder / dense / "ticket.safetensors"
    ticket = Ticket.load(path)
    channels, side = image_of(ticket)
    low, high = input_box(ticket, channels=channels, side=side)
    return rows + widths.asked(_trained(ticket, path, None), inputs=(low, high), radius=radius_of(low, high))
