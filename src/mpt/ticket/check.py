"""The checks that a ticket passes before anything uses it: types and bounds of its header, then its tensors.

A file's header is data, never an instruction. Every entry that mpt reads is checked here for its type and its range;
further entries are kept, because they are part of the content, and ignored. Of the data's settings only those of
``DATA`` are ever used again: never a path, a download or a number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpt.schema import fits, is_int, is_number, is_text, printable
from mpt.search.initializers import INITIALIZERS, SCALE_FANS
from mpt.search.supermasks import MAX_COATS
from mpt.search.weight import channel_shape

FORMAT = 3  # the highest that this mpt knows, of a content and of a file
MAX_DIMS = 8  # dimensions of a tensor
MAX_SIZE = 2**31  # entries along one dimension
MAX_ROWS = 2**16  # layers, or other parameters and buffers
MAX_MATCHES = 2**20  # layers times patterns of prune_layers
MAX_SIDE, MAX_PIXELS = 2**12, 2**27  # of the images that a network takes
MAX_ARGUMENTS = 64  # of a backbone, and entries of one of them
MAX_NUMBER = 2**20  # among them
_SHARED = ("shape", "kept", "form", "coats")  # of a tied layer's row and its owner's
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
    if not header["layers"] and not any(
        row["trained"] is not None and 0 not in row["shape"] for row in header["others"]
    ):
        raise ValueError("it holds no weights")
    if len(header["method"].get("prune_layers") or ()) * len(header["layers"]) > MAX_MATCHES:
        raise ValueError("its header's prune_layers has too many patterns")
    names = [row["name"] for row in (*header["layers"], *header["others"])]
    if len(set(names)) != len(names):
        raise ValueError("its header lists a name twice")
    rows = {row["name"]: row for row in header["layers"]}
    if not set(header.get("reads", ())) <= rows.keys():
        raise ValueError("its header's reads names a layer that it does not have")
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
        if row["trained"] and not tensor.is_floating_point():
            raise ValueError(f"{row['name']} is {tensor.dtype}, and the header says that it is trained")
    if extra := sorted(set(tensors) - expected):
        raise ValueError(f"it holds {_cut(extra[0])}, which the header does not list")


def _cut(value: Any) -> str:
    return printable(repr(value), 200)


def _is_shape(value: Any, *, least: int) -> bool:
    return isinstance(value, list) and len(value) <= MAX_DIMS and all(is_int(size, least, MAX_SIZE) for size in value)


def _is_layer(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and is_text(row.get("name"))
        and _is_shape(row.get("shape"), least=1)
        and bool(row["shape"])
        and is_int(row.get("kept"), 1, math.prod(row["shape"]) + 1)
        and row.get("form") in ("binary", "coated", "real")
        and ("coats" in row) == (row["form"] == "coated")
        and _are_coats(row["kept"], row.get("coats", [1]))
        and ("tied" not in row or is_text(row["tied"]))
        and isinstance(row.get("binary_input", False), bool)
    )


def _are_coats(kept: int, counts: Any) -> bool:
    """Whether ``counts`` are those of nested masks in one that keeps ``kept`` weights."""
    known = isinstance(counts, list) and 0 < len(counts) < MAX_COATS and all(is_int(c, 1, kept + 1) for c in counts)
    return known and sorted(counts, reverse=True) == counts


def _is_state(row: Any) -> bool:
    known = isinstance(row, dict) and is_text(row.get("name")) and _is_shape(row.get("shape"), least=0)
    return known and (row.get("trained", 0) is None or isinstance(row.get("trained"), bool))


def _fits_owner(row: dict[str, Any], rows: dict[str, Any]) -> bool:
    owner = rows.get(row["tied"], {"tied": None})
    return "tied" not in owner and all(row.get(key) == owner.get(key) for key in _SHARED)


def _is_backbone(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict) and is_text(value.get("target")) and _are_arguments(value.get("arguments"))
    )


def _are_arguments(value: Any) -> bool:
    if not isinstance(value, dict) or len(value) > MAX_ARGUMENTS or not fits(value, dict[str, Any]):
        return False
    if "of" in value and not _is_backbone(value["of"]):  # the network that an expanded one was made of
        return False
    return all(map(_is_small, value.values())) and _is_image(value.get("in_channels"), value.get("image_size"))


def _is_small(value: Any) -> bool:
    if isinstance(value, (list, dict)):
        return len(value) <= MAX_ARGUMENTS and all(map(_is_small, value.values() if isinstance(value, dict) else value))
    return is_text(value) if isinstance(value, str) else value is None or abs(value) <= MAX_NUMBER


def _is_image(channels: Any, side: Any) -> bool:
    channels, side = (1 if number is None else number for number in (channels, side))
    return all(is_int(number, 1, MAX_SIDE + 1) for number in (channels, side)) and channels * side**2 <= MAX_PIXELS


def _is_method(value: Any) -> bool:
    if not isinstance(value, dict) or not is_text(value.get("name")) or not is_number(value.get("prune")):
        return False
    if any(isinstance(option, str) and len(option) > 200 for option in value.values()):  # which an error would quote
        return False
    own = value.get("prune_layers")
    prunes = [value["prune"], *(own.values() if isinstance(own, dict) else ())]
    known = value.get("init") in (None, *INITIALIZERS) and value.get("scale_fan") in (None, *SCALE_FANS)
    return known and isinstance(own, (dict, type(None))) and all(is_number(p) and 0 <= p < 1 for p in prunes)


def _is_binary_activations(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and is_number(value.get("t"))
        and isinstance(value.get("signs"), list)
        and len(value["signs"]) <= MAX_ROWS
        and all(map(_is_sign, value["signs"]))
    )


def _is_sign(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"activation", "behind", "features", "dims"}
        and is_text(value["activation"])
        and (value["behind"] is None or is_text(value["behind"]))
        and (value["features"] is None or is_int(value["features"], 1, 2**20))
        and is_int(value["dims"], 2, 6)
    )


def _is_data(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(value.get(key) is None or accepts(value[key]) for key, accepts in DATA.items())
        and _is_image(value.get("channels"), value.get("image_size"))
    )


def data_settings(about: dict[str, Any]) -> dict[str, Any]:
    """The settings of the data, in a checked header or in a run's settings, that a ticket passes on."""
    return {key: value for key, value in about.get("data", {}).items() if key in DATA and value is not None}


