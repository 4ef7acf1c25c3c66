from __future__ import annotations

import pytest
import yaml

from mpt.run.config import read_config, write_config
from mpt.run.settings import plain
from tests.console import compose

BOMB = "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n"


def write(directory, **changes):
    """The settings of a run with other entries, as text."""
    content = plain(compose("model=conv2", "data=digits"))
    for key, value in changes.items():
        group, mark, name = key.partition("__")
        if mark:
            content[group][name] = value
        else:
            content[key] = value
    (directory / "config.yaml").write_text(yaml.safe_dump(content))


def test_settings_are_read_back_as_they_were_written(tmp_path):
    shared = [0.5, 0.5, 0.5]
    settings = plain(compose("model=conv2", "data=cifar10", "optim.milestones=[1,2]")) | {"recipe": None}
    settings["data"] |= {"mean": shared, "std": shared}
    write_config(tmp_path, settings)
    assert "&" not in (tmp_path / "config.yaml").read_text()
    assert read_config(tmp_path) == settings


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        "a: [",
        "prune: 0.5",
        BOMB,
        "!!python/object/apply:os.system [touch x]",
        "[" * 100_000,
        "a" * 2**21,
    ],
    ids=["empty", "null", "list", "open", "one key", "aliases", "tag", "deep", "large"],
)
def test_what_is_not_the_settings_of_a_run_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"config\.yaml is damaged \(.*\): remove the directory") as caught:
        read_config(tmp_path)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"prune": "half"},
        {"epochs": 1.5},
        {"seed": True},
        {"dense": [1]},
        {"data__name": 3},
        {"data__image_size": "8"},
        {"optim__lr": None},
        {"trainer__devices": {1: 2}},
        {"recipe": "x" * 20_000},
    ],
)
def test_a_setting_of_another_type_is_refused_by_name(tmp_path, changes):
    write(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"its {next(iter(changes)).partition('__')[0]}"):
        read_config(tmp_path)


def test_an_interpolation_stays_text(tmp_path):
    write(tmp_path, data__root="${oc.env:HOME}")
    assert read_config(tmp_path)["data"]["root"] == "${oc.env:HOME}"
