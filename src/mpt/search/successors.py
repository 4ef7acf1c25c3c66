"""Search methods that came after biprop and edge-popup, each a class that overrides the formulas in which it differs.

    Signed     b = g m sign(s): the score chooses the sign too (signed supermasks: Koster et al., ICLR 2022)
    IteRand    draws some of the pruned weights again every ``period`` steps (Chijiwa et al., NeurIPS 2021)
    Recycle    gives some of the least important weights the values of the most important ones, every ``period`` steps
               (Gorbett & Whitley, CVPR 2023)
    Gem        scores in [0, 1], rounded; the lowest are pruned for good every few epochs (Sreenivasan et al., NeurIPS
               2022)
    Gumbel     masks are sampled in training: relaxed Bernoulli gates (Dupont et al., ICIP 2022; Tsayag & Lindenbaum,
               2026)

They are binary like biprop, ``b = g m sign(.)``, so that all are compared at the same bits; the authors of IteRand,
Gem-Miner and Gumbel masks kept real weights or signed constants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mpt.search import weight as weights
from mpt.search.initializers import random_weight
from mpt.search.mask import select_jointly
from mpt.search.methods import Biprop
from mpt.streams import stream_generator
from mpt.values import check_number, check_whole


@dataclass(frozen=True, kw_only=True)
class Signed(Biprop):
    """Signed supermasks: ``b = g m sign(s)``, with ``|w|`` in place of ``w`` for the gain and the gradient of scores.

    A score's magnitude decides whether a weight is kept and its sign is the sign of the ticket weight, so
    ``dL/ds = dL/db |w|``. The signs are learned and stored: one bit more for each kept weight than a ticket whose signs
    are the seed's.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.score_abs:
            raise ValueError(
                "Signed needs score_abs=true: the score's sign is the weight's, so its magnitude must rank"
            )

    def source(self, weight: Tensor, scores: Tensor) -> Tensor:
        return weights.signs(scores, magnitude=weight.abs())


@dataclass(frozen=True, kw_only=True)
class _Renewing(Biprop):
    """A method that changes weights of every layer each ``period`` steps.

    Args:
        period: optimizer steps between two changes, counted from the start of each epoch.
        rate: fraction of the weights, see the methods.
    """

    period: int = 300
    rate: float = 0.1

    changes_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        check_whole("period", "the steps between two changes of the weights", self.period, least=1)
        if not self.learn_scores:
            raise ValueError(f"{name} needs learn_scores=true: without it the weights are never ranked again")
        if self.init == "unsigned_constant":
            raise ValueError(f"{name} cannot change weights that all have one value: choose another init")

    def is_due(self, step: int) -> bool:
        """Whether weights change before ``step`` of an epoch: before the last step of each period."""
        return step % self.period == self.period - 1

    def check_run(self, *, epochs: int, steps: int) -> None:
        if steps < self.period:
            raise ValueError(
                f"method.period={self.period} is more than the {steps} optimizer steps of an epoch, so no weight would "
                f"ever change: set method.period to at most {steps}"
            )


@dataclass(frozen=True, kw_only=True)
class IteRand(_Renewing):
    """Iterative randomization: every ``period`` steps each pruned weight is drawn again with probability ``rate``.

    With ``u`` a fresh draw of the layer's initializer and ``r`` the rate: ``w_i <- u_i`` where ``m_i = 0`` and
    ``Bernoulli(r) = 1``. Scores do not change. Needs a seed.

    Args:
        rate: in (0, 1].
    """

    draws_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(
            "rate", "the fraction of pruned weights drawn again and must be in (0, 1]", self.rate, above=0, most=1
        )

    def update(self, layers: Mapping[str, Any], *, seed: int, epoch: int, step: int) -> None:
        for name, layer in layers.items() if self.is_due(step) else ():
            stream = f"{name}/epoch {epoch}/step {step}"
            prune = self.layer_prune(name)
            fresh = random_weight(
                layer.weight.shape, seed=seed, layer=stream, init=self.init, scale_fan=self.scale_fan, prune=prune
            )
            chosen = stream_generator(seed, f"iterand/{stream}").random(fresh.numel()) < self.rate
            redrawn = torch.from_numpy(chosen).view_as(fresh).to(layer.weight.device) & ~layer.mask()
            layer.weight.copy_(torch.where(redrawn, fresh.to(layer.weight), layer.weight))


