"""Every parameter of a run: type, default, meaning, range, and what it identifies. Imports the standard library alone.

Hydra composes a :class:`Settings` from ``conf/`` and the command line (:mod:`mpt.run.compose`), which is checked once
(:mod:`mpt.run.check`) and then passed on as an object. ``model`` and ``method`` are open: their other keys are the
arguments of the function or class that their ``target`` names (:class:`Choice`).

Each parameter says at its field what it is ``of``:

    result    the ticket depends on it: it identifies a run, in the run's name and when a command is repeated
    folder    the same for an image folder; for other data, the place where this machine keeps them
    machine   where and how fast the run computes; neither the ticket nor its header depends on it
    command   other behaviour of a command: names, records, presets whose values other parameters hold
    input     no option: the run records what an input file contains
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from mpt.run.ranges import (
    DEVICES,
    MEANS,
    PROBABILITY,
    PRUNE,
    REPORTS,
    SEED,
    SPREADS,
    STRATEGIES,
    Range,
    above,
    at_least,
    between,
    dial,
    fraction,
    one_of,
    share,
)

PROTOCOLS = ("kept", "paper", "published")
DATA = ("digits", "cifar10", "cifar100", "mnist", "fashion_mnist", "image_folder", "imagenet", "synthetic", "own")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Choice:
    """A choice of an open group: its name, the dotted name ``target`` of a function or class, and its arguments."""

    name: str
    target: str
    arguments: dict[str, Any] = field(default_factory=dict)


if TYPE_CHECKING:
    Open: TypeAlias = Choice
    OptionalOpen: TypeAlias = Choice | None
else:  # as Hydra composes them; compose.settings_of turns each into a Choice
    Open, OptionalOpen = dict[str, Any], Any


@dataclass
class Data:
    """Where images come from and how they are augmented; see :func:`mpt.data.load`."""

    name: str = dial("???", "data set", one_of(*DATA))
    root: str | None = dial(None, "folder of the files", of="folder")
    image_size: int | None = dial(None, "side to resize to, in pixels", at_least(1))
    test_size: float | None = dial(
        None, "class folders without test/ or val/: fraction of each class drawn for testing", share()
    )
    val_size: float = dial(0.0, "training images held out: a number, or a fraction", at_least(0))
    train_size: int | None = dial(None, "use at most this many training images", at_least(1))
    download: bool = dial(True, "download missing files", of="command")
    cache: str | None = dial(None, "where decoded image folders are kept", of="machine")
    crop: int | None = dial(None, "padding of the random crop, in pixels", at_least(0))
    flip: bool | None = dial(None, "mirror half of the training images")
    mean: list[float] | None = dial(None, "per channel, in [0, 1]", MEANS)
    std: list[float] | None = dial(None, "per channel, in [0, 1]", SPREADS)
    augment: str = dial("none", "augmentation besides crop and flip", one_of("none", "augmix"))
    noise_std: float = dial(0.0, "Gaussian noise on training images, in units of [0, 1]", at_least(0))
    noise_probability: float = dial(1.0, "probability that a training image gets noise", PROBABILITY)
    resized_crop: bool | None = dial(None, "image folders: crops of random area and shape, as for imagenet")
    stream: bool | None = dial(
        None, "image folders: read them batch by batch; null: only if they exceed the memory", of="machine"
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
        "other arguments of the optimizer, such as {betas: [0.9, 0.99]}",
        Range(lambda v: isinstance(v, dict), "a mapping of names to values"),
    )
    lr: float = dial(0.1, "highest learning rate", above(0))
    gain_lr: float = dial(0.01, "highest learning rate of learned gains (method.gains=learned)", above(0))
    momentum: float = dial(0.9, "momentum of SGD", fraction())
    nesterov: bool = dial(False, "Nesterov momentum of SGD")
    weight_decay: float = dial(1e-4, "on all trained parameters", at_least(0))
    decay_scores: bool = dial(True, "whether weight decay acts on scores")
    decay_batchnorm: bool = dial(True, "whether weight decay acts on batch-norm's scale and shift (+BN)")
    schedule: Any = dial(
        "cosine",
        "schedule of the learning rate, which changes once per epoch",
        Range(
            lambda v: v in ("cosine", "multi_step", "constant") or is_target(v),
            "cosine, multi_step, constant or {_target_: its dotted name, and arguments}",
        ),
    )
    warmup: int = dial(0, "epochs of linear warm-up before the schedule", at_least(0))
    milestones: list[int] = dial(
        list,
        "epochs before which multi_step multiplies lr by gamma",
        Range(lambda v: v == sorted(set(v)) and all(m >= 1 for m in v), "increasing numbers from 1"),
    )
    gamma: float = dial(0.1, "factor at a milestone", between(1e-6, 1e3))
    clip_grad_norm: float | None = dial(None, "largest norm of the gradient; longer ones are scaled down", above(0))
    accumulate: int = dial(1, "parts into which each batch is split to save memory; one step per batch", at_least(1))
    averaging: str = dial("none", "average of the scores, which is evaluated and kept", one_of("none", "ema", "swa"))
    averaging_decay: float = dial(0.999, "decay of ema per step", fraction())
    averaging_start: int = dial(0, "epochs before the average begins", at_least(0))


def is_target(value: Any) -> bool:
    """Whether ``value`` names something to build, as ``{_target_: dotted name, arguments}``."""
    return isinstance(value, dict) and isinstance(value.get("_target_"), str)


@dataclass
class Trainer:
    """Where and how fast a run computes. Lightning defines accelerator, devices, num_nodes, strategy and precision."""

    name: str = dial("auto", "name of this choice", of="machine")
    accelerator: str = dial("auto", "what computes", one_of(*ACCELERATORS), of="machine")
    devices: Any = dial("auto", "number of processes, or a list of devices", DEVICES)
    num_nodes: int = dial(1, "number of machines", at_least(1))
    strategy: str = dial("auto", "how processes share a step", STRATEGIES, of="machine")
    precision: str = dial(
        "32-true",
        "precision of training; evaluation is always float32",
        Range(one_of(*PRECISIONS).accepts, f"{one_of(*PRECISIONS).words} (others would round the frozen weights)"),
    )
    sync_batchnorm: bool = dial(False, "batch-norm over the images of all processes (GPUs only)")
    channels_last: bool = dial(True, "memory format of images and activations")
    graph: bool = dial(False, "one CUDA GPU: record a step once as a CUDA graph and replay it", of="machine")
    checkpoint_every: int = dial(1, "epochs between two checkpoints; the last epoch has one", at_least(1), of="machine")
    progress: bool = dial(True, "a line an epoch, and on a terminal what the run is doing", of="machine")
    limit_batches: int | None = dial(None, "at most this many batches per epoch", at_least(1))


@dataclass
class Logger:
    """Where metrics go, in addition to metrics.jsonl; ``logger=[wandb,tensorboard]`` composes both."""

    name: str = dial("local", "name of this choice", one_of("local", "wandb", "tensorboard"), of="command")
    wandb: bool = dial(False, "record in W&B; logger=wandb sets it", of="command")
    tensorboard: bool = dial(False, "record for TensorBoard; logger=tensorboard sets it", of="command")
    project: str = dial("mpt", "W&B project", of="command")
    entity: str | None = dial(None, "W&B account or team", of="command")
    group: str | None = dial(None, "W&B group of runs", of="command")
    tags: list[str] = dial(list, "W&B tags", of="command")
    mode: str = dial("offline", "mode of W&B", one_of("offline", "online", "disabled"), of="command")


@dataclass
class Settings:
    """The settings of one run of ``mpt-train``, whose ``--help`` prints these meanings."""

    prune: float = dial(0.5, "fraction of the weights removed", PRUNE, search=True)
    width: float = dial(1.0, "channel multiplier of the backbone", above(0))
    binary_activations: bool = dial(False, "MPT-1/1 instead of MPT-1/32: signs instead of ReLUs", search=True)
    spline_t: float = dial(1.0, "t of the spline gradient of the signs (MPT-1/1)", between(1e-3, 1e3), search=True)
    learn_batchnorm: bool = dial(False, "train batch-norm's scale and shift (+BN)", search=True)
    epochs: int = dial(250, "passes over the training images", at_least(1))
    evaluate_every: int = dial(1, "epochs between two measurements on test images", at_least(1), of="machine")
    batch: int = dial(128, "images per step, over all processes", at_least(1))
    last_batch: str = dial(
        "weighted",
        "an epoch's last batch if it is smaller: weighted by its share of batch, or a whole step",
        one_of("weighted", "whole"),
    )
    label_smoothing: float = dial(
        0.0, "share of the target spread over all classes; reported losses leave it out", fraction()
    )
    distill: str | None = dial(None, "ticket file of a teacher, whose logits the network imitates", of="command")
    distill_weight: float = dial(
        0.5, "weight of the teacher's term in the loss", Range(lambda v: 0 < v <= 1, "in (0, 1]")
    )
    distill_temperature: float = dial(4.0, "divides the logits of both networks in the teacher's term", above(0))
    select: str = dial(
        "last",
        "epoch whose ticket is kept; best_val: the best on held-out images (data.val_size)",
        one_of("last", "best_val"),
    )
    report: Any = dial(False, "also write report.json; html: and a page, report.html", REPORTS, of="command")
    seed: int = dial(0, "seed of weights, scores and data", SEED)
    dense: list[str] = dial(list, "layers left out of the search: names or patterns", search=True)
    trained: list[str] = dial(list, "parameters, not searched, that are trained: names or patterns", search=True)
    objective: str | None = dial(
        None,
        "key of the result that a sweeper such as optuna gets; null: val_acc if images are held out, else test_acc",
        of="command",
    )
    runs: str = dial("runs", "folder of all runs", of="command")
    model: Open = dial(dict, "backbone")
    data: Data = dial(Data, "images")
    method: Open = dial(dict, "search method", search=True)
    optim: Optim = dial(Optim, "optimizer and learning rate")
    trainer: Trainer = dial(Trainer, "machine")
    logger: Logger = dial(Logger, "records", of="command")
    recipe: str | None = dial(None, "a published or tested preset of these options", of="command", search=True)
    sweep: str | None = dial(None, "experiment that this run belongs to; sweeps=<name> sets it", of="command")
    budget: str | None = dial(
        None,
        "size of an experiment",
        Range(one_of("paper", "mini").accepts, "paper or mini, with sweeps=<name>"),
        of="command",
    )
    protocol: str = dial(
        "kept",
        "which to follow where paper and published code differ; kept is our choice",
        one_of(*PROTOCOLS),
        of="command",
        search=True,
    )
    data_checksum: str | None = dial(None, "checksum of the listing of an image folder", of="input")
    distill_checksum: str | None = dial(None, "checksum of the teacher's ticket file", of="input")


@dataclass
class FinetuneSettings(Settings):
    """The settings of one run of ``mpt-finetune``; by default the best one of Efficient MPT, table 1."""

    ticket: str = dial("???", "the ticket file", of="command")  # its digest identifies the run
    layers: str = dial("last", "layers whose weights are trained: last, first, all, or a name or pattern")
    epochs: int = dial(40, "passes over the training images", at_least(1))
    batch: int = dial(256, "images per step, over all processes", at_least(1))
    width: float = dial(1.0, "channel multiplier of a backbone given as model=", above(0))
    ticket_digest: str | None = dial(None, "digest of the ticket file", of="input")


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
    """Class of a parameter that is a typed group; None for any other parameter."""
    default = f.default_factory if f.default_factory is not MISSING else None
    return default if isinstance(default, type) and is_dataclass(default) else None


def dials(schema: type, *, prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """Dotted name and field of every parameter of ``schema``; of a typed group, the parameters in it."""
    for f in fields(schema):
        nested = group_class(f)
        if nested:
            yield from dials(nested, prefix=f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, f


def spell(value: object) -> str:
    """``value`` as it is typed on a command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
