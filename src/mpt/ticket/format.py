"""The ticket file: safetensors with a JSON header, read without running any code from it and checked to the last bit.

**Content.** A ticket is a header (plain JSON) and tensors. For each searched layer ``<layer>`` of ``n`` weights, ``k``
of them kept:

    <layer>.mask     uint8 (ceil(n / 8),)    one bit a weight in flat order, lowest bit first
    <layer>.signs    uint8 (ceil(k / 8),)    one bit a kept weight, 1 = positive         } form "binary": +-gain
    <layer>.gain     float32 ()              magnitude of the kept weights, or of the    }
                     or (O, 1, ...)          kept weights of each channel                }
    <layer>.coats    uint8 (sum of ceil(k_i / 8),)  of form "coated", +-gain, ..., +-N gain: for each further mask
                                             one bit for each weight that the mask before it keeps
    <layer>.values   float32 (k,)            the kept weights themselves                   form "real"

A layer that shares its weight with an earlier one has a header row with ``tied: <that layer>`` and no tensors, so the
bits of a weight are stored, and counted, once. Every other parameter and buffer (batch-norm, biases, layers left out, a
dense baseline) stands under its state-dict name, floating point as float32.

The **digest**, the BLAKE2b of header and tensors, identifies the content, whatever the format of its file.

**File.** The metadata have one entry (safetensors writes several in random order, and one content must give one file):
``ticket``, a JSON object with the digest.

    format 1, 2   the tensors of the content, and the object holds ``header``
    format 3      the tensors of :mod:`mpt.ticket.compact`, about half as many bytes; ``stored`` is their own
                  BLAKE2b, which is compared before anything is decoded

The header's ``format`` is the first format that can hold the content: 2, or 3 where a layer has a gain for each channel
or several masks (1 had no binary activations).
"""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from mpt.files import kind_of, write_atomically
from mpt.schema import parse
from mpt.ticket.check import FORMAT, check_header, check_tensors
from mpt.ticket.compact import MAX_HEADER, compact, expand
from mpt.values import path_of

EXAMPLE = "runs/x/ticket.safetensors"
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)  # by the place, whatever is written
PLAIN = 2  # the first format for a gain for each layer; gains for channels, and several masks, need the third


def write(path: str | Path, header: dict[str, Any], tensors: dict[str, Tensor], *, format: int = FORMAT) -> None:
    """Write a ticket file, whole or not at all.

    Raises:
        ValueError: ``format`` cannot hold the content, or ``path`` is a folder.
        OSError: ``path`` is in no folder, or cannot be written.
    """
    path, content = path_of("the place of a ticket", path, example=EXAMPLE), encode(header, tensors, format=format)
    try:
        if path.is_dir():
            raise ValueError(f"{path} is a folder: name a file in it, as in {path / 'ticket.safetensors'}")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {path.parent} for {path.name}: create it first")
        write_atomically(path, content)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise type(error)(f"{path} cannot be written ({error.strerror}): name another place") from error


def encode(header: dict[str, Any], tensors: dict[str, Tensor], *, format: int = FORMAT) -> bytes:
    """The bytes of a ticket file.

    Args:
        header: of the content.
        tensors: of the content.
        format: 3, or 2 for readers older than mpt 0.2.

    Raises:
        ValueError: ``format`` is neither, or cannot hold the content; or an entry of ``header`` is of the wrong type.
    """
    if format not in (PLAIN, FORMAT):
        raise ValueError(f"format of a ticket file must be {PLAIN} or {FORMAT}, got {format!r}")
    if format < header["format"]:
        raise ValueError(
            f"a ticket with a gain for each channel, or with several masks, does not fit into format {format}: write "
            f"format {FORMAT}"
        )
    check_header(header)
    _check_plain(header)
    digest = digest_of(header, tensors)
    if format == PLAIN:
        return to_bytes(tensors, {"ticket": json.dumps({"digest": digest, "header": header}, sort_keys=True)})
    stored = compact(header, tensors)
    about = {"digest": digest, "header": {"format": FORMAT}, "stored": digest_of({}, stored)}
    return to_bytes(stored, {"ticket": json.dumps(about, sort_keys=True)})


def _check_plain(header: dict[str, Any]) -> None:
    """ValueError by name of the entry that JSON cannot hold: a tensor, a path, NaN."""
    for key, value in header.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{key} of a ticket must be plain JSON, text, finite numbers and lists: {error}") from None


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of the content of a ticket file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, altered, from a newer mpt, or not a ticket; the sentence says which.
    """
    path = path_of("a ticket", path, example=EXAMPLE)
    if path.is_dir():
        inside = [file.name for file in sorted(path.glob("*.safetensors"))] or ["ticket.safetensors"]
        raise ValueError(f"{path} is a folder: name the ticket file in it, as in {path / inside[-1]}")
    if not path.is_file():
        if path.parts[:1] == ("hf:",):
            raise FileNotFoundError(
                "a command takes a ticket from a file: mpt.Ticket.load('hf://user/name').save('ticket.safetensors')"
            )
        raise FileNotFoundError(f"there is no ticket at {path}: name a ticket file, as in {EXAMPLE}")
    kind = kind_of(path)
    try:
        with safe_open(path, framework="pt") as file:
            about, version = _about(path, file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        if kind not in (None, "a safetensors file", "an empty file"):
            published = " (mpt-ticket import converts the authors' checkpoints)" if "checkpoint" in str(kind) else ""
            raise ValueError(f"{path} is no ticket but {kind}{published}") from error
        raise ValueError(
            f"{path} is not a whole ticket file: it is truncated or altered; take the original file"
        ) from error
    header = about["header"]
    if digest_of({} if version == FORMAT else header, tensors) != about["stored" if version == FORMAT else "digest"]:
        raise ValueError(f"{path} was altered: its content does not match its digest; take the original file")
    try:
        if version == FORMAT:
            header, tensors = expand(tensors)
        else:
            check_header(header)
        check_tensors(header, tensors)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"{path} has a broken header: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not consistent: {error}") from error
    if version == FORMAT and digest_of(header, tensors) != about["digest"]:
        raise ValueError(f"{path} was altered: its content does not match its digest; take the original file")
    return header, tensors


def _about(path: Path, metadata: dict[str, str]) -> tuple[dict[str, Any], int]:
    """The object in a file's metadata, and the version of its format."""
    try:
        if len(metadata["ticket"]) > MAX_HEADER:
            raise ValueError(f"the header takes more than {MAX_HEADER} bytes")
        about = dict(parse(metadata["ticket"]))
        about |= {"header": dict(about["header"]), "digest": str(about["digest"])}
        version = int(about["header"]["format"])
        about |= {"stored": str(about["stored"])} if version == FORMAT else {}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a ticket: it has no readable ticket header") from error
    if version < 1:
        raise ValueError(f"{path} has ticket format {version}, which does not exist: it was altered")
    if version > FORMAT:
        raise ValueError(
            f"{path} has ticket format {version} and this mpt reads up to {FORMAT}: a newer mpt wrote it, upgrade"
        )
    return about, version


def digest_of(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """BLAKE2b of header and tensors, 32 hexadecimal digits: it identifies a ticket."""
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