@dataclass(frozen=True, kw_only=True)
class Recycle(_Renewing):
    """Weight recycling: every ``period`` steps the least important weights take the values of the most important.

    With ``k = floor(rate n)``: ``w[i_j] <- w[t_j]`` for ``j = 1 ... k``, where ``i`` are the indices of the ``k`` least
    important weights of the layer, from the least on, and ``t`` those of the ``k`` most important, from the most on.
    Scores do not change. The pairing is ours; the abstract does not say it.

    Args:
        rate: in (0, 1/2].
    """

    rate: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(
            "rate", "the fraction of weights that is replaced and must be in (0, 0.5]", self.rate, above=0, most=0.5
        )

    def update(self, layers: Mapping[str, Any], *, seed: int, epoch: int, step: int) -> None:
        for layer in layers.values() if self.is_due(step) else ():
            order = self.importance(layer.scores).flatten().argsort(stable=True)
            count, weight = math.floor(self.rate * order.numel()), layer.weight.flatten().clone()
            weight[order[:count]] = weight[order.flip(0)[:count]]
            layer.weight.copy_(weight.view_as(layer.weight))


@dataclass(frozen=True, kw_only=True)
class _OwnDensity(Biprop):
    """A method whose masks keep another share than ``1 - prune`` in training, or also in the ticket.

    ``scale_fan="kept"`` draws weights for a layer that keeps ``1 - P`` of them. The factor ``sqrt((1 - P) / d)`` of its
    gain, with ``d`` the share that a mask keeps, holds the layer's output at the size that suits the mask.
    """

    def layer_gain(self, weight: Tensor, mask: Tensor, *, axis: int) -> Tensor:
        gain = super().layer_gain(weight, mask, axis=axis)
        if self.scale_fan != "kept":
            return gain
        return gain * ((1 - self.prune) / mask.mean(dtype=gain.dtype).clamp_min(1 / mask.numel())).sqrt()


