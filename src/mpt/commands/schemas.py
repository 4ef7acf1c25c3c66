"""The settings of mpt-eval and mpt-ticket; those of mpt-train and mpt-finetune are in :mod:`mpt.run.settings`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mpt.run.settings import PRUNE, SEED, Data, OptionalOpen, Range, above, at_least, dial, one_of

_JSON = Range(lambda v: Path(v).parent.is_dir(), "true, false, or a file in an existing folder")


@dataclass
class OfATicket:
    """The parameters of every command that describes a ticket."""

    json: str | None = dial(None, "true prints JSON instead of the table, a file name writes it there", _JSON)
    model: OptionalOpen = dial(None, "backbone, where the ticket cannot build its own")
    width: float = dial(1.0, "channel multiplier of that backbone", above(0))


@dataclass
class EvalSettings(OfATicket):
    """One measurement of a ticket file by ``mpt-eval``."""

    control: str | None = dial(None, "measure a control instead: shuffled_mask, random_mask or fresh_weights")
    corruptions: str | None = dial(None, "folder of CIFAR-10-C or CIFAR-100-C, measured as well")
    per_class: bool = dial(False, "a table of the accuracy of each class")
    seed: int = dial(0, "of the control", SEED)
    batch: int = dial(500, "images a step", at_least(1))
    accelerator: str = dial("auto", "auto, cpu, gpu, mps ...")
    data: Data = dial(Data, "images")


@dataclass
class PredictSettings(OfATicket):
    """One classification of pictures by ``mpt-predict``."""

    top: int = dial(1, "most probable classes of each picture in the table", at_least(1))
    batch: int = dial(64, "pictures a step", at_least(1))
    accelerator: str = dial("auto", "auto, cpu, gpu, mps ...")
    progress: bool = dial(True, "show a progress bar on a terminal")


@dataclass
class ReportSettings(OfATicket):
    """One report of ``mpt-ticket report``."""

    image_size: int | None = dial(
        None, "side of the images for the acceleration, the ticket's own if none", at_least(1)
    )
    checkpoint: str | None = dial(None, "last.ckpt of the ticket's run: histograms of its scores, in the JSON")
    bins: int = dial(100, "of a histogram", at_least(1))


@dataclass
class ImportSettings:
    """One import of ``mpt-ticket import``."""

    model: OptionalOpen = dial(None, "the network of the checkpoint, model=conv4: must be given")
    width: float = dial(1.0, "its channel multiplier", above(0))
    binary_activations: bool = dial(False, "whether the network is one of MPT-1/1")
    prune: float | None = dial(None, "fraction removed, where the file does not say it", PRUNE)
    selection: str | None = dial(
        None, "how it was pruned, where the file does not say it", one_of("layerwise", "global")
    )
    image_size: int = dial(32, "side of the images it is for", at_least(1))
    in_channels: int | None = dial(None, "their channels, those of the first layer if none", at_least(1))
    out: str | None = dial(None, "the ticket file, FILE with .safetensors in this folder if none")
