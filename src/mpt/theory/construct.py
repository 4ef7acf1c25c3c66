"""Construct a ticket of a trained network: the subnetwork of a random network that a theorem promises.

    net, certificate = mpt.construct(target, accuracy=0.01, form="binary", seed=0)

Each Linear or Conv2d layer of the target becomes random layers with ReLU between them
(:func:`mpt.backbones.expanded`), of which only masks and one gain a layer are chosen (:mod:`mpt.theory.build`). The
result is an ordinary ticket. Its header says under ``constructed`` what it was made of, and what is certified.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mpt import backbones
from mpt.files import version
from mpt.phases import counted
from mpt.search.methods import Biprop, EdgePopup, Method
from mpt.search.wrapped import unwrap
from mpt.theory import build, real
from mpt.theory.build import Job
from mpt.theory.certificate import Certificate, certify_layers
from mpt.theory.effective import effective_layers
from mpt.theory.intervals import run, start
from mpt.theory.limits import (
    Range,
    box,
    check_accuracy,
    check_choices,
    check_fit,
    check_size,
    describe_size,
    outermost,
)
from mpt.theory.rounding import fineness, moments_of
from mpt.theory.target import Target, prepare
from mpt.theory.theorems import check_shares
from mpt.ticket.check import MAX_ARGUMENTS
from mpt.ticket.format import PLAIN
from mpt.ticket.layer import StoredLayer, StoredState
from mpt.ticket.pack import origin_of_signs, tensors_of
from mpt.ticket.ticket import Ticket


@dataclass(frozen=True)
class Construction:
    """A constructed ticket.

    Attributes:
        ticket: with ``constructed`` in its header.
        certificate: over the box of inputs.
        target: what it was made of.
        backbone: the plain expanded network, with its random layers on torch's meta device.
    """

    ticket: Ticket
    certificate: Certificate
    target: Target
    backbone: nn.Module

    def network(self) -> nn.Module:
        """The network of the ticket."""
        if self.ticket.header["backbone"] is not None:
            return self.ticket.network()
        for layer in self.ticket.layers:
            self.backbone.get_submodule(layer.name).to_empty(device="cpu")
        return self.ticket.network(backbone=self.backbone)


def construct(
    target: nn.Module,
    *,
    accuracy: float,
    form: str = "binary",
    keep: str = "fewest",
    delta: float = 0.05,
    seed: int = 0,
    inputs: tuple[Range, Range] = (0.0, 1.0),
    example: Tensor | None = None,
    fit: Tensor | None = None,
    progress: bool = False,
) -> tuple[nn.Module, Certificate]:
    """A subnetwork of a random network that computes what ``target`` computes, and a proof of how nearly.

    Args:
        target: a trained network of Linear and Conv2d layers, ReLU, pooling and batch-norm; it stays as it is.
        accuracy: largest error of a weight.
        form: ``binary`` (MPT-1/32: whole numbers of signs), ``doubling`` (binary, logarithmic width, deeper), or
            ``real`` (subset sums of real weights).
        keep: with ``form="real"``, the ``fewest`` weights within the accuracy, or the ``closest`` subset.
        delta: probability, over seeds, that the random network does not hold the subnetwork.
        seed: of the random network.
        inputs: lowest and highest value of an input of the network: a number, or one for each channel.
        example: a batch of inputs, for a network whose input cannot be guessed.
        fit: inputs (N, ...), as the network takes them: ``form="binary"`` takes a gain of 1.6 times the accuracy
            instead of 2, and rounds weights that two multiples are near to so that outputs there change least. The
            certificate holds as before. Layers of few weights are built finer than the accuracy. About 1.3 times as
            many weights are kept.
        progress: say on stderr how large the random network is, and count the weights on a terminal.

    Returns:
        The network, as :meth:`mpt.Ticket.network` builds it: ``mpt.Ticket.from_network(net)`` is its ticket. And the
        :class:`mpt.theory.certificate.Certificate` over all inputs between the two values.

    Raises:
        ValueError: an argument out of its range, a target that is not covered, a seed without the neurons (with
            probability ``delta``), or more random weights than fit into the memory.
    """
    made = build_ticket(
        target,
        accuracy=accuracy,
        form=form,
        keep=keep,
        delta=delta,
        seed=seed,
        inputs=inputs,
        example=example,
        fit=fit,
        progress=progress,
    )
    return made.network(), made.certificate


def build_ticket(
    network: nn.Module,
    *,
    accuracy: float,
    form: str = "binary",
    keep: str = "fewest",
    delta: float = 0.05,
    seed: int = 0,
    inputs: tuple[Range, Range] = (0.0, 1.0),
    example: Tensor | None = None,
    fit: Tensor | None = None,
    progress: bool = False,
    about: dict[str, Any] | None = None,
) -> Construction:
    """:func:`construct` without the network; ``about`` are further entries of the ticket's header."""
    check_choices(form, keep, seed, accuracy=accuracy, delta=delta)
    check_shares(delta=delta)
    target = prepare(network)
    check_accuracy(accuracy, target)
    low, high = box(target, inputs, example)
    pieces = dict.fromkeys(target.layers, 2)
    if target.graph is not None:
        seen = run(target, start(low[None], high[None]))[1]
        if unused := [name for name in target.layers if name not in seen]:
            raise ValueError(f"the forward never calls layer {unused[0]}: remove it from the target")
        pieces |= {name: 1 for name, state in seen.items() if state.nonneg}
    failure = delta / len(target.layers)
    moments = {} if fit is None else moments_of(target, check_fit(fit, form=form, shape=low.shape))
    finer = fineness(target)
    jobs = [
        Job(name, layer, accuracy, pieces[name], failure, seed, moments.get(name), finer[name])
        for name, layer in target.layers.items()
    ]
    layers, hidden, numbers = _build(jobs, form, keep, delta, progress)
    made = _ticket(network, target, layers, hidden, form=form, seed=seed, about=about or {})
    certificate = certify_layers(target, effective_layers(target, made[0]), low, high)
    header = {
        "target": digest_of(network),
        "form": form,
        "accuracy": accuracy,
        "delta": delta,
        "inputs": [outermost(low), outermost(high)],
        **({"keep": keep, "numbers": numbers} if form == "real" else {}),
        **({"fit": len(fit)} if fit is not None else {}),
        "certificate": certificate.as_dict(),
    }
    ticket = replace(made[0], header=made[0].header | {"constructed": header})
    return Construction(ticket, certificate, target, made[1])


