"""The typed configuration: every parameter with its meaning and range, checked here, once. Imports no torch.

``Config`` is what ``mpt-train`` runs; ``conf/`` holds the choices. The groups ``data``, ``optim``, ``trainer`` and
``logger`` are typed too. ``model`` and ``method`` are open: their keys are the arguments of the function or class that
their ``target`` names, and are held against its signature when it is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

PACKAGE = Path(__file__).resolve().parents[1]
HOME = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parents[1]  # in a wheel beside the code, else the checkout
CONF = HOME / "conf"
PROTOCOLS = ("kept", "paper", "published")


def dial(default: Any, meaning: str, ok: Callable[[Any], bool] | None = None, must: str = "") -> Any:
    """A field with a meaning, and a range that is checked (``ok``) and said (``must``)."""
    return field(default=default, metadata={"meaning": meaning, "ok": ok, "must": must})


def group(default: Any) -> Any:
    return field(default_factory=default)


@dataclass
class Data:
    """Where images come from and how they are augmented; see :func:`mpt.data.load`."""

    name: str = dial("???", "data set")
    root: str | None = dial(None, "folder of the files")
    image_size: int | None = dial(None, "side to resize to, in pixels", lambda v: v is None or v >= 1, "at least 1")
    val_size: float = dial(0.0, "training images held out: a number, or a fraction", lambda v: v >= 0, "0 or more")
    train_size: int | None = dial(None, "training images used at most", lambda v: v is None or v >= 1, "at least 1")
    download: bool = dial(True, "fetch what is not found")
    cache: str | None = dial(None, "where decoded image folders are kept")
    crop: int | None = dial(None, "padding of the random crop, in pixels", lambda v: v is None or v >= 0, "0 or more")
    flip: bool | None = dial(None, "mirror half of the training images")
    mean: list[float] | None = dial(None, "per channel, in [0, 1]")
    std: list[float] | None = dial(None, "per channel, in [0, 1]")
    augment: str = dial(
        "none", "of training images, beyond crop and flip", lambda v: v in ("none", "augmix"), "none or augmix"
    )
    noise_std: float = dial(
        0.0, "Gaussian noise on training images, in units of [0, 1]", lambda v: 0 <= v < float("inf"), "0 or more"
    )
    noise_probability: float = dial(
        1.0, "with which a training image gets noise", lambda v: 0 <= v <= 1, "a probability in [0, 1]"
    )
    resized_crop: bool | None = dial(None, "image folders: crops of random area and shape, as imagenet takes them")
    stream: bool | None = dial(None, "image folders: read them batch by batch; null where memory is too small")
    workers: int | None = dial(
        None,
        "processes that read and augment image by image; null: a core each, 16 at most",
        lambda v: v is None or v >= 0,
        "0 or more",
    )
    num_classes: int = dial(10, "classes of synthetic images", lambda v: v >= 2, "at least 2")
    num_images: int = dial(1000, "number of synthetic images", lambda v: v >= 2, "at least 2")
    channels: int = dial(3, "channels of synthetic images", lambda v: v >= 1, "at least 1")


@dataclass
class Optim:
    """Optimizer of the scores (or of the dense weights) and its learning rate over the epochs."""

    name: str = dial("sgd", "optimizer: sgd, adam or adamw")
    _target_: str | None = dial(None, "an optimizer of one's own instead: its dotted name")
    arguments: Any = dial(
        None,
        "further arguments of the optimizer, such as {betas: [0.9, 0.99]}",
        lambda v: v is None or isinstance(v, (dict, DictConfig)),
        "a mapping of names to values",
    )
    lr: float = dial(0.1, "learning rate at its highest", lambda v: 0 < v < float("inf"), "above 0")
    momentum: float = dial(0.9, "of SGD", lambda v: 0 <= v < 1, "in [0, 1)")
    nesterov: bool = dial(False, "Nesterov momentum, of SGD")
    weight_decay: float = dial(1e-4, "on everything that is trained", lambda v: 0 <= v < float("inf"), "0 or more")
    decay_scores: bool = dial(True, "whether weight decay acts on scores")
    decay_batchnorm: bool = dial(True, "whether it acts on batch-norm's scale and shift (+BN)")
    schedule: Any = dial(
        "cosine",
        "of the learning rate, once per epoch",
        lambda v: v in ("cosine", "multi_step", "constant") or _has_target(v),
        "cosine, multi_step, constant or {_target_: its dotted name, and arguments}",
    )
    warmup: int = dial(0, "epochs of linear warm-up before it", lambda v: v >= 0, "0 or more")
    milestones: list[int] = field(
        default_factory=list,
        metadata={
            "meaning": "of multi_step: epochs before which lr is multiplied by gamma",
            "ok": lambda v: list(v) == sorted(set(v)) and all(m >= 1 for m in v),
            "must": "rising numbers from 1",
        },
    )
    gamma: float = dial(0.1, "factor at a milestone", lambda v: 0 < v < float("inf"), "above 0")
    clip_grad_norm: float | None = dial(
        None, "largest norm of the gradient, longer ones are scaled down", lambda v: v is None or v > 0, "above 0"
    )
    accumulate: int = dial(
        1, "parts in which a batch is computed, one after the other, before a step", lambda v: v >= 1, "at least 1"
    )
    averaging: str = dial(
        "none",
        "average of the scores that is evaluated and kept",
        lambda v: v in ("none", "ema", "swa"),
        "none, ema or swa",
    )
    averaging_decay: float = dial(0.999, "of ema, a step", lambda v: 0 <= v < 1, "in [0, 1)")
    averaging_start: int = dial(0, "first epoch, from 0, that is averaged", lambda v: v >= 0, "0 or more")


def _has_target(schedule: Any) -> bool:
    return isinstance(schedule, (dict, DictConfig)) and isinstance(schedule.get("_target_"), str)


@dataclass
class Trainer:
    """Where and how fast; accelerator, devices, num_nodes, strategy and precision as Lightning spells them."""

    name: str = dial("auto", "this choice's name")
    accelerator: str = dial("auto", "auto, cpu, gpu, mps ...")
    devices: Any = dial("auto", "number of processes, or which devices")
    num_nodes: int = dial(1, "machines", lambda v: v >= 1, "at least 1")
    strategy: str = dial("auto", "auto, ddp ...")
    precision: str = dial("auto", "auto, 32-true or bf16-mixed; auto is bf16-mixed where the machine computes in bf16")
    sync_batchnorm: bool = dial(False, "batch-norm over the images of all processes (GPUs)")
    channels_last: bool = dial(True, "memory format of images and activations")
    progress: bool = dial(True, "progress bars, on a terminal")
    limit_batches: int | None = dial(None, "batches an epoch at most", lambda v: v is None or v >= 1, "at least 1")


@dataclass
class Logger:
    """Where metrics go besides metrics.jsonl."""

    name: str = dial("local", "logger", lambda v: v in ("local", "wandb", "tensorboard"), "local, wandb or tensorboard")
    project: str = dial("mpt", "W&B project")
    entity: str | None = dial(None, "W&B account or team")
    group: str | None = dial(None, "W&B group of runs")
    tags: list[str] = field(default_factory=list, metadata={"meaning": "W&B tags"})
    mode: str = dial("offline", "of W&B", lambda v: v in ("offline", "online"), "offline or online")


@dataclass
class Config:
    """One run. ``mpt-train --help`` prints these meanings."""

    prune: float = dial(
        0.5, "fraction of the weights removed", lambda v: 0 <= v < 1, "the fraction removed and must be in [0, 1)"
    )
    width: float = dial(1.0, "channel multiplier of the backbone", lambda v: 0 < v < float("inf"), "above 0")
    binary_activations: bool = dial(False, "MPT-1/1 instead of 1/32: signs instead of ReLUs")
    spline_t: float = dial(1.0, "t of the signs' spline gradient (MPT-1/1)", lambda v: 0 < v < float("inf"), "above 0")
    learn_batchnorm: bool = dial(False, "train batch-norm's scale and shift (+BN)")
    epochs: int = dial(250, "passes over the training images", lambda v: v >= 1, "at least 1")
    batch: int = dial(128, "images a step, over all processes together", lambda v: v >= 1, "at least 1")
    label_smoothing: float = dial(
        0.0, "share of the target spread over all classes, not in reported losses", lambda v: 0 <= v < 1, "in [0, 1)"
    )
    select: str = dial(
        "last",
        "epoch whose ticket is kept; best_val is the best on held-out images (data.val_size)",
        lambda v: v in ("last", "best_val"),
        "last or best_val",
    )
    report: bool = dial(False, "write report.json too: kernels without a weight, histograms of the scores")
    seed: int = dial(0, "of weights, scores and data", lambda v: 0 <= v < 2**63, "from 0 to 2^63 - 1")
    dense: list[str] = field(
        default_factory=list, metadata={"meaning": "layers left out of the search, names or patterns"}
    )
    runs: str = dial("runs", "folder of all runs")
    model: dict[str, Any] = group(dict)
    data: Data = group(Data)
    method: dict[str, Any] = group(dict)
    optim: Optim = group(Optim)
    trainer: Trainer = group(Trainer)
    logger: Logger = group(Logger)
    recipe: str | None = dial(None, "a published or tried set of all of this")
    sweep: str | None = dial(None, "name of the experiment that this run belongs to; sweeps=<name> sets it")
    budget: str | None = dial(
        None, "size of an experiment", lambda v: v in (None, "paper", "mini"), "paper or mini, with sweeps=<name>"
    )
    protocol: str = dial(
        "kept",
        "whose way where paper and published code differ; kept is ours",
        lambda v: v in PROTOCOLS,
        ", ".join(PROTOCOLS[:-1]) + f" or {PROTOCOLS[-1]}",
    )


def register(schema: type = Config) -> None:
    """Make a command's schema, by the name of its class, and the experiments known to Hydra."""
    from mpt.experiment import sweep_files

    sweep_files.register()
    ConfigStore.instance().store(name=schema.__name__, node=schema)
    OmegaConf.register_new_resolver("protocol", _of_protocol, replace=True)
    OmegaConf.register_new_resolver("times_kept", _times_kept, replace=True)


