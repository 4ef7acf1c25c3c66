"""Optimizers and learning rates. The rate changes once per epoch, by the formulas of the paper's appendix A:

    warm-up      lr_e = lr (e + 1) / w                                     for the first w epochs, then
    cosine       lr_e = lr (1 + cos(pi (e - w) / (E - w))) / 2
    multi_step   lr_e = lr gamma^(number of milestones that are at most e)
    constant     lr_e = lr

with e the number of epochs finished before, and E that of all epochs. ``_target_`` names a custom optimizer or
schedule.
"""

from __future__ import annotations

import inspect
import io
import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from mpt.experiment.build import import_target
from mpt.run.settings import Optim
from mpt.search.adam import ScoreAdam, ScoreAdamW
from mpt.search.layers import ticket_layers
from mpt.search.parameters import BATCH_NORMS
from mpt.search.sgd import ScoreSGD

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": ScoreSGD,
    "adam": ScoreAdam,
    "adamw": ScoreAdamW,
}


def build_optim(net: nn.Module, choice: Optim, *, epochs: int) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """The optimizer of the trained parameters of ``net``, and its schedule, which steps once per epoch.

    Args:
        net: parameters with ``requires_grad`` are trained.
        choice: settings of optimizer and schedule.
        epochs: of the whole run.

    Raises:
        ValueError: a ``_target_`` that cannot be imported or built.
    """
    groups = parameter_groups(
        net,
        lr=choice.lr,
        weight_decay=choice.weight_decay,
        decay_scores=choice.decay_scores,
        decay_batchnorm=choice.decay_batchnorm,
        gain_lr=choice.gain_lr,
    )
    optimizer = _optimizer(groups, choice)
    return optimizer, _schedule(optimizer, choice, epochs=epochs)


def try_optim(choice: Optim, *, epochs: int) -> None:
    """Build optimizer and schedule for a small layer; one of the user's own takes a step and is saved.

    Raises:
        ValueError: a ``_target_`` that cannot be imported, built, stepped or saved in a checkpoint.
    """
    layer = nn.Linear(2, 2)
    optimizer, schedule = build_optim(layer, choice, epochs=epochs)
    if not choice._target_ and not isinstance(choice.schedule, dict):
        return
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for option, step in (("optim", optimizer.step), ("optim.schedule", schedule.step)):
        try:
            step()
        except Exception as error:  # whatever the user's code raises
            raise ValueError(f"{option}: a step of this _target_ fails, choose another: {error}") from error
    _check_saved("optim", {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()})


def parameter_groups(
    net: nn.Module, *, lr: float, weight_decay: float, decay_scores: bool, decay_batchnorm: bool, gain_lr: float
) -> list[dict[str, Any]]:
    """Groups of parameters with their weight decay: scores, batch-norm, learned gains, and all others that are trained.

    Learned gains have no weight decay, which would pull them to 1, and the learning rate ``gain_lr``. Scores have the
    method's factor ``score_lr`` of the learning rate; their decay is divided by it, so that a step decays them as much.
    """
    layers = ticket_layers(net).values()
    factor = next((layer.method.score_lr for layer in layers), 1.0)
    decay = weight_decay * decay_scores / factor
    scores, gains = {id(layer.scores) for layer in layers}, {id(layer.log_gain) for layer in layers}
    norms = {id(p) for module in net.modules() if isinstance(module, BATCH_NORMS) for p in module.parameters()}
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    kinds = {
        "scores": ([p for p in trained if id(p) in scores], {"weight_decay": decay, "lr": lr * factor}),
        "batchnorm": ([p for p in trained if id(p) in norms], {"weight_decay": weight_decay * decay_batchnorm}),
        "gains": ([p for p in trained if id(p) in gains], {"weight_decay": 0.0, "lr": gain_lr}),
        "others": ([p for p in trained if id(p) not in scores | norms | gains], {"weight_decay": weight_decay}),
    }
    return [{"params": parameters, **options} for parameters, options in kinds.values() if parameters]


