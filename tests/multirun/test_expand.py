from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import open_dict

from mpt.experiment.kinds import resolve
from mpt.files import CONF, HOME
from mpt.multirun.expand import Composer, expand_axes
from mpt.multirun.sweep import _axes
from mpt.multirun.tuning import Tuning
from mpt.run.compose import register

COUNTS = {  # runs of paper and mini; dense ones once for all fractions pruned
    "fig2": (4 * 6 * 2 * 3 + 4 * 3, 3 * 4 * 2 + 3),
    "fig3": (3 * 4 * 3 * 3 + 3 * 4 * 3, 2 * 3 * 2 + 2 * 3),
    "fig4": (3 * 4 * 3 * 3 + 3 * 4 * 3, 2 * 3 * 2 + 2 * 3),
    "fig5": (4 * 9 * 2 * 3 + 4 * 3, 3 * 3 * 2 + 3),
    "finetune": (1, 1),
    "finetune_grid": (1, 1),
    "methods": (2 * 4 * 8 * 3, 2 * 4 * 8 * 3),
    "power": (2 * 9 * 4, 4 * 3),
    "scores": (2 * 4, 3),
    "table1": (4, 4),
    "table2": (3, 3),
    "table3": (3, 3),
    "table4": (3, 3),
    "theory": (3 * (1 + 11), 1 + 11),
    "threshold": (2 * 3 * 4, 2 * 2 * 2),
    "zero_kernels": (3, 3),
}
TUNINGS = {"finetune": (3, 3), "finetune_grid": (3 * 2 * 3 * 4 * 4, 1 * 2 * 3 * 2 * 2)}  # of one ticket


def sweeper_of(*arguments):
    """What Hydra makes of the command ``mpt-train *arguments``, up to the point where runs are expanded."""
    register()
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    master = loader.load_configuration("train", list(arguments), RunMode.MULTIRUN)
    with open_dict(master):
        master.hydra.job.config_name = "train"
    conf = master.hydra.sweeper
    axes = {name: dict(conf[name] or {}) for name in ("lines", "mini", "choose", "finetune", "mini_finetune")}
    axes["add"] = dict(line.partition("=")[::2] for line in conf.add)
    context = SimpleNamespace(config_loader=loader)
    return SimpleNamespace(config=master, params=dict(conf.params or {}), axes=axes, hydra_context=context)


def runs_of(*arguments):
    sweeper = sweeper_of(*arguments)
    axes = [argument for argument in arguments if not argument.startswith("hydra.")]
    return expand_axes(sweeper, _axes(sweeper)[0], axes, Path("runs"))


@pytest.mark.slow
def test_a_pattern_stands_for_the_choices_that_it_matches():
    runs = runs_of("model=glob(conv*)", "data=synthetic", "data.image_size=32")
    assert [run.settings.model.name for run in runs] == ["conv2", "conv4", "conv6", "conv8"]


