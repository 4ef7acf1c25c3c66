from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mpt.data import ImageData, Images, Loader
from mpt.data.augment import crop_and_flip

BATCH = 16


def data_of(n, *, crop=2, flip=True, channels=3, side=8):
    pixels = torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(n, dtype=torch.uint8)  # makes each image unique, if nothing is cropped
    images = Images(pixels, torch.arange(n))
    return ImageData(
        "random", images, images, tuple(map(str, range(n))), (0.4,) * channels, (0.2,) * channels, crop, flip
    )


def loader(data, *, batch=BATCH, train=True, **options):
    return Loader(data.train, data=data, batch=batch, train=train, **options)


def test_augmentation_agrees_with_padding_flipping_and_slicing_one_by_one():
    pixels = torch.randint(0, 256, (32, 3, 8, 6), dtype=torch.uint8)
    moves, flips = torch.randint(0, 5, (32, 2)), torch.rand(32) < 0.5
    out = crop_and_flip(pixels.permute(0, 2, 3, 1).contiguous(), moves, flips, padding=2).permute(0, 3, 1, 2)
    for i in range(32):
        image = F.pad(pixels[i], (2, 2, 2, 2))
        image = image.flip(-1) if flips[i] else image
        y, x = moves[i].tolist()
        assert torch.equal(out[i], image[:, y : y + 8, x : x + 6])


def test_crops_and_flips_are_drawn_image_by_image():
    data = data_of(200)
    same = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8).repeat(200, 1, 1, 1)
    images = Images(same, torch.zeros(200, dtype=torch.int64))
    augmented = next(iter(Loader(images, data=data, batch=200, train=True))).images
    assert len(augmented.flatten(1).unique(dim=0)) > 30  # of 50: 5 x 5 places, mirrored or not


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_are_normalised_in_the_requested_memory_format(channels_last):
    data = data_of(20, crop=0, flip=False)
    batch = next(iter(loader(data, batch=20, train=False, channels_last=channels_last)))
    expected = (data.train.pixels.float() / 255 - 0.4) / 0.2
    torch.testing.assert_close(batch.images, expected, rtol=1e-5, atol=1e-5)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    assert batch.images.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("n", [32, 37, 15])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_shards_of_a_training_epoch_are_disjoint_and_complete(n, world):
    shards = [loader(data_of(n), rank=rank, world=world) for rank in range(world)]
    assert len({len(shard) for shard in shards}) == 1
    seen = [int(label) for shard in shards for batch in shard if batch.share for label in batch.labels]
    assert sorted(seen) == list(range(n))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_global_batch_of_one_process(world):
    data = data_of(37)
    parts = [list(loader(data, rank=rank, world=world)) for rank in range(world)]
    for step, whole in enumerate(loader(data)):
        for rank in range(world):
            mine = parts[rank][step]
            if mine.share:
                assert torch.equal(mine.images, whole.images[rank::world])
                assert torch.equal(mine.labels, whole.labels[rank::world])


@pytest.mark.parametrize("last_batch", ["whole", "weighted"])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_weighted_by_shares_the_mean_over_processes_is_that_of_the_global_batch(world, last_batch):
    data = data_of(37)
    parts = [list(loader(data, rank=rank, world=world, last_batch=last_batch)) for rank in range(world)]
    for step, whole in enumerate(loader(data)):
        mean = sum(part[step].share * part[step].images.mean() for part in parts) / world
        weight = len(whole.labels) / BATCH if last_batch == "weighted" else 1
        torch.testing.assert_close(mean, whole.images.mean() * weight, rtol=1e-5, atol=1e-6)


def test_each_image_of_an_epoch_weighs_the_same_unless_the_last_batch_is_whole():
    data = data_of(37)
    weights = {
        last_batch: [batch.share / len(batch.labels) for batch in loader(data, last_batch=last_batch)]
        for last_batch in ("weighted", "whole")
    }
    assert weights == {"weighted": [1 / BATCH] * 3, "whole": [1 / BATCH, 1 / BATCH, 1 / (37 - 2 * BATCH)]}
    assert [batch.share for batch in loader(data_of(2 * BATCH))] == [1, 1]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 31, 32])
def test_uneven_evaluation_counts_each_image_once(n, world):
    data = data_of(n)
    seen = [
        int(label)
        for rank in range(world)
        for batch in loader(data, batch=12, train=False, rank=rank, world=world)
        for label in batch.labels
    ]
    assert sorted(seen) == list(range(n))


def test_batches_are_a_function_of_seed_and_epoch_alone():
    data = data_of(40)

    def epoch(number, seed=0):
        batches = loader(data, seed=seed)
        batches.set_epoch(number)
        return torch.cat([batch.images for batch in batches])

    first = loader(data)
    list(first)
    first.set_epoch(1)
    after_another = torch.cat([batch.images for batch in first])
    assert torch.equal(after_another, epoch(1))
    assert not torch.equal(epoch(0), epoch(1))
    assert not torch.equal(epoch(0), epoch(0, seed=1))


def test_evaluation_neither_shuffles_nor_augments():
    data = data_of(20)
    labels = torch.cat([batch.labels for batch in loader(data, batch=7, train=False)])
    assert torch.equal(labels, torch.arange(20))
    pixels = torch.cat([batch.images for batch in loader(data, batch=7, train=False)])
    np.testing.assert_allclose(pixels, (data.train.pixels / 255 - 0.4) / 0.2, rtol=1e-4, atol=1e-5)


def test_a_batch_that_the_processes_cannot_share_equally_is_refused():
    with pytest.raises(ValueError, match="global batch and must be divisible by 3 processes, got 16"):
        loader(data_of(20), rank=0, world=3)


@pytest.mark.parametrize("n", [32, 37, 49])
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("last_batch", ["whole", "weighted"])
def test_the_parts_of_a_step_add_up_to_the_step(n, world, last_batch):
    """The mean over parts and processes, each weighted by its share, is the mean over images, times their weight."""
    data, accumulate = data_of(n), 4
    whole = [batch.labels for batch in loader(data)]
    options = {"accumulate": accumulate, "world": world, "last_batch": last_batch}
    loaders = [loader(data, rank=rank, **options) for rank in range(world)]
    parts = [list(batches) for batches in loaders]
    assert {len(batches) for batches in parts} == {len(batches) for batches in loaders}
    for step, labels in enumerate(whole):
        own = [part for batches in parts for part in batches[step * accumulate : (step + 1) * accumulate]]
        mean = sum(part.share * part.labels.double().mean() for part in own) / (accumulate * world)
        weight = len(labels) / BATCH if last_batch == "weighted" else 1
        assert mean.item() == pytest.approx(labels.double().mean().item() * weight)
