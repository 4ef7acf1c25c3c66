"""The content of ``result.json`` and ``metrics.jsonl``: every key with its type, meaning and source.

``docs/results.md`` is generated from this file. Tables, figures and other programs read the keys, so they never change.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


def key(meaning: str, *, optional: str = "") -> Any:
    """A key of a result. ``optional`` says which setting or command adds the key; without it the value is None."""
    about = {"meaning": meaning, "optional": optional}
    return field(default=None, metadata=about) if optional else field(metadata=about)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a finished run, as ``result.json`` holds it. Accuracies are fractions in [0, 1]."""

    status: str = key("`done`; a failed run has `failed`, `error` and `config` alone")
    test_acc: float = key("accuracy on the test images, measured on the ticket file read back, in float32")
    test_acc_max: float = key("highest test accuracy of an epoch whose mask is a ticket, as published code reports it")
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

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, without the optional keys that are absent."""
        optional = {name for name, f in self.__dataclass_fields__.items() if f.metadata["optional"]}
        return {name: value for name, value in asdict(self).items() if name not in optional or value is not None}


METRICS = {  # keys of each row of metrics.jsonl, one row per epoch; names with a slash go to the loggers too
    "epoch": "number of the epoch, from 1",
    "lr": "learning rate in the epoch",
    "seconds": "duration of the epoch, its evaluation included",
    "images_per_second": "training images per second, in the training part of the epoch",
    "train/loss": "cross-entropy of the clean training images, mean over the epoch",
    "train/acc": "training accuracy, mean over the epoch",
    "val/loss": "cross-entropy of the held-out images (with data.val_size)",
    "val/acc": "accuracy on the held-out images (with data.val_size)",
    "test/acc": "accuracy on the test images, in float32",
    "ticket/density": "fraction of the weights kept",
    "ticket/flips": "fraction of all mask bits that changed since the previous epoch",
    "ticket/flips/<layer>": "the same, of one layer",
    "ticket/gain/<layer>": "gain of one layer; the mean, where a method has several in a layer",
    "ticket/binarization_error/<layer>": "norm of `m (w - g sign(w))`, the error of the paper's equation 1",
}
