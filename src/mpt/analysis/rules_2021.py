"""C1 to C9, the claims of Diffenderfer & Kailkhura 2021, as functions of a table; ``claims`` says each rule in words.

Each returns what it found (None: the table cannot tell), the numbers it judged on, and the points.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mpt.analysis.compare import Point, all_points, at, beats, duel, half_spread, nested, percents

if TYPE_CHECKING:
    import pandas as pd

Found = tuple[bool | None, str, list[Point]]
NET = ("model", "width")


def _depth(model: str) -> int | None:
    """Of Conv-N; None for any other network."""
    found = re.fullmatch(r"conv(\d+)", str(model))
    return int(found[1]) if found else None


def _by_depth(table: pd.DataFrame, variant: str) -> dict[int, dict[float, Point]]:
    """Depth of Conv-N -> P -> point, at the one width with most depths and P, of those the nearest to 1."""
    found = nested(at(table, (*NET, "prune"), variant=variant))
    widths: dict[float, dict[int, dict[float, Point]]] = {}
    for (model, width), line in found.items():
        if (depth := _depth(model)) is not None:
            widths.setdefault(width, {})[depth] = line
    if not widths:
        return {}
    best = max(widths, key=lambda width: (sum(map(len, widths[width].values())), -abs(width - 1)))
    return dict(sorted(widths[best].items()))


def _matches_then_drops(table: pd.DataFrame) -> Found:
    tickets, dense = nested(at(table, (*NET, "prune"), variant="MPT-1/32")), at(table, NET, variant="dense")
    judged = {net: line for net, line in tickets.items() if net in dense and len(line) >= 3}
    if not judged:
        return None, "needs dense and MPT-1/32 at three or more P of one network", []
    parts, ok = [], []
    for net, line in judged.items():
        matching = [p for p, point in line.items() if not beats(dense[net], point)]
        last = line[max(line)]
        dropped = beats(dense[net], last) and beats(max(line.values(), key=lambda point: point.mean), last)
        ok.append(bool(matching) and dropped)
        where = f"matches at P = {percents(matching)}" if matching else "matches at no P"
        drop = "drops to" if dropped else "does not drop:"
        parts.append(f"{_net(net)}: dense {dense[net]}, {where}, {drop} {last} at P = {percents([max(line)])}")
    return all(ok), "\n".join(parts), all_points(*judged.values())


def _deeper_prunes_further(table: pd.DataFrame) -> Found:
    depths = _by_depth(table, "MPT-1/32")
    common = sorted(set.intersection(*(set(line) for line in depths.values()))) if depths else []
    if len(depths) < 2 or len(common) < 3:
        return None, "needs MPT-1/32 in two or more Conv-N at three or more P that they share", []
    furthest = {}
    for depth, line in depths.items():
        best = max((line[p] for p in common), key=lambda point: point.mean)
        furthest[depth] = max(p for p in common if not beats(best, line[p]))
    said = ", ".join(f"conv{depth} to P = {percents([p])}" for depth, p in furthest.items())
    points = [line[p] for line in depths.values() for p in common]
    if min(furthest.values()) == common[-1]:
        return None, f"no network drops up to P = {percents(common[-1:])}, the largest that was run", points
    steps = list(furthest.values())
    return steps == sorted(steps) and steps[-1] > steps[0], f"without a loss: {said}", points


def _gap(a: dict[Any, Point], b: dict[Any, Point]) -> tuple[float, float] | None:
    """Mean of a - b over the keys of both, and the mean of their half spreads; None if they share no key."""
    common = [key for key in a if key in b]
    if not common:
        return None
    return fmean(a[k].mean - b[k].mean for k in common), fmean(half_spread(a[k]) + half_spread(b[k]) for k in common)


def _gap_over_depth(table: pd.DataFrame) -> Found:
    real, binary = _by_depth(table, "MPT-1/32"), _by_depth(table, "MPT-1/1")
    gaps = {depth: gap for depth in real if depth in binary and (gap := _gap(real[depth], binary[depth]))}
    if len(gaps) < 2:
        return None, "needs MPT-1/32 and MPT-1/1 at the same P in two or more Conv-N", []
    said = ", ".join(f"conv{depth} {100 * gap:.1f}" for depth, (gap, _) in gaps.items())
    spread = max(gap for gap, _ in gaps.values()) - min(gap for gap, _ in gaps.values())
    allowed = max(0.02, *(half for _, half in gaps.values()))
    points = all_points(*(real[depth] for depth in gaps), *(binary[depth] for depth in gaps))
    return spread <= allowed, f"gap in points: {said}; they may differ by {100 * allowed:.1f}", points


def _grows_then_levels(table: pd.DataFrame) -> Found:
    best = {d: max(line.values(), key=lambda p: p.mean) for d, line in _by_depth(table, "MPT-1/32").items()}
    if len(best) < 3:
        return None, "needs MPT-1/32 in three or more Conv-N", []
    points = list(best.values())
    first, last = points[1].mean - points[0].mean, points[-1].mean - points[-2].mean
    said = ", ".join(f"conv{depth} {point}" for depth, point in best.items())
    numbers = f"best over P: {said}; first step {100 * first:+.1f}, last step {100 * last:+.1f} points"
    return beats(points[-1], points[0]) and last < first, numbers, points


def _a_fifth_of_conv8(table: pd.DataFrame) -> Found:
    found = at(table, (*NET, "prune"), variant="MPT-1/32", model="conv8")
    tickets = {key: point for key, point in found.items() if 0.75 <= key[2] <= 0.85}
    dense = at(table, NET, variant="dense", model="conv8")
    judged = {key: point for key, point in tickets.items() if key[:2] in dense}
    if not judged:
        return None, "needs conv8 dense and as MPT-1/32 at P from .75 to .85", []
    key = max(judged, key=lambda key: judged[key].mean)
    said = f"MPT-1/32 {judged[key]} at P = {percents([key[2]])}, dense {dense[key[:2]]}, width {key[1]:g}"
    return not beats(dense[key[:2]], judged[key]), said, [judged[key], dense[key[:2]]]


def _width(table: pd.DataFrame) -> Found:
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
            apart = [max(w[p].mean for p in common) - min(w[p].mean for p in common) for w in (narrow, wide)]
            best = max((wide[p] for p in common), key=lambda point: point.mean)
            cheap = 0.9 not in wide or best.mean - wide[0.9].mean <= 0.03 or not beats(best, wide[0.9])
            ok.append(raised and apart[1] < apart[0] and cheap)
            points += [line[p] for line in (narrow, wide) for p in common]
            cost = f", P = 90 % costs {100 * (best.mean - wide[0.9].mean):.1f}" if 0.9 in wide else ""
            parts.append(
                f"{model} {variant}, width {min(widths):g} to {max(widths):g}: {'raised' if raised else 'not raised'}, "
                f"the P lie {100 * apart[0]:.1f} then {100 * apart[1]:.1f} points apart{cost}"
            )
    return (all(ok) if ok else None), "\n".join(parts) or "needs tickets at two or more widths and P", points


def _by_width(table: pd.DataFrame, variant: str) -> dict[tuple[Any, ...], dict[float, dict[float, Point]]]:
    """(model,) -> width -> P -> point, of the networks with two or more widths."""
    made: dict[tuple[Any, ...], dict[float, dict[float, Point]]] = {}
    for (model, width), line in nested(at(table, (*NET, "prune"), variant=variant)).items():
        made.setdefault((model,), {})[width] = line
    return {key: widths for key, widths in made.items() if len(widths) > 1}


def _gap_over_width(table: pd.DataFrame) -> Found:
    real, binary = _by_width(table, "MPT-1/32"), _by_width(table, "MPT-1/1")
    parts, ok, points = [], [], []
    for key in [key for key in real if key in binary]:
        widths = sorted(width for width in real[key] if width in binary[key])
        gaps = [
            _gap(real[key][width], binary[key][width]) for width in (widths[:1] + widths[-1:] if widths[1:] else [])
        ]
        if len(gaps) < 2 or gaps[0] is None or gaps[1] is None:
            continue
        ok.append(gaps[0][0] - gaps[1][0] > max(gaps[0][1], gaps[1][1]))
        points += all_points(*(lines[key][width] for lines in (real, binary) for width in (widths[0], widths[-1])))
        said = f"{100 * gaps[0][0]:.1f} points at width {widths[0]:g}, {100 * gaps[1][0]:.1f} at {widths[-1]:g}"
        parts.append(f"{key[0]}: {said}")
    return (all(ok) if ok else None), "\n".join(parts) or "needs MPT-1/32 and MPT-1/1 at two or more widths", points


def _biprop_or_edge_popup(table: pd.DataFrame) -> Found:
    signed = {"method.init": "signed_constant"} if "method.init" in table else {}
    found = duel(
        at(table, (*NET, "prune"), variant="MPT-1/32"), at(table, (*NET, "prune"), variant="edge-popup", **signed)
    )
    if not found.pairs:
        return None, "needs MPT-1/32 and edge-popup (signed constant) in the same network at the same P", []
    points = [point for pair in found.pairs.values() for point in pair]
    return found.won > len(found.pairs) / 2 and not found.lost, f"biprop {found}", points


def _batchnorm(table: pd.DataFrame) -> Found:
    duels = {
        v: duel(at(table, (*NET, "prune"), variant=f"{v}+BN"), at(table, (*NET, "prune"), variant=v))
        for v in ("MPT-1/32", "MPT-1/1")
    }
    duels = {variant: found for variant, found in duels.items() if found.pairs}
    if not duels:
        return None, "needs the same tickets with and without learn_batchnorm", []
    said = [f"{variant}: +BN {found}" for variant, found in duels.items()]
    if "MPT-1/1" in duels:
        most = max(a.mean - b.mean for a, b in duels["MPT-1/1"].pairs.values())
        said.append(f"at most {100 * most:+.1f} points in MPT-1/1")
    pairs = [pair for found in duels.values() for pair in found.pairs.values()]
    won, lost = sum(d.won for d in duels.values()), sum(d.lost for d in duels.values())
    return won >= len(pairs) / 2 and not lost, "\n".join(said), [point for pair in pairs for point in pair]


def _net(net: tuple[Any, ...]) -> str:
    return f"{net[0]} at width {net[1]:g}" if len(net) > 1 else str(net[0])


RULES: dict[str, Callable[[pd.DataFrame], Found]] = {
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
