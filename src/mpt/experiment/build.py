"""Build backbone, method and converted network from settings, and check options against signatures."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

import mpt
from mpt.backbones.zoo import check_name
from mpt.causes import is_out_of_memory
from mpt.data import ImageData
from mpt.data.memory import check_memory, memory
from mpt.errors import is_mendable
from mpt.processes import is_first
from mpt.run.settings import Choice, spell
from mpt.search.dead import DeadLayers
from mpt.search.divided import DividedGains
from mpt.search.methods import Method
from mpt.search.probe import evaluation_mode
from mpt.search.unsearched import UnsearchedLayers
from mpt.streams import stream_key
from mpt.words import count


def build_method(choice: Choice, *, prune: float) -> Method:
    """The method that ``choice`` names, with its arguments."""
    target = import_target("method", choice.target)
    if not (isinstance(target, type) and issubclass(target, Method)):
        raise ValueError(f"method.target must name a mpt.Method, got {choice.target}")
    _check_options("method", choice.arguments, [f.name for f in dataclasses.fields(target) if f.name != "prune"])
    return target(prune=prune, **choice.arguments)


def build_backbone(
    choice: Choice, data: ImageData, *, width: float, seed: int, binary_activations: bool = False
) -> nn.Module:
    """The plain network that ``choice`` names, for the images of ``data``; ``seed`` seeds its initial weights.

    The target gets the arguments of ``choice``, and ``num_classes in_channels image_size width name`` as far as it
    accepts them. It gets ``binary_activations`` only if they are on.
    """
    target, name, options = check_model(choice, width=width), choice.name, choice.arguments
    parameters = inspect.signature(target).parameters
    values: dict[str, Any] = {
        "num_classes": data.num_classes,
        "in_channels": data.channels,
        "image_size": data.image_size,
    }
    values |= {"width": width, "name": name} | ({"binary_activations": True} if binary_activations else {})
    if "in_channels" not in parameters and data.channels != 3:
        raise ValueError(
            f"the images of {data.name} have {data.channels} and not 3 channels, and {choice.target} takes no argument "
            "in_channels: choose another model or other data"
        )
    accepted = {*parameters, *(["num_classes"] if _is_open(parameters) else [])}  # torchvision's builders pass it on
    arguments = {key: value for key, value in values.items() if key in accepted} | options
    if max(256 * width, *_numbers(options)) > 1024 and torch.get_default_device().type != "meta":
        _check_weights(target, arguments, options, width=width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key(seed, "backbone")[1] % 2**63)
        try:
            backbone = target(**arguments)
        except TypeError as error:
            raise ValueError(f"model={name} cannot be built with {options}: {error}") from error
    if not isinstance(backbone, nn.Module):
        raise ValueError(f"model.target must build a torch module, {choice.target} gave {type(backbone).__name__}")
    if not hasattr(backbone, "origin"):  # a custom one: the ticket records its name, but only the user can build it
        backbone.origin = {"target": choice.target, "arguments": {"name": name, "width": width, **options}}  # type: ignore[assignment]
    return backbone


def check_model(choice: Choice, *, width: float) -> Callable[..., Any]:
    """The function or class that builds the network of ``choice``; ValueError if it does not take these options."""
    target = import_target("model", choice.target)
    check_name(choice.target, choice.name)
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"model.target={choice.target} does not say which arguments it takes: name a Python function or class that "
            "builds the network"
        ) from error
    if not _is_open(parameters):
        _check_options("model", choice.arguments, list(parameters))
    if "width" not in parameters and width != 1:
        raise ValueError(
            f"width is a channel multiplier, which {choice.name} does not have: leave it at 1, got {width:g}"
        )
    return target


def _is_open(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Whether a function of these parameters takes others by name."""
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


_WARNINGS = DeadLayers, DividedGains, UnsearchedLayers  # that are printed
_BYTES_PER_WEIGHT = 24  # frozen weight, score, gradients of both, momentum, ticket weight: 4 bytes each