def _are_parameters(value: Any) -> bool:
    kinds: dict[str, Callable[[Any], bool]] = {
        "width": lambda v: is_number(v) and 0 < v <= 2**20,
        **dict.fromkeys(("binary_activations", "learn_batchnorm"), lambda v: isinstance(v, bool)),
    }
    return fits(value, dict[str, Any]) and all(accepts(value[key]) for key, accepts in kinds.items() if key in value)


def _is_normalization(value: Any) -> bool:
    if not isinstance(value, dict) or not all(isinstance(value.get(key), list) for key in ("mean", "std")):
        return False
    mean, std = value["mean"], value["std"]
    return 0 < len(mean) == len(std) and all(map(is_number, [*mean, *std])) and all(s > 0 for s in std)


def _is_count(value: Any) -> bool:
    return is_int(value, 1, 2**31)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _are_channels(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MAX_SIDE and all(map(is_number, value))


DATA: dict[str, Callable[[Any], bool]] = {  # settings of the data that are used again -> what accepts a value
    "name": is_text,
    **dict.fromkeys(("image_size", "channels", "train_size", "num_classes", "num_images"), _is_count),
    "val_size": lambda v: is_number(v) and 0 <= v < 2**31,
    "test_size": lambda v: is_number(v) and 0 < v < 1,
    "crop": lambda v: is_int(v, 0, MAX_SIDE),
    **dict.fromkeys(("flip", "resized_crop"), _is_flag),
    **dict.fromkeys(("mean", "std"), _are_channels),
    "augment": lambda v: v in ("none", "augmix"),
    "noise_std": lambda v: is_number(v) and v >= 0,
    "noise_probability": lambda v: is_number(v) and 0 <= v <= 1,
}
# entry -> (what accepts its value, whether a header must have it)
_ENTRIES: dict[str, tuple[Callable[[Any], bool], bool]] = {
    "format": (lambda v: is_int(v, 1, FORMAT + 1), True),
    "mpt": (is_text, True),
    "backbone": (_is_backbone, True),
    "method": (_is_method, True),
    "seed": (lambda v: v is None or is_int(v, 0, 2**63), True),
    "signs": (lambda v: v in ("seed", "stored"), False),
    "pattern": (lambda v: isinstance(v, list) and len(v) == 2 and all(is_number(s) and 0 <= s < 1 for s in v), False),
    "binary_activations": (_is_binary_activations, False),
    "reads": (lambda v: isinstance(v, list) and all(map(is_text, v)), False),
    "layers": (lambda v: isinstance(v, list) and len(v) <= MAX_ROWS, True),
    "others": (lambda v: isinstance(v, list) and len(v) <= MAX_ROWS, True),
    "data": (_is_data, False),
    "class_names": (lambda v: isinstance(v, list) and all(map(is_text, v)), False),
    "normalization": (_is_normalization, False),
    "parameters": (_are_parameters, False),
    "epoch": (lambda v: is_int(v, 0, 2**31), False),
    "imported": (lambda v: fits(v, dict[str, Any]), False),
    "constructed": (lambda v: fits(v, dict[str, Any]), False),
    "history": (lambda v: fits(v, list[dict[str, Any]]) and all(is_text(step.get("ticket")) for step in v), False),
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
    coated = row["form"] == "coated"
    shapes = [()] if coated else [(), *(channel_shape(row["shape"], axis) for axis in (0, 1))]
    fits = gain.dtype == torch.float32 and tuple(gain.shape) in shapes
    if not fits or not bool((gain >= 0).all() and torch.isfinite(gain).all()):
        raise ValueError(f"the gain of {name} is not one number of 0 or more, nor one for each channel")
    if coated:
        _check_coats(row, _tensor(tensors, f"{name}.coats"))
    return {f"{name}.mask", f"{name}.signs", f"{name}.gain"} | ({f"{name}.coats"} if coated else set())


def _check_coats(row: dict[str, Any], packed: Tensor) -> None:
    """ValueError unless ``packed`` has one mask for each of the row's ``coats``, which keeps so many weights."""
    name, before = f"{row['name']}.coats", row["kept"]
    for count in row["coats"]:
        size = (before + 7) // 8
        if _ones(packed[:size], before, name) != count:
            raise ValueError(f"a mask of {name} does not keep the {count} weights that the header says")
        packed, before = packed[size:], count
    if packed.numel():
        raise ValueError(f"{name} goes on behind its last mask")


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
