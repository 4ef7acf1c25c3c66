"""What a search leaves of each layer: densities, gains, kernels without a weight, and what these would save.

Of a convolution with ``N`` inputs (of each group), ``M`` outputs and kernels of ``k = k1 k2`` weights, mask ``m`` and
measured sparsity ``p``:

    zero kernels      those of the N M kernels in which no weight is kept
    chance            p^k of them: a mask of this sparsity drawn at random has as many
    difference        observed - chance, as fractions of the layer's kernels
    acceleration      AR = sum(N M D k) / sum(K D k)   over all convolutions, D = positions of the output map,
                      K = kernels with something left; by chance, K = N M (1 - p^k)

AR is a count of multiplications, not a time. A weight that two layers share has one row of kernels and computes twice.

Source: Cheng et al., "Efficient Multi-Prize Lottery Tickets", section 5, equation 4, figure 5, table 4; chance is ours.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpt.search.convert import plain_layers
from mpt.search.layers import frozen, kind_of
from mpt.ticket.ticket import Ticket

BINS = 100  # of a histogram


def report(ticket: Ticket, net: nn.Module, *, image: Tensor) -> dict[str, Any]:
    """Densities, gains, zero kernels and the acceleration rate of ``ticket``, as plain numbers.

    Args:
        ticket: one with searched layers.
        net: ``ticket.network()``.
        image: (1, C, H, W), any values: the acceleration rate depends on its size.

    Returns:
        ``layers``, a row each (``kernel`` and what follows it are None for fully-connected ones); ``kernel_sizes``, the
        same over all layers of one kernel size; ``all_kernels``, over all; ``acceleration`` and
        ``acceleration_chance``, None without a convolution; counts and density of the whole network.

    Raises:
        ValueError: a dense baseline.
    """
    if not ticket.header["layers"]:
        raise ValueError("a report needs a ticket with searched layers; this one is a dense baseline")
    gains = {row.name: row.gain for row in ticket.table().layers}
    rows = [_layer(row, ticket.mask(row["name"]), gains[row["name"]]) for row in ticket.header["layers"]]
    own = [row for row in rows if row["kernel"] and not row["tied"]]
    sizes = sorted({row["kernel"] for row in own}, key=lambda size: [int(k) for k in size.split("x")])
    computed = _work(net, rows, positions(net, image))
    return {
        "image_size": image.shape[-1],
        "num_weights": ticket.num_weights,
        "num_kept": ticket.num_kept,
        "density": ticket.density,
        "acceleration": acceleration(row[:3] for row in computed) if computed else None,
        "acceleration_chance": acceleration((row[0], row[3], row[2]) for row in computed) if computed else None,
        "all_kernels": _together(own),
        "kernel_sizes": [
            {"kernel": size, **_together([row for row in own if row["kernel"] == size])} for size in sizes
        ],
        "layers": rows,
    }


def report_file(
    ticket: Ticket, *, path: Path, backbone: nn.Module | None, image: Tensor, checkpoint: Path | None, bins: int = BINS
) -> dict[str, Any]:
    """:func:`report` on a ticket and its file, each layer with a histogram of its scores.

    Args:
        ticket: one with searched layers.
        path: its file.
        backbone: plain network, where the ticket cannot build its own.
        image: (1, C, H, W), any values: the acceleration rate depends on its size.
        checkpoint: of the ticket's run, which has the scores; without it there are no histograms.
        bins: of a histogram.
    """
    found = {"ticket": str(path)} | report(ticket, ticket.network(backbone), image=image)
    if checkpoint:
        histograms = score_histograms(_scores(checkpoint, ticket), bins=bins)
        for row in found["layers"]:
            row["scores"] = histograms.get(row["tied"] or row["name"])
    return found


def image_of(ticket: Ticket, *, size: int | None = None) -> tuple[int, int]:
    """Channels and side of the images that the ticket is for, or of side ``size``."""
    header, built = ticket.header.get("data", {}), (ticket.header["backbone"] or {}).get("arguments", {})
    channels = header.get("channels") or built.get("in_channels") or 3
    return channels, size or header.get("image_size") or built.get("image_size") or 32


def blank(channels: int, size: int) -> Tensor:
    """A black image, (1, C, H, W)."""
    return torch.zeros(1, channels, size, size)


def _scores(path: Path, ticket: Ticket) -> dict[str, Tensor]:
    """The scores of the ticket's layers in the checkpoint of its run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"checkpoint={path} is damaged, or no checkpoint of a run: take its last.ckpt") from error
    found = {}
    for row in ticket.stored_layers():
        scores = state.get(f"net.{row['name']}.scores")
        if scores is None or list(scores.shape) != row["shape"]:
            raise ValueError(f"checkpoint={path} is of another run: it has no scores for the ticket's {row['name']}")
        found[row["name"]] = scores
    return found


