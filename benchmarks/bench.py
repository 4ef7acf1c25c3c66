"""How fast mpt is, as ratios: ``python -m benchmarks.bench`` prints one table and writes ``results.json``.

Alternatives are measured in turn in one process (A B C A B C ..., after one warm-up each), and every ratio is the
median of the ratios within the rounds, so that a machine that drifts favours none of them. Wall time throughout.

    step         one training step on random 3x32x32 images: forward, cross-entropy, backward, SGD step (lr 0.1,
                 momentum 0.9, weight decay 1e-4)
        dense        the backbone as it is, all weights trained
        biprop       the same backbone searched by Biprop(prune=0.8)
    selection    a biprop step with the weights selected in each layer, over the network, and by a calibrated threshold
    activations  a biprop step of MPT-1/32 and of MPT-1/1
    epoch        the training part of an epoch, cropped and flipped by the same loader
        mpt-train    mpt-train's second epoch, with its default precision and layout
        bare         a bare loop over the same step, with the fused optimizer that mpt-train has
        naive        a bare loop over the same search with one full sort a layer and forward, float32, contiguous in
                     memory; the others are channels-last
    search       of n weights: mask, gain and ticket weight, the scores moving a little from round to round
        bytes        reads scores and weights once and writes the result once: what no search can be faster than
        whole        the same search with every threshold selected among all scores
    select       the mask of the 20 % largest of n scores that do not move; beside it torch.sort and torch.topk, which
                 make no mask yet
    peak memory  what two steps add to the largest resident set of a process of their own
    loader       one epoch of 20,000 random 3x32x32 images in batches: cropped (padding 4) and flipped, and as they are
    start-up     an mpt-train command from start to exit: help, printed configuration, mistyped option (exit code 1)
    first step   an mpt-train command from start to the end of its first step, beside the import of torch and lightning
    sweep        short runs in one process: a run, and what lies between the end of one and the start of the next

In bfloat16 (autocast) a step has 128 images like the others where the device computes in bfloat16, else 32.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from benchmarks.commands import first_step_row, startup_row, sweep_row
from benchmarks.report import heading, table
from benchmarks.row import DEVICE, Row, circumstances, in_turn
from benchmarks.steps import (
    BACKBONES,
    BATCH,
    EPOCHS,
    LONG,
    PRUNE,
    activations_row,
    epoch_row,
    memory_row,
    native_bf16,
    profile,
    random_data,
    selections_row,
    step_row,
)
from mpt import Biprop
from mpt.data import Loader
from mpt.files import write_atomically
from mpt.search.fast import threshold
from mpt.search.layers import TicketWeight
from mpt.search.mask import num_kept, select

PRECISIONS = {"float32": 2, "bf16": 1}  # -> times as many rounds of the steps that are not long
SCORES = (36_864, 589_824, 2_359_296)  # of 3x3 convolutions with 64, 256 and 512 channels
IMAGES = 20_000
VARIED = ("conv6",)  # of which selections and activations are compared


def search_row(n: int, *, rounds: int) -> Row:
    """Milliseconds to make mask, gain and ticket weight of ``n`` weights, beside reading and writing as many bytes."""
    scores, weight, out = torch.rand(n, device=DEVICE), torch.randn(n, device=DEVICE), torch.empty(n, device=DEVICE)
    method = Biprop(prune=PRUNE)
    kept = method.num_kept(n)

    def make() -> None:
        TicketWeight.apply(scores, weight, method, method.mask(scores, kept=kept))

    def whole() -> None:
        with mock.patch.dict(threshold._windows, clear=True):
            make()

    def move() -> None:
        scores.add_(torch.randn(n, device=DEVICE), alpha=1e-4)

    runs: dict[str, Callable[[], object]] = {
        "bytes": lambda: torch.add(scores, weight, out=out),
        "search": make,
        "whole": whole,
    }
    return Row(f"search of {n:,} weights", in_turn(runs, rounds=rounds, before=move), base="bytes")


def selection_row(n: int, *, rounds: int) -> Row:
    """Milliseconds to select the 20 % largest of ``n`` scores, to sort them, and to find the largest by topk."""
    importance, kept = torch.rand(n, device=DEVICE), num_kept(n, prune=PRUNE)
    runs: dict[str, Callable[[], object]] = {
        "sort": lambda: torch.sort(importance),
        "select": lambda: select(importance, kept=kept),
        "topk": lambda: torch.topk(importance, kept),
    }
    return Row(f"select among {n:,}", in_turn(runs, rounds=rounds), base="sort")


def loader_row(*, rounds: int) -> Row:
    """Images per second of the training loader (crop 4, flip) and of the evaluation loader, both channels-last."""
    data = random_data(IMAGES)
    make = partial(Loader, data.train, data=data, batch=BATCH, device=DEVICE, channels_last=True)
    loaders = {"train": make(train=True), "evaluate": make(train=False)}
    runs: dict[str, Callable[[], object]] = {
        name: partial(lambda loader: sum(1 for _ in loader), loader) for name, loader in loaders.items()
    }
    return Row("loader", in_turn(runs, rounds=rounds), batch=BATCH, images=IMAGES)


def measured_rows(names: list[str], *, rounds: int) -> Iterator[Row]:
    """All rows, one after the other; the shorter what is measured, the more rounds: single ones differ by a tenth."""
    for precision, more in PRECISIONS.items():
        for name in names:
            if name not in LONG:
                yield step_row(name, precision=precision, rounds=more * rounds)
            elif precision == "float32" or native_bf16():
                yield step_row(name, precision=precision, rounds=rounds)
    for name in VARIED:
        if name in names:
            yield selections_row(name, rounds=2 * rounds)
            yield activations_row(name, rounds=rounds)
    for name in names:
        if name in EPOCHS:
            yield epoch_row(name, rounds=rounds)
    for n in SCORES:
        yield search_row(n, rounds=5 * rounds)
        yield selection_row(n, rounds=5 * rounds)
    for name in names if DEVICE.type == "cpu" and sys.platform == "linux" else ():
        if name not in LONG:
            kinds = ("dense", "biprop", *(["1/1"] if name in VARIED else []))
            yield memory_row(name, kinds=kinds, rounds=1)
    yield loader_row(rounds=rounds)
    yield startup_row(rounds=rounds)
    yield first_step_row(rounds=rounds)
    yield sweep_row(rounds=min(rounds, 3))


def main() -> None:
    """Measure, print the table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description="How fast mpt is, as ratios.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement, 5 by default")
    parser.add_argument("--quick", action="store_true", help="one round, and of the backbones only conv2")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"), help="file to write")
    chosen = parser.parse_args()
    if chosen.rounds < 1:
        parser.error(f"rounds must be at least 1, got {chosen.rounds}")
    rounds, names = (1, ["conv2"]) if chosen.quick else (chosen.rounds, list(BACKBONES))
    torch.manual_seed(0)
    about, rows = circumstances(rounds), []
    for row in measured_rows(names, rounds=rounds):
        rows.append(row.as_json())
        print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(f"{heading(about)}\n\n{table(rows)}")
    stored = about | {"rows": rows, "profile": profile("conv2" if chosen.quick else "conv6")}
    write_atomically(chosen.output, json.dumps(stored, indent=2) + "\n")


if __name__ == "__main__":
    main()
