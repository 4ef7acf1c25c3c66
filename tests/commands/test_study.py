from __future__ import annotations

import pytest

from mpt.commands.study import study
from tests.console import process, results

STUDY = ("-m", "hydra/sweeper=optuna", "data=digits", "model=mlp", "width=0.125", "epochs=1", "trainer.accelerator=cpu")


@pytest.mark.slow
def test_optuna_raises_the_accuracy_counts_a_failed_run_and_prints_the_best(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    ranges = ("method=dense", "optim.lr=choice(1e30,0.01,0.1)", "hydra/sweeper/sampler=grid")
    done = process("train", *STUDY, *ranges, "hydra.sweeper.n_trials=9", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = results(tmp_path / "runs").values()
    assert sorted(row["status"] for row in rows) == ["done", "done", "failed"]
    best = max((row for row in rows if row["status"] == "done"), key=lambda row: row["test_acc"])
    assert f"Best parameters: {{'optim.lr': {best['config']['optim']['lr']}}}" in done.stdout
    assert f"Best value: {best['test_acc']}" in done.stdout
    done = process("train", *STUDY, "method=dense", "optim.lr=1e29,1e30", "hydra.sweeper.n_trials=1", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("mpt-train: no run of the study ended well")


@pytest.mark.parametrize(
    ("option", "words"),
    [("hydra.sweeper.dry_run=true", "--dry-run cannot list"), ("hydra.sweeper.storage=sqlite:///s.db", "sqlalchemy<2")],
)
def test_what_optuna_cannot_do_is_refused_in_one_sentence(monkeypatch, option, words):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.1.9")
    with pytest.raises(ValueError, match=words), study(["hydra/sweeper=optuna", option]):
        pass
    with study([option]):  # of another sweeper
        pass