def _build(
    jobs: list[Job], form: str, keep: str, delta: float, progress: bool
) -> tuple[list[StoredLayer], dict[str, list[int]], int | None]:
    """The stored layers, the hidden widths of each layer, and with ``form="real"`` the numbers of a weight."""
    if form != "real":
        size = {"binary": build.binary_widths, "doubling": build.doubling_widths}[form]
        make = {"binary": build.binary, "doubling": build.chain}[form]
        hidden = {job.name: size(job) for job in jobs}
        check_size(jobs, hidden, size)
        _say(describe_size(jobs, hidden), progress)
        with counted("constructing", sum(len(job.values) for job in jobs), wanted=progress) as advance:
            layers = [part for job in jobs for part in make(job, hidden[job.name], advance)]
        return layers, hidden, None
    numbers = real.first_numbers(sum(job.layer.weight.numel() * job.pieces for job in jobs), delta=delta, keep=keep)
    hidden = {job.name: real.widths(job, numbers=numbers) for job in jobs}
    check_size(jobs, hidden, None)
    _say(describe_size(jobs, hidden), progress)
    layers, most = list[StoredLayer](), numbers
    with counted("constructing", sum(len(job.values) * job.pieces for job in jobs), wanted=progress) as advance:
        for job in jobs:

            def check(width: int, name: str = job.name) -> None:
                check_size(jobs, hidden | {name: [width]}, None)

            (width,) = hidden[job.name]
            found, width, used = real.grown(job, width, advance, numbers=numbers, keep=keep, check=check)
            layers, hidden[job.name], most = layers + found, [width], max(most, used)
    return layers, hidden, most


def _say(line: str, progress: bool) -> None:
    if progress:
        print(line, file=sys.stderr, flush=True)


def _ticket(
    network: nn.Module,
    target: Target,
    layers: list[StoredLayer],
    hidden: dict[str, list[int]],
    *,
    form: str,
    seed: int,
    about: dict[str, Any],
) -> tuple[Ticket, nn.Module]:
    with torch.device("meta"):
        backbone = backbones.expanded(of=unwrap(network), hidden=hidden, folded=target.folded)
    kept, size = sum(layer.kept for layer in layers), sum(layer.num_weights for layer in layers)
    choices: dict[str, Any] = {"prune": 1 - kept / size, "scale_fan": "none", "bias": True}
    method: Method = (
        EdgePopup(**choices, init="kaiming_uniform") if form == "real" else Biprop(**choices, init="signed_constant")
    )
    others = _others(target, backbone, {layer.name for layer in layers})
    header = {
        "format": PLAIN,
        "mpt": version(),
        "backbone": backbone.origin if len(hidden) <= MAX_ARGUMENTS else None,
        "method": {"name": type(method).__name__, **asdict(method)},
        "seed": seed,
        "signs": origin_of_signs(layers, seed=seed, init=method.init),
        "binary_activations": None,
        "layers": [layer.row() for layer in layers],
        "others": [state.row() for state in others],
        **about,
    }
    return Ticket(header, tensors_of(layers, others)), backbone


def _others(target: Target, backbone: nn.Module, random: set[str]) -> list[StoredState]:
    """The biases of the target's layers at the end of their sequences, and what is left of its batch-norms."""
    values = {**dict(target.net.named_parameters()), **dict(target.net.named_buffers())}
    saved, parameters = backbone.state_dict(), dict(backbone.named_parameters())
    states = []
    for name in saved:
        owner, _, kind = name.rpartition(".")
        if owner in random and kind == "weight":
            continue
        value = values[f"{owner.rpartition('.')[0]}.bias" if owner in random else name]
        value = value.detach() if not value.is_floating_point() else value.detach().float()
        states.append(StoredState(name, False if name in parameters else None, value.clone().contiguous()))
    return states


def digest_of(network: nn.Module) -> str:
    """BLAKE2b of a network's parameters and buffers, 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in unwrap(network).state_dict().items():
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()