@dataclass(frozen=True, kw_only=True)
class Gem(_OwnDensity):
    """Gem-Miner: scores in [0, 1] are rounded, ``m = 1[s > 1/2]``, and the lowest of the network are pruned for good.

    Scores start uniform in [0, 1) and are clamped to [0, 1] before every step. Before the first step of every
    ``period``-th epoch but the first, the lowest scores of the whole network are pruned: their weights become 0, so
    they get no gradient any more, and their scores -1. With ``E`` epochs, ``T`` the period and ``d = 1 - prune``, each
    pruning leaves the fraction ``d^(1 / floor((E - 1) / T))`` of those that were left, so the last one leaves ``d``.
    The loss has the term ``strength * sum(s^2)`` over the weights that are left.

    The ticket keeps the weights that are left and round to 1: its density is an outcome of at most ``d``. Gains have
    the factor ``sqrt((1 - P) / density)``, ours: the authors' networks have batch-norm, to which scales do not matter.

    Args:
        epochs: of the whole run.
        period: epochs between two prunings.
        strength: of the penalty.
    """

    selection: str = "threshold"
    threshold: float | None = 0.5
    score_abs: bool = False
    score_init: str = "unit"
    score_lr: float = 50.0
    epochs: int = 250
    period: int = 5
    strength: float = 3e-6

    changes_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.selection != "threshold" or self.score_abs:
            raise ValueError(
                "Gem needs selection=threshold and score_abs=false: scores are rounded, and those of "
                "pruned weights are the lowest"
            )
        super().__post_init__()
        check_whole("period", "the epochs between two prunings", self.period, least=1)
        check_whole("epochs", "the epochs of the whole run, more than period,", self.epochs, least=self.period + 1)
        check_number("strength", "the factor of the penalty and must be 0 or more", self.strength, least=0)

    @property
    def unfinished_epochs(self) -> int:
        return (self.epochs - 1) // self.period * self.period if self.prune else 0

    def check_run(self, *, epochs: int, steps: int) -> None:
        if epochs != self.epochs:
            raise ValueError(
                f"method.epochs={self.epochs} must be the epochs of the run, {epochs}: leave method.epochs out"
            )

    def left_after(self, left: int) -> int:
        """How many of ``left`` weights the next pruning leaves."""
        fraction: float = (1 - self.prune) ** (1 / ((self.epochs - 1) // self.period))
        return left - math.ceil(left * (1 - fraction))

    def penalty(self, layers: Mapping[str, Any]) -> Tensor:
        total: Tensor = sum(layer.scores.clamp(min=0).square().sum() for layer in layers.values())  # type: ignore[assignment]
        return self.strength * total

    def update(self, layers: Mapping[str, Any], *, seed: int, epoch: int, step: int) -> None:
        for layer in layers.values():
            layer.scores.clamp_(0, 1).masked_fill_(layer.weight == 0, -1)
        if step or not epoch or epoch % self.period:
            return
        left = sum(int(layer.weight.count_nonzero()) for layer in layers.values())
        kept = max(self.left_after(left), len(layers))
        masks = select_jointly([layer.scores for layer in layers.values()], kept=kept, absolute=False)
        for layer, mask in zip(layers.values(), masks, strict=True):
            layer.weight.masked_fill_(~mask, 0)
            layer.scores.masked_fill_(~mask, -1)


@dataclass(frozen=True, kw_only=True)
class Gumbel(_OwnDensity):
    """Relaxed Bernoulli gates: training samples its masks, and a penalty on their expected number makes them sparse.

    A weight is kept with probability ``sigmoid(a)``, ``a = s + log((1 - P) / P)``: scores of 0 keep the share that
    ``P = prune`` says. With ``u`` uniform in (0, 1), drawn for each weight and forward:

        z = sigmoid((a + log(u / (1 - u))) / temperature),   m = 1[z > 1/2],   dm/ds = z (1 - z) / temperature

    so ``dL/ds = dL/db f dm/ds`` with the factor ``f`` of :mod:`mpt.search.weight`. Evaluation and the ticket keep the
    most probable weights, as many as ``selection`` says. The loss has the term
    ``strength * max(0, sum(sigmoid(a)) - (1 - P) n)``: what the expected number of kept weights (the expected L0 norm)
    exceeds that of the ticket by.

    The authors start at 1/2 (``prune=0.5``) and let the density be an outcome: with ``selection=threshold`` the penalty
    is ``strength`` times the whole expected number.

    Args:
        temperature: of the relaxation; the lower, the closer ``z`` is to ``m`` and the noisier the gradient.
        strength: of the penalty.
    """

    selection: str = "global"
    ramp: int | None = 0
    score_abs: bool = False
    score_lr: float = 16000.0
    temperature: float = 1.0
    strength: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("temperature", "that of the relaxed masks and must be above 0", self.temperature, above=0)
        check_number("strength", "the factor of the penalty and must be 0 or more", self.strength, least=0)
        if self.score_abs:
            raise ValueError("Gumbel needs score_abs=false: the higher a score, the more probable its weight is kept")
        if self.prune_layers or self.ramp_epochs or self.power != 1:
            raise ValueError(
                "Gumbel samples masks by prune and the scores alone, the same in all layers and epochs: leave out "
                "prune_layers and power, and take ramp=0"
            )
        if not self.prune:
            raise ValueError("Gumbel samples masks that keep 1 - prune of the weights: prune must be above 0, got 0")

    @property
    def offset(self) -> float:
        """The logit of the share kept."""
        return math.log((1 - self.prune) / self.prune)

    def sample(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.rand_like(scores).clamp_(min=torch.finfo(scores.dtype).tiny)  # torch.rand is in [0, 1)
        logits = (scores.detach() + self.offset + noise.logit()) / self.temperature
        mask = logits > 0
        soft = logits.sigmoid_()
        return mask | (soft == soft.amax()), soft * (1 - soft) / self.temperature  # at least one is kept

    def penalty(self, layers: Mapping[str, Any]) -> Tensor:
        scores = [layer.scores for layer in layers.values()]
        total: Tensor = sum((s + self.offset).sigmoid().sum() for s in scores)  # type: ignore[assignment]
        allowed = 0.0 if self.selection == "threshold" else (1 - self.prune) * sum(s.numel() for s in scores)
        return self.strength * (total - allowed).clamp(min=0)
