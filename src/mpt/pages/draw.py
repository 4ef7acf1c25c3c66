"""A drawing of a ticket as one SVG file: its layers, the kernels of its first layer, the density of channel pairs."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mpt.pages.build import template
from mpt.pages.charts import NAME, short
from mpt.pages.kernels import colours, mix, tiles
from mpt.schema import printable
from mpt.ticket.facts import facts_of
from mpt.ticket.pictures import LEVELS, unpack

if TYPE_CHECKING:
    from mpt.ticket.ticket import Ticket

WIDTH, MARGIN, ROW = 760, 24, 22  # of the drawing, in pixels
SIDE = 128  # of a picture of densities, in pixels
LOW, HIGH = (18, 50, 74), (255, 233, 168)  # of the lowest and the highest density
MOST = 120  # layers that are drawn


def draw_ticket(ticket: Ticket) -> str:
    """The drawing of ``ticket``, which has searched layers.

    Raises:
        ValueError: a dense baseline.
    """
    if not ticket.layers:
        raise ValueError("a drawing needs a ticket with searched layers; this one is a dense baseline")
    facts = facts_of(ticket, checksum="")
    rows = [row | {"name": printable(row["name"], 40)} for row in facts["layers"][:MOST]]
    top = 76 + ROW * (len(rows) + 1)
    paths, bottom = _kernels(facts["first"], top + 40)
    images = list(_densities(rows, bottom + 48))
    height = (images[-1]["y"] + SIDE + 40 if images else bottom) + MARGIN
    size = max(1, ticket.num_weights)
    kept = f"{ticket.num_kept:,} of {ticket.num_weights:,} weights kept ({100 * ticket.density:.1f} %)"
    return str(
        template("ticket.svg").render(
            width=WIDTH,
            height=height,
            title=printable((ticket.header["backbone"] or {}).get("target", "your own backbone"), NAME),
            method=f"{printable(ticket.header['method']['name'], NAME)}, seed {ticket.header['seed']}",
            kept=f"{kept}, {ticket.entropy_bits / size:.3f} bits a weight",
            rows=rows,
            more=len(facts["layers"]) - len(rows),
            row_height=ROW,
            first=printable(facts["layers"][0]["name"], NAME),
            scale=short(facts["first"]["scale"]) if facts["first"] else 0,
            top=top,
            paths=paths,
            images=images,
            below=bottom,
        )
    )


def _kernels(first: dict[str, Any] | None, top: float) -> tuple[dict[str, str], float]:
    """Squares of the weights of the first layer, colour -> path, and where they end."""
    if first is None:
        return {}, top
    laid = tiles(first, width=WIDTH - 2 * MARGIN)
    shades, cell = colours(laid.values), laid.cell
    paths: dict[str, list[str]] = {}
    for place in np.ndindex(*laid.values.shape):
        left, down = laid.corner(place)
        paths.setdefault(_hex(shades[place]), []).append(f"M{MARGIN + left} {top + down}h{cell}v{cell}h-{cell}z")
    return {colour: "".join(parts) for colour, parts in paths.items()}, top + laid.height


def _densities(rows: list[dict[str, Any]], top: float) -> Iterator[dict[str, Any]]:
    """A picture for each layer with channels of its own: where it stands, its size, and its file as a URL."""
    own = [row for row in rows if row["pairs"] and not row["tied"]]
    columns = (WIDTH - 2 * MARGIN + 20) // (SIDE + 20)
    for place, row in enumerate(own):
        levels = unpack(row["pairs"], signed=False).astype(float) / LEVELS
        pixels = np.round(mix(np.array(LOW), np.array(HIGH), levels[..., None])).astype(np.uint8)
        high, wide = levels.shape
        longest = max(high, wide)
        yield {
            "x": MARGIN + (place % columns) * (SIDE + 20),
            "y": top + (place // columns) * (SIDE + 48),
            "width": max(10, SIDE * wide // longest),
            "height": max(10, SIDE * high // longest),
            "url": _as_url(pixels),
            "name": row["name"],
            "range": f"{100 * row['pairs']['low']:.3g} to {100 * row['pairs']['high']:.3g} %",
        }


def _hex(colour: np.ndarray) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def _as_url(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
