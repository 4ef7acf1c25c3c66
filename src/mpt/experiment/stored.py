"""The data that a ticket was searched for, as its header describes them, for a command that names no others."""

from __future__ import annotations

import dataclasses
from typing import Any

from omegaconf import DictConfig

from mpt.data import ImageData
from mpt.data import load as load_data
from mpt.run.settings import Data
from mpt.ticket.ticket import Ticket


def stored_data_override(ticket: Ticket, given: set[str]) -> list[str]:
    """The override that names the data the ticket was searched for, unless the command line (``given``) names data."""
    if "data" in given:
        return []
    if "name" not in (stored := ticket.header.get("data", {})):
        raise ValueError("the ticket does not say which data it was searched for: give data=...")
    return [f"data={stored['name']}"]


def keep_stored_data(ticket: Ticket, composed: DictConfig, given: set[str], *, splits: bool = False) -> None:
    """Put the ticket's data settings into ``composed.data`` where the command line says nothing.

    Args:
        ticket: whose header has them.
        composed: of a command, changed in place.
        given: keys that the command line sets.
        splits: keep which training images were used and held out as well.
    """
    stored: dict[str, Any] = dict(ticket.header.get("data", {}))
    same, without = composed.data.name == stored.get("name"), ("name", *(() if splits else ("train_size", "val_size")))
    for key, value in stored.items():
        wanted = key == "image_size" or (same and key not in without)
        if wanted and f"data.{key}" not in given and key in composed.data:
            composed.data[key] = value


def load_for(ticket: Ticket, data: Data, *, progress: bool = False) -> ImageData:
    """The data, normalised as the ticket says; ValueError if their images or classes are not the ticket's."""
    images, header = load_data(**vars(data), progress=progress), ticket.header
    if "normalization" not in header:
        return images
    expected = header["data"]["channels"], len(header["class_names"])
    if (images.channels, images.num_classes) != expected:
        raise ValueError(
            f"the ticket was searched for images of {expected[0]} channels in {expected[1]} classes, "
            f"{images.name} has {images.channels} channels and {images.num_classes} classes"
        )
    if images.class_names != tuple(header["class_names"]):
        raise ValueError(
            f"the ticket's classes are {', '.join(header['class_names'])} and {images.name} has "
            f"{', '.join(images.class_names)}: take data with the same classes"
        )
    mean, std = (tuple(header["normalization"][key]) for key in ("mean", "std"))
    return dataclasses.replace(images, mean=mean, std=std)
