"""C1 to C9, the claims of Diffenderfer & Kailkhura 2021, as functions of a table; ``claims`` states the rules in words.

Each returns its verdict (None if the table cannot decide), a text with the numbers behind it, and the points.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpt.analysis.compare import (
    Gap,
    Point,
    above_chance,
    all_points,
    at,
    beats,
    duel,
    every,
    format_percents,
    gap,
    margin,
    nest,
    shrinks,
)

if TYPE_CHECKING:
    import pandas as pd

Finding = tuple[bool | None, str, list[Point]]
NET = ("model", "width")


def _depth(model: str) -> int | None:
    """Depth N of Conv-N; None for any other network."""
    match = re.fullmatch(r"conv(\d+)", str(model))
    return int(match[1]) if match else None


def layerwise_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The runs with layerwise selection and power 1, if there are any, without the runs for *Efficient MPT*."""
    for column, value in (("method.selection", "layerwise"), ("method.power", 1.0)):
        if column in table and (table[column] == value).any():
            table = table[table[column].isna() | (table[column] == value)]
    return table


def _by_depth(table: pd.DataFrame, *variants: str) -> dict[int, dict[float, tuple[Point, ...]]]:
    """Depth of Conv-N -> P -> one point per variant, at the P that all depths share.

    All points have one width: the width with the most points and, among several, the one nearest to 1.
    """
    by_variant = [at(table, (*NET, "prune"), variant=variant) for variant in variants]
    widths: dict[float, dict[int, dict[float, tuple[Point, ...]]]] = {}
    for model, width, prune in sorted(set.intersection(*map(set, by_variant))):
        if (depth := _depth(model)) is not None:
            points = tuple(points[model, width, prune] for points in by_variant)
            widths.setdefault(width, {}).setdefault(depth, {})[prune] = points
    for width, lines in widths.items():
        common = set.intersection(*map(set, lines.values()))
        widths[width] = {depth: {p: lines[depth][p] for p in lines[depth] if p in common} for depth in sorted(lines)}
    best = max(widths, key=lambda width: (sum(map(len, widths[width].values())), -abs(width - 1)), default=None)
    return {} if best is None else {depth: line for depth, line in widths[best].items() if line}


def _matches_then_drops(table: pd.DataFrame) -> Finding:
    tickets, dense = nest(at(table, (*NET, "prune"), variant="MPT-1/32")), at(table, NET, variant="dense")
    judged = {net: line for net, line in tickets.items() if net in dense and len(line) >= 3}
    if not judged:
        return None, "needs dense and MPT-1/32 at three or more P of one network", []
    if failed := [net for net in judged if not above_chance(dense[net], _data(table, net))]:
        return None, f"dense {_net(failed[0])} is not above chance: {dense[failed[0]]}, so a match proves nothing", []
    parts, ok = [], []
    for net, line in judged.items():
        matching = [p for p, point in line.items() if not beats(dense[net], point)]
        last = line[max(line)]
        dropped = beats(dense[net], last) and beats(max(line.values(), key=lambda point: point.mean), last)
        ok.append(bool(matching) and dropped)
        where = f"matches at P = {format_percents(matching)}" if matching else "matches at no P"
        drop = "drops to" if dropped else "does not drop:"
        parts.append(f"{_net(net)}: dense {dense[net]}, {where}, {drop} {last} at P = {format_percents([max(line)])}")
    return all(ok), "\n".join(parts), all_points(*judged.values())


def _deeper_prunes_further(table: pd.DataFrame) -> Finding:
    depths = {d: {p: point for p, (point,) in line.items()} for d, line in _by_depth(table, "MPT-1/32").items()}
    common = sorted(next(iter(depths.values()), {}))
    if len(depths) < 2 or len(common) < 3:
        return None, "needs MPT-1/32 in two or more Conv-N at three or more P that they share", []
    furthest = {}
    for depth, line in depths.items():
        best = max((line[p] for p in common), key=lambda point: point.mean)
        furthest[depth] = max(p for p in common if not beats(best, line[p]))
    text = ", ".join(f"conv{depth} to P = {format_percents([p])}" for depth, p in furthest.items())
    points = [line[p] for line in depths.values() for p in common]
    if min(furthest.values()) == common[-1]:
        return None, f"no network drops up to P = {format_percents(common[-1:])}, the largest that was run", points
    steps = list(furthest.values())
    return steps == sorted(steps) and steps[-1] > steps[0], f"without a loss: {text}", points


