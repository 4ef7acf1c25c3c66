"""Measure the speed of mpt as ratios: ``python -m benchmarks.bench`` prints one table and writes ``results.json``.

One process measures the alternatives in turn: A B C A B C ..., after one warm-up each. Every ratio is the median of the
ratios within the rounds, so that a drifting machine favours no alternative. All times are wall times.

    step         one training step on random 3x32x32 images: forward, cross-entropy, backward, the fused SGD
                 step of mpt-train (lr 0.1, momentum 0.9, weight decay 1e-4); freed memory is kept, as in mpt-train
        dense        the unchanged backbone with all weights trained
        biprop       the same backbone searched by Biprop(prune=0.8)
    sgd, adam    a biprop step by this optimizer, with the rates of mpt-train
        one pass     the score gradient, the step and the count for the next mask in one pass, as in mpt-train
        torch        torch's fused step, then the masks from the scores alone
    selection    a biprop step that selects weights in each layer, over the network, or by a calibrated threshold
    activations  a biprop step of MPT-1/32 and of MPT-1/1
    searches     a step of mpt's biprop, and of the same layers with the masks of others
        published    one full sort per layer and forward, as in the paper's code
        IteRand      torch.kthvalue, whose value the host waits for
        torchao      clamped scores and torch.kthvalue, as in its supermask layers
    epoch        the training part of an epoch of four batches, cropped and flipped by the same loader
        mpt-train    the second epoch of mpt-train, in float32, and in bfloat16 if the device computes in it
        bare         a bare loop over the same step, with the fused optimizer of mpt-train
        naive        a bare loop over the same search with one full sort per layer and forward, float32, contiguous in
                     memory; the others are channels-last
    search       mask, gain and ticket weight of n weights, with scores that move a little between rounds
        bytes        reads scores and weights once and writes the output once, a lower bound for every search
        whole        the same search with every threshold selected among all scores
    select       the mask of the 20 % largest of n scores that do not move, compared with torch.sort and torch.topk,
                 which do not build a mask
    subset sums  784 x 500 weights as sums of 21 numbers, shared by a row: the fewest within .01, and the closest sum
    peak memory  growth of the largest resident set by two steps, each case in its own process
    loader       one epoch of 20,000 random 3x32x32 images in batches: cropped (padding 4) and flipped, or unchanged
    start-up     an mpt-train command from start to exit: help, printed configuration, mistyped option (exit code 1)
    first step   an mpt-train command from start to the end of its first step, compared with imports of torch, lightning
    sweep        short runs in one process: the time of a run, and the time between two runs

In bfloat16 (autocast) a step has 128 images, as in float32, if the device computes in bfloat16, else 32.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from benchmarks.commands import first_step_row, startup_row, sweep_row
from benchmarks.report import heading, table
from benchmarks.row import DEVICE, Row, circumstances, in_turn
from benchmarks.searches import PRUNE
from benchmarks.steps import (
    BACKBONES,
    BATCH,
    EPOCHS,
    LONG,
    OPTIMIZERS,
    activations_row,
    epoch_row,
    memory_row,
    native_bf16,
    optimizers_row,
    profile,
    random_data,
    rivals_row,
    selections_row,
    step_row,
)
from mpt import Biprop, convert
from mpt.data import Loader
from mpt.files import write_atomically
from mpt.search.fast import threshold
from mpt.search.mask import num_kept, select
from mpt.theory import subset

PRECISIONS = ("float32", "bf16")
SCORES = (36_864, 589_824, 2_359_296)  # scores of 3x3 convolutions with 64, 256 and 512 channels
IMAGES = 20_000
VARIED = ("conv6",)  # backbones whose selections and activations are compared
MOVED = ("torchvision resnet18",)  # backbones whose optimizers are compared
RIVALS = ("conv6", "torchvision resnet18")  # backbones whose searches by others are measured


def search_row(n: int, *, rounds: int) -> Row:
    """Milliseconds to compute mask, gain and ticket weight of ``n`` weights, and to read and write as many bytes."""
    layer: Any = convert(nn.Linear(n, 1, bias=False), Biprop(prune=PRUNE)).to(DEVICE).train()
    scores, weight, out = layer.scores.data, layer.weight.data, torch.empty(1, n, device=DEVICE)
    scores.uniform_()

    def search() -> None:
        layer.ticket_weight()

    def whole() -> None:
        with mock.patch.dict(threshold._windows, clear=True):
            search()

    def move() -> None:
        scores.add_(torch.randn(1, n, device=DEVICE), alpha=1e-4)

    runs: dict[str, Callable[[], object]] = {
        "bytes": lambda: torch.add(scores, weight, out=out),
        "search": search,
        "whole": whole,
    }
    return Row(f"search of {n:,} weights", in_turn(runs, rounds=rounds, before=move), base="bytes")


def selection_row(n: int, *, rounds: int) -> Row:
    """Milliseconds to select the 20 % largest of ``n`` scores, to sort all scores, and to find the largest by topk."""
    importance, kept = torch.rand(n, device=DEVICE), num_kept(n, prune=PRUNE)
    runs: dict[str, Callable[[], object]] = {
        "sort": lambda: torch.sort(importance),
        "select": lambda: select(importance, kept=kept),
        "topk": lambda: torch.topk(importance, kept),
    }
    return Row(f"select among {n:,}", in_turn(runs, rounds=rounds), base="sort")


def subset_row(*, rows: int = 500, rounds: int) -> Row:
    """Milliseconds to find the fewest numbers within .01 of ``rows`` times 784 weights, and their closest subsets."""
    generator = np.random.default_rng(0)
    weights, numbers = generator.normal(0, 0.045, (rows, 784)), generator.uniform(-0.4, 0.4, (rows, 21))
    ones = np.ones_like(numbers)
    runs: dict[str, Callable[[], object]] = {
        "fewest": lambda: subset.fewest(weights, numbers, ones, within=0.01),
        "closest": lambda: subset.closest(weights, numbers, ones),
    }
    return Row(f"subset sums of {weights.size:,} weights", in_turn(runs, rounds=rounds), base="fewest")


def loader_row(*, rounds: int) -> Row:
    """Images per second of the training loader (crop 4, flip) and the evaluation loader, both channels-last."""
    data = random_data(IMAGES)
    make = partial(Loader, data.train, data=data, batch=BATCH, device=DEVICE, channels_last=True)
    loaders = {"train": make(train=True), "evaluate": make(train=False)}
    runs: dict[str, Callable[[], object]] = {
        name: partial(lambda loader: sum(1 for _ in loader), loader) for name, loader in loaders.items()
    }
    return Row("loader", in_turn(runs, rounds=rounds), batch=BATCH, images=IMAGES)


def step_rows(names: list[str], *, rounds: int) -> Iterator[Row]:
    """Measure the steps of all backbones; ratios of them differ by a tenth, so they get twice the rounds."""
    for precision in PRECISIONS:
        for name in names:
            if name not in LONG or precision == "float32" or native_bf16():
                yield step_row(name, precision=precision, rounds=2 * rounds)


def measure_rows(names: list[str], *, rounds: int) -> Iterator[Row]:
    """Measure all rows, one after the other. Short measurements differ by a tenth, and so get more rounds."""
    yield from step_rows(names, rounds=rounds)
    for name, kind, precision in product(MOVED, OPTIMIZERS, PRECISIONS):
        if name in names and (precision == "float32" or native_bf16()):
            yield optimizers_row(name, kind=kind, precision=precision, rounds=2 * rounds)
    for name in VARIED:
        if name in names:
            yield selections_row(name, rounds=2 * rounds)
            yield activations_row(name, rounds=rounds)
    for name in RIVALS:
        if name in names:
            yield rivals_row(name, rounds=rounds)
    for name in names:
        for precision in PRECISIONS if name in EPOCHS else ():
            if precision == "float32" or native_bf16():
                yield epoch_row(name, precision=precision, rounds=rounds)
    for n in SCORES:
        yield search_row(n, rounds=5 * rounds)
        yield selection_row(n, rounds=5 * rounds)
    yield subset_row(rounds=min(rounds, 3))
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
    parser.add_argument("--quick", action="store_true", help="one round, with conv2 as the only backbone")
    parser.add_argument("--steps", action="store_true", help="only the rows of steps, dense and searched")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"), help="file to write")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"rounds must be at least 1, got {options.rounds}")
    rounds, names = (1, ["conv2"]) if options.quick else (options.rounds, list(BACKBONES))
    torch.manual_seed(0)
    about, rows = circumstances(rounds), []
    for row in (step_rows if options.steps else measure_rows)(names, rounds=rounds):
        rows.append(row.as_json())
        print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(f"{heading(about)}\n\n{table(rows)}")
    results = about | {"rows": rows, "profile": profile("conv2" if options.quick else "conv6")}
    write_atomically(options.output, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
