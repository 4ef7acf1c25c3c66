from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest

from mpt.experiment import finetune, kinds, train
from mpt.processes import Group
from mpt.run.settings import FinetuneSettings
from tests.console import SMALL, command, compose
from tests.data.conftest import make_pictures


@pytest.fixture
def questions(monkeypatch):
    """Directories of which a caller asked whether their run is finished."""
    directories, finished_result = [], kinds.finished_result

    def ask(settings, directory):
        directories.append(directory)
        return finished_result(settings, directory)

    monkeypatch.setattr(kinds, "finished_result", ask)
    for module in (train, finetune):
        assert not hasattr(module, "finished_result")  # the question is asked here alone
    return directories


def test_a_finished_run_is_not_run_again(run_here, capsys):
    result, directory = run_here("epochs=1")
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    again, _ = run_here("epochs=1")
    assert again == result
    assert "this run is finished" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_whether_a_run_is_finished_is_asked_once_and_a_finished_run_takes_no_claim(tmp_path, questions):
    settings, claims = compose(*SMALL, "epochs=1"), []

    @contextmanager
    def claim():
        claims.append("taken")
        yield
        claims.append("released")

    result = kinds.run(settings, tmp_path / "run", claim=claim())
    assert (questions, claims) == ([tmp_path / "run"], ["taken", "released"])
    assert kinds.run(settings, tmp_path / "run", claim=claim()) == result
    assert (questions, claims) == ([tmp_path / "run"] * 2, ["taken", "released"])


def test_a_claim_is_released_when_its_run_fails(tmp_path):
    claims = []

    @contextmanager
    def claim():
        try:
            yield
        finally:
            claims.append("released")

    with pytest.raises(ValueError, match=r"lower optim\.lr"):
        kinds.run(compose(*SMALL, "optim.lr=1e30", "method=dense"), tmp_path / "run", claim=claim())
    assert claims == ["released"]


@pytest.mark.slow
def test_a_finished_run_without_its_report_says_how_to_print_one(tmp_path):
    command("train", *SMALL, "epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    output = command("train", *SMALL, "epochs=1", "hydra.run.dir=run", "report=true", cwd=tmp_path).stdout
    line = next(line for line in output.splitlines() if "report.json" in line)
    _, words = line.split("; mpt-ticket ")
    name, path, *_ = words.split()
    assert "features.0" in command("ticket", name, path, cwd=tmp_path).stdout


def test_settings_of_a_run_hold_the_absolute_folder_of_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from mpt.run.compose import compose
    from mpt.run.settings import Settings

    composed = compose("train", ["data=image_folder", "data.root=pictures"], Settings)
    assert kinds.resolve(composed, []).data.root == str(Path("pictures").resolve())
    composed = compose("train", ["data=digits"], Settings)
    assert kinds.resolve(composed, []).data.root is None


@pytest.mark.slow
def test_a_ticket_in_the_configuration_makes_it_a_fine_tuning(tmp_path):
    from mpt.run.compose import compose

    command("train", *SMALL, "epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    overrides = [f"ticket={tmp_path / 'run' / 'ticket.safetensors'}", "data=synthetic"]
    settings = kinds.resolve(compose("finetune", overrides, FinetuneSettings), overrides)
    assert isinstance(settings, FinetuneSettings)
    assert (settings.model.name, settings.data.num_images) == ("conv2", 320)


def test_other_pictures_in_a_folder_are_another_input_and_other_data_have_no_checksum(tmp_path):
    settings = compose("data=image_folder", f"data.root={make_pictures(tmp_path / 'tree', train=4, val=2)}")
    before = kinds.with_checksum(settings).data_checksum
    assert before
    assert kinds.with_checksum(settings).data_checksum == before
    make_pictures(tmp_path / "tree", train=5, val=2)
    assert kinds.with_checksum(settings).data_checksum != before
    assert kinds.with_checksum(compose("data=digits")).data_checksum is None


@pytest.mark.slow
def test_the_objective_is_the_held_out_accuracy_else_the_test_accuracy_or_the_key_that_is_named():
    done = {"status": "done", "test_acc": 0.5, "ticket_bytes": 9, "data": "digits"}
    assert kinds.objective(compose(*SMALL), done) == 0.5
    assert kinds.objective(compose(*SMALL), done | {"val_acc": 0.25}) == 0.25
    assert kinds.objective(compose(*SMALL, "objective=ticket_bytes"), done) == 9
    assert kinds.objective(compose(*SMALL), {"status": "failed"}) is None
    with pytest.raises(ValueError, match=r"objective=file_bits_per_weight is no number .* test_acc, ticket_bytes"):
        kinds.objective(compose(*SMALL, "objective=file_bits_per_weight"), done)  # of mpt 0.1.0


def test_several_processes_that_are_there_are_written_down_as_a_number(monkeypatch):
    settings = compose("model=mlp", "data=digits", "trainer.accelerator=cpu")
    assert kinds.with_processes(settings) is settings
    monkeypatch.setattr(kinds, "group", lambda: Group("srun", 4, 2, 0))
    monkeypatch.setattr(kinds, "count_processes", lambda trainer: 4)
    trainer = kinds.with_processes(settings).trainer
    assert (trainer.devices, trainer.num_nodes) == (2, 2)
    fixed = compose("model=mlp", "data=digits", "trainer.accelerator=cpu", "trainer.devices=4")
    assert kinds.with_processes(fixed) is fixed
