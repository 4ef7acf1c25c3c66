from __future__ import annotations

import pytest

from mpt.commands.spelling import option_names
from mpt.commands.synonyms import _NAMES, _OPTIONS, advice, nearest
from mpt.run.settings import FinetuneSettings, Settings


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("learning-rate", "write optim.lr=1"),
        ("LR", "write optim.lr=1"),
        ("optimizer.lr", "write optim.lr=1"),
        ("sparsity", "write prune=1"),
        ("crop", "write data.crop=1"),
        ("density", "write prune=, which is 1 - density"),
        ("widht", "did you mean width?"),
        ("xyzzy", ""),
    ],
)
def test_a_name_of_other_programs_leads_to_our_option(name, words):
    assert advice(name, option_names(Settings), value="1") == words


def test_advice_names_only_options_that_the_command_has():
    assert advice("sparsity", {"batch"}) == ""
    assert advice("cuda", {"batch"}) == ""
    assert advice("out", {"out"}) == "write out="
    assert advice("dry-run", {"batch"}) == advice("cfg", {"batch"}) == ""
    assert advice("dry-run", {"hydra.run.dir"}) == "write --dry-run"


def test_every_synonym_leads_to_an_option_and_is_none_itself():
    from mpt.commands.schemas import EvalSettings, ImportSettings, PredictSettings

    schemas = (Settings, FinetuneSettings, EvalSettings, PredictSettings, ImportSettings)
    known = set().union(*map(option_names, schemas))
    assert {option for options in _OPTIONS for option in options} <= known | {"data.test_size"}
    assert not {name for name in _NAMES if name in option_names(Settings)}


def test_the_nearest_word_is_found_in_any_case():
    assert nearest("CIFAR-10", ["cifar10", "mnist"]) == "cifar10"
    assert nearest("xyzzy", ["cifar10"]) is None