def _numbers(value: Any) -> list[float]:
    """The numbers in nested lists and mappings, and 0."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    found = [float(value)] if isinstance(value, (int, float)) else []
    return [0.0, *found, *(number for entry in inner for number in _numbers(entry))]


def _check_weights(
    target: Callable[..., Any], arguments: dict[str, Any], options: dict[str, Any], *, width: float
) -> None:
    """Raise ValueError if the network would not fit into the memory; it is built without any, for its shapes."""
    try:
        with torch.device("meta"):
            weights: float = sum(parameter.numel() for parameter in target(**arguments).parameters())
    except (RuntimeError, OverflowError, TypeError, ValueError, MemoryError):  # more than a tensor can count
        weights = 2.0**63
    needed = _BYTES_PER_WEIGHT * weights
    fits = math.floor(width * math.sqrt(0.8 * memory() / needed) * 100) / 100  # weights grow with the square of width
    fits = fits if weights < 2**62 and width > 1 else 0
    large = [f"model.{name}={spell(value)}" for name, value in options.items() if max(_numbers(value)) > 1024]
    remedy = f"width={fits:g} fits" if fits else f"lower {large[0].partition('=')[0] if large else 'width'}"
    check_memory(needed, what=f"a search with {' '.join([*large, f'width={width:g}'])}", remedy=remedy)


def convert(
    backbone: nn.Module,
    method: Method,
    data: ImageData,
    *,
    seed: int,
    dense: list[str],
    trained: list[str],
    learn_batchnorm: bool,
    binary_activations: bool,
    spline_t: float,
    name: str,
) -> nn.Module:
    """``mpt.convert`` with a probe on images of the data's shape; it prints its warnings of layers that cannot learn.

    Raises:
        ValueError: the backbone cannot take the images, or cannot be converted.
    """
    side = data.image_size
    check_side(side, name=name)
    example = torch.zeros(2, data.channels, side, side)
    check_fit(backbone, example, num_classes=data.num_classes, name=name)
    with warnings.catch_warnings(record=True) as caught:
        for category in _WARNINGS:
            warnings.simplefilter("always", category)
        net = mpt.convert(
            backbone,
            method,
            seed=seed,
            dense=dense,
            trained=trained,
            learn_batchnorm=learn_batchnorm,
            binary_activations=binary_activations,
            spline_t=spline_t,
            example=example,
        )
    for warning in caught:
        if not issubclass(warning.category, _WARNINGS):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        elif is_first():
            print(f"warning: {warning.message}", file=sys.stderr, flush=True)
    return net


def check_side(side: int, *, name: str) -> None:
    """Raise ValueError if two images of ``side`` x ``side`` pixels fill the memory in a first layer of 64 channels."""
    check_memory(
        2 * 4 * 64 * side**2,
        what=f"a layer of {name} on images of {side}x{side} pixels",
        remedy=f"data.image_size={int((memory() / (64 * 4 * 64)) ** 0.5)} fits",
    )


@torch.no_grad()
def check_fit(backbone: nn.Module, example: torch.Tensor, *, num_classes: int, name: str) -> None:
    """ValueError unless ``backbone`` gives ``num_classes`` logits for each of the two images of ``example``."""
    backbone.eval()
    side = example.shape[-1]
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logits = backbone(example)
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError, AttributeError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        kinds = {str(parameter.dtype) for parameter in backbone.parameters()} - {"torch.float32"}
        if kinds or any(parameter.is_meta for parameter in backbone.parameters()):
            what = f"are of {kinds.pop()}" if kinds else "hold no numbers (device meta)"
            raise ValueError(f"{name} must be built in float32 on the CPU, and weights of it {what}") from error
        if isinstance(error, (TypeError, AttributeError, KeyError)) and is_mendable(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{name} cannot take images of {side}x{side} pixels ({reason}): choose another data.image_size"
        ) from error
    finally:
        backbone.train()
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"{name} must give one logit for each of {num_classes} classes: for 2 images it gave {shape}")


def check_ramp(method: Method, *, epochs: int) -> None:
    """ValueError if ``epochs`` end before the fraction removed has risen to ``prune``: the run would find no ticket."""
    ramp = method.ramp_epochs
    if method.ramp and not ramp and epochs <= method.ramp:
        raise ValueError(
            f"method.ramp={method.ramp} has an effect only where prune is above 0.5, and is no shorter than the run of "
            f"{count(epochs, 'epoch')}: leave it out"
        )
    if epochs <= ramp:
        raise ValueError(
            f"method.ramp={ramp} lets the fraction removed rise to prune over the first {ramp} epochs, and only later "
            f"ones find a ticket: epochs must be at least {ramp + 1}, got {epochs} (method.ramp=0 prunes at once)"
        )


def check_bf16_strides(net: nn.Module, data: ImageData) -> None:
    """ValueError if bf16 on the CPU would train a convolution of ``net`` whose stride exceeds the width of its input.

    There oneDNN's kernel for the gradient of the weight (``jit_bf16`` of oneDNN 3.12, torch 2.14) reads uninitialized
    memory. The gradient differs from call to call and is often 1e20 or NaN. In float32 it is right.
    """
    hooks = [
        layer.register_forward_hook(partial(_refuse_narrow, name=name))
        for name, layer in net.named_modules()
        if isinstance(layer, nn.modules.conv._ConvNd) and any(p.requires_grad for p in layer.parameters())
    ]
    try:
        with evaluation_mode(net):
            net(torch.zeros(2, data.channels, data.image_size, data.image_size))
    finally:
        for hook in hooks:
            hook.remove()


def _refuse_narrow(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor, *, name: str) -> None:
    width = (output if layer.transposed else inputs[0]).shape[-1]  # a transposed convolution swaps the two
    if width < layer.stride[-1] and layer.kernel_size[-1] > 1:
        raise ValueError(
            f"trainer.precision=bf16-mixed gives {name} a wrong gradient on the CPU, because its stride of "
            f"{layer.stride[-1]} exceeds the width of its {'output' if layer.transposed else 'input'}, {width}: use "
            "trainer.precision=32-true or a larger data.image_size"
        )


_GIVEN: dict[str, Callable[..., Any]] = {}  # handed over in Python


def hand_over(name: str, thing: Callable[..., Any]) -> str:
    """Let the settings of this process name a function or class that no module has; return its target."""
    target = f"given.{name}"
    _GIVEN[target] = thing
    return target


def import_target(option: str, target: str, *, key: str = "target") -> Callable[..., Any]:
    """Import the function or class with the dotted name ``target``, which the option ``<option>.<key>`` gives."""
    if target in _GIVEN:
        return _GIVEN[target]
    module, _, name = target.rpartition(".")
    if module == "given":
        raise ValueError(f"{option}.{key}={target} was handed over in Python: run it with mpt.search again")
    if not module:
        raise ValueError(f"{option}.{key}={target} names no module: write a dotted name, as in torch.optim.RMSprop")
    try:
        value = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(f"{option}.{key}={target} cannot be imported: {error}") from error
    if not callable(value):
        raise ValueError(f"{option}.{key}={target} is neither a function nor a class")
    return value  # type: ignore[no-any-return]


def _check_options(group: str, options: dict[str, Any], known: list[str]) -> None:
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {group}.{near[0]}?" if near else f"take one of {', '.join(known) or 'none'}"
            raise ValueError(f"there is no option {group}.{key}: {hint}")
