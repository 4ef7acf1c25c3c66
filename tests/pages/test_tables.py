"""The words and numbers of a page."""

from __future__ import annotations

import dataclasses

from mpt.pages.tables import LAYER_HEAD, RUN_HEAD, facts, layer_table, run_table, settings_table, short_state


def test_the_numbers_of_a_run_are_those_of_its_result(one, read):
    run = read(one)
    shown = {name: value for name, value, _ in facts(run)}
    assert shown["test accuracy"] == f"{100 * run.result['test_acc']:.2f} %"
    assert shown["bits a weight"] == f"{run.result['bits_per_weight']:.3f}"
    assert list(shown) == ["test accuracy", "weights kept", "ticket file", "bits a weight", "training"]


def test_the_speed_is_a_measurement_or_the_reason_why_there_is_none(one, read):
    run = read(one)
    row = {"ms": {"lists": 0.25}, "ratio": {"lists": 3.5}, "machine": "a CPU"}
    assert facts(run, speed=row)[-1][:2] == ("speed", "0.250 ms an image")
    assert facts(run, speed={"refused": "no convolution"})[-1] == ("speed", "not measured", "no convolution")
    for altered in ({"ms": 1}, {"ms": {"lists": "x"}, "ratio": {}}, [1]):
        assert facts(run, speed=altered)[-1][0] != "speed"


def test_the_acceleration_comes_from_the_report(one, read):
    run = dataclasses.replace(read(one), report={"acceleration": 1.25, "acceleration_chance": 1.125})
    assert facts(run)[-1] == (
        "multiplications",
        "80.0 %",
        "of all convolutions are in kernels with a weight; by chance 88.9 %",
    )


def test_a_run_without_a_result_shows_its_last_epoch(every_state, read):
    run = read(every_state / "interrupted")
    assert facts(run)[0][2] == "after epoch 3"
    assert short_state(run).startswith("interrupted")


def test_layers_have_a_row_each_and_a_sum(one, read):
    run = read(one)
    table = layer_table(run)
    assert len(table) == 6
    assert {len(row) for row in table} == {len(LAYER_HEAD)}
    assert table[-1][3] == f"{run.result['num_kept']:,}"


def test_chosen_settings_are_told_from_defaults(one, read):
    parts = settings_table(read(one))
    chosen = {name: value for name, value, _ in parts["chosen"]}
    assert chosen["width"] == "0.125"
    assert chosen["model.name"] == "conv2"
    assert "method.power" not in chosen
    assert {name for name, *_ in parts["other"]} >= {"method.power", "optim.momentum", "seed"}


def test_the_name_of_a_choice_from_a_file_reaches_no_path(one, read):
    run = read(one)
    config = run.config | {"method": {"name": "../../pyproject", "power": 1.0}}
    chosen = settings_table(dataclasses.replace(run, config=config))["chosen"]
    assert ("method.power", "1.0", "") in chosen


def test_the_list_of_runs_shows_how_far_each_is(every_state, read):
    run = read(every_state / "working")
    [(_, cells)] = run_table([run])
    assert len(cells) + 2 == len(RUN_HEAD)
    assert cells[RUN_HEAD.index("epochs") - 2] == "3 of 3"
