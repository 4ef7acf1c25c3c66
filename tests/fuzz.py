"""Altered files, read by all that reads such files, under an audit hook: ``python -m tests.fuzz KIND COUNT SEED``.

Kinds: ``bytes`` alters bytes of ticket files, ``headers`` alters their headers and signs them again, ``runs`` alters
the files of a run's directory (``runs/result.json`` that one alone), ``cache`` those of decoded pictures. Nothing may
be imported, run, downloaded, or opened but the files in question. Each case ends well or in one sentence, within two
seconds and a gigabyte.
"""

from __future__ import annotations

import bz2
import contextlib
import copy
import io
import json
import os
import random
import resource
import struct
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

import mpt
from mpt import backbones
from mpt.analysis.details import load_rows
from mpt.analysis.table import read_runs
from mpt.commands.ticket import info
from mpt.data.decoded import decode_folder
from mpt.data.images import Files
from mpt.errors import is_mendable, sentence
from mpt.experiment.finetune import _model
from mpt.experiment.stored import keep_stored_data, stored_data_override
from mpt.files import checksum, read_sealed, write_atomically
from mpt.run.compose import compose, settings_of
from mpt.run.config import write_config
from mpt.run.result import Result, write_result
from mpt.run.settings import Settings, plain
from mpt.run.status import finished_result, status_table
from mpt.ticket import classifier as _classifier  # noqa: F401  # a ticket imports both when it needs them
from mpt.ticket import html as _html  # noqa: F401
from mpt.ticket.format import digest_of
from mpt.ticket.report import blank, report

SECONDS, BYTES = 2, 2**30
Image.init()  # else it imports its formats when the first picture is drawn
FORBIDDEN = ("import", "exec", "compile", "marshal", "pickle", "subprocess", "socket", "urllib", "ctypes", "shutil")
VALUES = (
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**19, 0.5, -0.0, 1e300, 1e-320, "", "x", "a,b", "../model/conv2"),
    *(
        "${oc.env:HOME}",
        "${now:}",
        "os.system",
        "mpt.backbones.conv6",
        "mpt.backbones.torchvision",
        "resnet18",
        "a" * 5000,
    ),
    *("\x1b[2J", "\ud800", "hf_hub:x/y", "/etc/passwd", [], {}, [1] * 3000, [[1]], {"a": {"b": {}}}, {"name": "x"}),
    *(
        {"target": "os.system", "arguments": {"command": "touch x"}},
        {"_target_": "os.system"},
        [0.5, 0.5, 0.5],
        ["a", "b"],
    ),
)
KEYS = (
    "data",
    "name",
    "root",
    "cache",
    "width",
    "hidden",
    "image_size",
    "seed",
    "prune",
    "tied",
    "signs",
    "t",
    "power",
)


class Watch:
    """Notes what the interpreter does while it is ``on``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.on, self.seen = str(folder), False, list[str]()
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.on:
            return
        if event == "compile" and "{'descr'" in str(arguments[0]):
            return  # NumPy parses the head of an array, after its digest was checked
        inside = event != "open" or isinstance(arguments[0], int) or str(arguments[0]).startswith(self.folder)
        if event.startswith(FORBIDDEN) or event in ("os.system", "os.exec", "os.fork", "os.posix_spawn") or not inside:
            self.seen.append(f"{event} {arguments}"[:300])


def tickets() -> dict[str, mpt.Ticket]:
    """Small tickets with every entry that a header may have."""
    about = {
        "data": {
            "name": "digits",
            "image_size": 8,
            "channels": 3,
            "root": "/home/x",
            "download": True,
            "val_size": 0.1,
        },
        "class_names": [str(i) for i in range(10)],
        "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        "parameters": {"width": 0.1, "binary_activations": False, "optim": {"name": "sgd"}},
        "history": [{"ticket": "0" * 32, "layers": "all", "epochs": 3}],
        "imported": {"file": "x.pth"},
        "epoch": 3,
    }
    plain = mpt.convert(backbones.conv2(width=0.1, image_size=8), mpt.Biprop(prune=0.8), seed=0)
    ones = mpt.convert(backbones.conv2(width=0.1, image_size=8), mpt.Biprop(prune=0.5), seed=1, binary_activations=True)
    real = mpt.convert(backbones.mlp(hidden=(9, 5), in_channels=3, image_size=8), mpt.EdgePopup(prune=0.5), seed=None)
    dense = mpt.convert(backbones.conv2(width=0.1, image_size=8), mpt.Dense(), seed=0)
    nets = {"plain": plain, "ones": ones, "real": real, "dense": dense}
    return {name: mpt.Ticket.from_network(net, **about) for name, net in nets.items()}


def places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """The paths of all values in nested lists and dictionaries."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = inner if len(path) < 30 else ()
    return [*([path] if path else []), *(place for key, entry in inner for place in places(entry, (*path, key)))]