def _optimizer(groups: list[dict[str, Any]], choice: Optim) -> torch.optim.Optimizer:
    arguments = {"lr": choice.lr, **(choice.arguments or {})}
    if choice._target_ is None:
        own = {"momentum": choice.momentum, "nesterov": choice.nesterov} if choice.name == "sgd" else {}
        # a fused step reads each parameter once; to clip gradients in float16 the step must be plain
        if not choice.clip_grad_norm and not arguments.keys() & {"fused", "foreach", "differentiable"}:
            own["fused"] = True
        builtin: torch.optim.Optimizer = _build(
            "optim", OPTIMIZERS[choice.name], groups, arguments=own | arguments, name=choice.name
        )
        return builtin
    optimizer = _build("optim", import_target("optim", choice._target_, key="_target_"), groups, arguments=arguments)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"optim._target_ must build a torch optimizer, {choice._target_} gave {_kind(optimizer)}")
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"optim._target_={choice._target_} evaluates the loss several times in a step, and a search does so once: "
            "choose an optimizer whose step needs no closure"
        )
    return optimizer


def _schedule(optimizer: torch.optim.Optimizer, choice: Optim, *, epochs: int) -> LRScheduler:
    schedule = choice.schedule
    if isinstance(schedule, str):
        factors = lr_factors(
            epochs=epochs,
            schedule=schedule,
            warmup=choice.warmup,
            milestones=choice.milestones,
            gamma=choice.gamma,
        )
        return LambdaLR(optimizer, factors)
    arguments = {key: value for key, value in schedule.items() if key != "_target_"}
    target = import_target("optim.schedule", schedule["_target_"], key="_target_")
    custom = _build("optim.schedule", target, optimizer, arguments=arguments)
    if isinstance(custom, ReduceLROnPlateau):
        raise ValueError(
            "optim.schedule cannot be ReduceLROnPlateau, because a resumed run would not see earlier metrics again: "
            "choose a schedule that follows the epoch alone"
        )
    if not isinstance(custom, LRScheduler):
        raise ValueError(f"optim.schedule._target_ must build a torch LRScheduler, it gave {_kind(custom)}")
    return custom


def lr_factors(
    *, epochs: int, schedule: str, warmup: int = 0, milestones: list[int] | tuple[int, ...] = (), gamma: float = 0.1
) -> Callable[[int], float]:
    """The learning rate after ``epoch`` finished epochs, divided by the highest one, by the formulas of this file."""

    def factor(epoch: int) -> float:
        if epoch < warmup:
            return (epoch + 1) / warmup
        if schedule == "multi_step":
            return float(gamma ** sum(milestone <= epoch for milestone in milestones))
        if schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(1, epochs - warmup)))

    return factor


def _check_switches(option: str, target: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """ValueError for text where ``target`` takes true or false: torch would take any text for true."""
    try:
        hints = inspect.signature(target).parameters
    except ValueError:  # a class of C without a signature
        return
    for name, value in arguments.items():
        kind = str(hints[name].annotation) if name in hints else ""
        if re.search(r"\bbool\b", kind) and not isinstance(value, (bool, type(None))):
            raise ValueError(f"{option}.arguments.{name} must be true or false, got {value}")


def _build(option: str, target: Callable[..., Any], first: Any, *, arguments: dict[str, Any], name: str = "") -> Any:
    _check_switches(option, target, arguments)
    try:
        return target(first, **arguments)
    except Exception as error:  # whatever the user's code raises
        name = name or getattr(target, "__name__", str(target))
        raise ValueError(f"{option}: {name} cannot be built with {arguments}: {error}") from error


def _check_saved(option: str, state: dict[str, Any]) -> None:
    """Refuse a state that a checkpoint cannot restore, which is read as plain numbers and containers only."""
    content = io.BytesIO()
    try:
        torch.save(state, content)
        content.seek(0)
        torch.load(content, weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{option}: the state of this _target_ cannot be saved in a checkpoint: {reason}") from error


def _kind(thing: object) -> str:
    return type(thing).__name__
