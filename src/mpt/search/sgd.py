"""Torch's SGD, with scores moved in one pass over memory, as :mod:`mpt.search.one_pass` says."""

from __future__ import annotations

from typing import Any

import torch

from mpt.search.fast.updates import Sgd
from mpt.search.one_pass import OnePass, are_numbers


class ScoreSGD(OnePass, torch.optim.SGD):
    """:class:`torch.optim.SGD`, with the same arguments; ``fused=True``, momentum and a closure for the one pass."""

    kind = Sgd

    def knows(self, group: dict[str, Any]) -> bool:
        """There is momentum, without dampening."""
        return group["momentum"] != 0 and group["dampening"] == 0 and are_numbers(group["lr"], group["weight_decay"])

    def update(self, group: dict[str, Any], state: dict[str, Any]) -> Sgd:
        """The same for all scores of ``group``."""
        return Sgd(float(group["lr"]), float(group["momentum"]), float(group["weight_decay"]), bool(group["nesterov"]))
