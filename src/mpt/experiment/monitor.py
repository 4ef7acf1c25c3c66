"""The record of every epoch: metrics under fixed names, in ``metrics.jsonl`` and as a line on the terminal."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from mpt.experiment.averaging import use_averages
from mpt.experiment.crossing import unlikely_to_change
from mpt.experiment.loggers import log_row
from mpt.experiment.module import TicketModule
from mpt.files import write_atomically
from mpt.phases import note, tell
from mpt.search.epochs import current_masks, start_epoch
from mpt.search.layer_ticket import LayerTicket
from mpt.search.layers import TicketLayer, one_selection, ticket_layers
from mpt.search.mask import flips, kept_fraction
from mpt.words import count, duration

_CHANGE, _SECONDS = 0.2, 10  # the time of a run is printed again when it has changed by this share, and so much


class Monitor(L.Callback):
    """Records one row per epoch: metrics, state of the ticket, times. The checkpoint holds the rows.

    :data:`mpt.run.result.METRICS` lists the keys of a row.

    Args:
        directory: of the run.
        num_images: training images of an epoch, for the speed.
        show: print a line per epoch.
        first_epoch: number of epochs at the start whose masks are not tickets yet.
    """

    def __init__(self, directory: Path, *, num_images: int, show: bool, first_epoch: int = 0) -> None:
        self.path, self.num_images, self.show = directory / "metrics.jsonl", num_images, show
        self.first_epoch = first_epoch
        self.rows: list[dict[str, Any]] = []
        self.before: list[Tensor] = []
        self.ticket: dict[str, float] = {}
        self.started = self.trained = self.lr = 0.0
        self.told = 0.0  # the seconds of the whole run, as printed last

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]

    def best(self, metric: str) -> dict[str, Any] | None:
        """The row with the highest ``metric``, the earliest of equals, of measured epochs whose mask is a ticket."""
        rows = (row for row in self.rows if row["epoch"] > self.first_epoch and metric in row)
        return max(rows, key=lambda row: row[metric], default=None)

    def unchanged(self) -> list[str]:
        """Names of the layers whose mask no weight entered or left in any epoch."""
        prefix = "ticket/flips/"
        layers = [key for key in self.rows[-1] if key.startswith(prefix)] if self.rows else []
        return [key.removeprefix(prefix) for key in layers if all(row[key] == 0 for row in self.rows)]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TicketModule)
        start_epoch(pl_module.net, max(0, trainer.current_epoch - 1))  # the masks with which an interrupted run ended
        with use_averages(trainer, pl_module):
            self.before = masks(pl_module)
        for row in self.rows if trainer.is_global_zero else ():  # again, as a kill may have cost the logger some
            log_row(trainer.loggers, row)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Before the first step, name the layers whose masks will hardly change."""
        if trainer.global_step > 0 or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, TicketModule)
        steps = math.ceil(int(trainer.num_training_batches) / trainer.accumulate_grad_batches)
        said = unlikely_to_change(pl_module.net, pl_module.optim, epochs=pl_module.epochs, steps=steps)
        if said:
            note(said, self.path.parent)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started, self.lr = time.perf_counter(), trainer.optimizers[0].param_groups[0]["lr"]

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _wait(pl_module.device)
        self.trained = time.perf_counter()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the evaluated ticket: its masks are still selected, and averaged scores are still in place."""
        assert isinstance(pl_module, TicketModule)
        after = masks(pl_module)
        self.ticket = ticket_metrics(pl_module, self.before, after)
        self.before = after

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TicketModule)
        metrics = pl_module.epoch_metrics()
        if not math.isfinite(metrics["train/loss"]):
            raise ValueError(
                f"the search diverged in epoch {trainer.current_epoch + 1}, its loss is no longer a finite number: "
                f"lower optim.lr, which was {self.lr:g}, or look for an extreme value among the other options"
            )
        metrics |= self.ticket
        pl_module.log_dict(metrics, logger=False, sync_dist=True)  # for other callbacks
        training, now = max(self.trained - self.started, 1e-9), time.perf_counter()
        row = {
            "epoch": trainer.current_epoch + 1,
            "lr": self.lr,  # of this epoch: the schedule has stepped by now
            "seconds": now - self.started,
            "images_per_second": self.num_images / training,
            **metrics,
        }
        self.rows = [*self.rows, row]
        if trainer.is_global_zero:
            log_row(trainer.loggers, row)
            write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))
            if self.show:
                tell(self._line(row, trainer.max_epochs))
                self._tell_time(trainer.max_epochs or 0)

    def _line(self, row: dict[str, Any], epochs: int | None) -> str:
        accs = "  ".join(
            f"{name} {100 * row[name]:6.2f} %" for name in ("train/acc", "val/acc", "test/acc") if name in row
        )
        flipped, speed = 100 * row["ticket/flips"], row["images_per_second"]
        return (
            f"epoch {row['epoch']:>3}/{epochs}  loss {row['train/loss']:.4f}  {accs}"
            f"  flips {flipped:.2f} %  {speed:,.0f} images/s" + (f"  {left}" if (left := self.left(epochs)) else "")
        )

    def left(self, epochs: int | None) -> str:
        """How long the rest of ``epochs`` takes: ``27 seconds left``; empty before the first epoch has ended."""
        seconds = _left(self.rows, epochs or 0)
        return f"{duration(seconds)} left" if seconds >= 1 else ""

    def whole(self, epochs: int | None) -> str:
        """The same next to the time of the whole run: ``27 seconds left of 2 minutes``."""
        left = self.left(epochs)
        return f"{left} of {duration(_whole(self.rows, epochs or 0))}" if left else ""

    def _tell_time(self, epochs: int) -> None:
        """Print the time of the whole run after the first epoch, and when it has changed much since it was printed."""
        seconds = _whole(self.rows, epochs)
        enough = max(_CHANGE * self.told, _SECONDS) if self.told else 0
        if len(self.rows) < epochs and abs(seconds - self.told) > enough:
            self.told = seconds
            tell(f"time        {whole_time(self.rows, epochs)}")


def whole_time(rows: Sequence[Mapping[str, Any]], epochs: int) -> str:
    """``about 2 minutes for 20 epochs, 114 seconds left``, by the finished epochs in ``rows``.

    Raises:
        ValueError: there is none.
    """
    if not rows:
        raise ValueError("no epoch has finished, so the time of the run is not known")
    left = _left(rows, epochs)
    return f"about {duration(_whole(rows, epochs))} for {count(epochs, 'epoch')}" + (
        f", {duration(left)} left" if left >= 1 else ""
    )


def _left(rows: Sequence[Mapping[str, Any]], epochs: int) -> float:
    """Seconds of the epochs that are not in ``rows``, each as long as the median of those."""
    times = sorted(row["seconds"] for row in rows)
    return times[len(times) // 2] * (epochs - len(times)) if times else 0.0


def _whole(rows: Sequence[Mapping[str, Any]], epochs: int) -> float:
    return float(sum(row["seconds"] for row in rows)) + _left(rows, epochs)


def masks(module: TicketModule) -> list[Tensor]:
    """The masks of all searched layers as they are now."""
    return list(current_masks(module.net).values())


def ticket_metrics(module: TicketModule, before: list[Tensor], after: list[Tensor]) -> dict[str, float]:
    """Density, flips since ``before``, and gain and binarization error of each layer."""
    metrics = {"ticket/density": kept_fraction(after) if after else 1.0, "ticket/flips": flips(before, after)}
    with one_selection(module.net):
        for (name, layer), old, new in zip(ticket_layers(module.net).items(), before, after, strict=True):
            ticket = layer.ticket()
            metrics[f"ticket/flips/{name}"] = flips([old], [new])
            metrics[f"ticket/gain/{name}"] = ticket.mean_gain
            metrics[f"ticket/binarization_error/{name}"] = binarization_error(layer, ticket)
    return metrics


def binarization_error(layer: TicketLayer, ticket: LayerTicket) -> float:
    """``||m (w - g sign(w))||``, Euclidean, of the paper's equation 1."""
    errors = layer.weight.detach().abs() * layer.ramp_scale - ticket.gain
    return float(torch.linalg.vector_norm(errors[ticket.mask]))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
