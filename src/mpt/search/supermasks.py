"""Search methods with masks of another kind, each a class that overrides what differs from biprop.

PartlyFrozen   searches a part of the weights; a random pattern prunes or keeps the others (Otsuka et al., TMLR
               2025)
"""

from __future__ import annotations

from dataclasses import dataclass

from mpt.search.checks import check_number
from mpt.search.methods import Biprop


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
