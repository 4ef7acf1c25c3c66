"""File format 3: the content of a ticket in as few bytes as it carries information.

The content is what :mod:`mpt.ticket.format` describes: a header, and tensors with packed masks and signs. The file
holds at most eight tensors. In each the layers, or the other parameters and buffers, follow one another in the header's
order:

    header    uint8     bzip2 of the JSON of ``header`` and ``coding`` (how to take the rest apart)
    masks     uint8     each range-coded or packed, whichever is shorter, see :mod:`mpt.ticket.coding`; without the
                        weights that the seed's pattern prunes or keeps, see :mod:`mpt.ticket.pattern`
    signs     uint8     packed, of layers whose signs are not the seed's; the others are drawn again from the seed
    gains     float32   one for a layer, or one for each channel
    values    float32   kept weights of form "real"
    floats integers booleans      parameters and buffers that were not searched, float32, int64 and bool

Whether the seed draws a layer's signs is checked when the file is written, for each layer. bzip2 and not zlib, because
one content must give one file and zlib has several implementations that write different bytes.
"""

from __future__ import annotations

import bz2
import json
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpt.schema import parse
from mpt.search.weight import channel_shape
from mpt.ticket.check import check_header
from mpt.ticket.coding import decode_mask, encode_mask, least_coded_bytes, pack_bits
from mpt.ticket.layer import StoredLayer
from mpt.ticket.pattern import drawn_pattern, merge, searched_mask

MAX_HEADER = 2**23  # bytes of JSON
_STATES = {"floats": torch.float32, "integers": torch.int64, "booleans": torch.bool}
_DTYPES = {
    "header": torch.uint8,
    "masks": torch.uint8,
    "signs": torch.uint8,
    "gains": torch.float32,
    "values": torch.float32,
    **_STATES,
}