def zero_kernels(mask: Tensor) -> int:
    """Number of kernels ``mask[i, j]`` without a one; ``mask`` is (M, N, k1, ...), bool."""
    return int((~mask.flatten(2).any(dim=2)).sum())


def chance(sparsity: float, *, kernel: int) -> float:
    """Fraction of kernels of ``kernel`` weights that a random mask of this ``sparsity`` empties: ``p^k``."""
    return sparsity**kernel


def acceleration(layers: Iterable[tuple[float, float, float]]) -> float:
    """``sum(all * cost) / sum(left * cost)`` over (all kernels, kernels left, cost = D k) of each convolution."""
    rows = list(layers)
    return sum(kernels * cost for kernels, _, cost in rows) / sum(left * cost for _, left, cost in rows)


@torch.no_grad()
def positions(net: nn.Module, image: Tensor) -> dict[str, int]:
    """Positions at which each convolution of ``net`` computes on ``image`` (1, C, H, W), summed over its calls."""
    found: dict[str, int] = {}

    def note(name: str, layer: nn.Module, x: Tensor, out: Tensor) -> None:
        computed_on = x if isinstance(layer, nn.ConvTranspose2d) else out
        found[name] = found.get(name, 0) + math.prod(computed_on.shape[2:])

    hooks = [
        layer.register_forward_hook(lambda module, args, out, name=name: note(name, module, args[0], out))
        for name, layer in plain_layers(net).items()
        if kind_of(layer) is not nn.Linear
    ]
    try:
        with frozen(net.eval()):
            net(image)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise ValueError(
            f"image_size={image.shape[-1]} does not fit this backbone ({str(error).splitlines()[0]}): choose another"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return found


def score_histograms(scores: dict[str, Tensor], *, bins: int) -> dict[str, dict[str, Any]]:
    """Of each layer's scores ``counts`` (bins,) between ``edges`` (bins + 1,), ``min``, ``max`` and ``std``."""
    found = {}
    for name, values in scores.items():
        flat = values.detach().float().flatten().numpy()
        counts, edges = np.histogram(flat, bins=bins)
        found[name] = {
            "min": float(flat.min()),
            "max": float(flat.max()),
            "std": float(flat.std()),
            "edges": edges.tolist(),
            "counts": counts.tolist(),
        }
    return found


def _layer(row: dict[str, Any], mask: Tensor, gain: float) -> dict[str, Any]:
    n, kernel = mask.numel(), math.prod(row["shape"][2:])
    sparsity = 1 - row["kept"] / n
    about = {
        "name": row["name"],
        "tied": row.get("tied"),
        "shape": row["shape"],
        "num_weights": n,
        "num_kept": row["kept"],
        "density": row["kept"] / n,
        "gain": gain,
    }
    if len(row["shape"]) < 3:
        return about | dict.fromkeys(("kernel", "kernels", "zero_kernels", "zero", "zero_chance", "zero_difference"))
    kernels, zero, expected = n // kernel, zero_kernels(mask), chance(sparsity, kernel=kernel)
    return about | {
        "kernel": "x".join(map(str, row["shape"][2:])),
        "kernels": kernels,
        "zero_kernels": zero,
        "zero": zero / kernels,
        "zero_chance": expected,
        "zero_difference": zero / kernels - expected,
    }


def _together(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Zero kernels over several layers."""
    kernels, zero = sum(row["kernels"] for row in rows), sum(row["zero_kernels"] for row in rows)
    expected = sum(row["kernels"] * row["zero_chance"] for row in rows) / max(1, kernels)
    return {
        "kernels": kernels,
        "zero_kernels": zero,
        "zero": zero / max(1, kernels),
        "zero_chance": expected,
        "zero_difference": zero / max(1, kernels) - expected,
    }


def _work(
    net: nn.Module, rows: list[dict[str, Any]], computed: dict[str, int]
) -> list[tuple[float, float, float, float]]:
    """(kernels, kernels left, cost, kernels left by chance) of every convolution, searched or not."""
    searched = {row["name"]: row for row in rows}
    work: list[tuple[float, float, float, float]] = []
    for name, places in computed.items():
        weight = net.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        kernels, cost = weight.shape[0] * weight.shape[1], places * math.prod(weight.shape[2:])
        row = searched.get(name, {"zero_kernels": 0, "zero_chance": 0.0})
        work.append((kernels, kernels - row["zero_kernels"], cost, kernels * (1 - row["zero_chance"])))
    return work
