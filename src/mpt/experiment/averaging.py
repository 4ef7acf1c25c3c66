"""Averages of the scores, by Lightning's weight averaging. The reported network and the ticket are made from them.

    ema   a <- d a + (1 - d) s       after every step
    swa   a <- mean of s at the end of each epoch from ``start``

Until epoch ``start`` the average is the network itself. Frozen weights are equal in every copy and stay identical to
the bit; batch-norm's running statistics are averaged like the scores. The mask is selected by the averaged scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ScoreAveraging(WeightAveraging):
    """Evaluates, saves and ends with the averaged network.

    Args:
        kind: ``ema`` or ``swa``.
        decay: ``d`` of ``ema``.
        start: epochs before the average begins.
    """

    def __init__(self, *, kind: str, decay: float, start: int) -> None:
        # computes a + (1 - d)(s - a), which leaves a as it is where s = a
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay) if kind == "ema" else None)  # type: ignore[no-untyped-call]
        self.kind, self.start = kind, start

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:  # torch reads this count in every step: on the CPU, nobody waits for it
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.kind == "ema" or trainer.is_last_batch:  # before the evaluation that ends the epoch
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.current_epoch < self.start:
            assert self._average_model is not None
            self._average_model.n_averaged.zero_()  # the next update copies


@contextmanager
def use_averages(trainer: L.Trainer, module: L.LightningModule) -> Iterator[None]:
    """Inside, ``module`` has its averaged parameters, if ``trainer`` averages them."""
    averagings = [callback for callback in trainer.callbacks if isinstance(callback, ScoreAveraging)]  # type: ignore[attr-defined]
    for averaging in averagings:
        averaging._swap_models(module)
    try:
        yield
    finally:
        for averaging in averagings:
            averaging._swap_models(module)
