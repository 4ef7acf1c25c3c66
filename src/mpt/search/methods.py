"""What a search method is: a small frozen dataclass of choices, and four formulas.

A method says how scores become a mask, a mask a gain, both a ticket weight, and how the loss's gradient comes back to
the scores. Everything else (layers, conversion, training, the ticket file) is the same for every method, so a new one
is a subclass of :class:`Method` that overrides the formula in which it differs, plus one YAML file in ``conf/method``.

    Biprop      b = g m sign(w)     one bit a weight (Diffenderfer & Kailkhura 2021)
    EdgePopup   b = m w             real weights (Ramanujan et al. 2020), a signed constant by default
    Dense       b = w               nothing is searched: all weights are trained, the baseline
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mpt.search import mask as masks
from mpt.search import weight as weights
from mpt.search.initializers import INITIALIZERS, SCALE_FANS


@dataclass(frozen=True, kw_only=True)
class Method:
    """The choices common to all methods that learn one score a weight.

    Args:
        prune: fraction of each layer's weights that is removed, in [0, 1).
        score_grad: ``weight``, ``sign`` or ``gain``: the factor of the score gradient (see :mod:`mpt.search.weight`).
        score_abs: select on ``|s|`` (True) or on ``s`` itself.
        init: distribution of the frozen random weights (see :mod:`mpt.search.initializers`).
        scale_fan: ``none``, ``kept`` or ``published``: what the fan in the initializer is multiplied with.
        bias: keep the biases of converted layers, frozen at the backbone's values.
        learn_scores: False leaves the scores, and so the mask, as drawn from the seed: with ``learn_batchnorm`` the
            control that trains batch-norm alone on a random mask (Frankle, Schwab & Morcos 2020).
    """

    prune: float
    score_grad: str = "weight"
    score_abs: bool = True
    init: str = "kaiming_normal"
    scale_fan: str = "kept"
    bias: bool = False
    learn_scores: bool = True

    searched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        masks.check_prune(self.prune)
        _check_choice("score_grad", self.score_grad, weights.SCORE_GRADS)
        _check_choice("init", self.init, tuple(INITIALIZERS))
        _check_choice("scale_fan", self.scale_fan, SCALE_FANS)
        for name in ("score_abs", "bias", "learn_scores"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is true or false, got {getattr(self, name)!r}")
        if self.scale_fan == "published" and self.prune == 0:
            raise ValueError("scale_fan=published multiplies the fan by prune, which must then be above 0, got 0")

    @property
    def first_epoch(self) -> int:
        """First epoch of training, from 0, whose mask removes what ``prune`` says: none before it is a ticket."""
        return 0

    def num_kept(self, n: int) -> int:
        """How many of a layer's ``n`` weights are kept."""
        return masks.num_kept(n, prune=self.prune)

    def mask(self, scores: Tensor, *, kept: int) -> Tensor:
        """Mask of the ``kept`` most important weights, bool, of the shape of ``scores``."""
        return masks.select(scores.detach().abs() if self.score_abs else scores.detach(), kept=kept)

    def gain(self, weight: Tensor, mask: Tensor) -> Tensor:
        """Scale of the layer, 0-d: ``sum(m |w|) / sum(m)``."""
        return weights.gain(weight, mask)

    def ticket_weight(self, weight: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
        """What the layer computes with, of the shape of ``weight``."""
        raise NotImplementedError(f"{type(self).__name__} must define ticket_weight")

    def score_gradient(self, grad: Tensor, weight: Tensor, scores: Tensor, gain: Tensor) -> Tensor:
        """dL/ds from dL/db, of the shape of ``scores``."""
        return weights.score_gradient(grad, weight, scores, gain, score_grad=self.score_grad, score_abs=self.score_abs)

    def weight_gradient(self, grad: Tensor, scores: Tensor, gain: Tensor) -> Tensor | None:
        """dL/dw from dL/db; None where weights are never trained, as in every search."""
        return None


@dataclass(frozen=True, kw_only=True)
class Biprop(Method):
    """Binarize-prune: ``b = g m sign(w)``, one bit a weight and one gain a layer (MPT-1/32)."""

    def ticket_weight(self, weight: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
        return weights.binary(weight, mask, gain)


@dataclass(frozen=True, kw_only=True)
class EdgePopup(Method):
    """Edge-popup: ``b = m w``, real weights; a signed constant by default, as its authors start."""

    init: str = "signed_constant"

    def ticket_weight(self, weight: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
        return weights.masked(weight, mask)


@dataclass(frozen=True, kw_only=True)
class Dense(Method):
    """The dense baseline: no scores and no mask, every parameter of the backbone is trained."""

    prune: float = 0.0
    scale_fan: str = "none"
    bias: bool = True

    searched: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prune:
            raise ValueError(f"prune is the fraction removed and the dense baseline removes none, got {self.prune}")

    def ticket_weight(self, weight: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
        return weight


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
