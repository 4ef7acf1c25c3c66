"""The content of ``result.json`` and ``metrics.jsonl``: every key with its type, meaning and source.

``docs/results.md`` is generated from this file. Tables, figures and other programs read the keys, so they never change.
Both files are written and read here. What they say is data: keys are held against their types, and nothing is imported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mpt.files import digest, write_atomically
from mpt.schema import is_int, is_text, misfits, printable, read_json, read_text

FILE, METRICS_FILE = "result.json", "metrics.jsonl"
MAX_RESULT = 2**22  # bytes


def key(meaning: str, *, optional: str = "") -> Any:
    """A key of a result. ``optional`` says which setting or command adds the key; without it the value is None."""
    about = {"meaning": meaning, "optional": optional}
    return field(default=None, metadata=about) if optional else field(metadata=about)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a finished run, as ``result.json`` holds it. Accuracies are fractions in [0, 1]."""

    status: str = key("`done`; a run that `failed` or was `interrupted` has `error`, `config` and `checksum`")
    test_acc: float = key("accuracy on the test images, measured on the ticket file read back, in float32")
    test_acc_max: float = key(
        "highest test accuracy of the measured epochs (`evaluate_every`) whose mask is a ticket, as in published code"
    )
    test_acc_max_epoch: int = key("the epoch of `test_acc_max`, from 1")
    val_acc: float | None = key("accuracy on the held-out images, measured on the file", optional="data.val_size")
    train_acc: float = key("training accuracy in the ticket's epoch, of augmented images, as masks changed")
    epoch: int = key("the epoch whose ticket is kept, from 1 (`select`)")
    model: str = key("name of the backbone")
    method: str = key("name of the search method; `finetune_<layers>` for a fine-tuning")
    width: float = key("channel multiplier of the backbone")
    prune: float = key("fraction of the weights to be removed")
    density: float = key("fraction of the weights kept, measured")
    num_weights: int = key("weights of all searched layers, tied ones once; of a dense network, all parameters")
    num_kept: int = key("weights kept")
    ticket_bytes: int = key("size of the ticket file, in bytes, header included")
    bits_per_weight: float = key("information in the searched layers, in bits a weight: what methods are compared by")
    file_bits_per_weight: float = key("bits of the ticket file a weight, everything counted")
    ticket_checksum: str = key("BLAKE2b of the ticket file, by which a damaged or exchanged one is noticed")
    seconds: float = key("duration of all epochs, their evaluation included, in seconds")
    images_per_second: float = key("median over the epochs of training images per second")
    epochs: int = key("epochs trained")
    seed: int = key("seed of weights, scores and data")
    data: str = key("name of the data set")
    num_train: int = key("training images")
    num_test: int = key("test images")
    processes: int = key("processes that trained together")
    precision: str = key("precision of training, as Lightning spells it; evaluation is always in float32")
    sweep: str | None = key("name of the experiment that the run belongs to, or null")
    budget: str | None = key("size of that experiment, `paper` or `mini`, or null")
    config: dict[str, Any] = key("all settings of the run, as in `config.yaml`")
    commit: str | None = key("commit of the checkout that mpt ran from, or null")
    versions: dict[str, str] = key("versions of Python, mpt and the libraries")
    hardware: str = key("the accelerator, or the CPU and its number of cores")
    layers: str | None = key("the layers whose weights were trained", optional="mpt-finetune")
    ticket_digest: str | None = key("digest of the ticket that was fine-tuned", optional="mpt-finetune")
    test_acc_before: float | None = key("test accuracy of the ticket before its fine-tuning", optional="mpt-finetune")

    checksum: str = field(default="", metadata={"meaning": "BLAKE2b of all other keys", "optional": ""})

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, without the optional keys that are absent."""
        optional = {name for name, f in self.__dataclass_fields__.items() if f.metadata["optional"]}
        return {name: value for name, value in asdict(self).items() if name not in optional or value is not None}


NUMBERS = tuple(f.name for f in fields(Result) if str(f.type).startswith(("int", "float")))
NEW = ("bits_per_weight", "file_bits_per_weight", "ticket_checksum", "checksum")  # keys that results of mpt 0.1.0 lack


def write_result(directory: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write the result of the run in ``directory`` with its checksum; return what the file holds."""
    whole = {**content, "checksum": _checksum(content)}
    write_atomically(directory / FILE, json.dumps(whole, indent=2) + "\n")
    return whole