def alter_json(value: dict[str, object], rng: random.Random) -> dict[str, object]:
    """A copy with one to three values replaced, removed, added, doubled or wrapped."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        *path, key = rng.choice(places(value) or [("x",)])
        inner = value
        for step in path:
            inner = inner[step]
        kind = rng.randrange(6)
        if kind == 0 and len(inner) > 1:
            del inner[key]
        elif kind == 1 and isinstance(inner, dict):
            inner[rng.choice(KEYS)] = copy.deepcopy(rng.choice(VALUES))
        elif kind == 2 and isinstance(inner, list):
            inner.append(copy.deepcopy(inner[key]))
        elif kind == 3 and isinstance(inner.get(key) if isinstance(inner, dict) else inner[key], int):
            inner[key] = inner[key] + rng.choice((-1, 1, 7, 10**6))
        elif kind == 4:
            for _ in range(rng.choice((1, 40, 900))):
                inner[key] = [inner.get(key) if isinstance(inner, dict) else inner[key]]
        else:
            inner[key] = copy.deepcopy(rng.choice(VALUES))
    return value


def alter_bytes(content: bytes, rng: random.Random) -> bytes:
    """One to three bytes flipped, removed, inserted or cut off."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(content)) if content else 0
        kind = rng.randrange(5)
        if kind <= 1 and content:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del content[at : at + rng.choice((1, 8, 100))]
        elif kind == 3:
            content[at:at] = rng.randbytes(rng.choice((1, 8, 100)))
        else:
            content[at : at + 8] = struct.pack("<Q", rng.choice((0, 2**31, 2**63, 10**6)))
    return bytes(content)


