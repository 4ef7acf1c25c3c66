from __future__ import annotations

import pytest

from mpt.commands.spelling import check_spelling
from mpt.run.settings import FinetuneSettings


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("prun=0.5", r"there is no option prun: did you mean prune\? --help lists them"),
        ("prun=0.5,0.8", "did you mean prune"),
        ("optim.momentun=0.5", r"no option optim\.momentun: did you mean optim\.momentum\?"),
        ("data.crops=0", r"did you mean data\.crop\?"),
        ("modle=conv6", r"did you mean model\?"),
        ("xyzzy=1", "there is no option xyzzy: --help lists them"),
        ("xyzzy.lr=1", r"there is no option xyzzy\.lr: write optim.lr=1; --help"),
        ("layers=last", "there is no option layers"),
        ("prune", "prune has no value: write prune=VALUE"),
        ("+prun=0.5", "did you mean prune"),
        ("++prun=1", "did you mean prune"),
        ("~logger", "every run needs"),
        ("+prune=0.5", r"write prune=0\.5, without"),
    ],
)
def test_a_misspelt_option_is_refused_with_a_suggestion(override, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_spelling([], ["prune=0.5", override])


@pytest.mark.parametrize(
    "override",
    [
        *("prune=0.5", "optim.lr=1", "data.root=a=b", "optim=adam", "recipe=demo", "sweeps=fig2", "sweep=mine"),
        *("optim.arguments={betas:[0,1]}", "optim.arguments.betas=[0,1]", "optim.schedule._target_=x"),
        *("model.anything=1", "method.exponents=2", "hydra.run.dir=x", "hydra/launcher=slurm", "model@x=conv2"),
        *("data@data=cifar10", "+model.groups=32", "++prune=1", "+hydra.job.num=1"),
        *("++hydra.run.dir=x", "++hydra.verbose=true", "++hydra.searchpath=[]", "++hydra.sweep.subdir=x"),
    ],
)
def test_options_that_are_right_or_that_only_hydra_can_check_pass(override):
    check_spelling(["-m"], [override])


@pytest.mark.parametrize(
    ("flags", "overrides"),
    [
        (["--config-dir", "mine"], ["prun=1"]),
        (["--config-dir=mine", "--config-name=my"], ["prun=1"]),
        (["-cn", "mine"], ["prun=1"]),
        (["-cd=mine"], ["prun=1"]),
        ([], ["hydra.searchpath=[x]", "prun=1"]),
    ],
)
def test_hydra_checks_options_of_custom_configuration_files(flags, overrides):
    check_spelling(flags, overrides)


def test_each_command_has_its_own_options():
    check_spelling([], ["layers=last", "optim.lr=1"], FinetuneSettings)
    with pytest.raises(ValueError, match="no option layer: did you mean layers"):
        check_spelling([], ["layer=last"], FinetuneSettings)
