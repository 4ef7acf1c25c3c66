from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mpt.commands.schemas import EvalSettings
from mpt.errors import is_mendable
from mpt.files import CONF, HOME
from mpt.run import compose as composition
from mpt.run.compose import given_keys, quote, register
from mpt.run.name import run_name
from mpt.run.settings import Choice
from tests.console import compose


@pytest.mark.slow
@pytest.mark.parametrize("group", ["model", "data", "method", "optim", "trainer", "logger", "recipe"])
def test_every_choice_of_every_group_composes(group):
    choices = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    assert choices
    for choice in choices:
        extra = ["model.name=resnet18"] if choice in ("torchvision", "timm") else []
        settings = compose(f"{group}={choice}", "data.root=x", *extra)
        if group in ("model", "data", "method"):
            assert getattr(settings, group).name == (choice if not extra else "resnet18")


@pytest.mark.slow
@pytest.mark.parametrize(
    "override", ["prun=0.5", "method.score_grd=sign", "optim.learning_rate=1", "prune=abc", "seed=1.5"]
)
def test_unknown_keys_and_wrong_types_are_refused_by_hydra(override):
    with pytest.raises(Exception, match=override.partition("=")[0].rpartition(".")[2]) as caught:
        compose(override)
    assert is_mendable(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(("prune", "rate"), [(0.2, 0.16), (0.5, 0.1), (0.8, 0.04), (0.9, 0.02), (0.85, 0.03)])
def test_a_rate_times_the_fraction_kept_follows_prune(prune, rate):
    assert compose("recipe=fast_conv", f"prune={prune}").optim.lr == rate
    assert compose("recipe=fast_conv", f"prune={prune}", "optim.lr=0.3").optim.lr == 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "score_grad", "scale_fan", "last_batch"),
    [
        ("kept", "weight", "kept", "weighted"),
        ("paper", "gain", "none", "weighted"),
        ("published", "weight", "published", "whole"),
    ],
)
def test_a_protocol_follows_the_paper_or_the_published_code_where_they_differ(
    protocol, score_grad, scale_fan, last_batch
):
    settings = compose(f"protocol={protocol}")
    method = settings.method.arguments
    assert (method["score_grad"], method["scale_fan"], settings.last_batch) == (score_grad, scale_fan, last_batch)
    assert compose(f"protocol={protocol}", "method.scale_fan=none").method.arguments["scale_fan"] == "none"
    options = (f"method.scale_fan={scale_fan}", f"method.score_grad={score_grad}", f"last_batch={last_batch}")
    spelled = compose(*options)
    assert run_name(compose(f"protocol={protocol}")) == run_name(spelled)


def test_the_evaluation_schema_composes():
    composed = composition.compose("eval", ["model=conv6", "data=digits", "control=shuffled_mask"], EvalSettings)
    settings = composition.settings_of(composed, EvalSettings)
    assert (settings.model.name, settings.data.name, settings.control) == ("conv6", "digits", "shuffled_mask")


def test_sweeps_are_found_and_nothing_else_of_the_checkout(tmp_path):
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.core.object_type import ObjectType

    register()
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    groups = loader.get_group_options("", ObjectType.GROUP)
    assert {"sweeps", "model", "data"} <= set(groups)
    assert not {"src", "tests", ".venv", "docs", "conf"} & set(groups)
    files = {path.stem for path in (HOME / "sweeps").glob("*.yaml")}
    assert set(loader.get_group_options("sweeps")) == files


def test_an_open_group_becomes_a_choice_with_the_arguments_of_its_target():
    model = compose("model=mlp", "model.hidden=[5,6]").model
    assert model == Choice("mlp", "mpt.backbones.mlp", {"hidden": [5, 6]})


@pytest.mark.parametrize("name", ["a b", "it's", "back\\slash", "a=b,c", "{y}", "it\\'s"])
def test_a_quoted_path_is_read_back_by_hydra(tmp_path, name):
    (override,) = OverridesParser.create().parse_overrides([f"ticket={quote(tmp_path / name)}"])
    assert Path(override.value()) == tmp_path / name


def test_keys_of_a_command_line_are_known_without_their_values():
    assert given_keys(["prune=0.5", "+model.x=1", "++data.y=a=b", "data=digits"]) == {
        "prune",
        "model.x",
        "data.y",
        "data",
    }
