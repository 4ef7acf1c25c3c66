from __future__ import annotations

import pytest

import mpt
from mpt.engine.to_onnx import to_onnx
from tests.commands.test_cli import refused
from tests.console import command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a ticket of conv2 for images of 8 x 8 pixels and 4 classes."""
    folder = tmp_path_factory.mktemp("tickets")
    backbone = mpt.backbones.conv2(width=0.1, image_size=8, num_classes=4)
    mpt.Ticket.from_network(mpt.convert(backbone, mpt.Biprop(prune=0.8), seed=0)).save(folder / "t.safetensors")
    return folder


def test_compile_writes_an_object_and_its_header(folder):
    out = command("ticket", "compile", "t.safetensors", "out=net.o", "target=aarch64-linux-gnu", cwd=folder)
    assert "aarch64-unknown-linux-gnu, generic" in out.stdout
    assert (folder / "net.o").read_bytes().startswith(b"\x7fELF")
    assert "#define MPT_CLASSES 4\n" in (folder / "net.h").read_text()
    assert "net.o is there already" in refused("ticket", "compile", "t.safetensors", "out=net.o", cwd=folder)


def test_export_writes_an_onnx_file_and_says_its_size(folder):
    pytest.importorskip("onnx")
    out = command("ticket", "export", "t.safetensors", "out=net.onnx", "weights=int4", cwd=folder).stdout
    assert f"net.onnx, {(folder / 'net.onnx').stat().st_size:,} bytes" in out
    assert (folder / "net.onnx").read_bytes() == to_onnx(mpt.Ticket.load(folder / "t.safetensors"), weights="int4")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compile", "t.safetensors", "target=mips"], ["target", "aarch64-linux-gnu", "got mips"]),
        (["compile", "t.safetensors", "cpu=i386"], ["cpu", "got i386"]),
        (["compile", "t.safetensors", "out=nowhere/net.o"], ["no folder nowhere"]),
        (["compile", "t.safetensors", "out=t.safetensors"], ["t.safetensors is there already"]),
        (["compile", "t.safetensors", "out=net.h"], ["net.h", "out=NAME.o"]),
        (["compile", "t.safetensors", "image_size=16"], ["classifier.0", "image_size"]),
        (["compile", "t.safetensors", "unroll=maybe"], ["unroll"]),
        (["compile", "t.safetensors", "unrol=true"], ["no option unrol"]),
        (["export", "t.safetensors", "weights=int3"], ["weights must be int8, int4, int2 or float, got int3"]),
        (["export", "t.safetensors", "out=nowhere/net.onnx"], ["no folder nowhere"]),
        (["export", "t.safetensors", "out=t.safetensors"], ["t.safetensors is there already"]),
        (["export", "t.safetensors", "target=x"], ["no option target"]),
        (["export", "nothing.safetensors"], ["nothing.safetensors"]),
    ],
)
def test_a_wrong_command_ends_with_one_sentence_and_writes_nothing(folder, arguments, words):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    output = refused("ticket", *arguments, cwd=folder)
    for word in words:
        assert word in output
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
