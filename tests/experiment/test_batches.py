from __future__ import annotations

import pytest
import torch
from torch import nn

from mpt.data import load
from mpt.experiment.batches import check_batch, check_last_batch


@pytest.mark.parametrize(
    ("batch", "processes", "parts", "sentence"),
    [
        (65, 1, 1, "batch is the number of images per step and must be at most 64, .* got 65"),
        (64, 3, 1, "must be divisible by 3 processes, got 64"),
        (64, 2, 3, r"must be divisible by 2 processes times optim\.accumulate=3, got 64"),
    ],
)
def test_a_batch_that_does_not_suit_images_processes_or_parts_is_refused(batch, processes, parts, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_batch(batch, images=64, processes=processes, parts=parts)


def test_a_batch_of_all_images_is_accepted_and_so_is_any_while_nobody_has_counted_them():
    check_batch(64, images=64, processes=2, parts=2)
    check_batch(10**6, images=None, processes=1, parts=1)


def test_a_last_step_of_one_image_is_refused_only_where_batch_norm_sees_single_values():
    data = load("synthetic", image_size=2, num_images=33, num_classes=2)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match="batch=32 leaves 1 of 33 training images for an epoch's last step"):
        check_last_batch(flat, data, batch=32, processes=1)
    check_last_batch(nn.Sequential(nn.BatchNorm2d(3)), data, batch=32, processes=1)  # four pixels
    check_last_batch(flat, data, batch=11, processes=1)
    assert torch.is_grad_enabled()
