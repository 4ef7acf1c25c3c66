"""A search method: a small frozen dataclass of choices, with four formulas and two hooks.

The formulas turn scores into a mask, the mask into a gain, both into a ticket weight, and the gradient of the loss into
one of the scores. The hooks add a term to the loss (:meth:`Method.penalty`) and change weights or scores between steps
(:meth:`Method.update`). Everything else (layers, conversion, training, the ticket file) is the same for every method. A
new method is a subclass of :class:`Method` that overrides the formula in which it differs, plus one YAML file in
``conf/method``.

    Biprop      b = g m sign(w)     one bit a weight (Diffenderfer & Kailkhura 2021)
    EdgePopup   b = m w             real weights (Ramanujan et al. 2020), a signed constant by default
    Dense       b = w               the baseline: all weights are trained, nothing is searched

``selection`` says which weights are kept, by their importance ``|S|`` with ``S = s |s|^(a-1)`` and ``a`` the ``power``:

    layerwise    the right number of the most important weights in each layer
    global       the right number in the whole network, at least one in each layer
    threshold    all weights above a fixed number, however many they are
    calibrated   all weights above a number that is set every ``refresh`` steps to keep the right number in the whole
                 network; between two settings one comparison selects, and the number kept drifts a little

The mask is the same for every ``a``, because ``S`` grows with ``s``. So selection never computes a power: a threshold
``t`` on ``|S|`` is a threshold ``t^(1/a)`` on ``|s|``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from torch import Tensor

from mpt.search import mask as masks
from mpt.search import weight as weights
from mpt.search.checks import check_prune_layers, check_selection, own_prune
from mpt.search.initializers import INITIALIZERS, SCALE_FANS, SCORE_INITS, SCORE_STARTS
from mpt.values import check_choice, check_number

RAMP = 10  # epochs over which the fraction removed rises in global pruning, as in the authors' update


@dataclass(frozen=True, kw_only=True)
class Method:
    """The choices common to all methods that learn one score per weight.

    Args:
        prune: fraction of each layer's weights that is removed, in [0, 1).
        score_grad: ``weight``, ``sign`` or ``gain``: the factor of the score gradient (see :mod:`mpt.search.weight`).
        score_abs: select on ``|s|`` (True) or on ``s`` itself.
        init: distribution of the frozen random weights (see :mod:`mpt.search.initializers`).
        scale_fan: ``none``, ``kept`` or ``published``: the factor of the fan in the initializer.
        gains: ``layer``, ``channel`` or ``learned``: one gain for the layer or for each output channel (see
            :mod:`mpt.search.weight`).
        bias: keep the biases of converted layers, frozen at the backbone's values.
        selection: ``layerwise``, ``global``, ``threshold`` or ``calibrated``: which weights are kept (see above). With
            ``threshold`` the fraction removed is an outcome, and only ``scale_fan`` uses ``prune``.
        threshold: with ``selection=threshold``, the importance that a kept weight exceeds.
        refresh: with ``selection=calibrated``, the optimizer steps between two settings of the threshold, counted from
            the start of each epoch.
        ramp: epochs over which the fraction removed rises from 1/2 to ``prune``, by the formula of
            :func:`mpt.search.mask.prune_in_epoch`. None means 10 with ``selection=global`` and otherwise 0, no ramp.
            The training loop must call :func:`mpt.start_epoch`. See :meth:`ramp_scale` too.
        prune_layers: fraction removed from layers by name or pattern, ``{"classifier.*": 0.5}``; ``prune`` applies to
            all other layers. Only with ``selection=layerwise``.
        power: the exponent ``a >= 1`` of power-propagation; 1 for none.
        score_init: first scores: ``uniform`` in ``+-1 / sqrt(fan_in)``, or ``constant``, the same for all of a layer.
        score_start: with a power, ``plain`` starts ``s`` at the first scores, ``matched`` starts ``S`` there.
        score_lr: factor of the optimizer's learning rate for the scores, which divides their weight decay, for methods
            whose scores have another size than biprop's. ``mpt-train`` applies it.
        learn_scores: False leaves the scores, and so the mask, as drawn from the seed. With ``learn_batchnorm`` this is
            the control that trains only batch-norm on a random mask (Frankle, Schwab & Morcos 2020).
    """

    prune: float
    score_grad: str = "weight"
    score_abs: bool = True
    init: str = "kaiming_normal"
    scale_fan: str = "kept"
    gains: str = "layer"
    bias: bool = False
    selection: str = "layerwise"
    threshold: float | None = None
    refresh: int = 10
    ramp: int | None = None
    prune_layers: Mapping[str, float] | None = field(default=None, hash=False)
    power: float = 1.0
    score_init: str = "uniform"
    score_start: str = "plain"
    score_lr: float = 1.0
    learn_scores: bool = True

    searched: ClassVar[bool] = True
    draws_weights: ClassVar[bool] = False  # whether update draws weights of the seed again
    changes_weights: ClassVar[bool] = False  # whether update changes weights, of which no average can then be taken

    def __post_init__(self) -> None:
        masks.check_prune(self.prune)
        check_choice("score_grad", self.score_grad, weights.SCORE_GRADS)
        check_choice("init", self.init, tuple(INITIALIZERS))
        check_choice("scale_fan", self.scale_fan, SCALE_FANS)
        check_choice("gains", self.gains, weights.GAINS)
        check_choice("score_init", self.score_init, SCORE_INITS)
        check_choice("score_start", self.score_start, SCORE_STARTS)
        for name in ("score_abs", "bias", "learn_scores"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is true or false, got {getattr(self, name)!r}")
        if self.gains == "channel" and type(self).gain is not Method.gain:
            raise ValueError(f"{type(self).__name__} defines its own gain: gains must be layer or learned, got channel")
        check_number("score_lr", "a factor of the learning rate and must be above 0", self.score_lr, above=0)
        check_number("power", "the exponent of power-propagation and must be at least 1", self.power, least=1)
        check_selection(self, own_mask=type(self).mask is not Method.mask)
        if self.prune_layers:
            check_prune_layers(self.prune_layers, selection=self.selection)
        object.__setattr__(self, "prune_layers", dict(self.prune_layers) if self.prune_layers else None)
        if self.scale_fan == "published" and 0 in (self.prune, *(self.prune_layers or {}).values()):
            raise ValueError("scale_fan=published multiplies the fan by prune, which must then be above 0, got 0")

    @property
    def pattern(self) -> tuple[float, float] | None:
        """Shares of a random pattern that is fixed before the search; None, as here, where all weights are searched.

        The first is the share that is pruned for good of the weights that ``prune`` removes, the second the share that
        is always kept of those it keeps. The pattern follows from the seed
        (:func:`mpt.search.initializers.random_pattern`), so a ticket's file does not hold it.
        """
        return None

    @property
    def ramp_epochs(self) -> int:
        """Number of epochs of the ramp."""
        rises = any(prune > 0.5 for prune in (self.prune, *(self.prune_layers or {}).values()))
        ramp = self.ramp if self.ramp is not None else RAMP if self.selection == "global" else 0
        return ramp if rises else 0

    @property
    def unfinished_epochs(self) -> int:
        """Number of first epochs in which more is kept than at the end, so that masks are no tickets yet."""
        return self.ramp_epochs

    @property
    def score_threshold(self) -> float:
        """``threshold`` in terms of the scores ``s``: ``sign(t) |t|^(1/a)``."""
        assert self.threshold is not None
        return weights.root(self.threshold, power=self.power)

    def layer_prune(self, layer: str) -> float:
        """Fraction removed from the layer of this name."""
        own = own_prune(self.prune_layers, layer)
        return self.prune if own is None else own

    def num_kept(self, n: int, *, layer: str = "", epoch: int | None = None) -> int:
        """How many of the ``n`` weights of a layer or network are kept in ``epoch``, or with None after the ramp."""
        prune = self.layer_prune(layer)
        if epoch is not None:
            prune = masks.prune_in_epoch(prune, epoch=epoch, ramp=self.ramp_epochs)
        return masks.num_kept(n, prune=prune)

    def ramp_scale(self, *, layer: str, epoch: int) -> float:
        """Factor of the ticket weights of a layer in ``epoch``: ``sqrt((1 - P) / (1 - P_e))``, 1 after the ramp.

        ``scale_fan="kept"`` draws weights for a layer that keeps ``1 - P`` of them. While a ramp keeps ``1 - P_e``, the
        factor holds the layer's output at the same size. It is 1 for any other ``scale_fan``.
        """
        prune = self.layer_prune(layer)
        kept = 1 - masks.prune_in_epoch(prune, epoch=epoch, ramp=self.ramp_epochs)
        return math.sqrt((1 - prune) / kept) if self.scale_fan == "kept" and kept > 1 - prune else 1.0

    def importance(self, scores: Tensor) -> Tensor:
        """The importance by which weights are kept: ``|s|``, or ``s`` if not ``score_abs``; shape of ``scores``."""
        return scores.detach().abs() if self.score_abs else scores.detach()

    def ranking(self, scores: Tensor) -> tuple[Tensor, bool]:
        """:meth:`importance` as (values, whether their magnitude counts), which saves a copy of the magnitudes."""
        if type(self).importance is Method.importance:
            return scores.detach(), self.score_abs
        return self.importance(scores), False

    def mask(self, scores: Tensor, *, kept: int) -> Tensor:
        """Mask of the ``kept`` most important weights, bool, of the shape of ``scores``."""
        values, absolute = self.ranking(scores)
        return masks.select(values, kept=kept, absolute=absolute)

    def gain(self, weight: Tensor, mask: Tensor) -> Tensor:
        """Scale of the layer, 0-d: ``sum(m |w|) / sum(m)``.

        Your own method may return several gains in a shape that broadcasts to the weight's: for one per output channel
        (O, 1, 1, 1) in a convolution, (O, 1) in a linear layer, (1, O, 1, 1) in a transposed convolution. Gains must be
        finite, also where a channel keeps no weight.
        """
        return weights.gain(weight, mask)

    def layer_gain(self, weight: Tensor, mask: Tensor, *, axis: int) -> Tensor:
        """:meth:`gain`, or with ``gains=channel`` one for each output channel, along ``axis`` of ``weight``."""
        return weights.channel_gains(weight, mask, axis=axis) if self.gains == "channel" else self.gain(weight, mask)

    def source(self, weight: Tensor, scores: Tensor) -> Tensor:
        """The weights that are masked, of the shape of ``weight``; most methods, as here, mask ``weight`` itself.

        All other formulas get the result in place of ``weight``.
        """
        return weight

    def sample(self, scores: Tensor) -> tuple[Tensor, Tensor] | None:
        """A mask drawn for one forward in training, and its slope ``dm/ds``, both of the shape of ``scores``.

        The slope is a factor of the score gradient, and may broadcast to that shape. None, as here, where
        training uses :meth:`mask` too.
        """
        return None

    def ticket_weight(self, weight: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
        """The weight that the layer computes with, of the shape of ``weight``; 0 where ``mask`` is False."""
        raise NotImplementedError(f"{type(self).__name__} must define ticket_weight")

    def score_gradient(self, grad: Tensor, weight: Tensor, scores: Tensor, gain: Tensor) -> Tensor:
        """dL/ds from dL/db, of the shape of ``scores``."""
        ds = weights.score_gradient(grad, weight, scores, gain, score_grad=self.score_grad, score_abs=self.score_abs)
        return ds if self.power == 1 else ds.mul_(weights.power_slope(scores, power=self.power))

    def weight_gradient(self, grad: Tensor, scores: Tensor, gain: Tensor) -> Tensor | None:
        """dL/dw from dL/db; None if weights are never trained, as in every search."""
        return None

    def penalty(self, layers: Mapping[str, Any]) -> Tensor | None:
        """A term of the loss, 0-d and differentiable in the scores of ``layers``; None, as here, for no term.

        ``mpt-train`` adds it to the loss that it minimises and still reports the plain cross-entropy. Your own training
        loop must add it itself.
        """
        return None

    def check_run(self, *, epochs: int, steps: int) -> None:
        """ValueError if a run of ``epochs`` epochs of ``steps`` optimizer steps each does not suit the method."""

    def update(self, layers: Mapping[str, Any], *, seed: int, epoch: int, step: int) -> None:
        """Change weights or scores in place between two optimizer steps; most methods, as here, change nothing.

        The network calls it, without gradients, before the first forward in training of each step and before that
        forward selects masks. Draw random numbers from a stream named after ``epoch`` and ``step``
        (:func:`mpt.streams.stream_generator`): then an interrupted run that resumes ends in the same ticket, and all
        processes of a run agree.

        Args:
            layers: the ticket layers (:class:`mpt.search.layers.TicketLayer`) by name; layers that share a weight come
                once, by the first name.
            seed: the seed of the network, 0 if it has none.
            epoch: number of epochs finished before, as :func:`mpt.start_epoch` was told.
            step: the number of optimizer steps since the start of the epoch.
        """


@dataclass(frozen=True, kw_only=True)
class Biprop(Method):
    """Biprop, binarize and prune: ``b = g m sign(w)``, one bit per weight and one gain per layer (MPT-1/32)."""

    def ticket_weight(self, weight: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
        return weights.binary_weight(weight, mask, gain)


@dataclass(frozen=True, kw_only=True)
class EdgePopup(Method):
    """Edge-popup: ``b = m w``, real weights; by default a signed constant, as in its authors' code."""

    init: str = "signed_constant"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gains != "layer":
            raise ValueError(f"edge-popup keeps real weights, which no gain scales: leave gains out, got {self.gains}")

    def ticket_weight(self, weight: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
        return weights.masked_weight(weight, mask)


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
        own = ("prune", "init", "scale_fan", "bias")
        others = [option for option in fields(Method) if option.name not in own]
        if unused := [option.name for option in others if getattr(self, option.name) != option.default]:
            raise ValueError(f"the dense baseline has no masks, gains or scores: leave out {', '.join(unused)}")

    def ticket_weight(self, weight: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
        return weight
