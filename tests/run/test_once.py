from __future__ import annotations

import pytest
from hydra._internal import hydra as hydra_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import setup_globals
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf

from mpt.files import CONF
from mpt.run.compose import register
from mpt.run.once import OnceLoader, composed_once

WORDS = ["recipe=demo", "prune=0.5", "hydra.run.dir=x", "optim.lr=0.2"]


@pytest.fixture(autouse=True)
def _hydra():
    setup_globals()
    register()
    yield
    GlobalHydra.instance().clear()


@pytest.fixture
def counted(monkeypatch):
    """The modes of all compositions, those within :class:`OnceLoader` too."""
    modes, impl = [], ConfigLoaderImpl._load_configuration_impl

    def count(self, config_name, overrides, run_mode, **more):
        modes.append(run_mode)
        return impl(self, config_name, overrides, run_mode, **more)

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", count)
    return modes


def both(kind, words, *, mode, asks=True):
    """The configurations that Hydra gets from a loader of this kind: to learn the mode, and with one to go by."""
    loader = kind(create_config_search_path(str(CONF)))
    first = loader.load_configuration("train", words, RunMode.MULTIRUN, validate_sweep_overrides=False)
    asked = first.hydra.mode
    return asked, loader.load_configuration("train", [*words, *([f"hydra.mode={mode.name}"] if asks else [])], mode)


@pytest.mark.parametrize(
    ("words", "mode", "asks"),
    [
        (WORDS, RunMode.RUN, True),
        (["model=conv2,conv4", "seed=range(0,3)"], RunMode.MULTIRUN, True),
        (["sweeps=fig2", "prune=0.5,0.8"], RunMode.MULTIRUN, False),
        (["hydra.mode=RUN", *WORDS], RunMode.RUN, False),
    ],
    ids=["run", "axes", "sweep", "mode"],
)
def test_the_second_configuration_is_what_hydra_composes_and_nothing_is_composed_for_it(counted, words, mode, asks):
    expected = both(ConfigLoaderImpl, words, mode=mode, asks=asks)
    assert len(counted) == 2
    found = both(OnceLoader, words, mode=mode, asks=asks)
    assert len(counted) == 3
    assert found[0] == expected[0]
    assert OmegaConf.to_container(found[1]) == OmegaConf.to_container(expected[1])
    assert found[1].hydra.mode is expected[1].hydra.mode is mode
    assert OmegaConf.is_struct(found[1])


def test_several_values_of_a_run_are_refused_in_the_words_of_hydra():
    said = []
    for kind in (ConfigLoaderImpl, OnceLoader):
        with pytest.raises(ConfigCompositionException) as caught:
            both(kind, ["prune=0.5,0.8"], mode=RunMode.RUN)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "Ambiguous value for argument 'prune=0.5,0.8'" in said[0]


def test_other_words_are_composed_anew(counted):
    loader = OnceLoader(create_config_search_path(str(CONF)))
    loader.load_configuration("train", ["seed=1"], RunMode.MULTIRUN, validate_sweep_overrides=False)
    assert loader.load_configuration("train", ["seed=2", "hydra.mode=RUN"], RunMode.RUN).seed == 2
    assert loader.load_configuration("train", ["seed=1", "hydra.mode=RUN"], RunMode.RUN).seed == 1  # kept for one only
    assert len(counted) == 3


def test_a_choice_that_is_not_made_is_an_error_of_a_run_alone(tmp_path):
    (tmp_path / "open.yaml").write_text("defaults: [Settings, {model: '???'}, _self_]\nhydra: {mode: MULTIRUN}\n")
    for kind in (ConfigLoaderImpl, OnceLoader):
        loader = kind(create_config_search_path(str(tmp_path)))
        composed = loader.load_configuration("open", [], RunMode.MULTIRUN, validate_sweep_overrides=False)
        assert composed.hydra.mode is RunMode.MULTIRUN
        with pytest.raises(ConfigCompositionException, match="You must specify 'model'"):
            loader.load_configuration("open", ["hydra.mode=RUN"], RunMode.RUN)


def test_hydra_s_own_loader_is_back_after_the_block():
    with composed_once():
        assert hydra_module.ConfigLoaderImpl is OnceLoader
    assert hydra_module.ConfigLoaderImpl is ConfigLoaderImpl
