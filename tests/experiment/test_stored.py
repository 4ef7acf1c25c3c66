from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import mpt
from mpt.data import load
from mpt.experiment.stored import keep_stored_data, load_for, load_settings, stored_data_override
from mpt.run import compose as composition
from mpt.run.settings import Data, Settings
from mpt.ticket.ticket import Ticket

HEADER = {
    "data": {"name": "synthetic", "image_size": 8, "channels": 3, "num_classes": 4, "num_images": 80, "val_size": 0.1},
    "class_names": ["0", "1", "2", "3"],
    "normalization": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]},
}


def ticket_of(header):
    net = mpt.convert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4)), mpt.Biprop(prune=0.5))
    ticket = Ticket.from_network(net)
    return Ticket(ticket.header | header, ticket.tensors)


@pytest.fixture
def ticket():
    """A ticket for 4 classes of 8x8 images, which was searched on synthetic data."""
    return ticket_of(HEADER)


def keep(ticket, *overrides, splits=False):
    """The data settings of a command with ``overrides`` after :func:`keep_stored_data`."""
    composed = composition.compose("train", overrides, Settings)
    keep_stored_data(ticket, composed, composition.given_keys(overrides), splits=splits)
    return composed.data


def test_a_command_that_names_no_data_gets_those_of_the_ticket(ticket):
    assert stored_data_override(ticket, {"prune"}) == ["data=synthetic"]
    assert stored_data_override(ticket, {"data", "prune"}) == []
    with pytest.raises(ValueError, match=r"does not say which data it was searched for: give data=\.\.\."):
        stored_data_override(ticket_of({}), set())


def test_the_same_data_keep_all_stored_settings_but_those_of_the_command_line(ticket):
    data = keep(ticket, "data=synthetic", "data.num_images=200")
    assert (data.image_size, data.num_classes, data.num_images) == (8, 4, 200)


@pytest.mark.parametrize("key", ["mean", "std"])
def test_a_normalization_other_than_that_of_the_search_is_refused(ticket, key):
    with pytest.raises(
        ValueError, match=rf"^data\.{key} has no effect, because images are normalized as in the search"
    ):
        keep(ticket, "data=synthetic", f"data.{key}=[0.1,0.1,0.1]")
    assert getattr(keep(ticket_of({}), "data=synthetic", f"data.{key}=[0.1,0.1,0.1]"), key) == [0.1, 0.1, 0.1]


def test_other_data_keep_the_image_size_alone(ticket):
    data = keep(ticket, "data=cifar10")
    assert (data.name, data.image_size, data.num_images) == ("cifar10", 8, Data(name="cifar10").num_images)
    assert keep(ticket, "data=cifar10", "data.image_size=16").image_size == 16


def test_held_out_images_are_those_of_the_search_only_for_fine_tuning(ticket):
    assert keep(ticket, "data=synthetic").val_size == 0
    assert keep(ticket, "data=synthetic", splits=True).val_size == 0.1


