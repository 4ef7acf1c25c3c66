"""Search methods with masks of another kind, each a class that overrides what differs from biprop.

Multicoated    nested masks add up to ticket weights 0, +-g, ..., +-N g (Okoshi et al., ICML 2022)
PartlyFrozen   searches a part of the weights; a random pattern prunes or keeps the others (Otsuka et al., TMLR
               2025)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mpt.search import weight as weights
from mpt.search.methods import Biprop
from mpt.values import check_number

MAX_COATS = 15  # of one layer


@dataclass(frozen=True, kw_only=True)
class Multicoated(Biprop):
    """Multicoated supermasks: nested masks add up, so a ticket weight is one of ``0, +-g, ..., +-N g``.

    The first mask keeps ``k`` weights of the layer, as ``prune`` says. Each further one keeps the
    ``k_i = max(1, floor(coats_i k + 1/2))`` most important of them. With ``c`` the number of the ``N`` masks that keep
    a weight:

        b = g c sign(w),   g = mean(|w|) / sqrt(sum(c^2) / k),   dL/ds = N dL/db g sign(w) sign(s)

    The gradient goes straight through each mask. The root mean square of ``c``, ours, holds the layer's output at the
    size of a ticket with one mask; it matters in networks without batch-norm. The file holds each further mask over
    the weights that the one before it keeps.

    Args:
        coats: of the weights kept, the share that each further mask keeps; decreasing, in (0, 1).
    """

    score_grad: str = "gain"
    coats: tuple[float, ...] = (0.25, 0.1)

    def __post_init__(self) -> None:
        refused = {
            "selection": ("layerwise", "further masks are taken within a layer"),
            "gains": ("layer", "all weights of a layer are multiples of one gain"),
            "score_grad": ("gain", "the gradient goes through each mask with one factor"),
        }
        for name, (only, why) in refused.items():
            if (value := getattr(self, name)) != only:
                raise ValueError(f"Multicoated needs {name}={only}, because {why}, got {value}")
        super().__post_init__()
        shares = list(self.coats) if isinstance(self.coats, (list, tuple)) else []
        for share in shares:
            check_number("coats", "a share of the weights kept and must be in (0, 1)", share, above=0, most=1)
        if not 0 < len(shares) < MAX_COATS or sorted({*shares, 1.0}, reverse=True) != [1.0, *shares]:
            raise ValueError(
                "coats are the shares of the weights kept that each further mask keeps, below 1 and each below the one "
                f"before it, as in [0.25, 0.1], got {self.coats!r}"
            )
        object.__setattr__(self, "coats", tuple(shares))
        if self.prune_layers or self.ramp_epochs:
            raise ValueError(
                "Multicoated keeps one share of each layer, from the start: leave out prune_layers and ramp"
            )

    def counts(self, n: int) -> list[int]:
        """How many of ``n`` weights each mask keeps, the first one first."""
        kept = self.num_kept(n)
        return [kept, *(max(1, math.floor(share * kept + 0.5)) for share in self.coats)]

    def source(self, weight: Tensor, scores: Tensor) -> Tensor:
        counts = self.counts(weight.numel())
        squares = sum((2 * i + 1) * kept for i, kept in enumerate(counts))  # sum(c^2), of nested masks
        gain = weight.abs().mean(dtype=torch.float32) / math.sqrt(squares / counts[0])
        coats = torch.ones_like(weight)
        for kept in counts[1:]:
            coats += self.mask(scores, kept=kept)
        return weights.signs(weight, magnitude=gain.to(weight.dtype) * coats)

    def gain(self, weight: Tensor, mask: Tensor) -> Tensor:
        return weight.abs().amin()

    def ticket_weight(self, weight: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
        return weights.masked_weight(weight, mask)

    def score_gradient(self, grad: Tensor, weight: Tensor, scores: Tensor, gain: Tensor) -> Tensor:
        return super().score_gradient(grad, weight, scores, gain).mul_(1 + len(self.coats))


@dataclass(frozen=True, kw_only=True)
class PartlyFrozen(Biprop):
    """A partially frozen network: a random pattern prunes some weights for good, and keeps others, before the search.

    Of the ``n - k`` weights that ``prune`` removes of a layer, ``floor(pruned (n - k))`` are drawn from the seed and
    are pruned; of the ``k`` that it keeps, ``floor(locked k)`` are drawn and kept. Selection ranks ``-inf``, ``+inf``
    and, elsewhere, the importance; only there do scores get a gradient. A ticket's file holds the mask of the searched
    weights alone, as the pattern is the seed's.

    Args:
        pruned: share of the pruned weights, in [0, .9].
        locked: share of the kept weights, in [0, .9].
    """

    ramp: int | None = 0
    pruned: float = 0.5
    locked: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, word in (("pruned", "pruned"), ("locked", "kept")):
            meaning = f"the share of the {word} weights that the pattern fixes and must be in [0, 0.9]"
            check_number(name, meaning, getattr(self, name), least=0, most=0.9)
        if not self.pruned and not self.locked:
            raise ValueError("PartlyFrozen needs a pattern: set pruned or locked above 0, or take Biprop")
        if self.ramp_epochs:
            raise ValueError(
                "PartlyFrozen prunes from the first step on, so the number kept cannot fall over a ramp: set ramp=0"
            )

    @property
    def pattern(self) -> tuple[float, float]:
        return self.pruned, self.locked
