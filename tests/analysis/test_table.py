from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from mpt.analysis.table import is_setting, load, read_runs, variant, write_table
from tests.analysis.conftest import result, write


def test_a_finished_run_is_one_row_with_its_settings_and_results(tmp_path):
    rows = load(write(tmp_path, result(test_acc=0.75, seed=3, optim__lr=0.2)))
    (row,) = rows.to_dict("records")
    assert (row["test_acc"], row["seed"], row["optim.lr"], row["batch"], row["variant"]) == (
        0.75,
        3,
        0.2,
        128,
        "MPT-1/32",
    )
    assert (row["versions/torch"], row["seconds_per_epoch"]) == ("2.14", 2.0)
    assert not {"runs", "model.name", "data.name", "logger.name", "trainer.devices"} & set(rows.columns)


def test_unfinished_failed_and_unreadable_runs_are_counted_and_give_no_row(tmp_path):
    write(tmp_path, result())
    for name, content in {
        "failed": json.dumps({"status": "failed", "error": "the loss is not a number", "config": {}}),
        "truncated": '{"status": "done", "test_a',
        "list": "[1, 2]",
        "bare": json.dumps({"status": "done"}),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(content)
    for name, file in (("running", "config.yaml"), ("hold_claim", "claim"), ("wandb", "config.yaml")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    runs = read_runs(tmp_path)
    assert len(runs.rows) == 1
    assert sorted(runs.unfinished) == ["hold_claim", "running"]  # wandb is a folder of a logger, not a run
    assert runs.failed == {"failed": "the loss is not a number"}
    assert sorted(runs.unreadable) == ["bare", "list", "truncated"]
    assert "1 finished, 2 unfinished (running or interrupted), 1 failed, 3 unreadable" in str(runs)
    assert "failed: the loss is not a number (1)" in str(runs)
    assert len(load(tmp_path)) == 1


def test_a_missing_folder_or_one_without_a_finished_run_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no finished run below .*0 finished"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_reads_back_bit_for_bit(tmp_path, suffix):
    accs = [1 / 3, 0.1 + 0.2, 2**-40, 0.9972144961357117]
    rows = [result(seed=seed, test_acc=acc, sweep="fig2", budget=None) for seed, acc in enumerate(accs)]
    written = load(write(tmp_path / "runs", *rows, result(method="dense", prune=0.0, dense=["fc"])))
    write_table(written, tmp_path / f"table{suffix}")
    back = load(tmp_path / f"table{suffix}")
    assert list(back.columns) == list(written.columns)
    for name in ("test_acc", "prune", "seed", "variant", "sweep", "binary_activations"):
        for a, b in zip(written[name], back[name], strict=True):
            assert a == b or (a != a and b != b), name


def test_the_order_of_a_table_does_not_depend_on_directory_names(tmp_path):
    rows = [result(seed=seed, prune=prune) for seed in (1, 0) for prune in (0.8, 0.2)]
    a, b = load(write(tmp_path / "a", *rows)), load(write(tmp_path / "b", *rows[::-1]))
    assert a.drop(columns="run").equals(b.drop(columns="run"))
    assert list(zip(a["prune"], a["seed"], strict=True)) == [(0.2, 0), (0.2, 1), (0.8, 0), (0.8, 1)]


def test_a_file_that_is_not_a_table_is_refused_and_so_is_another_suffix_for_a_table(tmp_path):
    (tmp_path / "broken.parquet").write_text("no")
    (tmp_path / "empty.csv").write_text("")
    for name, sentence in (
        ("broken.parquet", "because it is damaged, or no table: "),
        ("empty.csv", "cannot be read"),
        ("x.txt", "neither"),
    ):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=sentence):
            load(tmp_path / name)
    with pytest.raises(ValueError, match=r"must end in \.csv or \.parquet"):
        write_table(load(write(tmp_path / "runs", result())), tmp_path / "x.txt")


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"method": "biprop"}, "MPT-1/32"),
        ({"method": "biprop", "binary_activations": True}, "MPT-1/1"),
        ({"method": "biprop", "binary_activations": "True", "learn_batchnorm": True}, "MPT-1/1+BN"),
        ({"method": "edge_popup"}, "edge-popup"),
        ({"method": "dense", "learn_batchnorm": True}, "dense"),
        ({"method": "finetune_last"}, "fine-tuned last"),
    ],
)
def test_a_run_has_the_name_that_the_papers_give_it(row, name):
    assert variant(row) == name


def test_dotted_columns_are_settings_and_slashed_ones_are_not():
    assert is_setting("method.power")
    assert is_setting("prune")
    assert not is_setting("ticket/gain/features.0")
    assert not is_setting("test_acc")


@pytest.mark.skipif(find_spec("torch") is None, reason="a run needs torch")
def test_a_real_run_becomes_a_row(run_here):
    row, directory = run_here("prune=0.8", "epochs=1")
    (loaded,) = load(directory.parent).to_dict("records")
    assert {key: loaded[key] for key in ("test_acc", "num_kept", "prune", "width", "seed")} == {
        key: row[key] for key in ("test_acc", "num_kept", "prune", "width", "seed")
    }
    assert loaded["optim.lr"] == row["config"]["optim"]["lr"]
    assert not any(str(directory.parent) in str(value) for value in loaded.values())


def test_a_table_with_cells_that_are_neither_numbers_nor_short_text_is_refused(tmp_path):
    import pandas as pd

    for name, column in {"nested": [{"a": [1]}], "bytes": [b"a"], "long": ["a" * 20_000]}.items():
        pd.DataFrame({"variant": ["MPT-1/32"], "test_acc": [0.5], "x\x1b": column}).to_parquet(
            tmp_path / f"{name}.parquet"
        )
        with pytest.raises(ValueError, match=r"the column x\\x1b holds more than numbers and text"):
            load(tmp_path / f"{name}.parquet")
    pd.DataFrame({"variant": ["MPT-1/32"], "a" * 2000: [0.5]}).to_csv(tmp_path / "wide.csv")
    with pytest.raises(ValueError, match="a column without a name"):
        load(tmp_path / "wide.csv")


@pytest.mark.parametrize(("column", "cell"), [("method", ""), ("model", "3"), ("test_acc", "x"), ("prune", "a,b")])
def test_a_table_with_a_cell_of_another_type_is_refused_by_column(tmp_path, column, cell):
    row = {"run": "a", "model": "conv2", "method": "biprop", "data": "digits", "prune": "0.5", "test_acc": "0.5"}
    row[column] = f'"{cell}"' if cell else ""
    (tmp_path / "a.csv").write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    with pytest.raises(ValueError, match=f"the column {column} has a cell"):
        load(tmp_path / "a.csv")


def test_a_table_with_far_too_many_columns_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "a.csv").write_text(f"method{',1' * 200_000}\n")
    with pytest.raises(ValueError, match="has 200,001 columns"):
        load(tmp_path / "a.csv")


def test_what_files_say_is_printed_escaped_and_cut(tmp_path):
    write(tmp_path, {"status": "failed", "error": "\x1b[2J" + "x" * 9000}, {"status": "done", "model": "\x1b"})
    lines = str(read_runs(tmp_path)).splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() and len(line) < 700 for line in lines)


def test_a_result_with_another_checksum_is_named(tmp_path):
    write(tmp_path, result(checksum="0" * 32), result())
    runs = read_runs(tmp_path)
    assert [*runs.unreadable.values()] == ["result.json does not match its checksum: it was damaged or altered"]
    assert len(runs.rows) == 1
