from __future__ import annotations

from types import SimpleNamespace

import pytest
import torchvision

from mpt import data
from mpt.analysis.compare import CLASSES
from mpt.data.facts import FACTS, unused_options
from mpt.run.check import check_given


def test_the_facts_about_digits_match_the_loaded_images():
    digits = data.load("digits")
    shape = (len(digits.train), digits.channels, digits.image_size, digits.num_classes)
    assert shape == FACTS["digits"]


def test_the_numbers_of_classes_match_torchvision():
    classes = {"mnist": torchvision.datasets.MNIST.classes, "fashion_mnist": torchvision.datasets.FashionMNIST.classes}
    for name, names in classes.items():
        assert FACTS[name].classes == len(names)


def test_every_data_set_of_fixed_size_has_facts():
    assert set(FACTS) == set(data.NAMES) - {"image_folder", "synthetic"}


def test_the_analysis_which_may_not_import_data_knows_the_same_numbers_of_classes():
    assert {name: facts.classes for name, facts in FACTS.items()} == CLASSES


@pytest.mark.parametrize("name", data.NAMES)
def test_the_command_line_refuses_the_same_options_of_other_data_sets_in_the_same_words(name):
    for option, value in {"root": "x", "stream": True, "cache": "x", "resized_crop": True, "test_size": 0.5}.items():
        words = None
        try:
            check_given(SimpleNamespace(data=SimpleNamespace(name=name)), {f"data.{option}"})
        except ValueError as error:
            words = str(error)
            with pytest.raises(ValueError, match="effect") as refusal:
                data.load(name, **{option: value})
            assert str(refusal.value) == words
        assert (option in unused_options(name)) == bool(words)
