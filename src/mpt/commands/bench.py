"""``mpt-ticket bench``: the time of a picture in torch, compiled, and in onnxruntime if it is there, in one process."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mpt.commands.evaluate import render
from mpt.commands.schemas import BenchSettings
from mpt.engine.engine import MOST_THREADS
from mpt.engine.speed import ENGINES, LAYOUTS, Calls, compare_speed
from mpt.engine.to_onnx import to_onnx
from mpt.run.compose import compose, settings_of
from mpt.ticket.report import image_of
from mpt.ticket.ticket import Ticket
from mpt.words import count

LISTS = ("batch", "threads")  # options that take several numbers, which Hydra would read as a sweep


def bench(path: Path, overrides: list[str]) -> str:
    """Measure the ticket at ``path`` for each number of threads and each batch size; a table, or JSON."""
    ticket = Ticket.load(path)
    pairs = [override.partition("=") for override in overrides]
    quoted = [f"{key}='{value}'" if key in LISTS else key + equals + value for key, equals, value in pairs]
    settings = settings_of(compose("bench", quoted, BenchSettings), BenchSettings)
    if (asked := max(map(int, settings.threads.split(",")))) > MOST_THREADS:
        raise ValueError(f"threads must be at most {MOST_THREADS} on this machine, got {asked}")
    _, side = image_of(ticket, size=settings.image_size)
    rows = [
        row
        for threads in settings.threads.split(",")
        for batch in settings.batch.split(",")
        for row in compare_speed(
            ticket,
            batch=int(batch),
            threads=int(threads),
            image_size=side,
            engines=ENGINES if settings.unroll else ENGINES[:1],
            rivals=partial(_onnxruntime, ticket, side),
            seconds=settings.seconds,
        )
    ]
    content = {"ticket": str(path), "digest": ticket.digest, "rows": rows}
    return render(content, table(rows), json_=settings.json)


def _onnxruntime(ticket: Ticket, side: int, dense: nn.Module, images: Tensor, threads: int) -> Calls:
    """onnxruntime in float32, if it is installed (extra ``onnx``)."""
    if not (find_spec("onnxruntime") and find_spec("onnx")):
        return {}
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    content = to_onnx(ticket, weights="float", image_size=side)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return {"onnxruntime": partial(session.run, None, {"images": images.numpy()})}


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of :func:`mpt.engine.speed.compare_speed` for people, each contestant on a line."""
    lines = [("", "", "ms a picture", "x torch", "logits differ by")]
    for row in rows:
        best = min(LAYOUTS, key=lambda layout: row["ms"][layout])
        shown = [best, *(name for name in row["ms"] if name not in LAYOUTS)]
        for name in shown:
            case = f"batch {row['batch']}, {count(row['threads'], 'thread')}" if name == best else ""
            error = f"{row['error'][name]:.0e}" if name in row["error"] else ""
            lines.append((case, name, f"{row['ms'][name]:.3f}", f"{row['ratio'][name]:.2f}", error))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            f"{cell:<{w}}" if i < 2 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([*(line.rstrip() for line in text), "", *_notes(rows)])


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    first, load = rows[0], rows[0]["load_average"]  # later rows count the measurement itself
    clocks = {"cpu": "one thread: processor time", "wall": "several threads: wall time"}
    rounds = f"{min(row['rounds'] for row in rows)} rounds or more"
    words = ", ".join(text for clock, text in clocks.items() if any(row["clock"] == clock for row in rows))
    busy = f", load average {load:g}: measure on an idle machine" if load > first["cores"] / 2 else ""
    return [
        f"machine  {first['machine']}, {count(first['cores'], 'core')}; code for {first['code']}{busy}",
        f"a time   the least of {rounds} in turn ({words}); torch {first['versions']['torch']}, the faster layout",
    ]
