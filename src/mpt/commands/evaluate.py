"""``mpt-eval``: the accuracy of a ticket file, or of a control for it, on images."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from mpt.commands.schemas import EvalSettings
from mpt.data import ImageData
from mpt.engine.engine import Run, compile
from mpt.experiment.build import build_backbone, check_fit
from mpt.experiment.evaluate import best_device, measurements, reestimate_batchnorm
from mpt.experiment.stored import keep_stored_data, load_for, stored_data_override
from mpt.files import write_atomically
from mpt.phases import say
from mpt.run.check import check_given
from mpt.run.compose import compose, given_keys, settings_of
from mpt.schema import printable
from mpt.ticket.controls import control
from mpt.ticket.ticket import Ticket


def evaluate(path: Path, overrides: list[str]) -> str:
    """Measure the ticket at ``path``, or a control, on test images and corrupted ones; return a table or JSON."""
    say("reading the ticket")
    ticket = Ticket.load(path)
    keys = given_keys(overrides)
    composed = compose("eval", [*stored_data_override(ticket, keys), *overrides], EvalSettings)
    keep_stored_data(ticket, composed, keys)
    settings = settings_of(composed, EvalSettings)
    check_given(settings, keys)
    check_shown("per_class", keys, json_=settings.json)
    if "seed" in keys and not settings.control:
        raise ValueError("seed draws a control: give control=, or leave seed out")
    say(f"reading the data {settings.data.name}")
    data = load_for(ticket, settings.data, progress=True)
    if settings.engine != "torch":
        _check_engine(settings)
    say("building the network")
    net, device = _network(ticket, settings, data), best_device(settings.accelerator)
    if settings.engine != "torch":
        say("compiling the ticket")
        net, device = _compiled(ticket, settings, data), torch.device("cpu")
    content = {"ticket": str(path), "control": settings.control, "seed": settings.seed, "data": data.name}
    say(f"measuring {len(data.test):,} test images")
    content |= measurements(net, data.test, data=data, batch=settings.batch, device=device)
    if settings.corruptions:
        content |= _measure_corruptions(net, Path(settings.corruptions), data, settings)
    return render(content, _table(content, per_class=settings.per_class), json_=settings.json)


def _network(ticket: Ticket, settings: EvalSettings, data: ImageData) -> nn.Module:
    """The network to measure, of the ticket or of its control, whose batch-norm is estimated again."""
    backbone = None
    if settings.model is not None:
        binary = bool(ticket.header.get("parameters", {}).get("binary_activations"))
        backbone = build_backbone(settings.model, data, width=settings.width, seed=0, binary_activations=binary)
    subject = control(ticket, settings.control, seed=settings.seed) if settings.control else ticket
    net = subject.network(backbone)
    example = torch.zeros(2, data.channels, data.image_size, data.image_size)
    check_fit(net, example, num_classes=data.num_classes, name="the ticket's network")
    if settings.control:
        say(f"estimating batch-norm on {len(data.train):,} training images")
        device = best_device(settings.accelerator)
        reestimate_batchnorm(net, data.train, data=data, batch=settings.batch, device=device)
    return net


class _Compiled(nn.Module):
    """A compiled ticket in the place of its network."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def forward(self, images: Tensor) -> Tensor:
        return self.run(images)


def _check_engine(settings: EvalSettings) -> None:
    """Raise ValueError for options that the engine does not honour."""
    if settings.control or settings.model or settings.accelerator not in ("auto", "cpu"):
        raise ValueError(
            f"engine={settings.engine} computes a ticket that builds its own backbone, on the CPU: leave out control, "
            "model and accelerator, or take engine=torch"
        )


def _compiled(ticket: Ticket, settings: EvalSettings, data: ImageData) -> nn.Module:
    """The ticket compiled by the engine that ``settings`` name."""
    return _Compiled(compile(ticket, unroll=settings.engine == "unrolled", image_size=data.image_size))


def check_shown(option: str, keys: Collection[str], *, json_: str | None) -> None:
    """Raise ValueError if ``option``, which is of the table, is given where JSON takes the place of the table."""
    if option in keys and (json_ or "").lower() == "true":
        raise ValueError(f"{option} is of the table, and json=true prints all there is instead: leave one of them out")