def _of_protocol(choices: DictConfig, *, _root_: DictConfig) -> Any:
    """``${protocol:{kept:..., paper:..., published:...}}`` in a YAML file: the value under the protocol of this run."""
    if _root_.protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be {PROTOCOLS[0]}, {PROTOCOLS[1]} or {PROTOCOLS[2]}, got {_root_.protocol}")
    return choices[_root_.protocol]


def _times_kept(factor: float, *, _root_: DictConfig) -> float:
    """``${times_kept:x}`` in a YAML file: ``x (1 - prune)``, to twelve digits."""
    return float(f"{factor * (1 - _root_.prune):.12g}")


def check(config: DictConfig, schema: type = Config, prefix: str = "") -> None:
    """Raise ValueError with one sentence unless every key is known and every value in its range."""
    known = {f.name: f for f in fields(schema)}
    for key in map(str, config):
        if key not in known:
            raise ValueError(f"there is no option {prefix}{key}: take one of {', '.join(known)}")
    for name, f in known.items():
        if OmegaConf.is_missing(config, name):
            raise ValueError(f"{prefix}{name} ({f.metadata['meaning']}) is not given")
        value, nested = config[name], nested_schema(f)
        if nested:
            check(value, nested, f"{prefix}{name}.")
        elif f.metadata.get("ok") and not f.metadata["ok"](value):
            must = f.metadata["must"]
            is_or = "is" if must.startswith("the ") else "must be"
            raise ValueError(f"{prefix}{name} {is_or} {must}, got {_spelled(value)}")
    if issubclass(schema, Config):
        _check_together(config)
    for name in ("model", "method"):
        if name in known and isinstance(config[name], DictConfig):
            _check_named(config[name], name)


