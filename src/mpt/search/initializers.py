"""The frozen random weights and the first scores: drawn from one seed, the same on every device and in every release.

Each layer has three independent streams of the seed (:mod:`mpt.streams`), named ``<stream>/<layer name>``:

* the **signs** of the weights are the raw bits of the stream ``signs``: weight ``i`` is positive where bit ``i % 64``
  of word ``i // 64`` is 1. Raw Philox words are specified and never change, so any future release can recompute the
  signs of a ticket from its seed (:func:`random_signs`);
* magnitudes (stream ``magnitudes``) and scores (stream ``scores``) come from NumPy's ``Generator``.

With fan ``f`` of a layer (times ``1 - P`` for ``scale_fan="kept"``, times ``P`` for ``"published"``) and the gain
``sqrt(2)`` of a ReLU:

    kaiming_normal      N(0, 2 / f)                   kaiming_uniform     U(-sqrt(6 / f), sqrt(6 / f))
    signed_constant     +-sqrt(2 / f)                 unsigned_constant   +sqrt(2 / f)
    xavier_normal       N(0, 2 / (f_in + f_out))      xavier_constant     +-sqrt(2 / (f_in + f_out))

Scores start uniform in ``+-1 / sqrt(fan_in)`` (``kaiming_uniform(a=sqrt(5))``), or ``constant`` at the standard
deviation of that distribution, ``+1 / sqrt(3 fan_in)``. Constant scores are all equal, so the first mask of a layer is
its lowest indices; they are positive because signs do not matter where ``|s|`` decides. ``unit`` draws them uniform in
[0, 1). With a power ``a``, a
``matched`` start turns each score ``u`` into ``sign(u) |u|^(1/a)``, so that ``S = s |s|^(a-1)`` starts at ``u``. All
numbers are drawn in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mpt.streams import philox, stream_generator

SCALE_FANS = ("none", "kept", "published")
SCORE_INITS = ("uniform", "constant", "unit")
SCORE_STARTS = ("plain", "matched")


def _normal(generator: np.random.Generator, n: int, std: float) -> np.ndarray:
    values = generator.standard_normal(n, dtype=np.float32)
    np.abs(values, out=values)  # in place, here and below: large layers are bound by memory
    values *= np.float32(std)
    return values


def _uniform(generator: np.random.Generator, n: int, std: float) -> np.ndarray:
    values = generator.random(n, dtype=np.float32)
    values *= np.float32(math.sqrt(3) * std)
    return values


def _constant(generator: np.random.Generator, n: int, std: float) -> np.ndarray:
    return np.full(n, std, dtype=np.float32)


# name -> (function that draws the magnitudes of n weights of standard deviation std, fan rule)
INITIALIZERS: dict[str, tuple[Callable[[np.random.Generator, int, float], np.ndarray], str]] = {
    "kaiming_normal": (_normal, "in"),
    "kaiming_uniform": (_uniform, "in"),
    "signed_constant": (_constant, "in"),
    "unsigned_constant": (_constant, "in"),
    "xavier_normal": (_normal, "both"),
    "xavier_constant": (_constant, "both"),
}


def random_signs(n: int, *, seed: int, layer: str) -> np.ndarray:
    """The signs of the ``n`` random weights of the layer named ``layer``: float32 (n,) of -1 and +1, flat order."""
    signs = np.unpackbits(random_sign_bits(n, seed=seed, layer=layer), count=n, bitorder="little").view(np.int8)
    signs *= 2
    signs -= 1
    return signs.astype(np.float32)


def random_sign_bits(n: int, *, seed: int, layer: str) -> np.ndarray:
    """The signs of :func:`random_signs` as bits, 1 = positive, lowest bit first: uint8 (ceil(n / 8),) or a few more."""
    words: np.ndarray = philox(seed, f"signs/{layer}").random_raw((n + 63) // 64)
    return words.astype("<u8").view(np.uint8)


def random_weight(shape: torch.Size, *, seed: int, layer: str, init: str, scale_fan: str, prune: float) -> Tensor:
    """Frozen random weights of one layer, float32 on the CPU; never exactly 0, so that each has its sign."""
    magnitudes, fan_rule = INITIALIZERS[init]
    fan_in, fan_out = fans(shape)
    fan = (fan_in if fan_rule == "in" else fan_in + fan_out) * _fan_scale(scale_fan, prune)
    values = magnitudes(stream_generator(seed, f"magnitudes/{layer}"), shape.numel(), math.sqrt(2 / fan))
    np.maximum(values, np.finfo(np.float32).tiny, out=values)
    if init != "unsigned_constant":
        values *= random_signs(shape.numel(), seed=seed, layer=layer)
    return torch.from_numpy(values).view(shape)


def random_scores(
    shape: torch.Size, *, seed: int, layer: str, init: str = "uniform", start: str = "plain", power: float = 1.0
) -> Tensor:
    """First scores of one layer, float32 on the CPU: drawn by ``init``, and rooted by ``power`` if ``matched``."""
    bound = 1 / math.sqrt(fans(shape)[0])
    if init == "constant":
        values = np.full(shape.numel(), bound / math.sqrt(3), dtype=np.float32)
    else:
        values = stream_generator(seed, f"scores/{layer}").random(shape.numel(), dtype=np.float32)
        if init != "unit":
            values *= 2
            values -= 1
            values *= np.float32(bound)
    if start == "matched" and power != 1:
        values = np.copysign(np.abs(values) ** np.float32(1 / power), values)
    return torch.from_numpy(values).view(shape)


def random_pattern(n: int, *, seed: int, layer: str, kept: int, shares: tuple[float, float]) -> np.ndarray:
    """A random pattern of ``n`` weights, ``kept`` of which a search keeps: int8 (n,), -1 pruned, +1 kept, 0 searched.

    With shares ``(p, r)`` it prunes ``floor(p (n - kept))`` weights and keeps ``floor(r kept)``, drawn uniformly from
    the stream ``pattern`` of the layer.
    """
    pruned, locked = math.floor(shares[0] * (n - kept)), math.floor(shares[1] * kept)
    pattern = np.zeros(n, dtype=np.int8)
    pattern[:pruned], pattern[pruned : pruned + locked] = -1, 1
    return stream_generator(seed, f"pattern/{layer}").permutation(pattern)


def fans(shape: torch.Size) -> tuple[int, int]:
    """(fan_in, fan_out) as torch counts them: ``shape[1]`` and ``shape[0]`` times the kernel's size."""
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


def _fan_scale(scale_fan: str, prune: float) -> float:
    return {"none": 1.0, "kept": 1 - prune, "published": prune}[scale_fan]