def render(content: dict[str, Any], table: str, *, json_: str | None) -> str:
    """The text to print: ``table``, or with ``json=true`` the JSON of ``content``; ``json=FILE`` writes it to FILE."""
    if json_ is None or json_.lower() == "false":
        return table
    text = json.dumps(content, indent=2)
    if json_.lower() == "true":
        return text
    write_atomically(json_, text + "\n")
    return f"{table}\njson      {json_}"


def _measure_corruptions(net: nn.Module, root: Path, data: ImageData, settings: EvalSettings) -> dict[str, Any]:
    """Accuracy on each corruption at each severity, and the published mean, over the 15 standard ones."""
    from mpt.data.corruptions import STANDARD, corruptions

    rows, device = [], best_device(settings.accelerator)
    for name, severity, images in corruptions(root):
        say(f"measuring {name}, severity {severity}")
        if tuple(images.pixels.shape[1:]) != (data.channels, data.image_size, data.image_size):
            raise ValueError(
                f"corruptions={root} holds images of shape {tuple(images.pixels.shape[1:])}, but the ticket takes "
                f"{(data.channels, data.image_size, data.image_size)}"
            )
        if int(images.labels.max()) >= data.num_classes:
            raise ValueError(
                f"corruptions={root} holds {int(images.labels.max()) + 1} classes, but the ticket knows "
                f"{data.num_classes}"
            )
        values = measurements(net, images, data=data, batch=settings.batch, device=device)
        rows.append(
            {"corruption": name, "severity": severity, "acc": values["acc"], "num_images": values["num_images"]}
        )
    standard = [row["acc"] for row in rows if row["corruption"] in STANDARD]
    present = {row["corruption"] for row in rows}
    return {
        "corruptions": rows,
        "corruptions_acc": fmean(standard) if standard else None,
        "corruptions_missing": [name for name in STANDARD if name not in present],
    }


def _table(content: dict[str, Any], *, per_class: bool) -> str:
    subject = f"control {content['control']}, seed {content['seed']}" if content["control"] else "ticket"
    lines = [
        f"accuracy  {100 * content['acc']:.2f} % of {content['num_images']:,} test images of {content['data']} "
        f"({subject}: {content['ticket']})"
    ]
    if content["acc_top5"] is not None:
        lines.append(f"top-5     {100 * content['acc_top5']:.2f} %")
    lines.append(f"calibration error  {100 * content['calibration_error']:.2f} % (ECE with 15 bins)")
    if per_class:
        names = [printable(row["class"]) for row in content["per_class"]]
        width = max(5, *map(len, names))
        lines += ["", f"{'class':<{width}}  accuracy  images"]
        lines += [
            f"{name:<{width}}  {_percent(row['acc']):>8}  {row['num_images']:>6,}"
            for name, row in zip(names, content["per_class"], strict=True)
        ]
    if "corruptions" in content:
        lines += ["", *_corruption_lines(content["corruptions"])]
        lines += [f"mean accuracy over the standard corruptions  {_percent(content['corruptions_acc'])}"]
        if missing := content["corruptions_missing"]:
            lines += [f"NOT included, because their files are missing: {', '.join(missing)}"]
    return "\n".join(lines)


def _corruption_lines(rows: list[dict[str, Any]]) -> list[str]:
    accs = {(row["corruption"], row["severity"]): row["acc"] for row in rows}
    names, severities = dict.fromkeys(row["corruption"] for row in rows), sorted({row["severity"] for row in rows})
    width = max(10, *(len(name) for name in names))
    lines = [f"{'corruption':<{width}}" + "".join(f"{f'severity {s}':>12}" for s in severities) + f"{'mean':>10}"]
    for name in names:
        cells = [accs.get((name, severity)) for severity in severities]
        known = [acc for acc in cells if acc is not None]
        lines.append(
            f"{name:<{width}}" + "".join(f"{_percent(acc):>12}" for acc in cells) + f"{_percent(fmean(known)):>10}"
        )
    return lines


def _percent(acc: float | None) -> str:
    return "-" if acc is None else f"{100 * acc:.2f} %"
