"""Report on a ticket: densities, gains and zero kernels of each layer, and the multiplications that those would save.

For a convolution with ``N`` inputs (of each group), ``M`` outputs, kernels of ``k = k1 k2`` weights and measured
sparsity ``p``:

    zero kernels      kernels, of N M, in which no weight is kept
    chance            p^k, the expected fraction of zero kernels in a random mask of this sparsity
    difference        observed - chance, as fractions of the layer's kernels
    acceleration      AR = sum(N M D k) / sum(K D k)   over all convolutions, D = positions of the output map,
                      K = kernels with a kept weight; by chance, K = N M (1 - p^k)

AR is a count of multiplications, not a time. The kernels of a weight that two layers share count once, and its
multiplications twice.

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

from mpt.files import check_seal
from mpt.search.convert import plain_layers
from mpt.search.layers import frozen, kind_of
from mpt.ticket.layer import StoredLayer
from mpt.ticket.ticket import Ticket

BINS = 100  # of a histogram


def report(ticket: Ticket, net: nn.Module, *, image: Tensor) -> dict[str, Any]:
    """Densities, gains, zero kernels and acceleration rate of ``ticket``, as plain numbers.

    Args:
        ticket: one with searched layers.
        net: ``ticket.network()``.
        image: (1, C, H, W), any values: the acceleration rate depends on its size.

    Returns:
        ``layers``, a row each (``kernel`` and the keys after it are None for fully-connected layers);
        ``kernel_sizes``, sums over the layers of one kernel size; ``all_kernels``, over all layers; ``acceleration``
        and ``acceleration_chance``, None without a convolution; counts and density of the whole network.

    Raises:
        ValueError: a dense baseline.
    """
    if not ticket.layers:
        raise ValueError("a report needs a ticket with searched layers; this one is a dense baseline")
    rows = [layer_row(layer, row.gain) for layer, row in zip(ticket.layers, ticket.table().layers, strict=True)]
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
    """The content of a run's ``report.json``: :func:`report`, with a histogram of each layer's scores.

    Args:
        ticket: one with searched layers.
        path: its file, which the report names.
        backbone: plain network, where the ticket cannot build its own.
        image: (1, C, H, W), any values: the acceleration rate depends on its size.
        checkpoint: of the ticket's run, which has the scores; without it there are no histograms.
        bins: of a histogram.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: a dense baseline, or a checkpoint that is damaged or of another run.
    """
    content = {"ticket": str(path)} | report(ticket, ticket.network(backbone), image=image)
    if checkpoint:
        histograms = score_histograms(read_scores(checkpoint, ticket), bins=bins)
        for row in content["layers"]:
            row["scores"] = histograms.get(row["tied"] or row["name"])
    return content


def image_of(ticket: Ticket, *, size: int | None = None) -> tuple[int, int]:
    """Channels and side of the images that the ticket takes; ``size`` overrides the side."""
    channels, side = ticket.image_shape
    return channels, size or side


def blank(channels: int, size: int) -> Tensor:
    """A black image, (1, C, H, W)."""
    return torch.zeros(1, channels, size, size)


def read_scores(path: Path, ticket: Ticket) -> dict[str, Tensor]:
    """The scores of the ticket's layers, from the checkpoint of its run.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: it is damaged, or of another run.
    """
    try:
        check_seal(path, needed=False)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except OSError:
        raise
    except (RuntimeError, LookupError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"checkpoint={path} is damaged, or not a run's checkpoint: take the run's last.ckpt"
        ) from error
    scores = {}
    for layer in ticket.stored_layers():
        value = state.get(f"net.{layer.name}.scores")
        if value is None or tuple(value.shape) != layer.shape:
            raise ValueError(f"checkpoint={path} is of another run: it has no scores for the ticket's {layer.name}")
        scores[layer.name] = value
    return scores


def zero_kernels(mask: Tensor) -> int:
    """Number of kernels ``mask[i, j]`` that keep no weight; ``mask`` is (M, N, k1, ...), bool."""
    return int((~mask.flatten(2).any(dim=2)).sum())


def chance(sparsity: float, *, kernel: int) -> float:
    """Expected fraction of zero kernels, of ``kernel`` weights each, in a random mask of this ``sparsity``: ``p^k``."""
    return sparsity**kernel


def acceleration(layers: Iterable[tuple[float, float, float]]) -> float:
    """``sum(all * cost) / sum(left * cost)`` over (all kernels, kernels left, cost = D k) of each convolution."""
    rows = list(layers)
    return sum(kernels * cost for kernels, _, cost in rows) / sum(left * cost for _, left, cost in rows)


@torch.no_grad()
def positions(net: nn.Module, image: Tensor) -> dict[str, int]:
    """Positions at which each convolution of ``net`` computes on ``image`` (1, C, H, W), summed over its calls."""
    counts: dict[str, int] = {}

    def count(name: str, layer: nn.Module, x: Tensor, out: Tensor) -> None:
        positions_of = x if isinstance(layer, nn.modules.conv._ConvTransposeNd) else out
        counts[name] = counts.get(name, 0) + math.prod(positions_of.shape[2:])

    hooks = [
        layer.register_forward_hook(lambda module, args, out, name=name: count(name, module, args[0], out))
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
    return counts


def score_histograms(scores: dict[str, Tensor], *, bins: int) -> dict[str, dict[str, Any]]:
    """A histogram of each layer's scores: ``counts`` (bins,), ``edges`` (bins + 1,), ``min``, ``max`` and ``std``."""
    histograms = {}
    for name, values in scores.items():
        flat = values.detach().float().flatten().numpy()
        counts, edges = np.histogram(flat, bins=bins)
        histograms[name] = {
            "min": float(flat.min()),
            "max": float(flat.max()),
            "std": float(flat.std()),
            "edges": edges.tolist(),
            "counts": counts.tolist(),
        }
    return histograms


def layer_row(layer: StoredLayer, gain: float) -> dict[str, Any]:
    """The report's row of one layer; ``gain`` is the mean magnitude of its kept weights."""
    n, kernel = layer.num_weights, math.prod(layer.shape[2:])
    sparsity = 1 - layer.kept / n
    about = {
        "name": layer.name,
        "tied": layer.tied,
        "shape": list(layer.shape),
        "num_weights": n,
        "num_kept": layer.kept,
        "density": layer.kept / n,
        "gain": gain,
    }
    if len(layer.shape) < 3:
        return about | dict.fromkeys(("kernel", "kernels", "zero_kernels", "zero", "zero_chance", "zero_difference"))
    kernels, zero, expected = n // kernel, zero_kernels(layer.mask()), chance(sparsity, kernel=kernel)
    return about | {
        "kernel": "x".join(map(str, layer.shape[2:])),
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
    """(kernels, kernels left, cost, kernels left by chance) of each convolution, searched or not."""
    searched = {row["name"]: row for row in rows}
    work: list[tuple[float, float, float, float]] = []
    for name, places in computed.items():
        weight = net.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        kernels, cost = weight.shape[0] * weight.shape[1], places * math.prod(weight.shape[2:])
        row = searched.get(name, {"zero_kernels": 0, "zero_chance": 0.0})
        work.append((kernels, kernels - row["zero_kernels"], cost, kernels * (1 - row["zero_chance"])))
    return work
