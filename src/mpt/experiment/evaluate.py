"""Accuracy of a network, or of a ticket file: the number that is reported."""

from __future__ import annotations

import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from mpt.data import Files, ImageData, Images, Loader
from mpt.search.convert import BATCH_NORMS
from mpt.search.layers import frozen


@torch.inference_mode()
def accuracy(
    net: nn.Module, images: Images | Files, *, data: ImageData, batch: int, device: torch.device | str = "cpu"
) -> float:
    """Fraction of ``images`` that ``net`` classifies rightly, in evaluation mode and float32; each mask made once."""
    loader = Loader(images, data=data, batch=batch, train=False, device=device, channels_last=True)
    metric = MulticlassAccuracy(data.num_classes, average="micro", validate_args=False, sync_on_compute=False).to(
        device
    )
    net = net.to(device).eval()
    with frozen(net):
        for part in loader:
            metric.update(net(part.images), part.labels)
    return float(metric.compute())


@torch.no_grad()
def reestimate_batchnorm(
    net: nn.Module, images: Images | Files, *, data: ImageData, batch: int, device: torch.device | str
) -> None:
    """Batch-norm's running mean and variance anew, as the average over one pass of ``images`` in training mode."""
    norms = [module for module in net.modules() if isinstance(module, BATCH_NORMS)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    net.to(device).eval()
    for norm in norms:
        norm.train()
    with frozen(net):
        for part in Loader(images, data=data, batch=batch, train=False, device=device, channels_last=True):
            if len(part.labels) > 1:
                net(part.images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.eval()


def best_device(accelerator: str) -> torch.device:
    """The device that Lightning's name ``accelerator`` means on this machine."""
    if accelerator == "auto":
        return (
            torch.accelerator.current_accelerator() or torch.device("cpu")
            if torch.accelerator.is_available()
            else torch.device("cpu")
        )
    try:
        return torch.empty(0, device={"gpu": "cuda"}.get(accelerator, accelerator)).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"accelerator={accelerator} is not there on this machine: take cpu or auto") from error
