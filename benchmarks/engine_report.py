"""``ENGINE.md`` from the rows of :mod:`benchmarks.engine`: ``python -m benchmarks.engine_report engine.json``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpt.files import write_atomically

NAMES = {"conv4": "Conv4", "conv6": "Conv6", "cifar_resnet18": "ResNet-18", "vgg_small": "VGG-Small"}
RIVALS = ("torch.compile", "onnxruntime", "onnxruntime int8", "OpenVINO", "OpenVINO int8")
GOALS = {  # least ratio by P, at batch 1 and 64: of MPT-1/32, one thread, vectors of 16
    ("lists", "torch"): {0.7: (1.8, 1.2), 0.8: (2.6, 1.8), 0.9: (5, 3.2), 0.95: (9, 6)},
    ("unrolled", "torch"): {0.7: (2, 2.2), 0.8: (3.8, 3.5), 0.9: (8, 5.5), 0.95: (11, 8)},
    ("unrolled", "onnxruntime"): {0.7: (1.7, 1.7), 0.8: (2.8, 2.8), 0.9: (5.5, 5.5), 0.95: (7.5, 7.5)},
    ("unrolled", "onnxruntime int8"): {0.9: (1.5, 1.5), 0.95: (2, 2)},
}
THREADS_GOAL = 1.7  # times as fast with two threads at batch 64
NOTES = """\
- A time is the least of interleaved rounds in one process: processor time with one thread, wall time with two.
- Torch is float32 in the faster of its two memory layouts, contiguous or channels-last. torch.compile runs with frozen
  weights, OpenVINO in float32 where it is not int8.
- The int8 models quantise activations as well as weights, which changes their logits. A compiled ticket computes in
  float32. Instructions for int8 matrices (VNNI, AMX) help the int8 models alone.
- With binary activations and untrained batch-norm, sums of exactly 0 are ties, which float32 torch rounds to either
  sign. The engine computes them exactly, and is compared with torch in float64.
- The rows of Zen 4 are of today's engine. Those of the Intel processor are of one that asked for the code that follows
  in another way, and at P = .5 of one before it; those with vectors of 8 are older. In turn in one process, two threads
  were on the Intel processor 1.68 to 2.00 times as fast as one with MPT-1/32 (medians of 30 rounds; Conv4, Conv6 and
  ResNet-18; P = .8, .9 and .95; batch 64), and 1.56 to 1.87 times with MPT-1/1 (Conv4, Conv6).
- Zen 4 with vectors of 8, and torch held to AVX2 (`ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2`), batch 1 / 64,
  times as fast as torch by unrolled code at P = .7, .8, .9 and .95: Conv4 3.7/3.3, 5.4/4.7, 9.4/8.3 and 12.7/11.1,
  Conv6 4.2/3.0, 6.0/4.3, 10.5/8.1 and 14.5/11.3, ResNet-18 4.6/3.2, 6.4/4.5, 11.6/8.1 and 16.7/11.2; by lists from
  2.8/2.5 (Conv4, P = .7) to 11.8/8.2 (ResNet-18, P = .95).
- A batch of 64 takes the networks with binary activations some milliseconds: there two threads vary by a fifth from
  run to run.