def test_data_are_normalised_as_in_the_search(ticket):
    settings = Data(name="synthetic", image_size=8, num_classes=4, num_images=80)
    data = load_for(ticket, settings)
    assert (data.mean, data.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    plain = load("synthetic", image_size=8, num_classes=4, num_images=80)
    assert torch.equal(data.test.pixels, plain.test.pixels)
    assert load_for(ticket_of({}), settings).mean == plain.mean


def test_data_of_other_shape_or_classes_are_refused(ticket):
    settings = Data(name="synthetic", image_size=8, num_classes=4, num_images=80)
    with pytest.raises(ValueError, match="3 channels in 4 classes, synthetic has 1 channel and 4 classes"):
        load_for(ticket, replace(settings, channels=1))
    with pytest.raises(ValueError, match="3 channels in 4 classes, synthetic has 3 channels and 5 classes"):
        load_for(ticket, replace(settings, num_classes=5))
    renamed = ticket_of(HEADER | {"class_names": ["a", "b", "c", "d"]})
    with pytest.raises(ValueError, match="the ticket's classes are a, b, c, d and synthetic has 0, 1, 2, 3"):
        load_for(renamed, settings)


@pytest.mark.parametrize("test_size", [None, 0.5])
def test_classes_of_a_folder_are_compared_before_a_picture_is_decoded(tmp_path, test_size):
    for split in ("train/", "test/") if test_size is None else ("",):
        for name in "abcd":
            (tmp_path / f"{split}{name}").mkdir(parents=True)
            for picture in ("x.png", "y.png"):
                (tmp_path / f"{split}{name}" / picture).write_bytes(b"no picture")
    settings = Data(name="image_folder", root=str(tmp_path), image_size=8, test_size=test_size)
    with pytest.raises(ValueError, match="the ticket's classes are 0, 1, 2, 3 and image_folder has a, b, c, d"):
        load_for(ticket_of(HEADER), settings)
    with pytest.raises(ValueError, match="3 channels in 3 classes, image_folder has 3 channels and 4 classes"):
        load_for(ticket_of(HEADER | {"class_names": ["a", "b", "c"]}), settings)
    grey = {"class_names": ["a"], "normalization": {"mean": [0.1], "std": [0.5]}}
    with pytest.raises(ValueError, match="1 channel in 1 class, image_folder has 3 channels and 4 classes"):
        load_for(ticket_of(HEADER | grey), settings)
    with pytest.raises(ValueError, match=r"\.png is not a readable picture"):  # which the others did not read
        load_for(ticket_of(HEADER | {"class_names": ["a", "b", "c", "d"]}), settings)


@pytest.mark.parametrize(
    ("folders", "test_size", "sentence"),
    [
        (["Train/x", "Train/y", "Test/x"], 0.5, "which look like splits: name them train/ and test/"),
        (["train/x", "train/y"], None, r"add data\.test_size=0\.2"),
        (["train/x", "train/y", "test/x"], 0.5, r"holds test/ already: leave it out"),
    ],
)
def test_folders_that_are_no_splits_are_refused_as_such_and_not_for_their_classes(
    tmp_path, folders, test_size, sentence
):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        load_for(ticket_of(HEADER), Data(name="image_folder", root=str(tmp_path), test_size=test_size))


def test_a_ticket_names_no_place_download_or_interpolation(ticket):
    foreign = {"root": "${oc.env:HOME}", "cache": "/tmp/x", "download": True, "workers": 64, "stream": True}
    data = keep(ticket_of(HEADER | {"data": HEADER["data"] | foreign}), "data=synthetic", "data.download=false")
    assert (data.root, data.cache, data.workers, data.stream, data.download) == (None, None, None, None, False)
    assert data.num_images == 80


@pytest.mark.parametrize("name", ["a,b", "../model/conv2", "${oc.env:HOME}", "x y", "", "a=b", "\x1b"])
def test_a_name_of_data_that_is_no_word_is_refused(name):
    with pytest.raises(ValueError, match=r"which is no name: give data=\.\.\.") as caught:
        stored_data_override(ticket_of({"data": {"name": name}}), set())
    assert str(caught.value).isprintable()


def test_more_synthetic_images_than_a_gigabyte_are_asked_for(ticket):
    large = ticket_of(HEADER | {"data": HEADER["data"] | {"num_images": 2**30}})
    with pytest.raises(ValueError, match=r"1,073,741,824 synthetic images: say how many with data\.num_images="):
        keep(large, "data=synthetic")
    assert keep(large, "data=synthetic", "data.num_images=9").num_images == 9


def test_a_ticket_without_class_names_takes_those_of_the_data():
    settings = Data(name="synthetic", image_size=8, num_classes=4, num_images=80)
    header = {key: HEADER[key] for key in ("normalization",)}
    assert load_for(ticket_of(header), settings).class_names == ("0", "1", "2", "3")


def test_options_that_a_file_sets_for_other_data_sets_are_left_out():
    given = {"root": "x", "stream": True, "cache": "x", "resized_crop": True, "test_size": 0.1}
    assert len(load_settings(Data("digits", **given)).train) == len(load("digits").train)
    with pytest.raises(FileNotFoundError, match="cifar10 was not found in x"):
        load_settings(Data("cifar10", download=False, **given))
