"""``mpt-ticket compile`` and ``export``: a ticket for programs without mpt, as an object file or an ONNX file."""

from __future__ import annotations

from pathlib import Path

from mpt.commands.arguments import check_ending
from mpt.commands.schemas import CompileSettings, ExportSettings
from mpt.commands.ticket import new_file
from mpt.engine.code import Machine
from mpt.engine.standalone import NAME, standalone
from mpt.engine.to_onnx import to_onnx
from mpt.files import is_stream, write_atomically
from mpt.run.compose import compose, settings_of
from mpt.ticket.ticket import Ticket


def compile_(path: Path, overrides: list[str]) -> str:
    """Write the ticket at ``path`` as an object file and a C header; return the lines to print."""
    settings = settings_of(compose("compile", overrides, CompileSettings), CompileSettings)
    if settings.out and Path(settings.out).suffix == ".h":
        raise ValueError(f"out={settings.out} is for the object, and its header goes next to it: give out=NAME.o")
    if settings.out and is_stream(Path(settings.out)):
        raise ValueError(f"out={settings.out} cannot take two files, an object and its header: give out=NAME.o")
    out = new_file(settings.out, path, ending=".o")
    check_ending(out, ".o", ".obj")
    header, ticket = new_file(str(out.with_suffix(".h")), path, ending=".h"), Ticket.load(path)
    machine = Machine.of(settings.target, settings.cpu)
    object_, text = standalone(ticket, machine=machine, unroll=settings.unroll, image_size=settings.image_size)
    write_atomically(out, object_)
    write_atomically(header, text)
    return (
        f"machine   {machine.triple}, {machine.cpu}\n"
        f"object    {out}, {len(object_):,} bytes\n"
        f"header    {header}, which says how to call {NAME}"
    )


def export(path: Path, overrides: list[str]) -> str:
    """Write the ticket at ``path`` as an ONNX file; return the lines to print."""
    settings = settings_of(compose("export", overrides, ExportSettings), ExportSettings)
    out = new_file(settings.out, path, ending=".onnx")
    check_ending(out, ".onnx")
    ticket = Ticket.load(path)
    content = to_onnx(ticket, weights=settings.weights, image_size=settings.image_size)
    write_atomically(out, content)
    bits = f"{8 * len(content) / ticket.num_weights:.2f} bits per weight with everything"
    return f"weights   {settings.weights}\nonnx      {out}, {len(content):,} bytes, {bits}"