"""
Row = dict[str, Any]
Rows = dict[tuple[Any, ...], Row]


def page(rows: list[Row]) -> str:
    """The whole page: a part for each processor, widest vectors first."""
    parts = [
        "# Compiled tickets",
        "",
        "`mpt.compile(ticket)` against other ways to run the same network on a CPU, 32x32 pixels.",
    ]
    codes = dict.fromkeys(row["code"] for row in rows)
    for code in sorted(codes, key=lambda code: -_lanes(code)):
        own = [row for row in rows if row["code"] == code]
        parts += ["", f"## {own[0]['machine']} ({code} float32)", "", *_processor(own)]
    return "\n".join([*parts, "", "## Notes", "", NOTES])


def _processor(rows: list[Row]) -> list[str]:
    """The part of one processor."""
    known: Rows = {tuple(row[k] for k in ("network", "activations", "prune", "batch", "threads")): row for row in rows}
    parts = [*_about(rows), ""]
    titles = {"torch": "torch", "onnxruntime": "onnxruntime in float32", "onnxruntime int8": "onnxruntime in int8"}
    for base, title in titles.items():
        parts += [f"### Times as fast as {title}, one thread", ""]
        parts += ["Batch 1 / batch 64. `<`: below the goal.", "", *_against(known, base), ""]
    parts += ["### The others: times as fast as torch, one thread", "", "Batch 1 / batch 64, dense networks.", ""]
    parts += [*_rivals(known), ""]
    if threads := _threads(known):
        parts += ["### Two threads", ""]
        parts += ["Wall time of a batch of 64 with one thread / with two, in turn.", "", *threads, ""]
    parts += ["### Milliseconds a picture, one thread, P = .9", "", "Batch 1 / batch 64.", ""]
    return [*parts, *_milliseconds(known)]


def _lanes(code: str) -> int:
    """Float32 in a vector of a processor: the last word of ``code``."""
    return int(code.split()[-1])


def _goals(known: Rows, engine: str, base: str) -> dict[float, tuple[float, float]]:
    """The goals by P: with vectors of 8, half of those with vectors of 16."""
    share = min(1, _lanes(next(iter(known.values()))["code"]) / 16) if known else 1
    return {prune: (a * share, b * share) for prune, (a, b) in GOALS.get((engine, base), {}).items()}


def _about(rows: list[Row]) -> list[str]:
    loads, dates = [row["load_average"] for row in rows], sorted(row["date"][:10] for row in rows)
    machines = dict.fromkeys(f"{row['machine']}, {row['cores']} cores ({row['code']} float32)" for row in rows)
    versions = {name: v for row in rows for name, v in row["versions"].items()}
    errors = {
        kind: max((e for row in rows if row["activations"] == kind for e in row["error"].values()), default=None)
        for kind in ("1/32", "1/1")
    }
    busy = " (the machine was **shared with other work**)" if max(loads) > rows[0]["cores"] + 0.5 else ""
    differences = ", ".join(f"MPT-{kind} {error:.0e}" for kind, error in errors.items() if error is not None)
    missing = {f"{name}: {why}" for row in rows for name, why in row["missing"].items()}
    return _table(
        ["", ""],
        [
            ["command", "`make bench-engine`"],
            ["machine", "; ".join(machines)],
            ["load average before a row", f"{min(loads):g} to {max(loads):g}{busy}; the benchmark itself adds 1 or 2"],
            ["date", dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"],
            ["versions", ", ".join(f"{name} {version}" for name, version in versions.items())],
            ["tickets", "random masks, seed 0"],
            ["n", f"1 run, {min(row['rounds'] for row in rows)} to {max(row['rounds'] for row in rows)} rounds"],
            ["largest difference of a logit, by the largest logit", differences],
            *([["not measured", "; ".join(sorted(missing))]] if missing else []),
        ],
    )


def _cases(known: Rows) -> list[tuple[str, str]]:
    """Network and activations of the rows, in order."""
    there = {case[:2] for case in known}
    return [(n, a) for a in ("1/32", "1/1") for n in NAMES if (n, a) in there]


def _name(network: str, activations: str) -> str:
    return NAMES[network] + (" MPT-1/1" if activations == "1/1" else "")


def _prunes(known: Rows) -> list[float]:
    return sorted({case[2] for case in known})


def _pair(known: Rows, case: tuple[Any, ...], number: Callable[[Row], float | None], threads: int = 1) -> str:
    """``batch 1 / batch 64`` of a case (network, activations, prune)."""
    cells = []
    for batch in (1, 64):
        row = known.get((*case, batch, threads))
        value = number(row) if row else None
        cells.append("-" if value is None else _short(value))
    return " / ".join(cells)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(row: Row, engine: str, base: str) -> float | None:
    """Times as fast as ``base``: the faster torch, or a rival; None where it was not measured."""
    against = row["ratio"].get("torch" if base == "torch" else base)
    if against is None:
        return None
    return float(row["ratio"][engine] if base == "torch" else row["ratio"][engine] / against)


def _against(known: Rows, base: str) -> list[str]:
    lines = []
    for engine in ("lists", "unrolled"):
        for network, activations in _cases(known):
            cells = [f"{_name(network, activations)}, {engine}"]
            for prune in _prunes(known):
                counts = activations == "1/32" and network != "vgg_small"
                goals = _goals(known, engine, base).get(prune) if counts else None
                parts = []
                for at, batch in enumerate((1, 64)):
                    row = known.get((network, activations, prune, batch, 1))
                    ratio = _ratio(row, engine, base) if row else None
                    below = "<" if ratio is not None and goals and ratio < goals[at] else ""
                    parts.append("-" if ratio is None else f"{_short(ratio)}{below}")
                cells.append(" / ".join(parts))
            lines.append(cells)
    for engine in ("lists", "unrolled"):
        if goals := _goals(known, engine, base):
            words = [" / ".join(f"{goal:g}" for goal in goals[p]) if p in goals else "" for p in _prunes(known)]
            lines.append([f"*goal, MPT-1/32, {engine}*", *words])
    return _table(["", *(f"P = {p:g}" for p in _prunes(known))], lines)


def _rivals(known: Rows) -> list[str]:
    lines = []
    for network, activations in _cases(known):
        prune = next((p for p in _prunes(known) if (network, activations, p, 1, 1) in known), None)
        case = (network, activations, prune)
        cells = [_pair(known, case, lambda row, name=name: row["ratio"].get(name)) for name in RIVALS]  # type: ignore[misc]
        lines.append([_name(network, activations), *cells])
    return _table(["", *RIVALS], lines)


def _threads(known: Rows) -> list[str]:
    lines = []
    for network, activations in _cases(known):
        for prune in _prunes(known):
            row = known.get((network, activations, prune, 64, 2))
            if row and row.get("one_thread_ms"):
                gains = [_gain(row, names) for names in (("torch", "torch channels-last"), ("lists",), ("unrolled",))]
                below = ["<" if at and gain < THREADS_GOAL else "" for at, gain in enumerate(gains)]
                cells = [f"{gain:.2f}{mark}" for gain, mark in zip(gains, below, strict=True)]
                lines.append([f"{_name(network, activations)}, P = {prune:g}", *cells])
    return _table(["", "torch", "lists", "unrolled"], lines) if lines else []


def _gain(row: Row, names: tuple[str, ...]) -> float:
    one, two = (min(row[times][name] for name in names) for times in ("one_thread_ms", "wall_ms"))
    return float(one / two)


def _milliseconds(known: Rows) -> list[str]:
    names = ("torch", "torch channels-last", *RIVALS, "lists", "unrolled")
    lines = []
    for network, activations in _cases(known):
        cells = [
            _pair(known, (network, activations, 0.9), lambda row, name=name: row["ms"].get(name)) for name in names
        ]  # type: ignore[misc]
        lines.append([_name(network, activations), *cells])
    return _table(["", *names], lines)


def _table(head: list[str], lines: list[list[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(line)} |".replace("  ", " ") for line in (head, ["---"] * len(head), *lines)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    options = parser.parse_args()
    target = options.results.with_name("ENGINE.md")
    write_atomically(target, page(json.loads(options.results.read_text())["rows"]))
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
