from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest
import yaml

from mpt.run.settings import (
    PROBABILITY,
    FinetuneSettings,
    Settings,
    above,
    at_least,
    dials,
    fraction,
    group_class,
    one_of,
    plain,
    spell,
)
from tests.console import compose

IMPORTS = """
import sys
import mpt.run.settings
third = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - BEFORE - {"mpt"}
sys.exit(", ".join(third) or 0)
"""


def test_the_command_of_the_readme_composes_to_the_recipe_of_the_paper():
    settings = compose("model=conv6", "prune=0.8", "width=1.5")
    assert (settings.model.name, settings.data.name, settings.method.name) == ("conv6", "cifar10", "biprop")
    assert (settings.prune, settings.width, settings.epochs, settings.batch) == (0.8, 1.5, 250, 128)
    assert {k: getattr(settings.optim, k) for k in ("name", "lr", "momentum", "weight_decay", "schedule")} == {
        "name": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "schedule": "cosine",
    }


def test_settings_import_the_standard_library_alone():
    code = 'import sys; BEFORE = {name.partition(".")[0] for name in sys.modules}' + IMPORTS
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("valid", "inside", "outside", "words"),
    [
        (at_least(0), (0, 1e9), (-1, float("inf"), float("nan")), "0 or more"),
        (at_least(2), (2,), (1.9,), "at least 2"),
        (above(0), (1e-9,), (0, -1, float("inf")), "above 0"),
        (fraction(), (0, 0.99), (1, -0.1, float("nan")), "in [0, 1)"),
        (PROBABILITY, (0, 1), (1.01,), "a probability in [0, 1]"),
        (one_of("a", "b", "c"), ("a", "c"), ("d", None), "a, b or c"),
    ],
)
def test_a_range_accepts_what_its_words_say(valid, inside, outside, words):
    assert valid.words == words
    assert all(map(valid.accepts, inside))
    assert not any(map(valid.accepts, outside))


def test_dials_are_the_parameters_by_their_dotted_names():
    names = [name for name, _ in dials(Settings)]
    assert len(names) == len(set(names))
    assert {"prune", "optim.lr", "trainer.precision", "data.root"} <= set(names)
    assert not {f.name for f in fields(Settings) if group_class(f)} & set(names)
    assert {name for name, _ in dials(FinetuneSettings)} - set(names) == {"ticket", "layers", "ticket_digest"}
    assert {f.metadata["of"] for _, f in dials(FinetuneSettings)} == {"result", "folder", "machine", "command", "input"}


def test_plain_settings_are_what_yaml_holds():
    settings = compose("data=digits", "model=mlp", "model.hidden=[5]")
    config = plain(settings)
    assert config["model"] == {"name": "mlp", "target": "mpt.backbones.mlp", "hidden": [5]}
    assert (config["optim"]["lr"], config["data"]["name"]) == (0.1, "digits")
    assert "data_checksum" not in config
    assert yaml.safe_load(yaml.safe_dump(config)) == config


def test_a_value_is_spelt_as_it_is_typed():
    assert [spell(value) for value in (True, None, 0.5, "x", [1, 2])] == ["true", "null", "0.5", "x", "[1, 2]"]
