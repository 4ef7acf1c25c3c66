from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mpt.experiment.losses import CONSISTENCY, jensen_shannon, losses
from tests import reference

CLEAN, A, B = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1])


def test_jensen_shannon_equals_the_slow_transcription():
    expected = reference.jensen_shannon(CLEAN.numpy(), A.numpy(), B.numpy())
    assert jensen_shannon(CLEAN, A, B).item() == pytest.approx(expected, rel=1e-5)


def test_jensen_shannon_is_0_for_equal_predictions_and_log_3_for_three_certain_and_different_ones():
    assert jensen_shannon(CLEAN, CLEAN, CLEAN).item() == pytest.approx(0, abs=1e-6)
    sure = 200 * torch.eye(3)[:, None, :].expand(3, 4, 3)  # each view is certain of another class
    assert jensen_shannon(*sure).item() == pytest.approx(math.log(3), rel=1e-6)


def test_jensen_shannon_has_a_finite_gradient_for_every_view_of_certain_predictions():
    views = [(200 * torch.eye(3)[i].repeat(2, 1)).requires_grad_() for i in range(3)]
    jensen_shannon(*views).backward()
    assert all(torch.isfinite(view.grad).all() for view in views)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("views", [1, 3])
def test_the_loss_is_smoothed_and_consistent_and_the_reported_one_is_neither(views, label_smoothing):
    logits = torch.cat([CLEAN, A, B]) if views == 3 else CLEAN
    loss, plain = losses(logits, LABELS, views=views, label_smoothing=label_smoothing)
    clean, labels = CLEAN.numpy(), LABELS.numpy()
    expected = reference.cross_entropy(clean, labels, label_smoothing=label_smoothing)
    if views == 3:
        expected += 12 * reference.jensen_shannon(clean, A.numpy(), B.numpy())
    assert CONSISTENCY == 12
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert plain.item() == pytest.approx(reference.cross_entropy(clean, labels), rel=1e-5)
    assert plain.item() == F.cross_entropy(CLEAN, LABELS).item()
