"""Accuracy of a network or a ticket file, as it is reported, and other measures on images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from mpt.data import Files, ImageData, Images, Loader
from mpt.search.layers import frozen
from mpt.search.parameters import BATCH_NORMS
from mpt.streams import stream_generator


@torch.inference_mode()
def accuracy(
    net: nn.Module, images: Images | Files, *, data: ImageData, batch: int, device: torch.device | str = "cpu"
) -> float:
    """Fraction of ``images`` that ``net`` classifies correctly, in evaluation mode and float32."""
    metrics = MetricCollection({"acc": _accuracy(data, average="micro")})
    return float(_update(metrics, net, images, data=data, batch=batch, device=device).compute()["acc"])


@torch.inference_mode()
def measurements(
    net: nn.Module, images: Images | Files, *, data: ImageData, batch: int, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """All measures of ``net`` on ``images``, from one pass, as plain numbers.

    Returns:
        ``acc`` and ``acc_top5``, in [0, 1], the latter None below five classes; ``calibration_error``, the expected
        one: the mean of ``|acc - confidence|`` over 15 bins of confidence, weighted by their numbers of images;
        ``num_images``; ``per_class``, a list of ``class``, ``acc`` (None without an image) and ``num_images``.
    """
    calibration = _CalibrationError(data.num_classes, n_bins=15, validate_args=False, sync_on_compute=False)
    choice: dict[str, Any] = {
        "acc": _accuracy(data, average="micro"),
        "per_class": _accuracy(data, average="none"),
        "error": calibration,
    } | ({"top5": _accuracy(data, average="micro", top_k=5)} if data.num_classes >= 5 else {})
    metrics = MetricCollection(choice, compute_groups=False)
    values = _update(metrics, net, images, data=data, batch=batch, device=device).compute()
    counts = torch.bincount(images.labels.cpu(), minlength=data.num_classes).tolist()
    rows = zip(data.class_names, values["per_class"].tolist(), counts, strict=True)
    return {
        "acc": float(values["acc"]),
        "acc_top5": float(values["top5"]) if "top5" in values else None,
        "calibration_error": float(values["error"]),
        "num_images": len(images),
        "per_class": [{"class": name, "acc": acc if n else None, "num_images": n} for name, acc, n in rows],
    }


class _CalibrationError(MulticlassCalibrationError):
    """Takes logits: torchmetrics mistakes a batch of logits that all lie in [0, 1] for probabilities."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds.softmax(dim=1), target)


def _accuracy(data: ImageData, *, average: str, top_k: int = 1) -> MulticlassAccuracy:
    return MulticlassAccuracy(
        data.num_classes,
        average=average,  # type: ignore[arg-type]
        top_k=top_k,
        validate_args=False,
        sync_on_compute=False,
    )


def _update(
    metrics: MetricCollection,
    net: nn.Module,
    images: Images | Files,
    *,
    data: ImageData,
    batch: int,
    device: torch.device | str,
) -> MetricCollection:
    """Update ``metrics``, on ``device``, with the logits (N, classes) of one pass over ``images``; return them."""
    loader = Loader(images, data=data, batch=batch, train=False, device=device, channels_last=True)
    net, metrics = net.to(device).eval(), metrics.to(device)
    with frozen(net):
        for part in loader:
            metrics.update(net(part.images), part.labels)
    return metrics


@torch.no_grad()
def reestimate_batchnorm(
    net: nn.Module, images: Images | Files, *, data: ImageData, batch: int, device: torch.device | str
) -> None:
    """Estimate batch-norm's running mean and variance again: the averages over one pass of ``images``.

    The pass is in training mode and random order: the images of one class, as a folder lists them, vary too little.
    """
    norms = [module for module in net.modules() if isinstance(module, BATCH_NORMS)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    order = torch.from_numpy(stream_generator(0, "batchnorm").permutation(len(images)))
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    net.to(device).eval()
    for norm in norms:
        norm.train()
    with frozen(net):
        for part in Loader(images.take(order), data=data, batch=batch, train=False, device=device, channels_last=True):
            if len(part.labels) > 1:
                net(part.images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.eval()


def best_device(accelerator: str) -> torch.device:
    """The device that Lightning's name ``accelerator`` means on this machine."""
    if accelerator == "auto":
        current = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return current or torch.device("cpu")
    try:
        return torch.empty(0, device={"gpu": "cuda"}.get(accelerator, accelerator)).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"accelerator={accelerator} is not available on this machine: choose cpu or auto") from error
