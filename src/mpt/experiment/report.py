"""The report on a ticket file as JSON holds it: of ``mpt-ticket report``, and of a run with ``report=true``."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpt.ticket import report as reports
from mpt.ticket.ticket import Ticket

BINS = 100  # of a histogram


def reported(
    path: Path, *, backbone: nn.Module | None, image: Tensor, checkpoint: Path | None, bins: int = BINS
) -> dict[str, Any]:
    """:func:`mpt.ticket.report.report` of the ticket at ``path``, each layer with a histogram of its scores.

    Args:
        path: the ticket file.
        backbone: plain network, where the ticket cannot build its own.
        image: (1, C, H, W), any values: the acceleration rate depends on its size.
        checkpoint: of the ticket's run, which has the scores; without it there are no histograms.
        bins: of a histogram.
    """
    ticket = Ticket.load(path)
    found = {"ticket": str(path)} | reports.report(ticket, ticket.network(backbone), image=image)
    if checkpoint:
        histograms = reports.score_histograms(_scores(checkpoint, ticket), bins=bins)
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
