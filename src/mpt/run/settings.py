"""Every parameter of a run: type, default, meaning, range, and what it identifies. Imports the standard library alone.

Hydra composes a :class:`Settings` from ``conf/`` and the command line (:mod:`mpt.run.compose`), which is checked once
(:mod:`mpt.run.check`) and then handed on as an object. ``model`` and ``method`` are open: their further keys are the
arguments of the function or class that their ``target`` names (:class:`Choice`).

Each parameter says at its field what it is ``of``:

    result    the ticket depends on it: it identifies a run, in its name and when a command finds it again
    folder    the same, where the data are an image folder; elsewhere it says where this machine keeps the data
    machine   where and how fast; the ticket and its header do not know it
    command   what a command does besides: names, records, presets whose values other parameters hold
    input     noted by the run itself, not an option: what an input file held
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

PROTOCOLS = ("kept", "paper", "published")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


class Range(NamedTuple):
    """The values that a parameter accepts, as a check and in words: what it *must be*."""

    accepts: Callable[[Any], bool]
    words: str


def at_least(least: int) -> Range:
    """Finite numbers from ``least`` on."""
    return Range(lambda v: least <= v < math.inf, f"at least {least}" if least else "0 or more")


def above(bound: int) -> Range:
    """Finite numbers above ``bound``."""
    return Range(lambda v: bound < v < math.inf, f"above {bound}")


def fraction() -> Range:
    """Numbers in [0, 1)."""
    return Range(lambda v: 0 <= v < 1, "in [0, 1)")


def one_of(*words: str) -> Range:
    """One of a few words."""
    return Range(lambda v: v in words, f"{', '.join(words[:-1])} or {words[-1]}")


PRUNE = Range(fraction().accepts, "the fraction removed and must be in [0, 1)")
PROBABILITY = Range(lambda v: 0 <= v <= 1, "a probability in [0, 1]")
SEED = Range(lambda v: 0 <= v < 2**63, "from 0 to 2^63 - 1")


def dial(default: Any, meaning: str, valid: Range | None = None, *, of: str = "result", search: bool = False) -> Any:
    """A parameter. A list or a group is given by its class.

    Args:
        default: "???" where there is none. Where it is None, None is valid.
        meaning: in a few words, for ``--help``.
        valid: the values that it accepts.
        of: see the head of this file.
        search: fine-tuning keeps what the ticket was searched with.
    """
    about = {"meaning": meaning, "valid": valid, "of": of, "search": search}
    if callable(default):
        return field(default_factory=default, metadata=about)
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Choice:
    """A file of an open group: what ``target`` (a dotted name) builds, under which name, with which arguments."""

    name: str
    target: str
    arguments: dict[str, Any] = field(default_factory=dict)


if TYPE_CHECKING:
    Open: TypeAlias = Choice
    OptionalOpen: TypeAlias = Choice | None
else:  # as Hydra composes them; compose.settings_of makes a Choice of each
    Open, OptionalOpen = dict[str, Any], Any


@dataclass
class Data:
    """Where images come from and how they are augmented; see :func:`mpt.data.load`."""

    name: str = dial("???", "data set")
    root: str | None = dial(None, "folder of the files", of="folder")
    image_size: int | None = dial(None, "side to resize to, in pixels", at_least(1))
    val_size: float = dial(0.0, "training images held out: a number, or a fraction", at_least(0))
    train_size: int | None = dial(None, "training images used at most", at_least(1))
    download: bool = dial(True, "download missing files", of="command")
    cache: str | None = dial(None, "where decoded image folders are kept", of="machine")
    crop: int | None = dial(None, "padding of the random crop, in pixels", at_least(0))
    flip: bool | None = dial(None, "mirror half of the training images")
    mean: list[float] | None = dial(None, "per channel, in [0, 1]")
    std: list[float] | None = dial(None, "per channel, in [0, 1]")
    augment: str = dial("none", "of training images, beyond crop and flip", one_of("none", "augmix"))
    noise_std: float = dial(0.0, "Gaussian noise on training images, in units of [0, 1]", at_least(0))
    noise_probability: float = dial(1.0, "probability that a training image gets noise", PROBABILITY)
    resized_crop: bool | None = dial(None, "image folders: crops of random area and shape, as imagenet takes them")
    stream: bool | None = dial(
        None, "image folders: read them batch by batch; null where memory is too small", of="machine"
    )
    workers: int | None = dial(
        None,
        "processes that read and augment image by image; null: one per core, 16 at most",
        at_least(0),
        of="machine",
    )
    num_classes: int = dial(10, "classes of synthetic images", at_least(2))
    num_images: int = dial(1000, "number of synthetic images", at_least(2))
    channels: int = dial(3, "channels of synthetic images", at_least(1))


@dataclass
class Optim:
    """Optimizer of the scores (or of the dense weights) and its learning rate over the epochs."""

    name: str = dial("sgd", "optimizer: sgd, adam or adamw")
    _target_: str | None = dial(None, "your own optimizer instead: its dotted name")
    arguments: Any = dial(
        None,
        "further arguments of the optimizer, such as {betas: [0.9, 0.99]}",
        Range(lambda v: isinstance(v, dict), "a mapping of names to values"),
    )
    lr: float = dial(0.1, "highest learning rate", above(0))
    momentum: float = dial(0.9, "of SGD", fraction())
    nesterov: bool = dial(False, "Nesterov momentum, of SGD")
    weight_decay: float = dial(1e-4, "on everything that is trained", at_least(0))
    decay_scores: bool = dial(True, "whether weight decay acts on scores")
    decay_batchnorm: bool = dial(True, "whether it acts on batch-norm's scale and shift (+BN)")
    schedule: Any = dial(
        "cosine",
        "of the learning rate, once per epoch",
        Range(
            lambda v: v in ("cosine", "multi_step", "constant") or is_target(v),
            "cosine, multi_step, constant or {_target_: its dotted name, and arguments}",
        ),
    )
    warmup: int = dial(0, "epochs of linear warm-up before it", at_least(0))
    milestones: list[int] = dial(
        list,
        "of multi_step: epochs before which lr is multiplied by gamma",
        Range(lambda v: v == sorted(set(v)) and all(m >= 1 for m in v), "rising numbers from 1"),
    )
    gamma: float = dial(0.1, "factor at a milestone", above(0))
    clip_grad_norm: float | None = dial(None, "largest norm of the gradient; longer ones are scaled down", above(0))
    accumulate: int = dial(1, "parts in which a batch is computed, one after the other, before a step", at_least(1))
    averaging: str = dial("none", "average of the scores that is evaluated and kept", one_of("none", "ema", "swa"))
    averaging_decay: float = dial(0.999, "of ema, a step", fraction())
    averaging_start: int = dial(0, "first epoch, from 0, that is averaged", at_least(0))


def is_target(value: Any) -> bool:
    """Whether ``value`` names something to build, as ``{_target_: dotted name, arguments}``."""
    return isinstance(value, dict) and isinstance(value.get("_target_"), str)


@dataclass
class Trainer:
    """Where and how fast; accelerator, devices, num_nodes, strategy and precision as Lightning spells them."""

    name: str = dial("auto", "this choice's name", of="machine")
    accelerator: str = dial("auto", "auto, cpu, gpu, mps ...", of="machine")
    devices: Any = dial("auto", "number of processes, or which devices")
    num_nodes: int = dial(1, "machines", at_least(1))
    strategy: str = dial("auto", "auto, ddp ...", of="machine")
    precision: str = dial(
        "32-true",
        "of training; evaluation is always float32",
        Range(one_of(*PRECISIONS).accepts, f"{one_of(*PRECISIONS).words} (others would round the frozen weights)"),
    )
    sync_batchnorm: bool = dial(False, "batch-norm over the images of all processes (GPUs)")
    channels_last: bool = dial(True, "memory format of images and activations")
    progress: bool = dial(True, "progress bars, on a terminal", of="machine")
    limit_batches: int | None = dial(None, "batches an epoch at most", at_least(1))


@dataclass
class Logger:
    """Where metrics go besides metrics.jsonl."""

    name: str = dial("local", "logger", one_of("local", "wandb", "tensorboard"), of="command")
    project: str = dial("mpt", "W&B project", of="command")
    entity: str | None = dial(None, "W&B account or team", of="command")
    group: str | None = dial(None, "W&B group of runs", of="command")
    tags: list[str] = dial(list, "W&B tags", of="command")
    mode: str = dial("offline", "of W&B", one_of("offline", "online"), of="command")


@dataclass
class Settings:
    """One run. ``mpt-train --help`` prints these meanings."""

    prune: float = dial(0.5, "fraction of the weights removed", PRUNE, search=True)
    width: float = dial(1.0, "channel multiplier of the backbone", above(0))
    binary_activations: bool = dial(False, "MPT-1/1 instead of 1/32: signs instead of ReLUs", search=True)
    spline_t: float = dial(1.0, "t of the signs' spline gradient (MPT-1/1)", above(0), search=True)
    learn_batchnorm: bool = dial(False, "train batch-norm's scale and shift (+BN)", search=True)
    epochs: int = dial(250, "passes over the training images", at_least(1))
    batch: int = dial(128, "images a step, over all processes together", at_least(1))
    label_smoothing: float = dial(
        0.0, "share of the target spread over all classes, not in reported losses", fraction()
    )
    select: str = dial(
        "last",
        "epoch whose ticket is kept; best_val is the best on held-out images (data.val_size)",
        one_of("last", "best_val"),
    )
    report: bool = dial(False, "write report.json too: kernels without a weight, histograms of scores", of="command")
    seed: int = dial(0, "of weights, scores and data", SEED)
    dense: list[str] = dial(list, "layers left out of the search, names or patterns", search=True)
    runs: str = dial("runs", "folder of all runs", of="command")
    model: Open = dial(dict, "backbone")
    data: Data = dial(Data, "images")
    method: Open = dial(dict, "search method", search=True)
    optim: Optim = dial(Optim, "optimizer and learning rate")
    trainer: Trainer = dial(Trainer, "machine")
    logger: Logger = dial(Logger, "records", of="command")
    recipe: str | None = dial(None, "a published or tried preset of these options", of="command", search=True)
    sweep: str | None = dial(
        None, "name of the experiment that this run belongs to; sweeps=<name> sets it", of="command"
    )
    budget: str | None = dial(
        None,
        "size of an experiment",
        Range(one_of("paper", "mini").accepts, "paper or mini, with sweeps=<name>"),
        of="command",
    )
    protocol: str = dial(
        "kept",
        "whose way where paper and published code differ; kept is ours",
        one_of(*PROTOCOLS),
        of="command",
        search=True,
    )
    data_checksum: str | None = dial(None, "of the listing of an image folder", of="input")


@dataclass
class FinetuneSettings(Settings):
    """One run of ``mpt-finetune``; the best setting of Efficient MPT, table 1, by default (``conf/finetune.yaml``)."""

    ticket: str = dial("???", "the ticket file", of="command")  # its digest identifies the run
    layers: str = dial("last", "whose weights are trained: last, first, all, or a name or pattern")
    epochs: int = dial(40, "passes over the training images", at_least(1))
    batch: int = dial(256, "images a step, over all processes together", at_least(1))
    width: float = dial(1.0, "of a backbone given as model=", above(0))
    ticket_digest: str | None = dial(None, "of the ticket file", of="input")


def plain(settings: Settings) -> dict[str, Any]:
    """The settings as plain containers, as ``config.yaml`` and ``result.json`` hold them."""
    config = asdict(settings)
    for f in fields(settings):
        if isinstance(value := getattr(settings, f.name), Choice):
            config[f.name] = {"name": value.name, "target": value.target, **value.arguments}
        elif f.metadata["of"] == "input" and value is None:
            del config[f.name]
    return config


def group_class(f: Field[Any]) -> type | None:
    """Class of a parameter that is a typed group; None for any other."""
    default = f.default_factory if f.default_factory is not MISSING else None
    return default if isinstance(default, type) and is_dataclass(default) else None


def dials(schema: type, *, prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """Every parameter of ``schema`` by its dotted name; a typed group by those in it."""
    for f in fields(schema):
        nested = group_class(f)
        if nested:
            yield from dials(nested, prefix=f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, f
