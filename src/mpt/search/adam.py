"""Torch's Adam and AdamW, with scores moved in one pass over memory, as :mod:`mpt.search.one_pass` says."""

from __future__ import annotations

from typing import Any

import torch

from mpt.search.fast.updates import Adam
from mpt.search.one_pass import OnePass, are_numbers


class ScoreAdam(OnePass, torch.optim.Adam):
    """:class:`torch.optim.Adam`, with the same arguments; ``fused=True`` and a closure for the one pass."""

    kind = Adam

    def knows(self, group: dict[str, Any]) -> bool:
        """It is Adam as published, or AdamW; not AMSGrad."""
        numbers = are_numbers(group["lr"], *group["betas"], group["eps"], group["weight_decay"])
        return numbers and not group["amsgrad"] and not group["capturable"]

    def update(self, group: dict[str, Any], state: dict[str, Any]) -> Adam:
        """That of step ``t`` of these scores, which begins and is counted in ``state``."""
        state["step"] += 1
        (a, b), t = group["betas"], float(state["step"])
        lr, eps, decay = (float(group[name]) for name in ("lr", "eps", "weight_decay"))
        return Adam(lr, (float(a), float(b)), eps, decay, bool(group["decoupled_weight_decay"]), t)


class ScoreAdamW(ScoreAdam, torch.optim.AdamW):
    """:class:`torch.optim.AdamW`, with the same arguments; ``fused=True`` and a closure for the one pass."""
