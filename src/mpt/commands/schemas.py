"""The typed configurations of mpt-eval, mpt-finetune and mpt-ticket; mpt-train has its own in ``config``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpt.run.settings import Config, Data, dial, group

SEARCHED_WITH = (  # of a ticket that is fine-tuned: it stays as it is
    *("prune", "binary_activations", "spline_t", "learn_batchnorm", "dense", "method", "recipe", "protocol"),
)


@dataclass
class FinetuneConfig(Config):
    """One run of ``mpt-finetune``; the best setting of Efficient MPT, table 1, by default (``conf/finetune.yaml``)."""

    ticket: str = dial("???", "the ticket file")
    layers: str = dial("last", "whose weights are trained: last, first, all, or a name or pattern")
    epochs: int = dial(40, "passes over the training images", lambda v: v >= 1, "at least 1")
    batch: int = dial(256, "images a step, over all processes together", lambda v: v >= 1, "at least 1")
    width: float = dial(1.0, "of a backbone given as model=", lambda v: 0 < v < float("inf"), "above 0")


@dataclass
class EvalConfig:
    """One measurement of a ticket file by ``mpt-eval``."""

    control: str | None = dial(None, "measure a control instead: shuffled_mask, random_mask or fresh_weights")
    corruptions: str | None = dial(None, "folder of CIFAR-10-C or CIFAR-100-C, measured as well")
    per_class: bool = dial(False, "a table of the accuracy of each class")
    json: str | None = dial(
        None,
        "true prints JSON instead of the table, a file name writes it there",
        lambda v: v is None or Path(v).parent.is_dir(),
        "true, false, or a file in a folder that is there",
    )
    seed: int = dial(0, "of the control", lambda v: 0 <= v < 2**63, "from 0 to 2^63 - 1")
    batch: int = dial(500, "images a step", lambda v: v >= 1, "at least 1")
    accelerator: str = dial("auto", "auto, cpu, gpu, mps ...")
    model: Any = dial(None, "backbone, where the ticket cannot build its own")
    width: float = dial(1.0, "channel multiplier of that backbone", lambda v: 0 < v < float("inf"), "above 0")
    data: Data = group(Data)


@dataclass
class ReportConfig:
    """One report of ``mpt-ticket report``."""

    image_size: int | None = dial(
        None,
        "side of the images for the acceleration, the ticket's own if none",
        lambda v: v is None or v >= 1,
        "at least 1",
    )
    checkpoint: str | None = dial(None, "last.ckpt of the ticket's run: histograms of its scores, in the JSON")
    bins: int = dial(100, "of a histogram", lambda v: v >= 1, "at least 1")
    json: str | None = dial(
        None,
        "true prints JSON instead of the table, a file name writes it there",
        lambda v: v is None or Path(v).parent.is_dir(),
        "true, false, or a file in a folder that is there",
    )
    model: Any = dial(None, "backbone, where the ticket cannot build its own")
    width: float = dial(1.0, "channel multiplier of that backbone", lambda v: 0 < v < float("inf"), "above 0")


@dataclass
class ImportConfig:
    """One import of ``mpt-ticket import``."""

    model: Any = dial(None, "the network that the checkpoint is of, model=conv4: must be given")
    width: float = dial(1.0, "its channel multiplier", lambda v: 0 < v < float("inf"), "above 0")
    binary_activations: bool = dial(False, "it is one of MPT-1/1")
    prune: float | None = dial(
        None,
        "fraction removed, where the file does not say it",
        lambda v: v is None or 0 <= v < 1,
        "the fraction removed and must be in [0, 1)",
    )
    selection: str | None = dial(
        None,
        "how it was pruned, where the file does not say it",
        lambda v: v in (None, "layerwise", "global"),
        "layerwise or global",
    )
    image_size: int = dial(32, "side of the images it is for", lambda v: v >= 1, "at least 1")
    in_channels: int | None = dial(
        None, "their channels, as the first layer has if none", lambda v: v is None or v >= 1, "at least 1"
    )
    out: str | None = dial(None, "the ticket file, FILE with .safetensors in this folder if none")