def read_result(directory: Path) -> dict[str, Any]:
    """The result of the run in ``directory``, finished or failed.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: it is damaged, or a value is not of its key's type; a clause that follows ``result.json``.
    """
    try:
        content = read_json(directory / FILE, most=MAX_RESULT)
    except ValueError as error:
        raise ValueError(str(error).removeprefix("it ")) from error
    if not isinstance(content, dict) or not is_text(content.get("status")):
        raise ValueError("is not the result of a run")
    if "checksum" in content and content["checksum"] != _checksum(content):
        raise ValueError("does not match its checksum: it was damaged or altered")
    if wrong := misfits({name: value for name, value in content.items() if value is not None}, Result):
        raise ValueError(f"is damaged: {wrong[0]}")
    return content


def is_complete(content: Mapping[str, Any]) -> bool:
    """Whether a result that :func:`read_result` returned has everything that a finished run records."""
    needed = [f for f in fields(Result) if not f.metadata["optional"] and f.name not in NEW]
    nullable = ("sweep", "budget", "commit")
    return content.get("status") == "done" and all(
        content.get(f.name) is not None or f.name in nullable for f in needed
    )


def _checksum(content: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return digest(json.dumps(rest, sort_keys=True).encode())


METRICS = {  # keys of each row of metrics.jsonl, one row per epoch; names with a slash go to the loggers too
    "epoch": "number of the epoch, from 1",
    "lr": "learning rate in the epoch",
    "seconds": "duration of the epoch, its evaluation included",
    "images_per_second": "training images per second, in the training part of the epoch",
    "train/loss": "cross-entropy of the clean training images, mean over the epoch",
    "train/acc": "training accuracy, mean over the epoch",
    "val/loss": "cross-entropy of the held-out images (with data.val_size)",
    "val/acc": "accuracy on the held-out images (with data.val_size)",
    "test/acc": "accuracy on the test images, in float32, in the epochs of `evaluate_every` and the last",
    "ticket/density": "fraction of the weights kept",
    "ticket/flips": "fraction of all mask bits that changed since the previous epoch",
    "ticket/flips/<layer>": "the same, of one layer",
    "ticket/gain/<layer>": "gain of one layer; the mean, where a method has several in a layer",
    "ticket/binarization_error/<layer>": "norm of `m (w - g sign(w))`, the error of the paper's equation 1",
}


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``, one per epoch; numbers that are not finite are None.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: a row is not one of numbers.
    """
    rows, known, kept = list[dict[str, Any]](), set[str](), set[str]()
    for number, line in enumerate(read_text(directory / METRICS_FILE).splitlines(), 1):
        row = _row(line)
        if row is None or not is_int(row.get("epoch"), 1, 2**31):
            raise ValueError(f"line {number} is not the row of an epoch")
        if new := row.keys() - known:  # of thousands of equal rows the names are checked once
            known |= {name for name in new if is_text(name)}
            kept |= {name for name in known if name in METRICS or "/" in name}
        if wrong := [name for name, value in row.items() if not (name in known and _is_number_or_none(value))]:
            raise ValueError(f"line {number} is damaged: {printable(wrong[0])} is not a number")
        rows.append({name: value for name, value in row.items() if name in kept})
    return rows


def _row(line: str) -> dict[str, Any] | None:
    """The JSON object of a line, with None for numbers that are not finite; None for anything else.

    As :func:`mpt.schema.parse` with a check of every value, in a tenth of the time: a page reads thousands of rows.
    """
    try:
        row = json.loads(line)
    except RecursionError:
        return None
    if not isinstance(row, dict):
        return None
    if not all(type(value) is not float or math.isfinite(value) for value in row.values()):
        return {name: None if type(v) is float and not math.isfinite(v) else v for name, v in row.items()}
    return row


def _is_number_or_none(value: Any) -> bool:
    return type(value) is float or value is None or is_int(value, -(2**63), 2**64)