def signed(header: dict[str, object], ticket: mpt.Ticket, rng: random.Random) -> bytes:
    """A ticket file with another header and digests that match it, of format 2 or 3."""
    digest = digest_of(header, ticket.tensors)
    if rng.randrange(2):
        return save(ticket.tensors, {"ticket": json.dumps({"digest": digest, "header": header})})
    ticket.save(path := Path("whole"), format=3)
    with safe_open(path, "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    inner = json.loads(bz2.decompress(stored["header"].numpy().tobytes())) | {"header": header}
    if not rng.randrange(4):
        inner["coding"] = alter_json(inner["coding"], rng)
    stored["header"] = torch.frombuffer(bytearray(bz2.compress(json.dumps(inner).encode())), dtype=torch.uint8)
    about = {"digest": digest, "header": {"format": 3}, "stored": digest_of({}, stored)}
    return save(stored, {"ticket": json.dumps(about, sort_keys=True)})


def use_ticket(path: Path) -> None:
    """Everything that a command does with a foreign ticket before there are data."""
    ticket = mpt.Ticket.load(path)
    shown = f"{ticket!r}\n{info(path, [])}"
    assert all(line.isprintable() for line in shown.splitlines()), "printed raw"
    assert ticket._repr_html_()
    attempts = [lambda: stored_data_override(ticket, set()), lambda: _model(ticket), ticket.backbone, ticket.classifier]
    attempts += [lambda: keep_stored_data(ticket, copy.deepcopy(EVAL), set(), splits=True)]
    attempts += [lambda: report(ticket, ticket.network(), image=blank(*ticket.image_shape))]
    for attempt in attempts:
        check(attempt)


def check(function: object, *arguments: object) -> None:
    """Call ``function``; whatever it raises must be one bounded sentence for people."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(*arguments)
    except Exception as error:
        if not is_mendable(error):
            raise
        if len(sentence(error).splitlines()) > 1:
            raise RuntimeError(f"more than one line: {sentence(error)}") from error


EVAL = compose("train", ["model=conv2", "data=digits"], Settings)


def run_directory(folder: Path) -> Settings:
    """A finished run with every file that is read back; its settings."""
    from dataclasses import fields

    settings = settings_of(compose("train", ["model=conv2", "data=digits", "epochs=2"], Settings), Settings)
    directory = folder / "run"
    directory.mkdir()
    write_config(directory, plain(settings))
    (directory / "ticket.safetensors").write_bytes(b"abc")
    values = {"str": "x", "int": 3, "float": 0.5, "str | None": None, "dict[str, Any]": {}, "dict[str, str]": {}}
    content = {f.name: values[f.type] for f in fields(Result) if not f.metadata["optional"]}
    known = {"status": "done", "config": plain(settings), "ticket_checksum": checksum(directory / "ticket.safetensors")}
    write_result(directory, content | known)
    row = {"epoch": 1, "lr": 0.1, "train/loss": 0.5, "test/acc": 0.5, "ticket/gain/features.0": 0.1}
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row | {"epoch": n}) + "\n" for n in (1, 2)))
    scores = {"min": -1.0, "max": 1.0, "std": 0.5, "edges": [-1.0, 0.0, 1.0], "counts": [3, 4]}
    layers = [{"name": "features.0", "tied": None, "shape": [8, 3, 3, 3], "zero": 0.1, "scores": scores}]
    (directory / "report.json").write_text(json.dumps({"acceleration": 1.5, "layers": layers}))
    (folder / "sweep.json").write_text(json.dumps({"run": ["seed=1"], "other": []}))
    return settings


def use_runs(folder: Path, settings: Settings) -> None:
    """Everything that reads a folder of runs."""
    table = status_table(folder)
    assert all(line.isprintable() for line in table.splitlines()), "printed raw"
    assert str(read_runs(folder)).replace("\n", "").isprintable()
    for rows in ("epochs", "layers", "scores"):
        check(load_rows, folder, rows)
    check(finished_result, settings, folder / "run")


def cache_cases(rng: random.Random, folder: Path):
    """Endless cases of the decoded pictures of a folder: their description, signed again or not, and their array."""
    for place in range(6):
        (folder / "pictures").mkdir(exist_ok=True)
        color = (40 * place, 10, 200)
        Image.new("RGB", (8, 8), color).save(folder / "pictures" / f"{place}.png")
    paths = np.array([os.fsencode(path) for path in sorted((folder / "pictures").iterdir())])
    files = Files(paths, torch.zeros(6, dtype=torch.int64), side=8)

    def read() -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            images, (mean, std) = decode_folder(files, folder, "abc", cache=folder / "cache", progress=False)
        assert torch.equal(images.pixels, expected), "other pictures"
        assert len(mean) == len(std) == 3

    expected = files.read(np.arange(6)).permute(0, 3, 1, 2)
    read()
    whole = {path: path.read_bytes() for path in (folder / "cache").iterdir()}
    while True:
        path = rng.choice(sorted(whole))
        if path.suffix == ".json" and rng.randrange(2):
            content = alter_json(json.loads(read_sealed(path)), rng)
            write_atomically(path, json.dumps(content), seal=True)
        else:
            path.write_bytes(alter_bytes(whole[path], rng))
        yield f"{path.name} {path.read_bytes()[:300]!r}", read
        for path, content in whole.items():
            path.write_bytes(content)


def cases(kind: str, rng: random.Random, folder: Path):
    """Endless pairs of a case, and a function that reads it."""
    if kind == "cache":
        yield from cache_cases(rng, folder)
    if kind.startswith("runs"):
        settings = run_directory(folder)
        whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        readable = [path for path in whole if path.suffix in (".json", ".yaml", ".jsonl")]
        readable = [path for path in readable if path.name == kind.partition("/")[2] or kind == "runs"]
        while True:
            path = rng.choice(readable)
            if path.suffix == ".json" and rng.randrange(2):
                content = alter_json(json.loads(whole[path]), rng)
                content.pop("checksum", None)
                new = json.dumps(content).encode()
            else:
                new = alter_bytes(whole[path], rng)
            path.write_bytes(new)
            yield f"{path.name} {new[:3000]!r}", lambda: use_runs(folder, settings)
            path.write_bytes(whole[path])
    path, known = folder / "ticket.safetensors", tickets()
    while True:
        ticket = known[rng.choice(sorted(known))]
        if kind == "headers":
            header = alter_json(ticket.header, rng)
            path.write_bytes(signed(header, ticket, rng))
            yield repr(header)[:20_000], lambda: use_ticket(path)
        else:
            ticket.save(path, format=rng.choice((2, 3)))
            path.write_bytes(alter_bytes(path.read_bytes(), rng))
            yield "bytes", lambda: use_ticket(path)


def main(kind: str, count: str, seed: str) -> None:
    """Try ``count`` cases; print each that fails, and a last line with the number of those that were refused."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        watch, failed, slowest = Watch(Path(name)), 0, 0.0
        source = cases(kind, random.Random(int(seed)), Path(name))
        for number in range(-30, int(count)):  # the first ones import what their readers need
            sys.setrecursionlimit(20_000)
            case, use = next(source)
            sys.setrecursionlimit(1000)
            if number == 0:
                used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, -1))
            watch.on, watch.seen, start = number >= 0, [], time.process_time()
            reason = None
            try:
                check(use)
            except BaseException as error:
                reason = repr(error)
                if "-v" in sys.argv:
                    import traceback

                    watch.on = False
                    traceback.print_exc()
            watch.on, seconds = False, time.process_time() - start
            slowest = max(slowest, seconds)
            if number >= 0 and (reason or watch.seen or seconds > SECONDS):
                failed += 1
                print(f"FAILED {number}: {reason} {watch.seen[:3]} {seconds:.1f} s: {case}")
    print(f"{kind}: {failed} of {count} failed, slowest {slowest:.2f} s")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(*sys.argv[1:4])