def compact(header: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file of format 3 for a ticket's content."""
    parts: dict[str, list[Tensor]] = {name: [] for name in _DTYPES}
    own = [StoredLayer.from_row(row, tensors) for row in header["layers"] if "tied" not in row]
    rows, kinds = [_compact_layer(layer, header, parts) for layer in own], []
    for row in header["others"]:
        value = tensors[row["name"]]
        kinds.append(next(kind for kind, dtype in _STATES.items() if dtype == value.dtype))
        parts[kinds[-1]].append(value)
    text = json.dumps({"coding": {"layers": rows, "others": kinds}, "header": header}, sort_keys=True)
    parts["header"].append(_bytes(bz2.compress(text.encode())))
    return {name: torch.cat([value.flatten() for value in values]) for name, values in parts.items() if values}


def _compact_layer(layer: StoredLayer, header: dict[str, Any], parts: dict[str, list[Tensor]]) -> dict[str, Any]:
    """Add the tensors of one layer to ``parts``; its row of ``coding``."""
    coded, code = _encode(layer, header)
    parts["masks"].append(_bytes(coded.tobytes()))
    if layer.form == "real":
        parts["values"].append(layer.parts["values"])
        return code
    if layer.coats:
        code["coats"] = _encode_coats(layer, parts)
    parts["gains"].append(layer.gain)
    own = layer.has_seed_signs(seed=header["seed"], init=header["method"].get("init"))
    if not own:
        parts["signs"].append(layer.parts["signs"])
    axis = next((axis for axis, size in enumerate(layer.gain.shape) if size > 1), None)
    return {**code, "signs": "seed" if own else "stored", "gains": axis}


def _encode(layer: StoredLayer, header: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """The coded mask of a layer, and how to decode it; without what the header's pattern says of it."""
    searched = searched_mask(layer, header)
    if searched is not None and searched.any():
        coded = encode_mask(pack_bits(searched), n=searched.size, kept=int(searched.sum()))
        if coded.size >= least_coded_bytes(layer.num_weights):
            return coded, {"mask": coded.size, "searched": int(searched.sum())}
    coded = encode_mask(layer.parts["mask"].numpy(), n=layer.num_weights, kept=layer.kept)
    return coded, {"mask": coded.size}


def _encode_coats(layer: StoredLayer, parts: dict[str, list[Tensor]]) -> list[int]:
    """Add the masks of ``layer`` after the first to ``parts``; the bytes that each takes."""
    sizes, start = [], 0
    for before, kept in layer.planes():
        packed = layer.parts["coats"].numpy()[start : start + (before + 7) // 8]
        coded = encode_mask(packed, n=before, kept=kept)
        parts["masks"].append(_bytes(coded.tobytes()))
        sizes.append(coded.size)
        start += packed.size
    return sizes


def _decode_coats(row: dict[str, Any], code: dict[str, Any], reader: _Reader) -> Tensor:
    """The part ``coats`` of a layer."""
    counts = (row["kept"], *row["coats"])
    planes = [
        decode_mask(reader.take("masks", size).numpy(), n=before, kept=kept)
        for size, before, kept in zip(code["coats"], counts[:-1], counts[1:], strict=True)
    ]
    return torch.from_numpy(np.concatenate(planes))


def _decode(row: dict[str, Any], code: dict[str, Any], header: dict[str, Any], reader: _Reader) -> np.ndarray:
    """The packed mask of a layer."""
    n, coded = math.prod(row["shape"]), reader.take("masks", code["mask"]).numpy()
    if "searched" not in code:
        return decode_mask(coded, n=n, kept=row["kept"])
    if coded.size < least_coded_bytes(n):
        raise ValueError(f"{coded.size} bytes cannot be the mask of {n} weights")
    pattern, kept = drawn_pattern(header, layer=row["name"], shape=row["shape"]), code["searched"]
    searched = 0 if pattern is None else int(np.count_nonzero(pattern == 0))
    if pattern is None or not isinstance(kept, int) or not 0 < kept <= searched:
        raise ValueError(f"the mask of {row['name']} leaves out a pattern that the header does not have")
    return merge(decode_mask(coded, n=searched, kept=kept), pattern)


def expand(stored: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of the content, from the tensors of a file of format 3.

    The result has passed :func:`mpt.ticket.check.check_header`; nothing larger than the file allows is allocated.

    Raises:
        ValueError: what does not fit, in one clause.
        KeyError, TypeError: the entries of ``coding`` are not those that :func:`compact` writes.
    """
    for name, tensor in stored.items():
        if name not in _DTYPES or tensor.dtype != _DTYPES[name] or tensor.dim() != 1:
            raise ValueError(f"it holds a tensor that format 3 does not have ({name[:100]!r}, {tensor.dtype})")
    header, coding = _header(stored)
    check_header(header)
    reader = _Reader(stored)
    tensors: dict[str, Tensor] = {}
    own = [row for row in header["layers"] if "tied" not in row]
    for row, code in zip(own, coding["layers"], strict=True):
        parts = _expand_layer(row, code, header, reader)
        tensors |= {f"{row['name']}.{part}": value for part, value in parts.items()}
    for row, kind in zip(header["others"], coding["others"], strict=True):
        if kind not in _STATES:
            raise ValueError(f"its parameter or buffer {row['name']} is of no known kind")
        tensors[row["name"]] = reader.take(kind, math.prod(row["shape"])).view(row["shape"])
    reader.end()
    return header, tensors


def _header(stored: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    if "header" not in stored:
        raise ValueError("it has no header")
    decompressor = bz2.BZ2Decompressor()
    try:
        text = decompressor.decompress(stored["header"].numpy().tobytes(), MAX_HEADER)
    except (OSError, EOFError) as error:
        raise ValueError("its header cannot be decompressed") from error
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError(f"its header is truncated, has bytes behind its end or takes more than {MAX_HEADER} bytes")
    content = parse(text)
    return dict(content["header"]), dict(content["coding"])


def _expand_layer(
    row: dict[str, Any], code: dict[str, Any], header: dict[str, Any], reader: _Reader
) -> dict[str, Tensor]:
    """The parts of one layer, with packed mask and signs."""
    kept = row["kept"]
    parts = {"mask": torch.from_numpy(_decode(row, code, header, reader))}
    if row["form"] == "real":
        return parts | {"values": reader.take("values", kept)}
    if row["form"] == "coated":
        parts["coats"] = _decode_coats(row, code, reader)
    axis = code["gains"]
    gains = () if axis is None else channel_shape(row["shape"], axis)
    parts["gain"] = reader.take("gains", math.prod(gains)).view(gains)
    if code["signs"] == "stored":
        return parts | {"signs": reader.take("signs", (kept + 7) // 8)}
    seed, init = header["seed"], header["method"].get("init")
    if code["signs"] != "seed" or seed is None or init is None:
        raise ValueError(f"the signs of {row['name']} are neither in the file nor a seed's")
    shape, binary_input = tuple(row["shape"]), bool(row.get("binary_input"))
    layer = StoredLayer(row["name"], shape, kept, row["form"], None, binary_input, parts)  # all but its signs
    return parts | {"signs": torch.from_numpy(layer.seed_signs(seed=seed, init=init))}


class _Reader:
    """Takes the tensors of a file apart, in order and to the last entry."""

    def __init__(self, stored: dict[str, Tensor]) -> None:
        self.stored, self.places = stored, dict.fromkeys(stored, 0)

    def take(self, name: str, count: int) -> Tensor:
        """The next ``count`` entries of the tensor ``name``, as a tensor of their own."""
        start = self.places.get(name, 0)
        available = self.stored[name].numel() - start if name in self.stored else 0
        if not isinstance(count, int) or not 0 <= count <= available:
            raise ValueError(f"its {name} end before the header's last layer")
        self.places[name] = start + count
        return self.stored[name][start : start + count].clone() if count else torch.empty(0, dtype=_DTYPES[name])

    def end(self) -> None:
        """ValueError unless everything was taken."""
        for name, place in self.places.items():
            if name != "header" and place != self.stored[name].numel():
                raise ValueError(f"its {name} go on behind the header's last layer")


def _bytes(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