def _check_together(config: DictConfig) -> None:
    """What no value says alone."""
    optim = config.optim
    if optim._target_ is None and optim.name not in ("sgd", "adam", "adamw"):
        raise ValueError(f"optim.name must be sgd, adam or adamw, or optim._target_ be given, got {optim.name}")
    if optim.nesterov and optim.momentum == 0:
        raise ValueError("optim.nesterov looks ahead along the momentum, which is 0: give optim.momentum")
    if optim.schedule == "multi_step" and not optim.milestones:
        raise ValueError("optim.schedule=multi_step needs its epochs: for instance optim.milestones=[100,150]")
    if optim.warmup and not isinstance(optim.schedule, str):
        raise ValueError("optim.warmup does not go with a schedule of one's own, which makes its own warm-up")
    if optim.averaging != "none" and optim.averaging_start >= config.epochs:
        raise ValueError(
            f"optim.averaging_start is the first epoch, from 0, that is averaged, and must be below epochs, "
            f"got {optim.averaging_start} of {config.epochs}"
        )
    if config.batch % optim.accumulate:
        raise ValueError(f"batch must divide by optim.accumulate, got {config.batch} in {optim.accumulate} parts")
    if config.select == "best_val" and config.data.val_size == 0:
        raise ValueError("select=best_val needs held-out images, the test images never choose: give data.val_size")


def _spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_named(choice: DictConfig, name: str) -> None:
    for key in ("name", "target"):
        if key not in choice or OmegaConf.is_missing(choice, key):
            raise ValueError(f"{name}.{key} is not given: say for instance {name}.{key}=resnet18")
        if not isinstance(choice[key], str):
            raise ValueError(f"{name}.{key} must be text, got {choice[key]!r}")


def nested_schema(f: Any) -> type | None:
    """Schema of a field that is a typed group; None of any other."""
    default = f.default_factory if f.default_factory is not MISSING else None
    return default if isinstance(default, type) and is_dataclass(default) else None
