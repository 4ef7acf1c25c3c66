from __future__ import annotations

import pytest
import torch

from mpt import data
from mpt.data import images


def test_mean_and_std_are_measured_over_all_pixels():
    pixels = torch.randint(0, 256, (100, 3, 5, 5), dtype=torch.uint8)
    mean, std = images.measure_mean_std(pixels, chunk=32)
    values = pixels.double() / 255
    torch.testing.assert_close(torch.tensor(mean), values.mean(dim=(0, 2, 3)).float(), rtol=1e-5, atol=1e-6)
    expected = values.std(dim=(0, 2, 3), correction=0).float()
    torch.testing.assert_close(torch.tensor(std), expected, rtol=1e-4, atol=1e-6)


def test_resizing_gives_squares_of_the_requested_side():
    small = images.Images(torch.full((3, 1, 8, 8), 77, dtype=torch.uint8), torch.arange(3))
    out = images.resize(small, image_size=20)
    assert out.pixels.shape == (3, 1, 20, 20)
    assert out.pixels.unique().tolist() == [77]
    assert images.resize(small, image_size=None) is small


@pytest.mark.slow
@pytest.mark.parametrize(("val_size", "num_val"), [(0, 0), (100, 100), (0.25, 250)])
@pytest.mark.parametrize("train_size", [None, 300])
def test_held_out_images_are_disjoint_from_the_rest_and_balanced(val_size, num_val, train_size):
    whole = data.load("synthetic", num_images=1000)
    reduced = data.load("synthetic", num_images=1000, val_size=val_size, train_size=train_size)
    assert len(reduced.train) == (train_size or 1000 - num_val)
    assert (0 if reduced.val is None else len(reduced.val)) == num_val
    assert torch.equal(reduced.test.pixels, whole.test.pixels)
    if reduced.val is not None:
        both = torch.cat([reduced.train.pixels, reduced.val.pixels]).flatten(1)
        assert len(both.unique(dim=0)) == len(both)
        counts = reduced.val.labels.bincount()
        assert counts.max() - counts.min() <= 2


@pytest.mark.parametrize("val_size", [1000, 1001, -1])
def test_a_val_size_that_leaves_no_training_image_is_refused(val_size):
    with pytest.raises(ValueError, match=r"data\.val_size must leave some of the 1000 training images"):
        data.load("synthetic", num_images=1000, val_size=val_size)


def test_a_train_size_above_the_available_images_selects_all_of_them():
    assert len(data.load("synthetic", num_images=1000, train_size=1001).train) == 1000
    assert len(data.load("synthetic", num_images=1000, train_size=200, val_size=900).train) == 100


def test_a_fraction_that_holds_out_no_image_is_refused():
    with pytest.raises(ValueError, match=r"data\.val_size=1e-05 holds out none of the 1000 training images"):
        data.load("synthetic", num_images=1000, val_size=0.00001)