def _gap_over_depth(table: pd.DataFrame) -> Finding:
    depths = _by_depth(table, "MPT-1/32", "MPT-1/1")
    if len(depths) < 2:
        return None, "needs MPT-1/32 and MPT-1/1 in two or more Conv-N at a P that they share", []
    gaps = {depth: gap(*zip(*line.values(), strict=True)) for depth, line in depths.items()}
    text = ", ".join(f"conv{depth} {100 * depth_gap.mean:.1f}" for depth, depth_gap in gaps.items())
    low, high = (choose(gaps.values(), key=lambda depth_gap: depth_gap.mean) for choose in (min, max))
    difference, noise = high.mean - low.mean, margin(low, high)
    numbers = f"gap in points: {text}; {100 * difference:.1f} apart, seeds and test images explain {100 * noise:.1f}"
    points = [point for line in depths.values() for pair in line.values() for point in pair]
    if noise >= max(abs(low.mean), abs(high.mean)) or 0.02 < difference <= 0.02 + noise:
        return None, numbers, points
    return difference <= 0.02, numbers, points


def _grows_then_levels(table: pd.DataFrame) -> Finding:
    depths = _by_depth(table, "MPT-1/32")
    if len(depths) < 3:
        return None, "needs MPT-1/32 in three or more Conv-N at a P that they share", []
    best = [max((point for (point,) in line.values()), key=lambda point: point.mean) for line in depths.values()]
    first, last = gap(best[1:2], best[:1]), gap(best[-1:], best[-2:-1])
    text = ", ".join(f"conv{depth} {point}" for depth, point in zip(depths, best, strict=True))
    numbers = (
        f"best over shared P: {text}; first step {100 * first.mean:+.1f}, last step {100 * last.mean:+.1f} "
        f"points, of which seeds and test images explain {100 * margin(first, last):.1f}"
    )
    return every([beats(best[-1], best[0]), shrinks(first, last)]), numbers, best


def _a_fifth_of_conv8(table: pd.DataFrame) -> Finding:
    all_tickets = at(table, (*NET, "prune"), variant="MPT-1/32", model="conv8")
    tickets = {key: point for key, point in all_tickets.items() if 0.75 <= key[2] <= 0.85}
    dense = at(table, NET, variant="dense", model="conv8")
    judged = {key: point for key, point in tickets.items() if key[:2] in dense}
    if not judged:
        return None, "needs conv8 dense and as MPT-1/32 at P from .75 to .85", []
    width = min((key[1] for key in judged), key=lambda width: abs(width - 1))
    key = max((key for key in judged if key[1] == width), key=lambda key: judged[key].mean)
    text = f"MPT-1/32 {judged[key]} at P = {format_percents([key[2]])}, dense {dense[key[:2]]}, width {width:g}"
    if not above_chance(dense[key[:2]], _data(table, key)):
        return None, f"{text}: dense is not above chance, so a match proves nothing", []
    return not beats(dense[key[:2]], judged[key]), text, [judged[key], dense[key[:2]]]


def _width(table: pd.DataFrame) -> Finding:
    parts, ok, points = [], [], []
    for variant in ("MPT-1/32", "MPT-1/1"):
        for (model,), widths in _by_width(table, variant).items():
            narrow, wide = widths[min(widths)], widths[max(widths)]
            common = [p for p in narrow if p in wide]
            if len(common) < 2:
                continue
            raised = all(wide[p].mean > narrow[p].mean for p in common) and any(
                beats(wide[p], narrow[p]) for p in common
            )
            narrowly, widely = (_spread([line[p] for p in common]) for line in (narrow, wide))
            best = max((wide[p] for p in common), key=lambda point: point.mean)
            cheap = best.mean - wide[0.9].mean <= 0.03 or not beats(best, wide[0.9]) if 0.9 in wide else None
            ok.append(every([raised, shrinks(narrowly, widely), cheap]))
            points += [line[p] for line in (narrow, wide) for p in common]
            cost = f"P = 90 % costs {100 * (best.mean - wide[0.9].mean):.1f}" if 0.9 in wide else "P = 90 % was not run"
            parts.append(
                f"{model} {variant}, width {min(widths):g} to {max(widths):g}: {'raised' if raised else 'not raised'}, "
                f"lines {100 * narrowly.mean:.1f} then {100 * widely.mean:.1f} points apart (seeds "
                f"and test images explain {100 * margin(narrowly, widely):.1f}), {cost}"
            )
    return every(ok), "\n".join(parts) or "needs tickets at two or more widths and P", points


