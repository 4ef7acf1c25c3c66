from __future__ import annotations

from pathlib import Path

import pytest

from mpt.commands.arguments import check_ending, for_sweeper, path_and_overrides, paths_and_overrides, split
from mpt.commands.schemas import EvalSettings, InfoSettings, PredictSettings
from mpt.run.settings import Settings


def sorted_words(*arguments):
    return split(list(arguments), Settings, "mpt-train")


def test_flags_keep_their_values_wherever_they_stand():
    flags, overrides = sorted_words("prune=0.5", "-cd", "mine", "--cfg", "job", "epochs=1", "--info", "defaults")
    assert flags == ["-cd", "mine", "--cfg", "job", "--info", "defaults"]
    assert overrides == ["prune=0.5", "epochs=1"]
    assert sorted_words("-i", "epochs=1") == (["-i"], ["epochs=1"])


def test_a_sweep_is_a_multirun_unless_another_mode_is_asked_for():
    assert sorted_words("sweeps=fig2")[0] == ["--multirun"]
    assert sorted_words("sweeps=fig2", "--cfg", "job")[0] == ["--cfg", "job"]


@pytest.mark.parametrize("argument", ["--nope", "-x", "\u2013\u2013seed", "--Cfg"])
def test_an_unknown_flag_is_refused(argument):
    with pytest.raises(ValueError, match=r"no flag|no dashes"):
        sorted_words(argument, "epochs=1")


def test_a_file_is_told_from_options_even_if_its_path_holds_an_equals_sign(tmp_path):
    path, overrides = path_and_overrides(
        "mpt-eval TICKET", ["runs/a=b/t.safetensors", "batch=5", "--json"], EvalSettings
    )
    assert (str(path), overrides) == ("runs/a=b/t.safetensors", ["batch=5", "json=true"])
    path, overrides = path_and_overrides("mpt-eval TICKET", ["t", "--config-dir", str(tmp_path), "my=1"], EvalSettings)
    assert overrides == ["my=1", f"hydra.searchpath=['file://{tmp_path}']"]


def test_a_command_without_options_takes_none():
    with pytest.raises(ValueError, match="no option json"):
        path_and_overrides("mpt-ticket info FILE", ["t", "json=true"], InfoSettings)


def test_what_only_some_runs_of_a_sweep_have_goes_to_its_sweeper():
    given = ["sweeps=fig2", "add.method=mine", "add.prune=0.5,0.8", "method.period=4", "prune=0.5"]
    assert for_sweeper(["--multirun"], given) == [
        "sweeps=fig2",
        "prune=0.5",
        "hydra.sweeper.add=['method=mine','prune=0.5,0.8']",
        "hydra.sweeper.options=['method.period=4']",
    ]
    assert for_sweeper([], ["method.period=4"]) == ["method.period=4"]
    assert for_sweeper(["-m"], ["hydra/sweeper=optuna", "method.period=4"])[1] == "method.period=4"
    with pytest.raises(ValueError, match="adds lines to a sweep"):
        for_sweeper([], ["add.method=mine"])


def test_several_paths_keep_their_order_and_may_hold_equals_signs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    words = ["t", "a=b", "--config-dir", ".", "top=2", "t", "b"]
    paths, overrides = paths_and_overrides("mpt-predict TICKET PICTURE", words, PredictSettings, several=True)
    assert paths == ["t", "a=b", "t", "b"]
    assert overrides[0] == "top=2"
    with pytest.raises(ValueError, match="name one ticket file, got none"):
        paths_and_overrides("mpt-predict TICKET PICTURE", ["", "b"], PredictSettings, several=True)
    with pytest.raises(ValueError, match="name one ticket file, got 2"):
        path_and_overrides("mpt-eval TICKET", ["t", "b"], EvalSettings)


def test_an_output_of_another_kind_is_refused(tmp_path):
    check_ending(Path("/dev/stdout"), ".svg")
    check_ending(tmp_path / "x.obj", ".o", ".obj")
    with pytest.raises(ValueError, match=r"out= must end in \.o or \.obj here, got 'x\.so'"):
        check_ending(tmp_path / "x.so", ".o", ".obj")


def test_a_folder_named_as_an_option_hides_no_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data=digits").mkdir()
    path, overrides = path_and_overrides("mpt-eval TICKET", ["t", "data=digits"], EvalSettings)
    assert (path, overrides) == (Path("t"), ["data=digits"])