def test_every_experiment_is_counted_here():
    assert {path.stem for path in (HOME / "sweeps").glob("*.yaml")} == COUNTS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_every_experiment_composes_with_budget_mini_and_says_its_name(name):
    runs = runs_of(f"sweeps={name}", "budget=mini")
    assert len(runs) == COUNTS[name][1]
    assert {(run.settings.sweep, run.settings.budget) for run in runs} == {(name, "mini")}
    assert {run.settings.epochs for run in runs} <= {5, 6, 10, 20, 40}


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_every_experiment_composes_as_published(name):
    root = [] if name == "theory" else ["data.root=x"]  # its digits come with scikit-learn
    assert len(runs_of(f"sweeps={name}", *root)) == COUNTS[name][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", TUNINGS)
def test_the_grid_of_a_fine_tuning_is_the_published_one(name):
    for budget, count in zip(("paper", "mini"), TUNINGS[name], strict=True):
        assert len(Tuning(sweeper_of(f"sweeps={name}", f"budget={budget}"), Path("runs")).combinations) == count


def test_figure_2_has_the_published_recipes():
    runs = runs_of("sweeps=fig2", "seed=0", "model=conv6", "prune=0.8")
    recipes = {
        (run.settings.method.name, run.settings.binary_activations): (
            run.settings.optim.name,
            run.settings.optim.lr,
            run.settings.epochs,
            run.settings.batch,
            run.settings.prune,
        )
        for run in runs
    }
    assert recipes == {
        ("biprop", False): ("sgd", 0.1, 250, 128, 0.8),
        ("biprop", True): ("adam", 0.1, 250, 128, 0.8),
        ("dense", False): ("adam", 3e-4, 100, 60, 0.0),
    }


def test_the_settings_of_a_run_are_those_that_hydra_composes():
    sweeper = sweeper_of("sweeps=fig2", "budget=mini")
    overrides = ["recipe=mpt_conv_1_1", "model=conv4", "prune=0.9", "seed=3", "data.crop=2", "optim.weight_decay=0.5"]
    overrides += ["sweeps=fig2", "budget=mini"]
    composer = Composer(sweeper.hydra_context.config_loader, sweeper.config)
    composed = sweeper.hydra_context.config_loader.load_sweep_config(sweeper.config, overrides)
    with open_dict(composed):
        del composed["hydra"]
    assert composer.settings(overrides) == resolve(composed, overrides)


@pytest.mark.slow
def test_the_directory_of_a_run_does_not_depend_on_where_it_was_asked_for():
    single = runs_of("model=conv2", "data=digits", "prune=0.5", "seed=1")[0].directory.name
    assert single in {run.directory.name for run in runs_of("model=conv2", "data=digits", "prune=0.5,0.8", "seed=0,1")}


@pytest.mark.slow
def test_another_method_in_a_sweep_of_the_papers_leaves_the_dense_baseline():
    sweeper = sweeper_of("sweeps=fig2", "budget=mini", "method=edge_popup")
    lines, _ = _axes(sweeper)
    runs = expand_axes(sweeper, lines, ["method=edge_popup", "model=conv2", "seed=0"], Path("runs"))
    assert {run.settings.method.name for run in runs} == {"edge_popup", "dense"}
    assert sum(run.settings.method.name == "dense" for run in runs) == 1


def methods_of(*arguments):
    return [(run.settings.method.name, run.settings.prune) for run in runs_of("sweeps=fig5", "budget=mini", *arguments)]


SMALLER = ("model=conv2", "prune=0.5,0.9", "seed=0")


@pytest.mark.slow
def test_added_lines_are_next_to_the_lines_of_the_file():
    before = methods_of(*SMALLER)
    after = methods_of(*SMALLER, "hydra.sweeper.add=['method=iterand']")
    assert after[: len(before)] == before
    assert after[len(before) :] == [("iterand", 0.5), ("iterand", 0.9)]
    assert ("dense", 0.0) in before


@pytest.mark.slow
def test_added_axes_win_over_arguments_and_replaced_ones_stay():
    added = "hydra.sweeper.add=['method=gem,signed', 'prune=0.7']"
    assert methods_of("method=iterand", added, *SMALLER) == [
        *(("iterand", 0.5), ("iterand", 0.9), ("dense", 0.0), ("gem", 0.7), ("signed", 0.7)),
    ]


@pytest.mark.slow
def test_an_option_applies_to_the_methods_that_have_it():
    sweeper = sweeper_of()
    axes = ["method=biprop,iterand,recycle", "method.period=4", "prune=0.5"]
    runs = expand_axes(sweeper, [{}], axes, Path("runs"))
    found = {run.settings.method.name: run.settings.method.arguments.get("period") for run in runs}
    assert found == {"biprop": None, "iterand": 4, "recycle": 4}
    assert len(expand_axes(sweeper, [{}], ["method=biprop,iterand", "method.period=4,8"], Path("runs"))) == 3


def test_an_option_that_no_method_has_is_refused():
    with pytest.raises(Exception, match="perod"):
        expand_axes(sweeper_of(), [{}], ["method=biprop,iterand", "method.perod=4"], Path("runs"))
