"""The training loss: cross-entropy, optionally smoothed, and the consistency of the views of an image.

    L = CE_smoothed(clean, y) + 12 JSD(clean, a, b)         second term: only for images in three views (AugMix)

The metrics ``train/loss`` and ``val/loss`` are always the plain cross-entropy of the clean images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

CONSISTENCY = 12.0  # weight of the Jensen-Shannon term: Hendrycks et al. 2020 (AugMix), and the authors' update


def losses(logits: Tensor, labels: Tensor, *, views: int = 1, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The training loss and the plain cross-entropy of the clean images, both 0-d means over the N images.

    Args:
        logits: (views * N, classes); the first N rows belong to the clean images.
        labels: int64 (N,).
        views: 1, or 3: a clean image and two augmented ones.
        label_smoothing: share of the target spread evenly over all classes, in [0, 1).
    """
    clean = logits[: len(labels)]
    plain = F.cross_entropy(clean, labels)
    loss = F.cross_entropy(clean, labels, label_smoothing=label_smoothing) if label_smoothing else plain
    if views == 3:
        loss = loss + CONSISTENCY * jensen_shannon(*logits.chunk(3))
    return loss, plain


def jensen_shannon(logits_clean: Tensor, logits_a: Tensor, logits_b: Tensor) -> Tensor:
    """``mean over images of 1/3 sum_v KL(p_v || M)`` with ``M = (p_clean + p_a + p_b) / 3``, 0-d, in nats.

    0 for equal predictions, at most ``log 3``. All three are (N, classes).
    """
    log_p = torch.stack([logits_clean, logits_a, logits_b]).float().log_softmax(-1)  # (3, N, classes)
    log_mixture = torch.logsumexp(log_p, dim=0) - math.log(3)
    return F.kl_div(log_mixture.expand_as(log_p), log_p, log_target=True, reduction="none").sum(-1).mean()
