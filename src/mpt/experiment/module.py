"""The module that Lightning trains (converted network, loss, optimizer, metrics), and the loaders of a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from mpt.data import Batch, ImageData, Loader
from mpt.experiment.losses import losses
from mpt.experiment.optim import build_optim
from mpt.experiment.recorded import RecordedStep, Step
from mpt.experiment.teacher import Teacher
from mpt.run.settings import Optim
from mpt.search.conversion import Conversion
from mpt.search.epochs import calibrate, start_epoch
from mpt.search.layers import frozen, ticket_layers
from mpt.search.methods import Method
from mpt.streams import stream_key

T = TypeVar("T", bound=Loader)


class TicketModule(L.LightningModule):
    """Trains ``net`` by :mod:`mpt.experiment.losses`. Nothing in a step makes the host wait for the device.

    Args:
        net: a network from :func:`mpt.convert`.
        num_classes: of the data.
        splits: names of the evaluation loaders, in their order: ``val`` and ``test``.
        seed: of the run; with the epoch it seeds dropout and other random layers.
        optim: optimizer and learning rate.
        epochs: of the whole run, for the learning rate.
        label_smoothing: of the training loss; reported losses have none.
        evaluate_every: epochs between two measurements on the test images; the last epoch has one.
        teacher: adds its term to the training loss.
        graph: record the step as a CUDA graph (:mod:`mpt.experiment.recorded`).
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        num_classes: int,
        splits: tuple[str, ...],
        seed: int,
        optim: Optim,
        epochs: int,
        label_smoothing: float = 0.0,
        teacher: Teacher | None = None,
        evaluate_every: int = 1,
        graph: bool = False,
    ) -> None:
        super().__init__()
        self.net, self.splits, self.seed, self.optim, self.epochs = net, splits, seed, optim, epochs
        self.evaluate_every, self.teacher = evaluate_every, teacher
        self.label_smoothing, self.method = label_smoothing, _penalty_method(net)
        self.train_loss = MeanMetric(nan_strategy="disable")  # other strategies read the value: the host would wait
        self.train_acc = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.accs: Any = nn.ModuleDict({split: self.train_acc.clone() for split in splits})
        self.losses: Any = nn.ModuleDict({split: self.train_loss.clone() for split in splits})
        self._evaluation = ExitStack()
        self.graph, self.ramp_epochs = graph, _ramp_epochs(net)
        self._recorded: RecordedStep | None = None

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, classes)."""
        logits: Tensor = self.net(images)
        return logits

    def measures(self, split: str) -> bool:
        """Whether this epoch measures ``split``: the held-out images always, as they may choose the ticket."""
        done = self.current_epoch + 1
        return split != "test" or done % self.evaluate_every == 0 or done == self.epochs

    def on_train_start(self) -> None:
        if self.teacher:
            self.teacher.to(self.device)
        self._recorded = RecordedStep(self._compute, self.net) if self.graph else None

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(stream_key(self.seed, f"torch/epoch {self.current_epoch}/rank {self.global_rank}")[1] % 2**63)
        start_epoch(self.net, self.current_epoch, accumulate=self.optim.accumulate)
        if self._recorded and self.current_epoch <= self.ramp_epochs:  # the masks keep another number of weights
            self._recorded.forget()
        self.train_loss.reset()
        self.train_acc.reset()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        step = self._recorded(batch) if self._recorded else self._compute(batch)
        if batch.share > 0:
            plain = step.plain.detach()
            self.train_loss.update(plain, weight=torch.full_like(plain, len(batch.labels)))  # made on the device
            self.train_acc.update(step.logits[: len(batch.labels)].detach(), batch.labels)
        return step.loss if batch.share == 1 or self._recorded else step.loss * batch.share

    def _compute(self, batch: Batch) -> Step:
        """Forward and losses of a batch."""
        logits = self(batch.images)
        loss, plain = losses(logits, batch.labels, views=batch.views, label_smoothing=self.label_smoothing)
        if self.teacher:
            clean = slice(len(batch.labels))
            loss = self.teacher.loss(loss, batch.images[clean], logits[clean])
        penalty = self.method.penalty(ticket_layers(self.net)) if self.method else None
        return Step(loss if penalty is None else loss + penalty, plain, logits)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if not self._recorded:  # which has computed the gradients
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        if not self._recorded:  # which keeps the gradients of the step in place
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def on_validation_epoch_start(self) -> None:
        calibrate(self.net)
        self._evaluation.enter_context(frozen(self.net))  # each mask is computed once per pass

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        split = self.splits[dataloader_idx]
        with torch.autocast(self.device.type, enabled=False):  # float32, whatever the precision of training
            logits = self(batch.images)
            loss = F.cross_entropy(logits, batch.labels)
        self.accs[split].update(logits, batch.labels)
        self.losses[split].update(loss, weight=torch.full_like(loss, len(batch.labels)))

    def on_validation_epoch_end(self) -> None:
        self._evaluation.close()

    def epoch_metrics(self) -> dict[str, float]:
        """The metrics of this epoch, over all processes; resets them for the next epoch."""
        metrics: dict[str, Any] = {"train/loss": self.train_loss, "train/acc": self.train_acc}
        for split in filter(self.measures, self.splits):
            metrics |= {f"{split}/acc": self.accs[split]}
            if split == "val":
                metrics |= {"val/loss": self.losses[split]}
        values = {name: float(metric.compute()) for name, metric in metrics.items()}
        for metric in (self.train_loss, self.train_acc, *self.accs.values(), *self.losses.values()):
            metric.reset()
        return values

    def configure_optimizers(self) -> Any:
        optimizer, schedule = build_optim(self.net, self.optim, epochs=self.epochs)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


def _penalty_method(net: nn.Module) -> Method | None:
    """The method that searches ``net``, if it adds a penalty to the loss; else None."""
    conversion: Conversion | None = getattr(net, "conversion", None)
    if conversion is None or conversion.from_file or type(conversion.method).penalty is Method.penalty:
        return None
    return conversion.method


def _ramp_epochs(net: nn.Module) -> int:
    conversion: Conversion | None = getattr(net, "conversion", None)
    return conversion.method.ramp_epochs if conversion else 0


class Measured(Loader):
    """A loader for evaluation that is empty in the epochs that do not measure its split.

    The pass over the loaders stays, because each epoch's masks are selected and recorded in it.
    """

    measures: Callable[[], bool]

    def __iter__(self) -> Iterator[Batch]:
        return super().__iter__() if self.measures() else iter(())


class Loaders(L.LightningDataModule):
    """The loaders of this process: they prepare its shard of each global batch on its device."""

    def __init__(
        self,
        data: ImageData,
        *,
        batch: int,
        last_batch: str,
        accumulate: int,
        seed: int,
        channels_last: bool,
        measures: Callable[[str], bool] = bool,
    ) -> None:
        super().__init__()
        self.last_batch, self.measures = last_batch, measures
        self.data, self.batch, self.accumulate, self.seed = data, batch, accumulate, seed
        self.channels_last = channels_last

    def train_dataloader(self) -> Loader:
        return self._loader("train")

    def val_dataloader(self) -> list[Loader]:
        loaders = []
        for split in evaluated_splits(self.data):
            loader = self._loader(split, kind=Measured)
            loader.measures = partial(self.measures, split)
            loaders.append(loader)
        return list(loaders)

    def _loader(self, split: str, *, kind: type[T] = Loader) -> T:  # type: ignore[assignment]
        assert self.trainer is not None
        images = {"train": self.data.train, "val": self.data.val, "test": self.data.test}[split]
        assert images is not None
        return kind(
            images,
            data=self.data,
            batch=self.batch if split == "train" else 4 * self.batch,
            accumulate=self.accumulate if split == "train" else 1,
            train=split == "train",
            last_batch=self.last_batch,
            seed=self.seed,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            device=self.trainer.strategy.root_device,
            channels_last=self.channels_last,
        )


def evaluated_splits(data: ImageData) -> tuple[str, ...]:
    """Names of the splits that are evaluated after an epoch."""
    return ("val", "test") if data.val is not None else ("test",)