def _spread(points: list[Point]) -> Gap:
    """The gap between the best and the worst of ``points``."""
    low, *_, high = sorted(points, key=lambda point: point.mean)
    return gap([high], [low])


def _by_width(table: pd.DataFrame, variant: str) -> dict[tuple[Any, ...], dict[float, dict[float, Point]]]:
    """(model,) -> width -> P -> point, for networks with two or more widths."""
    networks: dict[tuple[Any, ...], dict[float, dict[float, Point]]] = {}
    for (model, width), line in nest(at(table, (*NET, "prune"), variant=variant)).items():
        networks.setdefault((model,), {})[width] = line
    return {key: widths for key, widths in networks.items() if len(widths) > 1}


def _gap_over_width(table: pd.DataFrame) -> Finding:
    real, binary = _by_width(table, "MPT-1/32"), _by_width(table, "MPT-1/1")
    parts, ok, points = [], [], []
    for key in [key for key in real if key in binary]:
        widths = sorted({*real[key]} & {*binary[key]})
        ends = [(real[key][width], binary[key][width]) for width in (widths[:1] + widths[-1:] if widths[1:] else [])]
        common = sorted(set.intersection(*(set(line) for pair in ends for line in pair))) if ends else []
        if not common:
            continue
        pairs = [[[line[p] for p in common] for line in pair] for pair in ends]
        before, after = (gap(*pair) for pair in pairs)
        ok.append(shrinks(before, after))
        points += [point for pair in pairs for line in pair for point in line]
        parts.append(
            f"{key[0]}: {100 * before.mean:.1f} points, width {widths[0]:g}, {100 * after.mean:.1f} at {widths[-1]:g}, "
            f"of which seeds and test images explain {100 * margin(before, after):.1f}"
        )
    return (
        every(ok),
        "\n".join(parts) or "needs MPT-1/32 and MPT-1/1 at two or more widths and a P that they share",
        points,
    )


def _biprop_or_edge_popup(table: pd.DataFrame) -> Finding:
    signed = {"method.init": "signed_constant"} if "method.init" in table else {}
    outcome = duel(
        at(table, (*NET, "prune"), variant="MPT-1/32"), at(table, (*NET, "prune"), variant="edge-popup", **signed)
    )
    if not outcome.pairs:
        return None, "needs MPT-1/32 and edge-popup (signed constant) in the same network at the same P", []
    points = [point for pair in outcome.pairs.values() for point in pair]
    return outcome.won > len(outcome.pairs) / 2 and not outcome.lost, f"biprop {outcome}", points


def _batchnorm(table: pd.DataFrame) -> Finding:
    duels = {
        v: duel(at(table, (*NET, "prune"), variant=f"{v}+BN"), at(table, (*NET, "prune"), variant=v))
        for v in ("MPT-1/32", "MPT-1/1")
    }
    duels = {variant: outcome for variant, outcome in duels.items() if outcome.pairs}
    if not duels:
        return None, "needs the same tickets with and without learn_batchnorm", []
    lines = [f"{variant}: +BN {outcome}" for variant, outcome in duels.items()]
    if "MPT-1/1" in duels:
        largest = max(a.mean - b.mean for a, b in duels["MPT-1/1"].pairs.values())
        lines.append(f"at most {100 * largest:+.1f} points in MPT-1/1")
    pairs = [pair for outcome in duels.values() for pair in outcome.pairs.values()]
    won, lost = sum(d.won for d in duels.values()), sum(d.lost for d in duels.values())
    return won >= len(pairs) / 2 and not lost, "\n".join(lines), [point for pair in pairs for point in pair]


def _data(table: pd.DataFrame, net: tuple[Any, ...]) -> str:
    """Name of the data set that the network was run on."""
    return str(table.loc[table["model"] == net[0], "data"].iloc[0]) if "data" in table else ""


def _net(net: tuple[Any, ...]) -> str:
    return f"{net[0]} at width {net[1]:g}" if len(net) > 1 else str(net[0])


RULES: dict[str, Callable[[pd.DataFrame], Finding]] = {
    "C1": _matches_then_drops,
    "C2": _deeper_prunes_further,
    "C3": _gap_over_depth,
    "C4": _grows_then_levels,
    "C5": _a_fifth_of_conv8,
    "C6": _width,
    "C7": _gap_over_width,
    "C8": _biprop_or_edge_popup,
    "C9": _batchnorm,
}
