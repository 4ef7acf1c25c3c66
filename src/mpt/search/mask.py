"""From scores to mask: keeps exactly the right number of weights, without sorting.

For a layer of ``n`` weights and a fraction removed ``P`` the mask keeps exactly

    k = max(1, n - floor(P n + 1/2))

weights: the most important ones, and among equals the lowest flat index first. Importance is ``|s|``, or ``s`` itself
for some methods.

On the CPU ``np.partition`` finds the k-th largest value in the tensor's own memory. For a large layer it searches only
near the previous threshold (:mod:`mpt.search.fast.threshold`); surplus ties are dropped, last index first. On any other
device ``torch.topk`` finds it, and counts stay on the device, so that the host never waits. Both give the same mask.

:func:`select_jointly` does the same for several layers together (global pruning). It keeps exactly ``k`` of all their
weights, among them at least one of each layer; among equals the earlier layer comes first.

On the CPU ``torch.compile`` calls each selection as one operation of torch's dispatcher (``mpt::select_jointly``); on
other devices it traces the operations. So a compiled network has the same masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mpt.search.fast import cuda, loops
from mpt.search.fast.memory import entries
from mpt.search.fast.threshold import introselect, near_last
from mpt.values import check_number


def check_prune(prune: float, *, name: str = "prune") -> None:
    """Raise ValueError unless ``prune``, the fraction removed, lies in [0, 1)."""
    check_number(name, "the fraction removed and must be in [0, 1)", prune, least=0)
    if prune >= 1:
        raise ValueError(f"{name} is the fraction removed and must be in [0, 1), got {prune!r}")


def num_kept(n: int, *, prune: float) -> int:
    """Number of weights to keep of ``n``: ``max(1, n - floor(prune n + 1/2))``."""
    check_prune(prune)
    return max(1, n - math.floor(prune * n + 0.5))


def prune_in_epoch(prune: float, *, epoch: int, ramp: int) -> float:
    """Fraction removed after ``epoch`` epochs if it rises from 1/2 to ``prune`` over the first ``ramp`` epochs.

    ``P + (1/2 - P) (1 - e / E)^3`` for ``e < E``, then ``P``. A ``P`` below 1/2 applies from the first epoch on.
    Source: the ramp of the authors' update for global pruning, E = 10.
    """
    if prune < 0.5 or epoch >= ramp:
        return prune
    return prune + (0.5 - prune) * (1 - epoch / ramp) ** 3


def select(importance: Tensor, *, kept: int, absolute: bool = False) -> Tensor:
    """Mask of the ``kept`` largest entries of ``importance``; among equals the lowest flat index comes first.

    Args:
        importance: any shape, floating point, ``n`` entries without NaN; it is not changed.
        kept: how many entries to keep, ``1 <= kept <= n``.
        absolute: take ``|importance|`` instead.

    Returns:
        bool tensor of the shape, device and memory format of ``importance`` with exactly ``kept`` ones.

    Raises:
        ValueError: an entry is NaN (checked on the CPU only; elsewhere the host would have to wait).
    """
    n = importance.numel()
    if not 1 <= kept <= n:
        raise ValueError(f"kept must be between 1 and the {n} weights of the layer, got {kept}")
    if kept == n:
        return torch.ones_like(importance, dtype=torch.bool)
    if cuda.fits(importance):
        return cuda.select(importance.detach(), kept=kept, absolute=absolute)
    if importance.device.type != "cpu":
        return select_on_device(importance.abs() if absolute else importance, kept=kept)
    if torch.compiler.is_compiling():
        return select_jointly([importance], kept=kept, absolute=absolute)[0]
    if masks := _select_on_cpu([importance], kept, absolute=absolute):
        return masks[0]
    raise ValueError("scores are not numbers any more (NaN): the search diverged, lower optim.lr")


def select_on_device(importance: Tensor, *, kept: int) -> Tensor:
    """:func:`select` in device-side operations only: no value travels to the host. Works on any device."""
    threshold = kth_largest_on_device(importance.flatten(), kept)
    above = importance > threshold
    equal = importance == threshold
    missing = kept - above.sum()  # 0-d, stays on the device
    rank = equal.flatten().cumsum(0, dtype=torch.int32).view(importance.shape)  # 1 at the first equal entry, then 2 ...
    return torch.empty_like(above).copy_(above | (equal & (rank <= missing)))


def select_jointly(importances: Sequence[Tensor], *, kept: int, absolute: bool = False) -> list[Tensor]:
    """Masks of the ``kept`` largest entries of all ``importances`` together, at least one of each.

    Among equals the earlier tensor comes first, then the lowest flat index. A tensor without any of the largest entries
    keeps its own (first) largest entry, in place of the least important entry of the others.

    Args:
        importances: one tensor per layer, as for :func:`select`.
        kept: how many of all ``n`` entries to keep, at least one per tensor.
        absolute: take ``|importance|`` instead.

    Returns:
        One bool tensor for each, with exactly ``kept`` ones together.

    Raises:
        ValueError: ``kept`` is out of range, or an entry is NaN (checked on the CPU only).
    """
    n = sum(importance.numel() for importance in importances)
    if not len(importances) <= kept <= n:
        raise ValueError(
            f"kept must be between one for each of the {len(importances)} layers and their {n} weights, got {kept}"
        )
    on_cpu = all(importance.device.type == "cpu" for importance in importances)
    if on_cpu and torch.compiler.is_compiling():
        compiled: list[Tensor] = _select_jointly_op(list(importances), kept, absolute)
        return compiled
    if on_cpu and (masks := _select_on_cpu(importances, kept, absolute=absolute)):
        return masks
    importances = [importance.abs() if absolute else importance for importance in importances]
    return _select_jointly_first_of_each(importances, kept)


@torch.library.custom_op("mpt::select_jointly", mutates_args=())
def _select_jointly_op(importances: list[Tensor], kept: int, absolute: bool) -> list[Tensor]:
    """:func:`select_jointly` on the CPU as one operation, which torch.compile calls without tracing it."""
    return select_jointly(importances, kept=kept, absolute=absolute)


@_select_jointly_op.register_fake
def _(importances: list[Tensor], kept: int, absolute: bool) -> list[Tensor]:
    return [torch.empty_like(importance, dtype=torch.bool) for importance in importances]


def _select_on_cpu(importances: Sequence[Tensor], kept: int, *, absolute: bool) -> list[Tensor] | None:
    """Masks of the ``kept`` largest entries of CPU tensors together; None if a mask would be empty or there is NaN."""
    threshold = kth_largest(importances, kept, absolute=absolute)
    masks = [_at_least(importance, threshold, absolute=absolute) for importance in importances]
    ones = [int(np.count_nonzero(entries(mask).numpy())) for mask in masks]
    surplus = sum(ones) - kept
    if surplus < 0 or (surplus > 0 and any(np.isnan(entries(importance).numpy().max()) for importance in importances)):
        return None
    for layer in reversed(range(len(masks))):
        if surplus > 0:
            dropped = _drop_last_equals(masks[layer], importances[layer], threshold, surplus, absolute=absolute)
            ones[layer] -= dropped
            surplus -= dropped
    return masks if min(ones) > 0 else None


def _at_least(importance: Tensor, threshold: Tensor, *, absolute: bool) -> Tensor:
    """Mask of the entries of a CPU tensor that are ``threshold`` (0-d) or more."""
    mask = torch.empty_like(importance, dtype=torch.bool)
    if arrays := loops.arrays(importance, mask):
        loops.run(loops.at_least, *arrays, threshold.numpy()[()], absolute)
        return mask
    return torch.ge(importance.abs() if absolute else importance, threshold, out=mask)


def _drop_last_equals(mask: Tensor, importance: Tensor, threshold: Tensor, most: int, *, absolute: bool) -> int:
    """Remove the last ``most`` entries that equal ``threshold`` from ``mask``; the number removed."""
    values, value = entries(importance).numpy(), entries(threshold).numpy()[0]
    equal = values == value
    if absolute:
        equal |= values == -value
    ties = np.flatnonzero(equal)
    plain = importance.is_contiguous() or importance.dim() != 4
    if not plain and importance.is_contiguous(memory_format=torch.channels_last):  # memory has another order
        out, channels, height, width = importance.shape
        i, y, x, j = np.unravel_index(ties, (out, height, width, channels))
        ties = np.sort(np.ravel_multi_index((i, j, y, x), importance.shape))
    last = ties[-most:]
    mask.numpy()[np.unravel_index(last, mask.shape)] = False
    return len(last)


def _select_jointly_first_of_each(importances: Sequence[Tensor], kept: int) -> list[Tensor]:
    """:func:`select_jointly` on one long tensor in which the first largest entry of each layer exceeds all others."""
    flats = [importance.flatten() for importance in importances]
    firsts = []
    for flat in flats:
        largest = flat == flat.amax()
        firsts.append(largest & (largest.cumsum(0) == 1))
    mask = select(torch.cat(flats).masked_fill(torch.cat(firsts), torch.inf), kept=kept)
    parts = torch.split(mask, [flat.numel() for flat in flats])
    return [
        torch.empty_like(importance, dtype=torch.bool).copy_(part.view(importance.shape))
        for importance, part in zip(importances, parts, strict=True)
    ]


def kth_largest(importances: Sequence[Tensor], k: int, *, absolute: bool = False) -> Tensor:
    """The ``k``-th largest of all entries together (of ``|entry|`` if ``absolute``), 0-d, on their device."""
    if torch.compiler.is_compiling() and importances[0].device.type == "cpu":
        value: Tensor = _kth_largest_op(list(importances), k, absolute)
        return value
    large = any(importance.numel() >= loops.LARGE for importance in importances)
    arrays = [loops.arrays(importance, least=1) for importance in importances] if large else [None]
    if all(arrays):
        return torch.from_numpy(np.asarray(near_last([x for one in arrays for x in one or ()], k, absolute=absolute)))
    importances = [importance.abs() if absolute else importance for importance in importances]
    if all(importance.device.type == "cpu" for importance in importances):
        values = np.concatenate([entries(importance).numpy() for importance in importances])
        return torch.tensor(introselect(values, k), dtype=importances[0].dtype)
    return kth_largest_on_device(torch.cat([importance.flatten() for importance in importances]), k)


@torch.library.custom_op("mpt::kth_largest", mutates_args=())
def _kth_largest_op(importances: list[Tensor], k: int, absolute: bool) -> Tensor:
    """:func:`kth_largest` on the CPU as one operation, like :func:`_select_jointly_op`."""
    return kth_largest(importances, k, absolute=absolute)


@_kth_largest_op.register_fake
def _(importances: list[Tensor], k: int, absolute: bool) -> Tensor:
    return importances[0].new_empty(())


def kth_largest_on_device(flat: Tensor, k: int) -> Tensor:
    """The ``k``-th largest entry of ``flat``, (n,), 0-d, in device-side operations only."""
    if k <= flat.numel() // 2:
        return torch.topk(flat, k, sorted=False).values.amin()
    # the k-th largest is the (n - k + 1)-th smallest
    return torch.topk(flat, flat.numel() - k + 1, largest=False, sorted=False).values.amax()


def kept_fraction(masks: list[Tensor]) -> float:
    """Fraction of ones over all ``masks`` together (the *density*)."""
    ones = sum(int(torch.count_nonzero(mask)) for mask in masks)
    return ones / max(1, sum(mask.numel() for mask in masks))


def flips(before: list[Tensor], after: list[Tensor]) -> float:
    """Share of all mask bits that differ between two lists of masks of the same shapes."""
    changed = sum(int(torch.count_nonzero(a ^ b)) for a, b in zip(before, after, strict=True))
    return changed / max(1, sum(mask.numel() for mask in after))
