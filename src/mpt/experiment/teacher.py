"""A teacher: the network of a ticket file, whose logits the trained network imitates.

    L = (1 - a) L_labels + a T^2 mean over images of KL(softmax(z_teacher / T) || softmax(z / T))

with the weight ``a`` of ``distill_weight`` and the temperature ``T`` of ``distill_temperature`` (Hinton, Vinyals & Dean
2015). The teacher sees the same augmented images, of AugMix the clean ones, in evaluation mode and normalised as its
file says. Any ticket file will do, also that of a dense baseline.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpt import backbones
from mpt.data import ImageData
from mpt.experiment.build import check_fit
from mpt.files import checksum
from mpt.run.settings import Settings
from mpt.ticket.ticket import Ticket


class Teacher:
    """Adds the term of the teacher ``net`` to a loss.

    Args:
        net: it is no part of the trained network, so no checkpoint holds it.
        weight: ``a``, in (0, 1].
        temperature: ``T``, above 0.
        affine: factor and summand, each (C, 1, 1), that turn the images of training into those of the teacher.
    """

    def __init__(self, net: nn.Module, *, weight: float, temperature: float, affine: tuple[Tensor, Tensor]) -> None:
        self.net, self.weight, self.temperature, self.affine = net.eval(), weight, temperature, affine

    def to(self, device: torch.device) -> None:
        """Move it to ``device``."""
        self.net.to(device)
        self.affine = self.affine[0].to(device), self.affine[1].to(device)

    def loss(self, loss: Tensor, images: Tensor, logits: Tensor) -> Tensor:
        """``L``, 0-d, of ``images`` (N, C, H, W) with ``logits`` (N, classes) and the ``loss`` of their labels."""
        factor, summand = self.affine
        with torch.no_grad():
            theirs = self.net(images * factor + summand).float() / self.temperature
        ours = logits.float() / self.temperature
        term = F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean")
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * term


def load_teacher(settings: Settings, data: ImageData, backbone: nn.Module) -> Teacher | None:
    """The teacher that ``settings`` name, if any; ``backbone`` builds it if ``mpt.backbones`` cannot.

    Raises:
        ValueError, OSError: the file is no ticket, is another one than before, or is not for the images of ``data``.
    """
    if settings.distill is None:
        return None
    name, ticket = f"distill={settings.distill}", Ticket.load(settings.distill)
    if checksum(settings.distill) != settings.distill_checksum:
        raise ValueError(f"{name} has changed since this run began: choose another directory, or restore the file")
    header, shape = ticket.header, (data.channels, data.image_size)
    classes = tuple(header.get("class_names", data.class_names))
    if (ticket.image_shape, classes) != (shape, data.class_names):
        raise ValueError(
            f"{name} was searched on images of another shape or with other classes than those of data={data.name}: "
            "choose a ticket of these data"
        )
    ours, known = header["backbone"] or {}, header.get("normalization", {"mean": data.mean, "std": data.std})
    net = ticket.network(None if ours.get("target") in backbones.TARGETS else backbone)
    example = torch.zeros(2, data.channels, data.image_size, data.image_size)
    check_fit(net, example, num_classes=data.num_classes, name=name)
    mean, std, their_mean, their_std = (
        torch.tensor(values)[:, None, None] for values in (data.mean, data.std, known["mean"], known["std"])
    )
    if settings.trainer.channels_last:
        net.to(memory_format=torch.channels_last)
    return Teacher(
        net,
        weight=settings.distill_weight,
        temperature=settings.distill_temperature,
        affine=(std / their_std, (mean - their_mean) / their_std),
    )
