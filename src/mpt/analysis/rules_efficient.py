"""E1 to E5, the claims of Cheng et al., *Efficient MPT*, as functions of a table; ``claims`` states the rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpt.analysis.compare import Point, all_points, at, beats, duel, half_spread, nest
from mpt.analysis.rules_2021 import NET, Finding

if TYPE_CHECKING:
    import pandas as pd

POWER, SELECTION = "method.power", "method.selection"
EXACT, BY_THRESHOLD = ("layerwise", "global"), ("threshold", "calibrated")


def _powers(table: pd.DataFrame, y: str) -> tuple[float, dict[Any, Point], dict[Any, Point]] | None:
    """The largest power, its points, and the points at power 1; None if one of them is missing."""
    if POWER not in table or y not in table:
        return None
    table = table[(table["variant"] == "MPT-1/32") & table[POWER].notna() & table[y].notna()]
    powers = {float(power) for power in table[POWER]}
    if 1.0 not in powers or len(powers) < 2:
        return None
    by = (*NET, SELECTION, "prune")
    plain, powered = (at(table[table[POWER] == power], by, y=y) for power in (1.0, max(powers)))
    return max(powers), powered, plain


def _power(table: pd.DataFrame) -> Finding:
    power, powered, plain = _powers(table, "test_acc") or (1.0, {}, {})
    below, above = (
        duel({key: p for key, p in powered.items() if (key[-1] < 0.5) is is_below}, plain) for is_below in (True, False)
    )
    if not below.pairs or not above.pairs:
        return None, "needs MPT-1/32 with power 1 and a larger power, at P below .5 and at P of .5 and above", []
    text = f"power {power:g} against 1\nP below .5: {below}\nP of .5 and above: {above}"
    points = [point for pairs in (below.pairs, above.pairs) for pair in pairs.values() for point in pair]
    return below.won >= len(below.pairs) / 2 and above.won < len(above.pairs) / 2, text, points


def _range_of_scores(table: pd.DataFrame) -> Finding:
    power, powered, plain = _powers(table, "report/score_range") or (1.0, {}, {})
    pairs = duel(powered, plain).pairs
    if not pairs:
        return None, "needs report.json with scores (see mpt-ticket report) for power 1 and a larger power", []
    lines = [
        f"{key[0]} at P = {100 * key[-1]:g} %: {a.mean:.3g} at power {power:g}, {b.mean:.3g} at 1"
        for key, (a, b) in pairs.items()
    ]
    return all(a.highest < b.lowest for a, b in pairs.values()), "\n".join(lines), all_points(powered, plain)


def _fine_tuning(table: pd.DataFrame) -> Finding:
    if not {"layers", "test_acc_before"} <= set(table.columns):
        return None, "needs runs of mpt-finetune with layers=last and others", []
    table, by = table[table["test_acc_before"].notna()], (*NET, "prune", "layers")
    before, best, end = (nest(at(table, by, y=y)) for y in ("test_acc_before", "test_acc_max", "test_acc"))
    judged = [net for net in best if "last" in best[net] and len(best[net]) > 1]
    parts, ok = [], []
    for net in judged:
        last = best[net]["last"]
        others = [point.mean for layers, point in best[net].items() if layers != "last"]
        ok.append(beats(last, before[net]["last"]) and last.mean >= max(others) and beats(last, end[net]["last"]))
        text = ", ".join(f"{layers} {point}, at the end {end[net][layers]}" for layers, point in best[net].items())
        parts.append(f"{net[0]} at P = {100 * net[-1]:g} %: before {before[net]['last']}, best epoch of {text}")
    needs = "needs runs of mpt-finetune with layers=last and others on one ticket"
    return (all(ok) if ok else None), "\n".join(parts) or needs, all_points(*(best[net] for net in judged))


def _thresholds(table: pd.DataFrame) -> Finding:
    by = (*NET, POWER, "hardware", "processes", "prune")
    needs = "needs the same tickets by threshold (or calibrated) and by exact selection, timed on the same hardware"
    if SELECTION not in table or "seconds_per_epoch" not in table:
        return None, needs, []
    table = table[table["variant"] == "MPT-1/32"]
    parts, ok, points = [], [], []
    for name in BY_THRESHOLD:
        for exact in EXACT:
            rows = (
                at(table, by, y=y, **{SELECTION: one})
                for y in ("seconds_per_epoch", "test_acc")
                for one in (name, exact)
            )
            time_a, time_b, acc_a, acc_b = rows
            seconds, acc = duel(time_a, time_b).pairs, duel(acc_a, acc_b)
            if not seconds:
                continue
            faster = sum(a.mean < b.mean for a, b in seconds.values())
            saved = 1 - sum(a.mean for a, _ in seconds.values()) / sum(b.mean for _, b in seconds.values())
            ok.append(faster == len(seconds) and not acc.lost)
            points += [point for pair in acc.pairs.values() for point in pair]
            parts.append(
                f"{name} against {exact}: faster in {faster} of {len(seconds)} pairs, {100 * saved:.0f} % less "
                f"time per epoch; accuracy {acc}"
            )
    return (all(ok) if ok else None), "\n".join(parts) or needs, points


def _zero_kernels(table: pd.DataFrame) -> Finding:
    columns = tuple(f"report/all_kernels/{name}" for name in ("zero", "zero_chance", "kernels"))
    if not set(columns) <= set(table.columns):
        return None, "needs a report.json for each ticket (see mpt-ticket report)", []
    table = table[table["variant"].str.startswith("MPT")].dropna(subset=list(columns))
    by = (*NET, "variant", SELECTION, POWER, "prune")
    observed, chance, kernels = (at(table, by, y=y) for y in columns)
    if not observed:
        return None, "no ticket has a report.json with convolutions", []
    lines = [
        f"{key[0]} at P = {100 * key[-1]:g} %: {point} zero, {chance[key]} by chance" for key, point in observed.items()
    ]
    above = [_beyond_chance(point, chance[key], kernels=kernels[key].mean) for key, point in observed.items()]
    return all(above), "\n".join(lines), all_points(observed)


def _beyond_chance(zero: Point, chance: Point, *, kernels: float) -> bool:
    """Whether all seeds are above chance, and the mean is by more than the half spread and two standard errors."""
    error = math.sqrt(chance.mean * (1 - chance.mean) / max(1.0, kernels))
    return zero.lowest > chance.highest and zero.mean - chance.mean > max(half_spread(zero), 2 * error)


RULES: dict[str, Callable[[pd.DataFrame], Finding]] = {
    "E1": _power,
    "E2": _range_of_scores,
    "E3": _fine_tuning,
    "E4": _thresholds,
    "E5": _zero_kernels,
}
