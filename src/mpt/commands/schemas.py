"""The settings of mpt-eval, mpt-ticket, mpt-report and mpt-theory; those of a run: :mod:`mpt.run.settings`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mpt.run.ranges import PRUNE, SEED, Range, above, at_least, between, dial, one_of, share
from mpt.run.settings import ACCELERATORS, Data, OptionalOpen

FORMS, KEEPS = ("binary", "real", "doubling"), ("fewest", "closest")
ENGINES = ("torch", "lists", "unrolled")
WEIGHTS = ("int8", "int4", "int2", "float")
_COUNTS = Range(
    lambda v: all(part.isdecimal() and int(part) >= 1 for part in v.split(",")),
    "whole numbers of at least 1, such as 1,64",
)
_JSON = Range(lambda v: Path(v).parent.is_dir(), "true, false, or a file in an existing folder")


@dataclass
class TicketSettings:
    """The parameters of every command that describes a ticket."""

    json: str | None = dial(None, "print JSON instead of the table (true), or write it to a file (its name)", _JSON)
    model: OptionalOpen = dial(None, "backbone, if the ticket cannot build its own")
    width: float = dial(1.0, "channel multiplier of that backbone", above(0))


@dataclass
class EvalSettings(TicketSettings):
    """One measurement of a ticket file by ``mpt-eval``."""

    control: str | None = dial(None, "measure a control instead: shuffled_mask, random_mask or fresh_weights")
    corruptions: str | None = dial(None, "folder of CIFAR-10-C or CIFAR-100-C, to measure as well")
    per_class: bool = dial(False, "print the accuracy of each class")
    seed: int = dial(0, "seed of the control", SEED)
    batch: int = dial(500, "images per step", at_least(1))
    accelerator: str = dial("auto", "what computes", one_of(*ACCELERATORS))
    engine: str = dial("torch", "what computes the logits; lists and unrolled are mpt.compile's", one_of(*ENGINES))
    data: Data = dial(Data, "images")


@dataclass
class PredictSettings(TicketSettings):
    """One classification of pictures by ``mpt-predict``."""

    top: int = dial(1, "most probable classes of each picture in the table", at_least(1))
    batch: int = dial(64, "pictures a step", at_least(1))
    accelerator: str = dial("auto", "what computes", one_of(*ACCELERATORS))
    progress: bool = dial(True, "count the pictures on a terminal")


@dataclass
class ReportSettings(TicketSettings):
    """One report of ``mpt-ticket report``."""

    image_size: int | None = dial(None, "side of the images for the acceleration; null: the ticket's", at_least(1))
    checkpoint: str | None = dial(None, "last.ckpt of the ticket's run: adds histograms of its scores to the JSON")
    bins: int = dial(100, "bins of a histogram", between(1, 10_000))
    speed: bool = dial(True, "measure how many times as fast as torch the compiled ticket is, for about a second")


@dataclass
class PageSettings:
    """One page of ``mpt-report``."""

    out: str | None = dial(None, "page to write; null: report.html in RUNS")
    figure: str | None = dial(None, "figure of several runs, as of mpt-plot; null: the sweep's, or one that suits them")
    speed: bool = dial(True, "of a run alone: measure how fast its compiled ticket is, for about a second")
    watch: bool = dial(False, "serve the page on this machine until Ctrl-C, and follow the runs")
    port: int | None = dial(None, "port of the server; null: 8765, or a free one", between(1, 65535))


@dataclass
class BenchSettings:
    """One measurement of ``mpt-ticket bench``."""

    batch: str = dial("1,64", "pictures a call", _COUNTS)
    threads: str = dial("1", "threads of torch and of the compiled ticket", _COUNTS)
    unroll: bool = dial(True, "measure unrolled code too, which takes a while to make the first time")
    image_size: int | None = dial(None, "side of the pictures; null: the ticket's", at_least(1))
    seconds: float = dial(2.0, "seconds of measuring for each batch size and number of threads", above(0))
    json: str | None = dial(None, "print JSON instead of the table (true), or write it to a file (its name)", _JSON)


@dataclass
class CompileSettings:
    """One object file of ``mpt-ticket compile``."""

    out: str | None = dial(None, "object to write, and a header next to it; null: TICKET with .o, in this folder")
    target: str | None = dial(None, "what to compile for, such as aarch64-linux-gnu or wasm32; null: this machine")
    cpu: str | None = dial(
        None, "oldest processor to run on, such as x86-64-v3; null: this one, or the oldest of target"
    )
    unroll: bool = dial(False, "write the weights out as instructions: faster, and takes longer to compile")
    image_size: int | None = dial(None, "side of the images; null: the ticket's", at_least(1))


@dataclass
class ExportSettings:
    """One ONNX file of ``mpt-ticket export``."""

    out: str | None = dial(None, "file to write; null: TICKET with .onnx, in this folder")
    weights: str = dial("int8", "type of the weights -1, 0 and +1", one_of(*WEIGHTS))
    image_size: int | None = dial(None, "side of the images; null: the ticket's", at_least(1))


@dataclass
class DrawSettings:
    """One drawing of ``mpt-ticket draw``."""

    out: str | None = dial(None, "SVG file to write; null: TICKET with .svg, in this folder")


@dataclass
class InfoSettings:
    """``mpt-ticket info`` has no parameters."""


@dataclass
class PackSettings:
    """One conversion of ``mpt-ticket pack`` or ``unpack``."""

    out: str | None = dial(None, "ticket file to write; null: FILE with another ending, in this folder")


@dataclass
class ImportSettings:
    """One import of ``mpt-ticket import``."""

    model: OptionalOpen = dial(None, "network of the checkpoint, such as model=conv4; must be given")
    width: float = dial(1.0, "channel multiplier of that network", above(0))
    binary_activations: bool = dial(False, "whether the network is MPT-1/1")
    prune: float | None = dial(None, "fraction removed, if the file does not say it", PRUNE)
    selection: str | None = dial(None, "how it was pruned, if the file does not say it", one_of("layerwise", "global"))
    image_size: int = dial(32, "side of its images", at_least(1))
    in_channels: int | None = dial(None, "channels of its images; null: as its first layer", at_least(1))
    out: str | None = dial(None, "ticket file to write; null: FILE with .safetensors, in this folder")


@dataclass
class BoundsSettings(TicketSettings):
    """One table of ``mpt-theory bounds``."""

    error: float = dial(0.01, "largest error of the output, in its 2-norm", above(0))
    delta: float = dial(0.05, "probability of failure", share())
    radius: float | None = dial(None, "largest 2-norm of an input; null: of the images, normalized", above(0))
    image_size: int | None = dial(None, "side of the images; null: the ticket's, or 32", at_least(1))
    in_channels: int | None = dial(None, "channels of the images; null: the ticket's, or 3", at_least(1))
    num_classes: int = dial(10, "classes of a network given as model=", at_least(1))


@dataclass
class ConstructSettings(TicketSettings):
    """One ticket of ``mpt-theory construct``."""

    accuracy: float = dial("???", "largest error of a weight; must be given", above(0))
    form: str = dial("binary", "how weights are built", one_of(*FORMS))
    keep: str = dial("fewest", "with form=real, which subset is kept", one_of(*KEEPS))
    delta: float = dial(0.05, "probability that the seed's network does not hold the ticket", share())
    seed: int = dial(0, "seed of the random network", SEED)
    fit: int = dial(1000, "with form=binary, training images that weights are rounded for; 0: none", at_least(0))
    out: str | None = dial(None, "ticket file to write; null: TICKET with .constructed.safetensors, in this folder")
    certify: bool = dial(True, "say how many labels of the test images are certified")
    progress: bool = dial(True, "say how large the random network is, and count the weights on a terminal")
    data: Data = dial(Data, "images whose labels are certified, and that weights are rounded for")


@dataclass
class FigureSettings:
    """One figure of ``mpt-theory figure``."""

    out: str = dial("promised.svg", "figure to write: .svg, .png or .pdf")
    runs: str | None = dial(None, "folder of the runs of sweeps=theory: draw hidden widths, searched and promised")
    table: str | None = dial(None, "table to draw, as an earlier call wrote it; null: compute it")
    csv: str | None = dial(None, "write the table to this file too")


THEORY_COMMANDS: dict[str, type] = {  # what follows mpt-theory, and its options
    "bounds": BoundsSettings,
    "construct": ConstructSettings,
    "figure": FigureSettings,
}
TICKET_COMMANDS: dict[str, type] = {  # what follows mpt-ticket, and its options
    "info": InfoSettings,
    "report": ReportSettings,
    "draw": DrawSettings,
    "bench": BenchSettings,
    "import": ImportSettings,
    "pack": PackSettings,
    "unpack": PackSettings,
    "compile": CompileSettings,
    "export": ExportSettings,
}
