"""What is handed over in Python has a name that follows from its code."""

from __future__ import annotations

import functools

import pytest

import mpt
from mpt.commands.given import _fingerprint, choose_backbone, choose_data, choose_method
from mpt.run.compose import compose, settings_of
from mpt.run.settings import Settings


def settings(overrides):
    return settings_of(compose("train", overrides, Settings), Settings)


def test_a_network_of_a_zoo_is_named_with_its_zoo():
    assert choose_backbone("timm.resnet18")[0] == ["model=timm", "model.name=resnet18"]
    assert choose_backbone("conv4")[0] == ["model=conv4"]


@pytest.mark.parametrize("name", ["Biprop", "Dense", "EdgePopup", "Gem", "Gumbel", "IteRand", "Recycle", "Signed"])
def test_an_instance_has_the_settings_of_its_file(name):
    kind = getattr(mpt, name)
    stated = {"Gem": {"epochs": 6}}.get(name, {})
    overrides, change = choose_method(kind(**({} if name == "Dense" else {"prune": 0.8}), **stated), {})
    changed = change(settings(["data=digits", "epochs=6", *overrides])).method
    assert changed.target == f"mpt.{name}"
    assert changed == settings(["data=digits", "epochs=6", f"method={changed.name}"]).method


def test_own_images_have_the_name_own_and_a_checksum():
    import dataclasses

    data = dataclasses.replace(mpt.data.load("digits", train_size=50), name="flowers")
    overrides, change = choose_data(data, {})
    changed = change(settings(overrides))
    assert (changed.data.name, changed.data.image_size) == ("own", 8)
    assert (
        changed.data_checksum != choose_data(mpt.data.load("digits", train_size=51), {})[1](settings([])).data_checksum
    )


def test_a_fingerprint_follows_code_defaults_and_closure():
    def make(value):
        return lambda x=1: x + value

    assert _fingerprint(make(1)) == _fingerprint(make(1))
    assert _fingerprint(make(1)) != _fingerprint(make(2))
    assert _fingerprint(lambda x=1: x) != _fingerprint(lambda x=2: x)
    assert _fingerprint(functools.partial(int, base=2)) != _fingerprint(functools.partial(int, base=3))
