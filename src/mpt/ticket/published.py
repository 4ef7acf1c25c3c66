"""Import checkpoints of the authors' code (biprop, Diffenderfer & Kailkhura) as tickets.

Such a file is a ``torch.save`` of a dictionary with ``state_dict``. Its keys, with or without the prefix ``module.``:

    <layer>.weight  <layer>.scores      of every searched layer; fully-connected ones are 1x1 convolutions, 4-D
    <norm>.running_mean  running_var  num_batches_tracked       of every batch-norm; with +BN its weight and bias too

Later files also hold ``prune_rate``, which is the fraction **kept**, and ``conv_type`` (``GlobalSubnetConv`` if one
threshold holds for all layers). The file does not hold the mask. It follows from ``|scores|`` by the authors' count:

    layerwise   the n - int((1 - k) n) largest of each layer, k the fraction kept; the gain is divided by int(k n)
    global      the scores with ``|score|`` above the int((1 - k) N)-th smallest of all N in the network; the gain is
                divided by the number of ones

Both numbers of the first row matter: in a deep MPT-1/1 network a difference of one in each layer changes many signs.

A layer of the file belongs to the backbone's layer of the same name. Layers without a namesake are paired in order, as
the two networks list them. Both of a pair must have one shape, and a layer without a partner is refused by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpt.files import kind_of
from mpt.search.convert import convert, plain_layers
from mpt.search.layers import ticket_layers
from mpt.search.mask import check_prune
from mpt.search.methods import Biprop
from mpt.search.parameters import BATCH_NORMS
from mpt.search.weight import signs
from mpt.ticket.ticket import Ticket

CONV_TYPES = {"SubnetConv": "layerwise", "GlobalSubnetConv": "global"}
_LAYER = frozenset({"weight", "scores"})
_NORM = frozenset({"running_mean", "running_var", "num_batches_tracked"})
_ABOUT = ("arch", "epoch", "best_acc1", "conv_type", "prune_rate")


@dataclass(frozen=True)
class Published:
    """The content of a published checkpoint.

    Attributes:
        layers: ``weight`` and ``scores`` of each searched layer, 4-D, in the file's order.
        norms: statistics of each batch-norm; with +BN its ``weight`` and ``bias`` too.
        about: further entries of the file: arch, epoch, best_acc1, conv_type, prune_rate.
    """

    layers: dict[str, dict[str, Tensor]]
    norms: dict[str, dict[str, Tensor]]
    about: dict[str, Any]

    @property
    def learn_batchnorm(self) -> bool:
        """Whether batch-norm has a scale and shift (+BN)."""
        return any("weight" in norm for norm in self.norms.values())


def read_published(path: str | Path) -> Published:
    """Read the file at ``path`` without running any code in it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or a key of its state dict has none of the forms above.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    if (kind := kind_of(path)) and "PyTorch" not in kind:
        hint = ", which needs no import: see mpt-ticket info" if "safetensors" in kind else ""
        raise ValueError(f"{path} is no checkpoint but {kind}{hint}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many kinds on a broken file, or one that would run code
        reason = "truncated or damaged: take the original file"
        if "weights_only" in str(error) and "Unsupported operand" not in str(error):  # torch advises to run the code
            reason = "of objects that would run code: save its state_dict alone"
        raise ValueError(f"{path} cannot be read as a checkpoint of plain tensors, because it is {reason}") from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is not a checkpoint of the authors' code: it has no state_dict of tensors")
    owners: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        owner, _, attribute = str(key).removeprefix("module.").rpartition(".")
        owners.setdefault(owner, {})[attribute] = value
    norms = {name: parts for name, parts in owners.items() if _NORM & parts.keys()}
    layers = {name: parts for name, parts in owners.items() if name not in norms}
    for name, parts in layers.items():
        _check_layer(name, parts)
    for name, parts in norms.items():
        _check_norm(name, parts)
    plain = [name for name, parts in norms.items() if "weight" not in parts]
    if 0 < len(plain) < len(norms):
        raise ValueError(f"the file's batch-norm {plain[0]} has no weight and bias, and others do: all or none must")
    if not layers:
        raise ValueError(f"{path} holds no searched layer: no key ends with .scores")
    return Published(layers, norms, {key: _plain(content[key]) for key in _ABOUT if key in content})


def import_published(
    published: Published,
    backbone: nn.Module,
    *,
    prune: float | None = None,
    selection: str | None = None,
    binary_activations: bool = False,
    image: Tensor | None = None,
    **about: Any,
) -> Ticket:
    """Make a ticket of a published checkpoint.

    Args:
        published: from :func:`read_published`.
        backbone: the checkpoint's plain network, which stays as it is.
        prune: fraction removed; needed where the file has no ``prune_rate``.
        selection: ``layerwise`` or ``global``; by default the file's, or layerwise where the file does not say.
        binary_activations: the network is MPT-1/1.
        image: example input (N, C, H, W) for the probe of the conversion.
        about: further header entries.

    Raises:
        ValueError: a layer or batch-norm without a partner of its shape; ``prune`` missing or different from the
            file's; a selection that empties a layer.
    """
    _refuse_pooling_mistake(published)
    kept_fraction = _kept_fraction(published, prune)
    chosen = _selection(published, selection)
    layers = plain_layers(backbone)
    theirs = {name: parts["weight"].shape for name, parts in published.layers.items()}
    ours = {name: _as_conv(layer.weight.shape) for name, layer in layers.items()}
    partners = _partners("searched layers", theirs, ours)
    method = Biprop(prune=_pruned(kept_fraction), scale_fan="none")
    net = convert(
        backbone,
        method,
        seed=None,
        learn_batchnorm=published.learn_batchnorm,
        binary_activations=binary_activations,
        example=image,
    )
    norms = {name: module for name, module in net.named_modules() if isinstance(module, BATCH_NORMS)}
    sizes = {name: parts["running_mean"].shape for name, parts in published.norms.items()}
    norm_partners = _partners("batch-norms", sizes, {name: torch.Size([n.num_features]) for name, n in norms.items()})
    counts = _counts(published, kept_fraction, chosen)
    with torch.no_grad():
        for name, layer in ticket_layers(net).items():
            parts = published.layers[partners[name]]
            layer.weight.copy_(parts["weight"].view(layer.weight.shape))
            layer.scores.copy_(parts["scores"].view(layer.weight.shape))
            kept = layer.num_kept = counts[partners[name]]
            n = layer.weight.numel()
            ones = gain_divisor(n, kept_fraction=kept_fraction) if chosen == "layerwise" else kept
            layer.weight.copy_(signs(layer.weight, magnitude=layer.gain() * (kept / ones)))  # its gain is theirs
        for name, partner in norm_partners.items():
            norm = net.get_submodule(name)
            for attribute, value in published.norms[partner].items():
                getattr(norm, attribute).copy_(value)
    imported = {**published.about, "selection": chosen}
    return Ticket.from_network(net.eval(), imported=imported, **about)


def kept_of(n: int, *, kept_fraction: float) -> int:
    """How many of a layer's ``n`` weights the authors' count keeps: ``n - int((1 - kept_fraction) n)``."""
    return n - int((1 - kept_fraction) * n)


def gain_divisor(n: int, *, kept_fraction: float) -> int:
    """The number by which the authors divide the gain of a layer: ``int(kept_fraction n)``, here at least 1."""
    return max(1, int(kept_fraction * n))


def _counts(published: Published, kept_fraction: float, selection: str) -> dict[str, int]:
    """Number of weights that each layer of the file keeps."""
    scores = {name: parts["scores"] for name, parts in published.layers.items()}
    if selection == "layerwise":
        return {name: kept_of(values.numel(), kept_fraction=kept_fraction) for name, values in scores.items()}
    importance = torch.cat([values.abs().flatten() for values in scores.values()])
    pruned = int((1 - kept_fraction) * importance.numel())
    threshold = float(importance.kthvalue(pruned).values) if pruned else -math.inf
    counts = {name: int((values.abs() > threshold).sum()) for name, values in scores.items()}
    if empty := [name for name, count in counts.items() if count == 0]:
        raise ValueError(
            f"the global threshold leaves nothing of layer {empty[0]!r}, whose gain would be NaN: this is not a ticket"
        )
    return counts


def _check_layer(name: str, parts: dict[str, Tensor]) -> None:
    if extra := sorted(parts.keys() - _LAYER):
        raise ValueError(f"the file's key {_key(name, extra[0])} belongs to no searched layer and no batch-norm")
    if missing := sorted(_LAYER - parts.keys()):
        raise ValueError(
            f"the file has {_key(name, *parts)} but no {_key(name, missing[0])}: every layer must be searched"
        )
    weight, scores = parts["weight"], parts["scores"]
    if weight.dim() != 4 or weight.shape != scores.shape:
        raise ValueError(
            f"the file's {name} must have weight and scores of one 4-D shape, got {list(weight.shape)} and "
            f"{list(scores.shape)}"
        )
    if not bool(torch.isfinite(weight).all() and torch.isfinite(scores).all()):
        raise ValueError(f"the file's {name} holds weights or scores that are not numbers")


def _check_norm(name: str, parts: dict[str, Tensor]) -> None:
    allowed = _NORM | ({"weight", "bias"} if {"weight", "bias"} & parts.keys() else set())
    if different := sorted(allowed ^ parts.keys()):
        what = "is missing" if different[0] in allowed else "belongs to no batch-norm"
        raise ValueError(f"the file's key {_key(name, different[0])} {what}")
    if len({parts[key].shape for key in allowed - {"num_batches_tracked"}}) != 1:
        raise ValueError(f"the file's batch-norm {name} has parts of several shapes")
    if not all(bool(torch.isfinite(value).all()) for value in parts.values()) or bool((parts["running_var"] < 0).any()):
        raise ValueError(f"the file's batch-norm {name} holds values that are not numbers, or a variance below 0")


def _partners(what: str, theirs: dict[str, torch.Size], ours: dict[str, torch.Size]) -> dict[str, str]:
    """The file's name for each of our names: the same name, else in order; ValueError unless all shapes agree."""
    rest = [name for name in theirs if name not in ours]
    unnamed = [name for name in ours if name not in theirs]
    if len(rest) != len(unnamed):
        left = max(rest, unnamed, key=len)[min(len(rest), len(unnamed))]
        raise ValueError(
            f"the file is of another network: it has {len(theirs)} {what} and the model has {len(ours)}; "
            f"{left!r} has no partner"
        )
    partners = {name: name for name in ours if name in theirs} | dict(zip(unnamed, rest, strict=True))
    for name, partner in partners.items():
        if ours[name] != theirs[partner]:
            raise ValueError(
                f"the file is of another network, width or number of classes: its {partner} is {list(theirs[partner])} "
                f"where the model's {name} is {list(ours[name])}"
            )
    return partners


def _kept_fraction(published: Published, prune: float | None) -> float:
    if prune is not None:
        check_prune(prune)
    stored = published.about.get("prune_rate")
    if stored is None:
        if prune is None:
            raise ValueError(
                "prune, the fraction removed, is missing, and this early file does not hold it: give prune"
            )
        return float(1 - Decimal(str(prune)))  # 0.2 for 0.8, as the authors would type it, not 0.19999999999999996
    if not isinstance(stored, (int, float)) or not 0 < stored <= 1:
        raise ValueError(f"the file's prune_rate, the fraction kept, must be in (0, 1], got {stored}")
    if prune is not None and abs(1 - stored - prune) > 1e-6:
        raise ValueError(
            f"the file keeps {stored:g}, which is prune={_pruned(stored):g}, got prune={prune:g}: leave prune out (a "
            "file from before the end of a global ramp is a ticket at the fraction that it holds)"
        )
    return float(stored)


def _pruned(kept_fraction: float) -> float:
    return float(1 - Decimal(str(kept_fraction)))


def _selection(published: Published, selection: str | None) -> str:
    conv_type = published.about.get("conv_type")
    if conv_type is not None and conv_type not in CONV_TYPES:
        raise ValueError(f"the file's conv_type is {conv_type}: only {' and '.join(CONV_TYPES)} are biprop's")
    stored = CONV_TYPES[conv_type] if conv_type else None
    if selection not in (None, *CONV_TYPES.values()):
        raise ValueError(f"selection must be {' or '.join(CONV_TYPES.values())}, got {selection!r}")
    if stored and selection and stored != selection:
        raise ValueError(f"the file was pruned {stored} ({conv_type}), got selection={selection}: leave selection out")
    return stored or selection or "layerwise"


def _refuse_pooling_mistake(published: Published) -> None:
    arch = str(published.about.get("arch", ""))
    if any(arch.startswith(f"cResNet{depth}") for depth in (20, 32, 44, 56, 110)):
        raise ValueError(
            f"{arch} of the authors' code pools 2x2 positions into 40 logits by mistake: its checkpoints are not "
            "tickets of a network with one logit for each class"
        )


def _as_conv(shape: torch.Size) -> torch.Size:
    """The shape (O, I) of a fully-connected layer as the shape of a 1x1 convolution, (O, I, 1, 1)."""
    return shape if len(shape) == 4 else torch.Size([*shape, 1, 1])


def _key(name: str, *attributes: str) -> str:
    return " and ".join(f"{name}.{attribute}" if name else attribute for attribute in attributes)


def _plain(value: Any) -> Any:
    """A value as the header can hold it: a tensor of one entry becomes a number."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
