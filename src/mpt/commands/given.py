"""Backbone, data and method of ``mpt.search``, by name or as objects: overrides, and what changes the settings then."""

from __future__ import annotations

import copy
import importlib
import inspect
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from torch import nn

from mpt.data import Files, ImageData, Images
from mpt.experiment.build import hand_over
from mpt.files import CONF, digest
from mpt.run.settings import DATA, Choice, Data, Settings
from mpt.search.methods import Method

Change = Callable[[Settings], Settings]
_ZOOS = ("timm", "torchvision")  # groups whose networks have names of their own


def _keep(settings: Settings) -> Settings:
    return settings


def choose_backbone(backbone: Any) -> tuple[list[str], Change]:
    """The overrides that choose ``backbone``, and what puts it into the settings if it has no name of mpt's."""
    if isinstance(backbone, str):
        zoo, dot, name = backbone.partition(".")
        return ([f"model={zoo}", f"model.name={name}"] if dot and zoo in _ZOOS else [f"model={backbone}"]), _keep
    if isinstance(backbone, nn.Module):
        outline = [(name, str(value.dtype), tuple(value.shape)) for name, value in backbone.state_dict().items()]
        kinds = sorted({type(module) for module in backbone.modules()}, key=lambda kind: kind.__qualname__)
        prints = [_fingerprint(kind) for kind in kinds if not kind.__module__.startswith("torch.")]
        name = type(backbone).__name__
        target = hand_over(f"{name}_{_short(repr(backbone), outline, prints)}", _copy_of(backbone))
    elif callable(backbone):
        name, target = getattr(backbone, "__name__", type(backbone).__name__), _target(backbone)
    else:
        raise ValueError(f"backbone is a name, a function or a torch module, got {type(backbone).__name__}")
    return [], lambda settings: replace(settings, model=Choice(_snake(name), target))


def _copy_of(backbone: nn.Module) -> Callable[..., nn.Module]:
    def build(*, in_channels: int = 3, num_classes: int = 10) -> nn.Module:  # both are its own: a check compares them
        return copy.deepcopy(backbone)

    return build


def choose_data(data: str | ImageData, settings: Mapping[str, Any]) -> tuple[list[str], Change]:
    """The overrides that choose ``data``, and what puts images into the settings, with a checksum of them."""
    if isinstance(data, str):
        return [f"data={data}"], _keep
    if not isinstance(data, ImageData):
        raise ValueError(
            f"data are a name or images of mpt.data, such as mpt.data.load(...), got {type(data).__name__}"
        )
    if given := [key for key in settings if key.partition(".")[0] == "data"]:
        raise ValueError(f"the images are given, so that {given[0]} has no effect: leave it out")
    held_out = len(data.val) if data.val is not None else 0
    about = Data(
        name=data.name if data.name in DATA else "own",
        image_size=data.image_size,
        val_size=float(held_out),
        crop=data.crop,
        flip=data.flip,
        mean=list(data.mean),
        std=list(data.std),
        augment="augmix" if data.augmix else "none",
        noise_std=data.noise_std,
        noise_probability=data.noise_probability,
        channels=data.channels,
        num_classes=data.num_classes,
    )
    splits = [split for split in (data.train, data.test, data.val) if split is not None]
    checksum = digest("".join(map(_checksum, splits)).encode())
    change: Change = lambda checked: replace(checked, data=about, data_checksum=checksum)  # noqa: E731
    return ["data=synthetic", f"data.val_size={held_out}"], change


def _checksum(images: Images | Files) -> str:
    content = images.pixels.contiguous().numpy() if isinstance(images, Images) else images.paths
    return digest(content.data) + digest(images.labels.numpy().data)


def choose_method(method: str | Method, settings: Mapping[str, Any]) -> tuple[list[str], Change]:
    """The overrides that choose ``method``, and what puts an instance into the settings."""
    if isinstance(method, str):
        return [f"method={method}"], _keep
    if not isinstance(method, Method):
        raise ValueError(f"method is a name or an instance, such as mpt.Biprop(prune=0.8), got {method!r}")
    if "prune" in settings:
        raise ValueError(f"the method brings prune={method.prune:g}: leave prune out, or name the method")
    kind = type(method)
    values = {f.name: _listed(getattr(method, f.name)) for f in fields(method) if f.init and f.name != "prune"}
    defaults = {f.name: _listed(f.default) for f in fields(method)}
    name = _name_of(kind)
    target = f"mpt.{kind.__name__}" if name else _target(kind)
    chosen = [f"method={name}"] if name else []

    def change(checked: Settings) -> Settings:
        stated = checked.method.arguments if name else values  # what the YAML file of the method states
        arguments = {key: value for key, value in values.items() if key in stated or value != defaults[key]}
        return replace(checked, method=Choice(name or _snake(kind.__name__), target, arguments))

    return [*chosen, f"prune={method.prune!r}"], change


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _listed(entry) for key, entry in value.items()}
    return [_listed(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _name_of(kind: type) -> str | None:
    """The name of a method of mpt in ``conf/method``; None for any other."""
    if not kind.__module__.startswith("mpt."):
        return None
    line = re.compile(rf"^ *target: mpt\.{kind.__name__}$", re.MULTILINE)
    return next(path.stem for path in sorted((CONF / "method").glob("*.yaml")) if line.search(path.read_text()))


def _target(thing: Any) -> str:
    """The dotted name of a function or class; one that no module has gets a name that ends in its fingerprint."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "")
    if not module or module == "__main__" or not name.isidentifier():
        found = None
    else:
        found = getattr(importlib.import_module(module), name, None)
    if found is thing:
        return f"{module}.{name}"
    plain = getattr(thing, "__name__", type(thing).__name__)
    return hand_over(f"{plain.strip('<>')}_{_short(_fingerprint(thing))}", thing)


def _fingerprint(thing: Any) -> Any:
    """What a function, class or callable computes, as text that is equal in another process of this Python."""
    if isinstance(thing, types.CodeType):
        inner = [_fingerprint(c) if isinstance(c, types.CodeType) else _constant(c) for c in thing.co_consts]
        return [thing.co_code.hex(), thing.co_names, thing.co_varnames, inner]
    if isinstance(thing, types.FunctionType):
        closure = [
            _constant(cell.cell_contents) for cell in thing.__closure__ or () if not callable(cell.cell_contents)
        ]
        return [_fingerprint(thing.__code__), _constant(thing.__defaults__), _constant(thing.__kwdefaults__), closure]
    if inspect.isclass(thing):
        return [[key, _fingerprint(value)] for key, value in sorted(vars(thing).items()) if key != "__doc__"]
    if callable(thing):
        return [type(thing).__qualname__, _constant(getattr(thing, "keywords", None))]
    return _constant(thing)


def _constant(value: Any) -> str:
    if isinstance(value, frozenset):
        return repr(sorted(map(repr, value)))
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _short(*parts: Any) -> str:
    return digest(repr(parts).encode())[:8]


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
