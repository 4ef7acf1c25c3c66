"""The data that a ticket was searched for, as its header describes them: the default of other commands."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from mpt.data import FOLDERS, ImageData
from mpt.data import load as load_data
from mpt.data.facts import FACTS, unused_options
from mpt.data.listing import classes_below
from mpt.run.settings import Data
from mpt.schema import printable
from mpt.ticket.check import MAX_PIXELS, data_settings
from mpt.ticket.ticket import Ticket
from mpt.words import count


def stored_data_override(ticket: Ticket, keys: set[str]) -> list[str]:
    """The override that names the data the ticket was searched for, unless ``keys`` of the command line name data."""
    if "data" in keys:
        return []
    if "name" not in (stored := data_settings(ticket.header)):
        raise ValueError("the ticket does not say which data it was searched for: give data=...")
    if not re.fullmatch(r"\w[\w-]*", stored["name"], re.ASCII):
        raise ValueError(
            f"the ticket says that its data are {printable(stored['name'])!r}, which is no name: give data=..."
        )
    return [f"data={stored['name']}"]


def keep_stored_data(ticket: Ticket, composed: DictConfig, keys: set[str], *, splits: bool = False) -> None:
    """Put the ticket's data settings into ``composed.data``, except those that the command line sets.

    They are numbers and words that :data:`mpt.ticket.check.DATA` accepts: no path and no interpolation.

    Args:
        ticket: its header has the settings.
        composed: configuration of a command, changed in place.
        keys: that the command line sets.
        splits: whether to keep ``train_size`` and ``val_size`` too.

    Raises:
        ValueError: the command line normalizes images otherwise than the search, or the ticket asks for synthetic data
            that would take more than a gigabyte.
    """
    if "normalization" in ticket.header and (given := sorted({"data.mean", "data.std"} & keys)):
        raise ValueError(f"{given[0]} has no effect, because images are normalized as in the search: leave it out")
    stored = data_settings(ticket.header)
    same, excluded = composed.data.name == stored.get("name"), ("name", *(() if splits else ("train_size", "val_size")))
    for key, value in stored.items():
        applies = key == "image_size" or (same and key not in excluded)
        if applies and f"data.{key}" not in keys and key in composed.data:
            composed.data[key] = value
    channels, side = ticket.image_shape
    if "data.num_images" not in keys and (number := stored.get("num_images", 0)) * channels * side**2 > 8 * MAX_PIXELS:
        raise ValueError(f"the ticket asks for {number:,} synthetic images: say how many with data.num_images=")


def load_settings(data: Data, *, progress: bool = False) -> ImageData:
    """Load ``data`` without options that only other data sets have: a file of a sweep may set them for all of its."""
    return load_data(**vars(data) | dict.fromkeys(unused_options(data.name)), progress=progress)


def load_for(ticket: Ticket, data: Data, *, progress: bool = False) -> ImageData:
    """Load ``data``, normalised as the ticket says; ValueError if their images or classes are not the ticket's."""
    header, known = ticket.header, FACTS.get(data.name)
    if "normalization" not in header:
        return load_settings(data, progress=progress)
    if known and data.name != "imagenet":  # before anything is downloaded; imagenet takes any tree of its layout
        _check_shape(header, data.name, known.channels, known.classes)
    if data.name in FOLDERS and data.root:  # before a picture is decoded
        found = classes_below(data.root, name=data.name, test_size=data.test_size)
        if found:
            _check_classes(header, data.name, FACTS["imagenet"].channels, found)
    images = load_settings(data, progress=progress)
    _check_classes(header, images.name, images.channels, images.class_names)
    mean, std = (tuple(header["normalization"][key]) for key in ("mean", "std"))
    return dataclasses.replace(images, mean=mean, std=std)


def _check_classes(header: dict[str, Any], name: str, channels: int, found: tuple[str, ...]) -> None:
    """Raise ValueError if the ticket is for images of other channels, or for other classes."""
    _check_shape(header, name, channels, len(found))
    classes = tuple(header.get("class_names", found))
    if found != classes:
        raise ValueError(
            f"the ticket's classes are {_list(classes)} and {name} has {_list(found)}: take data with the same classes"
        )


def _check_shape(header: dict[str, Any], name: str, channels: int, classes: int) -> None:
    """Raise ValueError if the ticket is for images of other channels, or for another number of classes."""
    expected = len(header["normalization"]["mean"]), len(header.get("class_names", range(classes)))
    if (channels, classes) != expected:
        raise ValueError(
            f"the ticket was searched for images of {count(expected[0], 'channel')} in {count(expected[1], 'class')}, "
            f"{name} has {count(channels, 'channel')} and {count(classes, 'class')}: give the data of its search"
        )


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:20])) + (" ..." if len(names) > 20 else "")
