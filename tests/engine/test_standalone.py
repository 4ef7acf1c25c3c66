"""Objects and headers for programs without Python: the documents' C program computes torch's logits with them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import mpt
from mpt.engine import standalone as module
from mpt.engine.code import Machine
from mpt.engine.standalone import standalone
from tests.engine.networks import with_statistics

NAMES = ['a "b\\', "*/ int", "dög", "??=", "", "\n", "6", "7", "8", "9"]
PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
PROGRAM = re.search(r"(?ms)^<!-- file: classify.c -->\n```c\n(.*?)^```$", PAGE)[1]


def ticket(*, binary=False, names=NAMES):
    backbone = mpt.backbones.conv2(width=0.1, image_size=8)
    net = mpt.convert(backbone, mpt.Biprop(prune=0.7), seed=0, binary_activations=binary, learn_batchnorm=binary)
    normalization = {"mean": [0.5, 0.4, 1 / 3], "std": [0.25, 0.2, 0.1], "x\n#error": [1.0]}
    return mpt.Ticket.from_network(with_statistics(net), class_names=names, normalization=normalization)


def build(folder, object_, header, compiler="cc"):
    (folder / "net.o").write_bytes(object_)
    (folder / "net.h").write_text(header)
    (folder / "classify.c").write_text(PROGRAM)
    words = [compiler, "-std=c99", "-Wall", "-Wextra", "-Werror", "classify.c", "net.o", "-o", "classify"]
    subprocess.run(words, cwd=folder, check=True)


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
@pytest.mark.parametrize("unroll", [pytest.param(False, marks=pytest.mark.slow), True], ids=["lists", "unrolled"])
@pytest.mark.parametrize("binary", [False, True], ids=["1/32", "1/1"])
def test_a_c_program_computes_the_logits_of_torch(tmp_path, binary, unroll):
    found, images = ticket(binary=binary), torch.randn(70, 3, 8, 8)
    build(tmp_path, *standalone(found, machine=Machine.of(), unroll=unroll))
    images.numpy().tofile(tmp_path / "images")
    done = subprocess.run(["./classify", "images", "logits"], cwd=tmp_path, capture_output=True, check=True)
    logits = np.fromfile(tmp_path / "logits", np.float32).reshape(70, 10)
    with torch.no_grad():
        wanted = mpt.to_dense(found.network())(images).numpy()
    assert abs(logits - wanted).max() <= 1e-5 * abs(wanted).max()
    assert done.stdout.decode() == "".join(f"{NAMES[i]}\n" for i in wanted.argmax(1))


def test_the_header_says_sizes_classes_and_normalization():
    text = standalone(ticket(), machine=Machine.of())[1]
    said = dict(re.findall(r"(?m)^#define MPT_(\w+) (.*)$", text))
    assert [said[name] for name in ("CHANNELS", "HEIGHT", "WIDTH", "CLASSES")] == ["3", "8", "8", "10"]
    assert said["MEAN"] == "{0.5f, 0.4f, 0.3333333333333333f}"
    assert "#error" not in text.lower()
    assert int(said["WORK_BYTES"]) > 3 * 8 * 8
    assert said["CLASS_NAMES"].startswith(r'{"a \042b\134", "*/ int", "d\303\266g", "\077\077=", "", "\012", "6"')


@pytest.mark.parametrize(
    ("target", "cpu", "start", "kind"),
    [
        ("aarch64-linux-gnu", None, b"\x7fELF\x02\x01", 183),
        ("wasm32", None, b"\x00asm\x01", None),
        pytest.param("x86_64-linux-gnu", None, b"\x7fELF\x02\x01", 62, marks=pytest.mark.slow),
        pytest.param("x86_64-unknown-linux-gnu", "x86-64-v4", b"\x7fELF\x02\x01", 62, marks=pytest.mark.slow),
        pytest.param("arm64-apple-darwin", None, b"\xcf\xfa\xed\xfe", None, marks=pytest.mark.slow),
    ],
)
def test_objects_of_other_machines_are_made_here(target, cpu, start, kind):
    made = standalone(ticket(), machine=Machine.of(target, cpu), unroll=True)[0]
    assert made.startswith(start)
    assert kind is None or int.from_bytes(made[18:20], "little") == kind  # e_machine of ELF


def test_the_machine_is_this_one_unless_another_is_named():
    assert Machine.of() == Machine.host(encoded=False)
    assert Machine.of("x86_64-linux-gnu") == Machine("x86_64-unknown-linux-gnu", "x86-64", "", 4, 13)
    assert Machine.of("x86_64-windows-msvc", "x86-64-v3").triple == "x86_64-unknown-windows-msvc"
    assert Machine.of("wasm32").word == 32


@pytest.mark.parametrize("target", ["", "mips-linux", "aarch64-nonsense", "linux", "x86_64;rm"])
def test_an_unknown_target_is_refused_in_one_sentence(target):
    with pytest.raises(ValueError, match="x86_64, aarch64, wasm32") as error:
        Machine.of(target)
    assert "\n" not in str(error.value)


def test_an_unknown_processor_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="cpu is the oldest aarch64 to run on, one of generic, got x86-64"):
        Machine.of("aarch64-linux-gnu", "x86-64")


def test_a_long_build_is_announced_before_it_starts(monkeypatch, capsys):
    monkeypatch.setattr(module, "RATE", 1)
    header = standalone(ticket(names=()), machine=Machine.of(), unroll=True)[1]
    assert "unrolling" in capsys.readouterr().err
    assert "CLASS_NAMES" not in header  # the ticket has none
