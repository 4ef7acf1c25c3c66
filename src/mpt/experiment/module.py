"""What Lightning trains: the converted network, its loss, optimizer and metrics; and the loaders of one process."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from mpt.data import Batch, ImageData, Loader
from mpt.search.initializers import stream_key
from mpt.search.layers import frozen
from mpt.search.selection import calibrate, start_epoch


class TicketModule(L.LightningModule):
    """Cross-entropy on the logits of ``net``; nothing in a step makes the host wait for the device.

    Args:
        net: a network from :func:`mpt.convert`.
        num_classes: of the data.
        splits: names of the evaluation loaders in their order, of ``val`` and ``test``.
        seed: of the run; dropout and the like are a function of it and the epoch.
        optim: ``name lr momentum nesterov weight_decay schedule warmup``.
        epochs: of the whole run, for the learning rate.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        num_classes: int,
        splits: tuple[str, ...],
        seed: int,
        optim: dict[str, Any],
        epochs: int,
    ) -> None:
        super().__init__()
        self.net, self.splits, self.seed, self.optim, self.epochs = net, splits, seed, optim, epochs
        self.train_loss = MeanMetric(nan_strategy="disable")  # other strategies look at the value: the host would wait
        self.train_acc = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.accs: Any = nn.ModuleDict({split: self.train_acc.clone() for split in splits})
        self.losses: Any = nn.ModuleDict({split: self.train_loss.clone() for split in splits})
        self._evaluation = ExitStack()

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, classes)."""
        logits: Tensor = self.net(images)
        return logits

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(stream_key(self.seed, f"torch/epoch {self.current_epoch}/rank {self.global_rank}")[1] % 2**63)
        start_epoch(self.net, self.current_epoch)
        self.train_loss.reset()
        self.train_acc.reset()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self(batch.images)
        loss = F.cross_entropy(logits, batch.labels)
        if batch.share > 0:
            self.train_loss.update(loss.detach(), weight=len(batch.labels))
            self.train_acc.update(logits.detach(), batch.labels)
        return loss if batch.share == 1 else loss * batch.share

    def on_validation_epoch_start(self) -> None:
        calibrate(self.net)
        self._evaluation.enter_context(frozen(self.net))  # each mask once a pass

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        split, logits = self.splits[dataloader_idx], self(batch.images)
        self.accs[split].update(logits, batch.labels)
        self.losses[split].update(F.cross_entropy(logits, batch.labels), weight=len(batch.labels))

    def on_validation_epoch_end(self) -> None:
        self._evaluation.close()

    def epoch_metrics(self) -> dict[str, float]:
        """train/loss, train/acc and those of the evaluated splits, over all processes; starts the next epoch's."""
        metrics: dict[str, Any] = {"train/loss": self.train_loss, "train/acc": self.train_acc}
        for split in self.splits:
            metrics |= {f"{split}/acc": self.accs[split]}
            if split == "val":
                metrics |= {"val/loss": self.losses[split]}
        values = {name: float(metric.compute()) for name, metric in metrics.items()}
        for metric in (self.train_loss, self.train_acc, *self.accs.values(), *self.losses.values()):
            metric.reset()
        return values

    def configure_optimizers(self) -> Any:
        learned = [parameter for parameter in self.parameters() if parameter.requires_grad]
        choice = self.optim
        optimizer: torch.optim.Optimizer
        if choice["name"] == "sgd":
            optimizer = torch.optim.SGD(
                learned,
                lr=choice["lr"],
                momentum=choice["momentum"],
                nesterov=choice["nesterov"],
                weight_decay=choice["weight_decay"],
            )
        else:
            optimizer = torch.optim.Adam(learned, lr=choice["lr"], weight_decay=choice["weight_decay"])
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda epoch: lr_factor(epoch, epochs=self.epochs, warmup=choice["warmup"], schedule=choice["schedule"]),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


def lr_factor(epoch: int, *, epochs: int, warmup: int, schedule: str) -> float:
    """Learning rate of an epoch over the highest, appendix A of the paper.

    ``(e + 1) / w`` in the ``w`` epochs of warm-up, then for ``cosine`` ``(1 + cos(pi (e - w) / (E - w))) / 2``.
    """
    if epoch < warmup:
        return (epoch + 1) / warmup
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(1, epochs - warmup)))


class MemoryData(L.LightningDataModule):
    """The loaders of this process: its shard of each global batch, made on its device."""

    def __init__(self, data: ImageData, *, batch: int, seed: int, channels_last: bool) -> None:
        super().__init__()
        self.data, self.batch, self.seed, self.channels_last = data, batch, seed, channels_last

    def train_dataloader(self) -> Loader:
        return self._loader("train")

    def val_dataloader(self) -> list[Loader]:
        return [self._loader(split) for split in evaluated_splits(self.data)]

    def _loader(self, split: str) -> Loader:
        assert self.trainer is not None
        images = {"train": self.data.train, "val": self.data.val, "test": self.data.test}[split]
        assert images is not None
        return Loader(
            images,
            data=self.data,
            batch=self.batch if split == "train" else 4 * self.batch,
            train=split == "train",
            seed=self.seed,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            device=self.trainer.strategy.root_device,
            channels_last=self.channels_last,
        )


def evaluated_splits(data: ImageData) -> tuple[str, ...]:
    """Names of the splits that are evaluated after every epoch."""
    return ("val", "test") if data.val is not None else ("test",)
