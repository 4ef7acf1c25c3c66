"""The checks that a ticket passes before anything uses it: types and bounds of its header, then its tensors.

A file's header is data, never an instruction. Every entry that mpt reads is checked here for its type and its range;
further entries are kept, because they are part of the content, and ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpt.search.initializers import INITIALIZERS, SCALE_FANS
from mpt.search.weight import channel_shape

FORMAT = 3  # the highest that this mpt knows, of a content and of a file
MAX_DIMS = 8  # dimensions of a tensor
MAX_SIZE = 2**31  # entries along one dimension
MAX_NAME = 1000  # characters
_DTYPES = (torch.float32, torch.int64, torch.bool)  # of tensors other than searched layers


def check_header(header: dict[str, Any]) -> None:
    """ValueError unless every entry of ``header`` that mpt reads has its type and range."""
    for key, (accepts, needed) in _ENTRIES.items():
        if key not in header and needed:
            raise ValueError(f"its header's {key} is missing")
        if key in header and not accepts(header[key]):
            raise ValueError(f"its header's {key} is {_cut(header[key])}")
    for row in header["layers"]:
        if not _is_layer(row):
            raise ValueError(f"the header's entry of a layer is {_cut(row)}")
    for row in header["others"]:
        if not _is_state(row):
            raise ValueError(f"the header's entry of a parameter or buffer is {_cut(row)}")
    names = [row["name"] for row in (*header["layers"], *header["others"])]
    if len(set(names)) != len(names):
        raise ValueError("its header lists a name twice")
    rows = {row["name"]: row for row in header["layers"]}
    for row in header["layers"]:
        if "tied" in row and not _fits_owner(row, rows):
            raise ValueError(f"the header's entry of {_cut(row['name'])} is tied to a layer that does not fit it")


def check_tensors(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """ValueError unless ``tensors``, with packed masks and signs, are those that a checked ``header`` lists."""
    expected: set[str] = set()
    for row in header["layers"]:
        expected |= set() if "tied" in row else _check_layer(row, tensors)
    for row in header["others"]:
        expected.add(row["name"])
        tensor = _tensor(tensors, row["name"])
        if list(tensor.shape) != row["shape"]:
            raise ValueError(f"{row['name']} has shape {list(tensor.shape)}, the header says {row['shape']}")
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{row['name']} is {tensor.dtype}, which a ticket does not hold")
    if extra := sorted(set(tensors) - expected):
        raise ValueError(f"it holds {_cut(extra[0])}, which the header does not list")


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _is_int(value: Any, least: int, below: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < below


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_NAME


def _is_shape(value: Any, *, least: int) -> bool:
    return isinstance(value, list) and len(value) <= MAX_DIMS and all(_is_int(size, least, MAX_SIZE) for size in value)


def _is_layer(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and _is_name(row.get("name"))
        and _is_shape(row.get("shape"), least=1)
        and bool(row["shape"])
        and _is_int(row.get("kept"), 1, math.prod(row["shape"]) + 1)
        and row.get("form") in ("binary", "real")
        and ("tied" not in row or _is_name(row["tied"]))
        and isinstance(row.get("binary_input", False), bool)
    )


def _is_state(row: Any) -> bool:
    known = isinstance(row, dict) and _is_name(row.get("name")) and _is_shape(row.get("shape"), least=0)
    return known and (row.get("trained", 0) is None or isinstance(row.get("trained"), bool))


def _fits_owner(row: dict[str, Any], rows: dict[str, Any]) -> bool:
    owner = rows.get(row["tied"], {"tied": None})
    return "tied" not in owner and all(row[key] == owner[key] for key in ("shape", "kept", "form"))


def _is_backbone(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict) and _is_name(value.get("target")) and isinstance(value.get("arguments"), dict)
    )


def _is_method(value: Any) -> bool:
    if not isinstance(value, dict) or not _is_name(value.get("name")) or not _is_number(value.get("prune")):
        return False
    own = value.get("prune_layers")
    prunes = [value["prune"], *(own.values() if isinstance(own, dict) else ())]
    known = value.get("init") in (None, *INITIALIZERS) and value.get("scale_fan") in (None, *SCALE_FANS)
    return known and isinstance(own, (dict, type(None))) and all(_is_number(p) and 0 <= p < 1 for p in prunes)


def _is_binary_activations(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and _is_number(value.get("t"))
        and isinstance(value.get("signs"), list)
        and all(map(_is_sign, value["signs"]))
    )


def _is_sign(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"activation", "behind", "features", "dims"}
        and _is_name(value["activation"])
        and (value["behind"] is None or _is_name(value["behind"]))
        and (value["features"] is None or _is_int(value["features"], 1, 2**20))
        and _is_int(value["dims"], 2, 6)
    )


def _is_data(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_name(value.get("name", ""))
        and all(_is_int(value.get(key, 1), 1, 2**16) for key in ("image_size", "channels"))
    )


def _is_normalization(value: Any) -> bool:
    if not isinstance(value, dict) or not all(isinstance(value.get(key), list) for key in ("mean", "std")):
        return False
    mean, std = value["mean"], value["std"]
    return 0 < len(mean) == len(std) and all(map(_is_number, [*mean, *std])) and all(s > 0 for s in std)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


# entry -> (what accepts its value, whether a header must have it)
_ENTRIES: dict[str, tuple[Callable[[Any], bool], bool]] = {
    "format": (lambda v: _is_int(v, 1, FORMAT + 1), True),
    "mpt": (_is_name, True),
    "backbone": (_is_backbone, True),
    "method": (_is_method, True),
    "seed": (lambda v: v is None or _is_int(v, 0, 2**63), True),
    "signs": (lambda v: v in ("seed", "stored"), False),
    "binary_activations": (_is_binary_activations, False),
    "layers": (lambda v: isinstance(v, list), True),
    "others": (lambda v: isinstance(v, list), True),
    "data": (_is_data, False),
    "class_names": (lambda v: isinstance(v, list) and all(map(_is_name, v)), False),
    "normalization": (_is_normalization, False),
    "parameters": (_is_dict, False),
    "epoch": (lambda v: _is_int(v, 0, 2**31), False),
    "imported": (_is_dict, False),
    "history": (lambda v: isinstance(v, list) and all(_is_dict(e) and _is_name(e.get("ticket")) for e in v), False),
}


def _check_layer(row: dict[str, Any], tensors: dict[str, Tensor]) -> set[str]:
    name, kept, n = row["name"], row["kept"], math.prod(row["shape"])
    if _ones(_tensor(tensors, f"{name}.mask"), n, f"{name}.mask") != kept:
        raise ValueError(f"the mask of {name} does not keep the {kept} weights that the header says")
    if row["form"] == "real":
        values = _tensor(tensors, f"{name}.values")
        if values.shape != (kept,) or values.dtype != torch.float32 or not bool(torch.isfinite(values).all()):
            raise ValueError(f"{name}.values is not one number for each of {kept} kept weights")
        return {f"{name}.mask", f"{name}.values"}
    _ones(_tensor(tensors, f"{name}.signs"), kept, f"{name}.signs")
    gain = _tensor(tensors, f"{name}.gain")
    shapes = [(), *(channel_shape(row["shape"], axis) for axis in (0, 1))]
    fits = gain.dtype == torch.float32 and tuple(gain.shape) in shapes
    if not fits or not bool((gain >= 0).all() and torch.isfinite(gain).all()):
        raise ValueError(f"the gain of {name} is not one number of 0 or more, nor one for each channel")
    return {f"{name}.mask", f"{name}.signs", f"{name}.gain"}


def _ones(packed: Tensor, n: int, name: str) -> int:
    """Number of ones among ``n`` packed bits, after checking the length and that the padding is zero."""
    if packed.dtype != torch.uint8 or packed.shape != ((n + 7) // 8,):
        raise ValueError(f"{name} has {packed.numel()} bytes where {n} bits take {(n + 7) // 8}")
    if n % 8 and int(packed[-1]) >> (n % 8):
        raise ValueError(f"{name} has bits behind its end")
    return int(np.bitwise_count(packed.numpy()).sum())


def _tensor(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"{name} is missing")
    return tensors[name]
