"""What can be constructed: the range of each argument, the box of the inputs, and what fits into memory and file."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Real

import torch
from torch import Tensor

from mpt.data.memory import check_memory, memory
from mpt.search.probe import inputs_of
from mpt.theory.build import Job
from mpt.theory.certificate import check_box
from mpt.theory.target import Target
from mpt.ticket.check import MAX_NUMBER
from mpt.words import size as size_in_words

FORMS, KEEPS = ("binary", "real", "doubling"), ("fewest", "closest")
BYTES = 9  # of a random weight in a network: weight and score in float32, and its mask
Range = float | Sequence[float] | Tensor


def check_choices(form: str, keep: str, seed: int, **numbers: float) -> None:
    """ValueError for a word, a seed or a number that is none."""
    for name, value, known in (("form", form, FORMS), ("keep", keep, KEEPS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if keep != KEEPS[0] and form != "real":
        raise ValueError(f"keep chooses among subsets of real weights: give form=real, or leave keep={keep} out")
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Real):
            raise ValueError(f"{name} must be a number, got {number!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed must be a whole number from 0 to 2^63 - 1, got {seed!r}")


def check_accuracy(accuracy: float, target: Target) -> None:
    """ValueError unless ``accuracy`` is above 0 and below the largest weight of each layer."""
    for name, layer in target.layers.items():
        largest = float(layer.weight.abs().max())
        if not 0 < accuracy < largest:
            raise ValueError(
                f"accuracy is the largest error of a weight and must be above 0 and below the largest weight of each "
                f"layer, {largest:.3g} in {name}, got {accuracy:g}"
            )


def box(target: Target, inputs: tuple[Range, Range], example: Tensor | None) -> tuple[Tensor, Tensor]:
    """Lowest and highest input, float64 of the shape of one input, from a number or one for each channel.

    Raises:
        ValueError: the shape of an input is not known, or bounds that do not fit it or are not in order.
    """
    if example is not None and not isinstance(example, Tensor):
        raise ValueError(f"example must be a tensor, one batch of inputs, got {type(example).__name__}")
    if not isinstance(inputs, (tuple, list)) or len(inputs) != 2:
        raise ValueError(f"inputs must be two, the lowest and the highest value of an input, got {inputs!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing could be guessed: the error below says so
        found = inputs_of(target.net, example.double() if example is not None else None)
    if found is None or len(found) != 1:
        raise ValueError("the shape of an input cannot be guessed: give example=<one batch of inputs>")
    try:
        with torch.no_grad():
            target.net(found[0][:1])
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(
            f"the target takes no batch of inputs of shape {tuple(found[0].shape)}: give example=<one batch of inputs>"
        ) from error
    shape = found[0].shape[1:]
    low, high = (_spread(side, shape) for side in inputs)
    check_box(low, high)
    return low, high


def _spread(side: Range, shape: torch.Size) -> Tensor:
    try:
        values = torch.as_tensor(side, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"inputs are a number or one for each channel, got {side!r}") from error
    if values.dim() > 1 and values.numel() == shape.numel():  # an image, for a network of flat inputs
        return values.reshape(shape)
    if values.dim() == 1 and len(shape) > 1 and len(values) == shape[0]:
        values = values.view(-1, *[1] * (len(shape) - 1))
    try:
        return values.expand(shape).contiguous()
    except RuntimeError as error:
        raise ValueError(
            f"inputs are a number or one for each of {shape[0]} channels, got {tuple(values.shape)} numbers"
        ) from error


def check_fit(fit: Tensor, *, form: str, shape: torch.Size) -> Tensor:
    """``fit`` as a batch of inputs of this shape; ValueError if it is none."""
    if form != "binary":
        raise ValueError(f"fit has an effect only with form=binary, which rounds weights: leave it out of form={form}")
    if not isinstance(fit, Tensor) or fit.dim() < 2 or fit.numel() != len(fit) * shape.numel() or not len(fit):
        found = tuple(fit.shape) if isinstance(fit, Tensor) else type(fit).__name__
        raise ValueError(f"fit must be a batch of inputs, (N, {', '.join(map(str, shape))}), got {found}")
    if not bool(torch.isfinite(fit).all()):
        raise ValueError("fit must be a batch of inputs, and some of its numbers are not finite")
    return fit.reshape(-1, *shape)


def outermost(side: Tensor) -> list[float]:
    """One number for each channel, or of flat inputs the outermost one."""
    return [float(channel.min()) for channel in side] if side.dim() > 1 else [float(side.min())]


def describe_size(jobs: list[Job], hidden: dict[str, list[int]]) -> str:
    """One line before anything is drawn: how many random weights, and the memory of a network of them."""
    count = num_random(jobs, hidden)
    return f"{count:,} random weights, {size_in_words(BYTES * count)} as a network (hidden widths {_widths(hidden)})"


def _widths(hidden: dict[str, list[int]]) -> str:
    text = "; ".join(f"{name} {' '.join(f'{w:,}' for w in hidden[name])}" for name in [*hidden][:4])
    return text + (f" and {len(hidden) - 4} more layers" if len(hidden) > 4 else "")


def check_size(jobs: list[Job], hidden: dict[str, list[int]], size: Callable[[Job], list[int]] | None) -> None:
    """ValueError, with an accuracy that fits, if the random weights exceed the memory or a layer what a file describes.

    ``size`` gives the hidden widths of a job; None where they do not depend on the accuracy.
    """
    total, widest = num_random(jobs, hidden), max(max(widths) for widths in hidden.values())
    what = f"{total:,} random weights (hidden widths {_widths(hidden)})"
    remedy = "take form=real or form=doubling, which need fewer"
    if BYTES * total > memory() or widest > MAX_NUMBER:
        for factor in [2.0**k for k in range(1, 11)] if size is not None else ():
            assert size is not None
            larger = [replace(job, accuracy=factor * job.accuracy) for job in jobs]
            if min(float(job.layer.weight.abs().max()) for job in jobs) <= larger[0].accuracy:
                break
            there = {job.name: size(job) for job in larger}
            if BYTES * num_random(larger, there) <= memory() and max(map(max, there.values())) <= MAX_NUMBER:
                remedy = f"accuracy={larger[0].accuracy:g} fits"
                break
    check_memory(BYTES * total, what=what, remedy=remedy)
    if widest > MAX_NUMBER:
        raise ValueError(f"{what}: a ticket file describes layers of at most {MAX_NUMBER:,} features: {remedy}")


def num_random(jobs: list[Job], hidden: dict[str, list[int]]) -> int:
    """Random weights of all layers."""
    return sum(math.prod(shape) for job in jobs for shape in job.weight_shapes(hidden[job.name]))
