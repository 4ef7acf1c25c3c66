from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mpt import data
from mpt.data import Loader, workers
from mpt.data.images import Files, Images
from mpt.streams import stream_generator
from tests.data.conftest import make_pictures

SIDE = 14


def imagenet(root, **options):
    return data.load("imagenet", root=root, image_size=SIDE, **{"workers": 0} | options)


def epoch_of(read, *, split="train", epoch=0, batch=12, **options):
    loader = Loader(getattr(read, split), data=read, batch=batch, train=split == "train", **options)
    loader.set_epoch(epoch)
    return list(loader)


def images_of(read, **options):
    return torch.cat([batch.images for batch in epoch_of(read, **options)])


def set_generator(epoch, index, purpose, seed=0):
    """Seed torch's generator as the worker does before it draws anything for one image."""
    stream = f"data/epoch {epoch}/image {index}/{purpose}"
    torch.manual_seed(int(stream_generator(seed, stream).integers(2**63)))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"augment": "augmix", "noise_std": 0.1}])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")  # on a machine with one core
def test_the_number_of_workers_changes_no_batch(pictures, options):
    alone, helped = (epoch_of(imagenet(pictures, workers=n, **options), epoch=1) for n in (0, 2))
    for one, two in zip(alone, helped, strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.labels, two.labels)


def test_each_epoch_has_its_own_batches_even_after_an_unfinished_one(pictures):
    read = imagenet(pictures, workers=1)
    loader = Loader(read.train, data=read, batch=12, train=True)
    next(iter(loader))
    for epoch in (2, 0):
        loader.set_epoch(epoch)
        assert torch.equal(torch.cat([batch.images for batch in loader]), images_of(read, epoch=epoch))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_shards_of_files_are_disjoint_complete_and_parts_of_the_global_batch(pictures, world):
    read = imagenet(pictures)
    parts = [epoch_of(read, rank=rank, world=world) for rank in range(world)]
    seen = [label for shard in parts for part in shard if part.share for label in part.labels.tolist()]
    assert sorted(seen) == sorted(read.train.labels.tolist())
    for step, whole in enumerate(epoch_of(read)):
        mean = sum(shard[step].share * shard[step].images.mean() for shard in parts) / world
        torch.testing.assert_close(mean, whole.share * whole.images.mean(), rtol=1e-5, atol=1e-6)
        for rank, shard in enumerate(parts):
            assert shard[step].share == 0 or torch.equal(shard[step].images, whole.images[rank::world])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_uneven_evaluation_reads_each_file_once(pictures, world):
    read = imagenet(pictures)
    shards = [epoch_of(read, split="test", rank=rank, world=world) for rank in range(world)]
    images = torch.cat([batch.images for shard in shards for batch in shard])
    assert len(images.flatten(1).unique(dim=0)) == len(images) == len(read.test)


def test_files_give_the_batches_of_memory(pictures, tmp_path):
    options = {"root": pictures, "image_size": SIDE, "cache": tmp_path, "val_size": 6, "progress": False}
    loaded, streamed = (data.load("image_folder", stream=stream, workers=0, **options) for stream in (False, True))
    assert isinstance(loaded.train, Images)
    assert isinstance(streamed.train, Files)
    assert loaded.mean == pytest.approx(streamed.mean, rel=1e-12)
    assert loaded.std == pytest.approx(streamed.std, rel=1e-12)
    for split in ("train", "val", "test"):
        for one, two in zip(epoch_of(loaded, split=split), epoch_of(streamed, split=split), strict=True):
            assert torch.equal(one.images, two.images)
            assert torch.equal(one.labels, two.labels)


def test_batches_of_files_are_a_function_of_seed_and_epoch_and_leave_the_generator_alone(pictures):
    read, before = imagenet(pictures), torch.get_rng_state()
    first = images_of(read)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(images_of(read), first)
    assert not torch.equal(images_of(read, epoch=1), first)
    assert not torch.equal(images_of(read, seed=1), first)


def picture(read, index, split="train"):
    return Image.open(os.fsdecode(getattr(read, split).paths[index])).convert("RGB")


def normalise(read, image):
    return v2.functional.normalize(v2.functional.to_dtype(image, scale=True), list(read.mean), list(read.std))


def test_imagenet_is_evaluated_on_the_centre_of_the_picture_resized_to_8_7_of_the_side(pictures):
    read = imagenet(pictures)
    transform = v2.Compose([v2.Resize(16), v2.CenterCrop(SIDE), v2.PILToTensor()])
    expected = torch.stack([normalise(read, transform(picture(read, i, "test"))) for i in range(len(read.test))])
    torch.testing.assert_close(images_of(read, split="test"), expected, rtol=1e-5, atol=1e-5)


