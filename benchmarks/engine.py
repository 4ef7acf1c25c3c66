"""Compiled tickets against everything else that runs their networks on a CPU; writes ``engine.json`` and ``ENGINE.md``.

    make bench-engine                                               what is missing, or was measured on a busy machine
    python -m benchmarks.engine --again                             all rows
    python -m benchmarks.engine --networks conv6 --prune 0.9        some rows

Tickets of random masks, seed 0, images of 32x32 pixels. Torch eager, torch.compile, onnxruntime and OpenVINO compute
the dense network, so the tickets of one network share their times: all P of a network are measured in one group, in
turn in one process (:mod:`mpt.engine.speed`). A row is written as soon as its group is measured. Rows of other
processors stay as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import mpt
from benchmarks import rivals
from benchmarks.engine_report import page
from mpt.engine.speed import circumstances, compare_speed
from mpt.files import write_atomically

NETWORKS = ("conv4", "conv6", "cifar_resnet18", "vgg_small")
ACTIVATIONS = ("1/32", "1/1")
PRUNES, BATCHES, THREADS = (0.5, 0.7, 0.8, 0.9, 0.95), (1, 64), (1, 2)
SECONDS = 8.0  # for the rounds of a group, about
FILE = Path(__file__).with_name("engine.json")
KEY = ("code", "network", "activations", "prune", "batch", "threads")  # code: the processor's name in LLVM
Row = dict[str, Any]


def ticket_of(network: str, *, activations: str, prune: float, width: float = 1.0) -> mpt.Ticket:
    """The random-mask ticket of a backbone of mpt."""
    binary = {"binary_activations": activations == "1/1"}
    net = getattr(mpt.backbones, network)(width=width, **(binary if network == "vgg_small" else {}))
    return mpt.Ticket.from_network(mpt.convert(net, mpt.Biprop(prune=prune), seed=0, **binary))


def measure(
    network: str,
    *,
    activations: str,
    prunes: list[float],
    batch: int,
    threads: int,
    seconds: float,
    folder: Path,
    width: float = 1.0,
) -> Iterator[Row]:
    """The rows of one group: a network at each P, all else equal. ``folder`` is as of :func:`rivals.make`."""
    tickets = [ticket_of(network, activations=activations, prune=prune, width=width) for prune in prunes]
    missing: dict[str, str] = {}
    make = partial(rivals.make, folder=folder, missing=missing)
    rows = compare_speed(
        *tickets, batch=batch, threads=threads, image_size=32, rivals=make, seconds=seconds * (1 + len(prunes)) / 6
    )
    for prune, ticket, row in zip(prunes, tickets, rows, strict=True):
        row["versions"] |= rivals.versions()
        about = {"network": network, "activations": activations, "prune": prune, "kept": ticket.num_kept}
        yield about | row | {"missing": missing}


def is_busy(row: Row) -> bool:
    """Whether more than the benchmark itself ran when it was measured."""
    return bool(row["load_average"] > row["cores"] + 0.5)


def key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEY)


def read(path: Path) -> dict[tuple[Any, ...], Row]:
    """The rows of an earlier benchmark."""
    return {key(row): row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}


def write(rows: dict[tuple[Any, ...], Row], path: Path) -> None:
    """The JSON file, and the page from it beside it."""
    ordered = sorted(rows.values(), key=lambda row: (row["code"], ACTIVATIONS.index(row["activations"]), key(row)))
    write_atomically(path, json.dumps({"rows": ordered}, indent=1) + "\n")
    write_atomically(path.with_name("ENGINE.md"), page(ordered))


def line(row: Row) -> str:
    """A row for people: times as fast as torch."""
    words = [
        f"{row['network']:15} {row['activations']:4} P={row['prune']:<4}",
        f"batch {row['batch']:<2} threads {row['threads']}",
    ]
    ratios = "  ".join(f"{name} {ratio:.2f}" for name, ratio in row["ratio"].items() if not name.startswith("torch c"))
    return f"{' '.join(words)}  {ratios}  (load {row['load_average']:g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--activations", nargs="*", default=ACTIVATIONS, choices=ACTIVATIONS)
    parser.add_argument("--prune", type=float, nargs="*", default=PRUNES)
    parser.add_argument("--batch", type=int, nargs="*", default=BATCHES)
    parser.add_argument("--threads", type=int, nargs="*", default=THREADS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of measuring a group of five P")
    parser.add_argument("--again", action="store_true", help="measure rows that are there, too")
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args()
    if torch.get_float32_matmul_precision() != "highest":
        raise SystemExit("torch computes float32 in a lower precision here: unset what asks for it")
    if not options.out.parent.is_dir():
        parser.error(f"there is no folder {options.out.parent} for --out")
    rows, code = read(options.out), circumstances()["code"]
    groups = [
        (n, a, b, t)
        for a in options.activations
        for n in options.networks
        for b in options.batch
        for t in options.threads
    ]
    with TemporaryDirectory() as folder:
        for i, (network, activations, batch, threads) in enumerate(groups, 1):
            cases = {(code, network, activations, prune, batch, threads): prune for prune in options.prune}
            prunes = [p for case, p in cases.items() if options.again or case not in rows or is_busy(rows[case])]
            if not prunes:
                continue
            print(f"{i} of {len(groups)}: {network} {activations}, batch {batch}, threads {threads}", file=sys.stderr)
            files = Path(folder, network, activations, str(batch))
            files.mkdir(parents=True, exist_ok=True)
            case = {"activations": activations, "batch": batch, "threads": threads, "folder": files}
            for row in measure(network, prunes=prunes, seconds=options.seconds, **case):
                rows[key(row)] = row
                print(line(row), flush=True)
            write(rows, options.out)
    print(f"wrote {options.out} and {options.out.with_name('ENGINE.md')}")


if __name__ == "__main__":
    main()
