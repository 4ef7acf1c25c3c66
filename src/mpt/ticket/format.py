"""The ticket file: safetensors with one JSON header, and everything that is checked when it is read.

For each searched layer ``<layer>`` of ``n`` weights, ``k`` of them kept:

    <layer>.mask     uint8 (ceil(n / 8),)    one bit a weight in flat order, lowest bit first
    <layer>.signs    uint8 (ceil(k / 8),)    one bit a kept weight, 1 = positive         } form "binary": +-gain
    <layer>.gain     float32 ()              the magnitude of all kept weights           }
    <layer>.values   float32 (k,)            the kept weights themselves                   form "real"

A layer whose weight is tied to that of an earlier one has a header row with ``tied: <that layer>`` and no tensors: the
bits of a weight are stored, and counted, once.

Every other parameter and buffer (batch-norm, biases, layers left out, a dense baseline) stands under its state-dict
name, floating point as float32. The metadata has one entry (safetensors writes several in random order, and one seed
shall give one file): ``ticket``, the JSON of ``header`` and ``digest``, the BLAKE2b of header and tensors. Reading runs
no code from the file and refuses whatever does not fit to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from mpt.files import write_atomically

FORMAT = 2  # version of the layout above; a reader refuses a higher one. 2: binary activations, fixed scores
_DTYPES = (torch.float32, torch.int64, torch.bool)  # of what is not a searched layer
_KEYS: dict[str, tuple[type, ...]] = {
    "backbone": (dict, type(None)),
    "layers": (list,),
    "method": (dict,),
    "mpt": (str,),
    "others": (list,),
    "seed": (int, type(None)),
}


def write(path: str | Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a ticket file atomically."""
    content = json.dumps({"digest": digest_of(header, tensors), "header": header}, sort_keys=True)
    write_atomically(path, to_bytes(tensors, {"ticket": content}))


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a ticket file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, altered, from a newer mpt, or no ticket at all; the sentence says which.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no ticket at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header, digest = _header(path, file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole ticket file, it is truncated or altered ({error})") from error
    if digest != digest_of(header, tensors):
        raise ValueError(f"{path} was altered: its content does not fit its digest; take the original file")
    try:
        _check(header, tensors)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} has a broken header: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not consistent: {error}") from error
    return header, tensors


def _header(path: Path, metadata: dict[str, str]) -> tuple[dict[str, Any], str]:
    try:
        content = json.loads(metadata["ticket"])
        header, digest = dict(content["header"]), str(content["digest"])
        version = int(header["format"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a ticket: it has no readable ticket header") from error
    if version < 1:
        raise ValueError(f"{path} has ticket format {version}, which there is not: it was altered")
    if version > FORMAT:
        raise ValueError(
            f"{path} has ticket format {version} and this mpt reads up to {FORMAT}: it was made by a newer mpt, upgrade"
        )
    return header, digest


def digest_of(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """BLAKE2b of header and tensors, 32 hexadecimal digits: what identifies a ticket."""
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def _check(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    for key, kind in _KEYS.items():
        if not isinstance(header[key], kind):
            raise ValueError(f"its header's {key} is {header[key]!r}")
    if not isinstance(header["method"]["name"], str) or not isinstance(header["method"]["prune"], (int, float)):
        raise ValueError(f"its header's method is {header['method']!r}")
    names = [row["name"] for row in (*header["layers"], *header["others"])]
    if len(set(names)) != len(names):
        raise ValueError("its header lists a name twice")
    expected: set[str] = set()
    rows = {layer["name"]: layer for layer in header["layers"]}
    for layer in header["layers"]:
        expected |= _check_tied(layer, rows) if "tied" in layer else _check_layer(layer, tensors)
    for other in header["others"]:
        expected.add(other["name"])
        tensor = _tensor(tensors, other["name"])
        if list(tensor.shape) != other["shape"]:
            raise ValueError(f"{other['name']} has shape {list(tensor.shape)}, the header says {other['shape']}")
        if tensor.dtype not in _DTYPES or other["trained"] not in (True, False, None):
            raise ValueError(f"{other['name']} is of a kind that a ticket does not have ({tensor.dtype})")
    if extra := sorted(set(tensors) - expected):
        raise ValueError(f"it holds {extra[0]}, which the header does not list")


def stored_as(layer: dict[str, Any]) -> str:
    """Name under which the file holds the tensors of the header row ``layer``."""
    return str(layer.get("tied", layer["name"]))


def _check_tied(layer: dict[str, Any], rows: dict[str, Any]) -> set[str]:
    owner = rows.get(layer["tied"], {"tied": None})
    if "tied" in owner or any(layer[key] != owner[key] for key in ("shape", "kept", "form")):
        raise ValueError(f"the header's entry of {layer['name']} is {layer!r}, tied to what does not fit it")
    return set()


def _check_layer(layer: dict[str, Any], tensors: dict[str, Tensor]) -> set[str]:
    name, kept, n = layer["name"], layer["kept"], math.prod(layer["shape"])
    if not isinstance(kept, int) or not 1 <= kept <= n or layer["form"] not in ("binary", "real"):
        raise ValueError(f"the header's entry of {name} is {layer!r}")
    if _ones(_tensor(tensors, f"{name}.mask"), n, f"{name}.mask") != kept:
        raise ValueError(f"the mask of {name} does not keep the {kept} weights that the header says")
    if layer["form"] == "real":
        values = _tensor(tensors, f"{name}.values")
        if values.shape != (kept,) or values.dtype != torch.float32 or not bool(torch.isfinite(values).all()):
            raise ValueError(f"{name}.values is not one number for each of {kept} kept weights")
        return {f"{name}.mask", f"{name}.values"}
    _ones(_tensor(tensors, f"{name}.signs"), kept, f"{name}.signs")
    gain = _tensor(tensors, f"{name}.gain")
    if gain.shape != () or gain.dtype != torch.float32 or not 0 <= float(gain) < math.inf:
        raise ValueError(f"the gain of {name} is not one number of 0 or more")
    return {f"{name}.mask", f"{name}.signs", f"{name}.gain"}


def _ones(packed: Tensor, n: int, name: str) -> int:
    """Number of ones among ``n`` packed bits, after checking the length and that the padding is zero."""
    if packed.dtype != torch.uint8 or packed.shape != ((n + 7) // 8,):
        raise ValueError(f"{name} has {packed.numel()} bytes where {n} bits take {(n + 7) // 8}")
    ones = int(np.bitwise_count(packed.numpy()).sum())
    if ones != int(unpack_bits(packed.numpy(), n=n).sum()):
        raise ValueError(f"{name} has bits behind its end")
    return ones


def _tensor(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"{name} is missing")
    return tensors[name]


def pack_bits(bits: np.ndarray) -> np.ndarray:
    """Eight bits per byte, lowest bit first, zeros behind the last: bool (n,) -> uint8 (ceil(n / 8),)."""
    return np.packbits(bits.ravel(), bitorder="little")


def unpack_bits(packed: np.ndarray, *, n: int) -> np.ndarray:
    """The first ``n`` bits of :func:`pack_bits`: uint8 (ceil(n / 8),) -> bool (n,)."""
    return np.unpackbits(packed, count=n, bitorder="little").astype(bool)