def test_imagenet_is_trained_on_random_resized_crops_and_flips_drawn_picture_by_picture(pictures):
    read = imagenet(pictures)
    loader = Loader(read.train, data=read, batch=37, train=True)
    loader.set_epoch(3)
    order, _, flips = loader._draw()
    crop = v2.Compose([v2.RandomResizedCrop(SIDE), v2.PILToTensor()])
    for place, image in enumerate(next(iter(loader)).images):
        set_generator(3, int(order[place]), "crop")
        expected = crop(picture(read, int(order[place])))
        expected = expected.flip(-1) if flips[place] else expected
        torch.testing.assert_close(image, normalise(read, expected), rtol=1e-5, atol=1e-5)
    assert 5 < flips.sum() < 32


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_augmix_adds_two_views_drawn_image_by_image_to_the_clean_images(name):
    options = {"train_size": 24, "image_size": 8}
    plain, mixed = data.load(name, **options), data.load(name, augment="augmix", workers=0, **options)
    clean, (batch,) = epoch_of(plain, batch=24)[0], epoch_of(mixed, batch=24)
    assert (clean.views, batch.views, len(batch.labels), len(batch.images)) == (1, 3, 24, 72)
    assert torch.equal(batch.images[:24], clean.images)
    assert torch.equal(batch.labels, clean.labels)
    loader = Loader(mixed.train, data=mixed, batch=24, train=True)
    order, augmix = loader._draw()[0], v2.AugMix(severity=3, mixture_width=3, chain_depth=-1, all_ops=False)
    std, mean = torch.tensor(plain.std).view(-1, 1, 1), torch.tensor(plain.mean).view(-1, 1, 1)
    pixels = ((clean.images * std + mean) * 255).round().byte()
    for place in range(24):
        set_generator(0, int(order[place]), "views")
        for view in (1, 2):
            expected = (augmix(pixels[place]) / 255 - mean) / std
            torch.testing.assert_close(batch.images[24 * view + place], expected, rtol=1e-5, atol=1e-5)
    assert len(batch.images.flatten(1).unique(dim=0)) > 60


def test_noise_has_the_requested_deviation_and_probability():
    options = {"num_images": 200, "image_size": 16, "crop": 0, "flip": False}
    plain = data.load("synthetic", **options)
    noisy = data.load("synthetic", noise_std=0.1, noise_probability=0.4, workers=0, **options)
    difference = (images_of(noisy, batch=200) - images_of(plain, batch=200)) * torch.tensor(plain.std).view(-1, 1, 1)
    touched = difference.flatten(1).abs().amax(1) > 0
    assert touched.float().mean() == pytest.approx(0.4, abs=0.12)  # 200 draws: 3.5 deviations
    assert difference[touched].std() == pytest.approx(0.1, rel=0.05)  # some of it is clipped
    assert difference[touched].mean() == pytest.approx(0, abs=0.003)


def test_evaluation_is_never_augmented(pictures):
    plain, augmented = imagenet(pictures), imagenet(pictures, augment="augmix", noise_std=0.5)
    assert torch.equal(images_of(augmented, split="test"), images_of(plain, split="test"))
    digits = data.load("digits", augment="augmix", noise_std=0.5)
    batches = epoch_of(digits, split="test", batch=500)
    assert torch.equal(batches[0].images, epoch_of(data.load("digits"), split="test", batch=500)[0].images)
    assert batches[0].views == 1


@pytest.mark.parametrize("count", [0, 1])
def test_a_picture_that_becomes_unreadable_during_training_is_reported_in_one_sentence(tmp_path, count):
    read = imagenet(make_pictures(tmp_path, train=6, val=3), workers=count)
    (tmp_path / "train" / "bee" / "001.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"^\S*001\.png is not a readable picture: delete or replace it$"):
        epoch_of(read)


def test_a_killed_worker_is_reported_in_one_sentence(pictures, monkeypatch):
    monkeypatch.setattr(Files, "read", lambda *_, **__: os.kill(os.getpid(), 9))
    with pytest.raises(OSError, match=r"a worker process that reads images died .* lower data\.workers or batch"):
        epoch_of(imagenet(pictures, workers=1))


def test_there_is_one_worker_per_core_and_at_least_one(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert [workers.default_workers(world) for world in (1, 4, 50)] == [12, 3, 1]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(99)), raising=False)
    assert workers.default_workers(1) == 16


def test_held_out_files_are_disjoint_from_the_rest(pictures):
    reduced = imagenet(pictures, val_size=7, train_size=20)
    assert (len(reduced.train), len(reduced.val)) == (20, 7)
    assert not {*reduced.train.paths} & {*reduced.val.paths}
    assert np.array_equal(reduced.test.paths, imagenet(pictures).test.paths)
