"""A ticket as a notebook shows it: its layer table and a picture of its first layer, as HTML without any other file.

The picture shows the ticket weights of the first searched layer, one square for each filter: white is ``+gain``, black
``-gain`` and grey pruned. A convolution of three input channels is shown in colour, each channel as one colour. A
fully-connected layer on images is shown the same way, each output as one image.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from mpt.search.table import LayerRow

MAX_FILTERS, MAX_ROWS = 128, 200
_SIDE = 32  # pixels of a filter, about


def render(title: str, rows: Sequence[LayerRow], first: Tensor | None, *, image: tuple[int, int]) -> str:
    """HTML of a ticket.

    Args:
        title: lines of plain text.
        rows: of the layer table.
        first: ticket weight of the first searched layer; None without one.
        image: channels and side of the network's images.
    """
    head = ("layer", "shape", "weights", "kept", "density", "gain", "input")
    lines = ["".join(f"<th>{cell}</th>" for cell in head)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row)) for row in rows[:MAX_ROWS]]
    if len(rows) > MAX_ROWS:
        lines.append(f'<td colspan="{len(head)}">and {len(rows) - MAX_ROWS:,} more layers</td>')
    table = "".join(f"<tr>{line}</tr>" for line in lines) if rows else ""
    picture = (
        f'<p><img alt="first layer" src="{_as_url(filters(first, image=image))}"></p>' if first is not None else ""
    )
    return f"<pre>{html.escape(title)}</pre>{picture}<table>{table}</table>"


def filters(weight: Tensor, *, image: tuple[int, int]) -> np.ndarray:
    """The first filters of a layer side by side, uint8 (height, width, 3).

    Args:
        weight: (O, I, ...), or (O, I) of a fully-connected layer.
        image: channels and side of the network's images.
    """
    channels, side = image
    pixels = weight[:MAX_FILTERS].float()
    if pixels.dim() == 2:
        whole = pixels.shape[1] == channels * side * side
        pixels = pixels.view(len(pixels), channels, side, side) if whole else pixels[None, None, :, :256]
    elif pixels.dim() != 4:
        pixels = pixels.flatten(2)[:, :, None]  # (O, I, 1, K): a line for each filter
    colours = pixels if pixels.shape[1] == 3 else pixels[:, :1].expand(-1, 3, -1, -1)
    grey = (127.5 * (1 + colours / colours.abs().max().clamp_min(1e-30))).round().byte()  # (F, 3, h, w)
    scale = max(1, _SIDE // max(grey.shape[2:]))
    tiles = grey.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3).permute(0, 2, 3, 1).numpy()
    return _grid(tiles)


def _grid(tiles: np.ndarray) -> np.ndarray:
    """Tiles (F, h, w, 3) in rows of up to 16, with white lines between them."""
    columns = min(16, len(tiles))
    rows = -(-len(tiles) // columns)
    _, height, width, _ = tiles.shape
    out = np.full((rows * (height + 2) - 2, columns * (width + 2) - 2, 3), 255, dtype=np.uint8)
    for place, tile in enumerate(tiles):
        top, left = (place // columns) * (height + 2), (place % columns) * (width + 2)
        out[top : top + height, left : left + width] = tile
    return out


def _cells(row: LayerRow) -> tuple[str, ...]:
    return (
        row.name if row.tied is None else f"{row.name} (tied to {row.tied})",
        "x".join(map(str, row.shape)),
        f"{row.num_weights:,}",
        f"{row.num_kept:,}",
        f"{100 * row.num_kept / row.num_weights:.2f} %",
        f"{row.gain:.4g}",
        "±1" if row.binary_input else "real",
    )


def _as_url(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
